"""The published benchmarks' metrics: what an answer is worth, and what the answers add up to.

Each is a `Scorer`; `SCORERS` of `benchmarks.base` knows them after this module is imported. Values
are in percent, MME's in points, CIDEr's as its code gives them (1.087 is a printed 108.7).
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ....families import Unavailable
from .. import scoring
from ..scoring import SCORERS, Judge, Metrics, Ratio, Scorer, mean, paired, whole
from . import reading, unread

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _share(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    return {"accuracy": [mean(hits)]}


def _parts(names: str = "accuracy_{}", over: bool = False) -> Callable:
    """Accuracy, and that of each split beside it; over: the headline is the mean over splits."""

    def total(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
        parts = {}
        for name in sorted(records["split"].unique()):
            here = records["split"].eq(name).to_numpy(float)
            parts[name] = Ratio(100, hits * here, here)
        apart = {names.format(name): [part] for name, part in parts.items()}
        if over:
            each = [part._replace(scale=part.scale / len(parts)) for part in parts.values()]
            return {"accuracy": each, **apart}
        return {"accuracy": [mean(hits)], **apart}

    return total


# ---------------------------------------------------------------- words and numbers


def _exact(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.plain(prediction) == reading.plain(row.answer))


def _vqa(prediction: str, row: Any, judge: Judge | None) -> float:
    return reading.vqa_share(prediction, row.answers)


def _relaxed(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.relaxed(prediction, row.answer))


def _holds(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.holds(prediction, row.answers, formula=row.kind == "HME100k"))


# ---------------------------------------------------------------- letters


def _letter(prediction: str, row: Any, judge: Judge | None) -> float:
    """ScienceQA as LLaVA reads it: the letter alone, or a capital with a period at the start."""
    said, true = prediction.strip(), row.answer.strip().lower()
    dotted = len(said) > 1 and said[0].isupper() and said[1] == "."
    return float(said.lower() == true or (dotted and said[0].lower() == true))


def _opening(prediction: str, row: Any, judge: Judge | None) -> float:
    """AI2D: an opening "B." is B; anything else must be the letter alone."""
    said = prediction.lstrip()
    dotted = len(said) > 1 and "A" <= said[0] <= "Z" and said[1] == "."
    return _exact(said[0] if dotted else prediction, row, judge)


def _first(prediction: str, row: Any, judge: Judge | None) -> float:
    """SEED-Bench: the first character of the answer."""
    return float(prediction.strip()[:1].lower() == row.answer.strip().lower())


def _mmmu(prediction: str, row: Any, judge: Judge | None) -> float:
    """MMMU: a choice or an open answer; an unreadable choice is worth the guess's expectation.

    The official script draws a random letter there; 1/k is what that is worth on average, and
    a rerun gives the same number.
    """
    if row.kind != "multiple-choice":
        return float(reading.mmmu_open(prediction, row.answers))
    if row.answer not in reading.LETTERS[: len(row.options)]:
        return 0.0  # a row that its benchmark has wrong: no option is its answer
    letter = reading.mmmu_letter(prediction, row.options)
    return float(letter == row.answer) if letter else 1 / len(row.options)


def _mvbench(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.mvbench_letter(prediction) == row.answer)


def _spoken(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.spoken_letter(prediction, "ABCD") == row.answer)


def _mmbench(prediction: str, row: Any, judge: Judge | None) -> float:
    """MMBench: matched by its tool; what that leaves open is the judge's, or read statically."""
    options = dict(zip(reading.LETTERS, row.options, strict=False))
    letter = reading.mmbench_letter(prediction, options)
    if not letter and judge is None:
        letter = reading.spoken_letter(prediction, list(options))
    elif not letter:
        listed = " ".join(f"{letter}. {option}" for letter, option in options.items())
        asked = MMBENCH_JUDGE.format(question=row.asked, options=listed, answer=prediction)
        letter = reading.mmbench_letter(judge(asked), options)
    return float(letter == row.answer)


#: What MMBench's tool asks its judge, shortened to the rule: the published tool adds two examples.
MMBENCH_JUDGE = (
    "Match an answer with the options of a single-choice question: say which option is most "
    "similar to the answer. If the meaning of all options differs significantly from the answer, "
    "say E. Reply with a single uppercase letter.\n"
    "Question: {question}\nOptions: {options}\nAnswer: {answer}\nYour output: "
)


def _circular(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    return {"circular": [Ratio(100, *whole(hits, records["group"]))], "accuracy": [mean(hits)]}


# ---------------------------------------------------------------- yes and no


def _pope(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.pope_word(prediction) == row.answer.strip().lower())


def _pope_total(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    """F1 of yes, mean over the splits as LLaVA reports it; of each split, and of all together.

    POPE's script reads all that is not "no" as yes, so that garbage scores 66.7. Beside it stands
    lmms-eval's reading: the whole answer is yes or no, all else is wrong and no part of the recall.
    """
    said = np.array([reading.pope_word(text) == "yes" for text in records["prediction"]], float)
    true = records["answer"].str.strip().str.lower().eq("yes").to_numpy(float)
    parts = {}
    for name in sorted(records["split"].unique()):
        here = records["split"].eq(name).to_numpy(float)
        parts[name] = Ratio(100, 2 * said * true * here, (said + true) * here)
    every = [part._replace(scale=part.scale / len(parts)) for part in parts.values()]
    return {
        "f1": every,
        "accuracy": [mean(hits)],
        **{f"f1_{name}": [part] for name, part in parts.items()},
        "f1_pooled": [Ratio(100, 2 * said * true, said + true)],
        **_pope_lmms(records, true),
        "unread": [
            mean(np.array([not scoring.yes_or_no(text) for text in records["prediction"]], float))
        ],
    }


def _pope_lmms(records: pd.DataFrame, true: np.ndarray) -> Metrics:
    """F1 and accuracy of the answers that are just the word, as lmms-eval 0.7.3 has them.

    With tp, fp and fn (a "no" where yes is true), F1 = 2 tp / (2 tp + fp + fn).
    """
    words = records["prediction"].str.strip().str.lower()
    yes, no = words.eq("yes").to_numpy(float), words.eq("no").to_numpy(float)
    pulled = yes * true + yes + no * true  # tp + (tp + fp) + fn
    hits = yes * true + no * (1 - true)
    return {"f1_lmms": [Ratio(100, 2 * yes * true, pulled)], "accuracy_lmms": [mean(hits)]}


def _mme(prediction: str, row: Any, judge: Judge | None) -> float:
    return float(reading.mme_word(prediction) == row.answer.strip().lower().replace(".", ""))


def _mme_total(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    """MME's sums; ValueError where a picture of a category has not just its two questions."""
    count = records.groupby(["split", "group"]).size()
    if (count != 2).any():
        at = count[count != 2].index[0]
        raise ValueError(f"MME counts pairs; {at[1]!r} of {at[0]!r} has {count[at]} question(s)")
    return paired(records, hits, COGNITION)


# ---------------------------------------------------------------- HallusionBench


def _hallusion(prediction: str, row: Any, judge: Judge | None) -> float:
    """Correct by the judge's word; unclear counts where there is no picture to know it from."""
    said = judge(HALLUSION_JUDGE.format(
        question=row.asked, reference=row.details, answer=prediction)).lower()  # fmt: skip
    unclear = "correct" not in said
    return float(row.without if unclear else "incorrect" not in said)


#: The question that HallusionBench puts to GPT-4, in its own three verdicts.
HALLUSION_JUDGE = (
    "You are a teacher who grades an answer. Read the question, the reference answer and the "
    "prediction. If the prediction does not conflict with the reference, say correct. If it "
    "conflicts, say incorrect. If it is unclear about the answer, say unclear.\n\n"
    "Question: {question}\nReference answer: {reference}\nPrediction: {answer}\nOutput: "
)


def _hallusion_word(prediction: str, row: Any, judge: Judge | None) -> float:
    """Without a judge: "yes" anywhere is yes, all else no (lmms-eval's variant of InternVL)."""
    return float(("yes" in prediction.lower()) == (row.answer == "yes"))


def _hallusion_total(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    """aAcc: questions; fAcc: figures with all of theirs right; qAcc: questions always right.

    A question is asked of several figures; one without a picture belongs to no figure.
    """
    figure, first = whole(hits, records["figure"])
    shown = ~records["without"].to_numpy(bool)
    return {
        "aAcc": [mean(hits)],
        "fAcc": [Ratio(100, figure * shown, first * shown)],
        "qAcc": [Ratio(100, *whole(hits, records["pair"]))],
    }


# ---------------------------------------------------------------- captions


def caption_tools() -> tuple[Any, Any]:
    """pycocoevalcap's (PTBTokenizer, Cider); Unavailable where it or Java is not installed.

    Java runs only the tokenizer, which cuts captions into words as the published numbers were
    made; CIDEr itself is plain Python.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as missing:
        raise Unavailable(
            f"COCO captions are scored by pycocoevalcap, and {missing.name!r} is not installed: "
            "pip install 'qvid-workbook[caption]'"
        ) from missing
    if shutil.which("java") is None:
        raise Unavailable(
            "COCO captions are cut into words by a Java program (Stanford's PTB tokenizer), and "
            "there is no java on this machine: install a Java runtime first"
        )
    return PTBTokenizer, Cider


def _caption(prediction: str, row: Any, judge: Judge | None) -> float:
    return float("nan")  # CIDEr weighs words by the whole set: one caption alone has none


def captions(texts: Iterable[Sequence[str]]) -> dict[int, list[dict[str, str]]]:
    """The captions of each picture as the tokenizer takes them, one line each.

    It writes them below each other and reads as many lines back: any other line break in a caption
    (a carriage return, a vertical tab, U+2028) would move all that follow to another picture.
    """
    return {i: [{"caption": " ".join(text.split())} for text in own] for i, own in enumerate(texts)}


def _cider(records: pd.DataFrame, hits: np.ndarray) -> Metrics:
    tokenizer, scorer = caption_tools()
    said, true = captions([text] for text in records["prediction"]), captions(records["answers"])
    _, each = scorer().compute_score(tokenizer().tokenize(true), tokenizer().tokenize(said))
    return {"CIDEr": [Ratio(1, np.asarray(each, float), np.ones(len(each)))]}


PUBLISHED_SCORERS: dict[str, Scorer] = {
    "exact": Scorer(_exact, _share),
    "scienceqa": Scorer(_letter, _share, reads=unread.letter_first),
    "vqa": Scorer(_vqa, _share),
    "pope_published": Scorer(_pope, _pope_total, "f1", reads=scoring.yes_or_no),
    "mme_published": Scorer(
        _mme, _mme_total, "points", reads=lambda p, row: reading.mme_word(p) != "other"
    ),
    "mmbench": Scorer(_mmbench, _circular, "circular", reads=unread.mmbench),
    "ai2d": Scorer(_opening, _share, reads=unread.letter_first),
    "chartqa": Scorer(_relaxed, _parts()),
    "mmmu": Scorer(_mmmu, _share, reads=unread.mmmu),
    "ocrbench": Scorer(_holds, _share),
    "seedbench": Scorer(
        _first, _share, reads=lambda p, row: p.strip()[:1].lower() in tuple("abcd")
    ),
    "hallusion": Scorer(_hallusion, _hallusion_total, "aAcc", needs_judge=True),
    "hallusion_words": Scorer(_hallusion_word, _hallusion_total, "aAcc", reads=scoring.yes_or_no),
    "cider": Scorer(_caption, _cider, "CIDEr"),
    "mvbench": Scorer(_mvbench, _parts(over=True), reads=unread.mvbench),
    "videomme": Scorer(_spoken, _parts(), reads=unread.videomme),
}
SCORERS.update(PUBLISHED_SCORERS)
