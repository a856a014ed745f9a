"""The table of published benchmarks: where each lies, what it asks in which words, how it scores.

Hub ids, configurations, splits, columns, prompts and answer lengths are those of lmms-eval 0.7.3
(the harness that the papers' prompts come from), read from its task files. No revision is pinned:
none was known when this was written, and none is made up; give `revision=` to pin one. `size` is
the number of questions: `SEEN` says where it was read, and for those that are not there it is from
our notes of the benchmarks' papers. None was counted on the files, and nothing but costs, the dry
run's "done" and standard errors of the papers' tables rests on it.

`post` is the sentence after the question, per model family; lmms-eval gives the five families here
the same one everywhere ("default"). A `row` function turns one row of a file into a sample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .reading import LETTERS, listed
from .valid_answers import YES_NO, among, choice, number, numbers

WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
IMAGE_FAMILIES = ("llava", "video_llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
VIDEO_FAMILIES = IMAGE_FAMILIES[1:]

Row = Callable[[Mapping[str, Any], str], dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """One published benchmark: a row of this table.

    name: ours; stands_for: its column in the papers' tables, `tables` those it fills. hub, config,
    splits: where it lies. columns: what a file must have. row(file row, post) -> sample with
    question, answer and what the scorer reads; "id" and "picture" where the file has them, and
    `gold.COLUMNS` where only some answers can be right. metric: key of `SCORERS`. new_tokens: room
    for an answer. size: questions when whole. join: pictures in another configuration: (config, key
    here, key there). keep: rows that belong to it. judge: who reads the answers, where the
    published metric needs someone. note: what differs from the source.
    """

    name: str
    stands_for: str
    tables: tuple[str, ...]
    hub: str
    splits: tuple[str, ...]
    columns: tuple[str, ...]
    row: Row
    metric: str
    new_tokens: int
    size: int
    config: str = ""
    post: Mapping[str, str] = None  # type: ignore[assignment]
    image: str = "image"
    join: tuple[str, str, str] | None = None
    keep: Callable[[Mapping[str, Any]], bool] | None = None
    media: str = "image"
    judge: str = ""
    needs: str = ""
    note: str = ""

    @property
    def families(self) -> tuple[str, ...]:
        """The model families that can be asked."""
        return VIDEO_FAMILIES if self.media == "video" else IMAGE_FAMILIES

    def words_after(self, family: str) -> str:
        """The sentence after the question, as the harness gives it to a family."""
        post = self.post or {"default": ""}
        return post.get(family, post["default"])


def _text(cell: Any) -> str:
    """A cell as text; what a file leaves empty, in any of the ways files have, is ""."""
    text = "" if cell is None or cell != cell else str(cell)
    return "" if text == "nan" else text


def _lettered(options: list[str]) -> str:
    return "\n".join(f"{x}. {option}" for x, option in zip(LETTERS, options, strict=False))


def _asked(doc: Mapping[str, Any], post: str) -> dict:
    """The question as it stands (GQA, ChartQA, POPE, OCRBench)."""
    return {"question": _text(doc["question"]).strip() + post, "answer": _text(doc["answer"])}


def _gqa(doc, post):
    return _asked(doc, post) | {"id": doc["id"], "picture": _text(doc.get("imageId"))}


def _scienceqa(doc, post):
    context = f"Context: {doc['hint']}\n" if _text(doc["hint"]) else ""
    options = listed(doc["choices"])
    question = f"{context}{doc['question']}\n{_lettered(options)}{post}"
    return {"question": question} | choice(number(_text(doc["answer"])), numbers(options))


def _textvqa(doc, post, ocr=False):
    answers = listed(doc["answers"])
    tokens = f"\nReference OCR token: {', '.join(listed(doc['ocr_tokens']))}" if ocr else ""
    return {
        "id": doc["question_id"],
        "question": f"{_text(doc['question']).capitalize()}{tokens}{post}",
        "answer": max(answers, key=answers.count) if answers else "",
        "answers": answers,
    }


def _textvqa_ocr(doc, post):
    return _textvqa(doc, post, ocr=True)


def _pope(doc, post):
    told = _asked(doc, post)
    told |= among(told["answer"].strip().lower(), YES_NO)
    return told | {
        "id": f"{doc['category']}/{doc['question_id']}",
        "split": doc["category"],
        "picture": _text(doc.get("image_source")),
    }


def _mme(doc, post):
    question = _text(doc["question"]).strip().replace(" Please answer yes or no.", "")
    category, pair = _text(doc["category"]), _text(doc["question_id"])
    return among(_text(doc["answer"]).strip().lower().replace(".", ""), YES_NO) | {
        "question": question + post,
        "answer": _text(doc["answer"]),
        "split": category,
        "group": f"{category}/{pair}",
    }


def _mmbench(doc, post):
    options = {x: text for x in LETTERS[:5] if (text := _text(doc.get(x)))}
    hint = f"{doc['hint']} " if _text(doc["hint"]) else ""
    listing = "\n".join(f"{x}. {option}" for x, option in options.items())
    answer = _text(doc["answer"]).strip()
    return among(answer, list(options)) | {
        "id": doc["index"],
        "question": f"{hint}{doc['question']} There are several options:\n{listing}\n{post}",
        "answer": answer,
        "kind": _text(doc.get("category")),
        # an option order turned by k has the index + k million
        "group": str(int(doc["index"]) % 1_000_000),
        "options": list(options.values()),
        "asked": doc["question"],
    }


def _ai2d(doc, post):
    options = listed(doc["options"])
    question = f"{doc['question']}\n{_lettered(options)}{post}"
    return {"question": question} | choice(number(_text(doc["answer"])), numbers(options))


def _chartqa(doc, post):
    split = "human" if doc["type"] == "human_test" else "augmented"
    return _asked(doc, post) | {"split": split}


OPEN = "Answer the question using a single word or phrase."
CHOICE = "Answer with the option's letter from the given choices directly."


def _mmmu(doc, post):
    closed = doc["question_type"] == "multiple-choice"
    options = listed(doc["options"]) if closed else []
    listing = f"{_lettered(options)}\n\n{post}" if closed else f"\n{OPEN}"
    answers = listed(doc["answer"])
    answer = answers[0].strip() if answers else ""
    told = among(answer, LETTERS[: len(options)]) if closed else {}
    return told | {
        "id": doc["id"],
        "question": f"{doc['question']}\n{listing}",
        "answer": answer,
        "kind": doc["question_type"],
        "options": options,
        "answers": answers,
        "shown": _shown(doc, options),
    }


def _mmmu_pro(doc, post):
    return _mmmu({**doc, "question_type": "multiple-choice"}, post)


def _shown(doc: Mapping[str, Any], options: list[str]) -> list[str]:
    """The columns of the pictures that question and options name, <image 1> first."""
    text = f"{doc['question']}\n{_lettered(options)}"
    return [f"image_{i}" for i in range(1, 8) if f"<image {i}>" in text]


def _ocrbench(doc, post):
    answers = listed(doc["answer"]) if not isinstance(doc["answer"], str) else [doc["answer"]]
    return {
        "question": _text(doc["question"]).strip() + post,
        "answer": answers[0] if answers else "",
        "kind": _text(doc["dataset"]),
        "split": _text(doc["question_type"]),
        "answers": answers,
    }


def _seedbench(doc, post):
    options = [doc[f"choice_{x}"] for x in "abcd"]
    question = f"{doc['question']}\n{_lettered(options)}{post}"
    answer = _text(doc["answer"]).strip()
    told = {"id": doc["question_id"], "question": question, "answer": answer}
    return told | among(answer.upper(), LETTERS[: len(options)])


def _hallusion(doc, post):
    kind, figure = _text(doc["category"]), _text(doc["figure_id"])
    group = "_".join(_text(doc[key]) for key in ("category", "subcategory", "set_id"))
    truth = number(_text(doc["gt_answer"]))
    return among(truth, ("0", "1")) | {
        "id": f"{group}_{figure}_{doc['question_id']}",
        "question": _text(doc["question"]) + post,
        "answer": {"1": "yes", "0": "no"}.get(truth, ""),
        "kind": kind,
        "group": group,
        "asked": doc["question"],
        "details": _text(doc["gt_answer_details"]),
        "figure": f"{group}_{figure}",
        "pair": f"{group}_{doc['question_id']}",
        "without": kind == "VS" and figure == "0",
    }


def _caption(doc, post):
    answers = listed(doc["answer"])
    return {
        "id": doc["question_id"],
        "question": "Provide a one-sentence caption for the provided image.",
        "answer": answers[0] if answers else "",
        "answers": answers,
    }


def _mvbench(doc, post):
    options = listed(doc["candidates"])
    listing = "".join(f"({x}) {option}\n" for x, option in zip(LETTERS, options, strict=False))
    return choice(_text(doc["answer"]), options) | {
        "question": f"Question:{doc['question']}\nOption:\n{listing}{post}",
        "picture": doc["video"],
        "part": _part(doc.get("start"), doc.get("end")),
    }


def _part(start: float | None, end: float | None) -> tuple[float, float] | None:
    """Which seconds of a video are shown; None for all."""
    if start is None or end is None:
        return None
    if not 0 <= start < end:
        raise ValueError(f"start {start} and end {end}")
    return start, end


def _videomme(doc, post):
    head = (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
    )
    options, answer = listed(doc["options"]), _text(doc["answer"]).strip()
    listing = "\n".join(options)
    return among(answer, "ABCD"[: len(options)]) | {
        "id": doc["question_id"],
        "question": f"{head}\n{doc['question']}\n{listing}\n{post}",
        "answer": answer,
        "split": doc["duration"],
        "picture": doc["videoID"],
    }


#: Where the number of questions was read; cards are those of lmms-lab on the hub, where the
#: harness's data lay before.
SEEN = {
    **dict.fromkeys(("gqa", "mme", "scienceqa_img", "ai2d"), "lmms-eval's README, run times"),
    **dict.fromkeys(("textvqa", "textvqa_ocr"), "card: validation, 5000 examples"),
    **dict.fromkeys(("hallusionbench", "hallusionbench_yes_no"), "card: image, 951 rows"),
    "mmmu_val": "card: validation, 900 rows",
    "mmmu_pro_standard": "QViD, Table 11: 1,730 samples",
    "pope": "card, rounded: 9k rows",
    "chartqa": "card, rounded: 2.5k rows",
    "coco2014_cap_val": "card, rounded: val, 40.5k rows",
}

_MAIN = ("1", "2a", "3a", "3b", "4", "5", "6", "7")
_MMMU_COLUMNS = ("id", "question", "options", "answer", "image_1")
_HALLUSION: dict[str, Any] = {
    "stands_for": "HallusionBench", "tables": ("13", "14"),
    "hub": "lmms-lab-encoder/HallusionBench", "splits": ("image",), "size": 951,
    "columns": ("category", "subcategory", "set_id", "figure_id", "question_id", "question",
                "gt_answer", "gt_answer_details"),
    "row": _hallusion, "new_tokens": 128,
}  # fmt: skip
_TEXTVQA: dict[str, Any] = {
    "stands_for": "TextVQA", "hub": "lmms-lab-encoder/textvqa", "splits": ("validation",),
    "metric": "vqa", "new_tokens": 16, "size": 5000, "post": {"default": WORD},
}  # fmt: skip

_TABLE = (
    Benchmark(
        "gqa", "GQA", (*_MAIN, "15", "svd_1"), "lmms-lab-encoder/GQA", ("testdev",),
        ("id", "imageId", "question", "answer"), _gqa, "exact", 16, 12578,
        config="testdev_balanced_instructions", post={"default": WORD},
        join=("testdev_balanced_images", "imageId", "id"),
    ),
    Benchmark(
        "scienceqa_img", "SQA", _MAIN, "lmms-lab-encoder/ScienceQA", ("test",),
        ("question", "choices", "answer", "hint"), _scienceqa, "scienceqa", 16, 2017,
        config="ScienceQA-IMG", post={"default": LETTER},
    ),
    Benchmark(
        "textvqa", tables=(), columns=("question_id", "question", "answers"), row=_textvqa,
        note="without OCR tokens: LLaVA-1.5 has about 46 here, not the tables' 58.2", **_TEXTVQA,
    ),
    Benchmark(
        "textvqa_ocr", tables=(*_MAIN, "15", "svd_1"), row=_textvqa_ocr,
        columns=("question_id", "question", "answers", "ocr_tokens"),
        note="with the data set's OCR tokens in the prompt, as LLaVA's 58.2 has them", **_TEXTVQA,
    ),
    Benchmark(
        "pope", "POPE", (*_MAIN, "15"), "lmms-lab-encoder/POPE", ("test",),
        ("question_id", "question", "answer", "category"), _pope, "pope_published", 128, 9000,
        post={"default": WORD},
    ),
    Benchmark(
        "mme", "MME", (*_MAIN, "15"), "lmms-lab-encoder/MME", ("test",),
        ("question_id", "question", "answer", "category"), _mme, "mme_published", 16, 2374,
        post={"default": WORD},
    ),
    Benchmark(
        "mmbench_en_dev", "MMB", ("1", "2a", "5"), "lmms-lab-encoder/MMBench", ("dev",),
        ("index", "question", "hint", "answer", "A", "B"), _mmbench, "mmbench", 1024, 4329,
        config="en", post={"default": LETTER},
        judge="optional: without one, what MMBench's tool cannot match is read statically",
        note="absent options written 'nan' are dropped; the question's judge prompt is shortened",
    ),
    Benchmark(
        "ai2d", "AI2D", ("2a", "4", "5", "10"), "lmms-lab-encoder/ai2d", ("test",),
        ("question", "options", "answer"), _ai2d, "ai2d", 16, 3088, post={"default": LETTER},
    ),
    Benchmark(
        "chartqa", "ChartQA", ("10",), "lmms-lab-encoder/ChartQA", ("test",),
        ("type", "question", "answer"), _chartqa, "chartqa", 16, 2500,
        post={"default": "\nAnswer the question with a single word."},
    ),
    Benchmark(
        "mmmu_val", "MMMU", ("10",), "lmms-lab-encoder/MMMU", ("validation",),
        (*_MMMU_COLUMNS, "question_type"), _mmmu, "mmmu", 128, 900, post={"default": CHOICE},
        image="", note="pictures stand before the text; an unreadable choice is worth 1/k",
    ),
    Benchmark(
        "ocrbench", "OCRBench", ("10",), "echo840/OCRBench", ("test",),
        ("dataset", "question", "question_type", "answer"), _ocrbench, "ocrbench", 128, 1000,
    ),
    Benchmark(
        "seedbench_image", "SEEDBench", ("10",), "lmms-lab-encoder/SEED-Bench", ("test",),
        ("question_id", "data_type", "question", "choice_a", "choice_b", "choice_c", "choice_d",
         "answer"), _seedbench, "seedbench", 16, 14233, post={"default": LETTER},
        keep=lambda doc: doc["data_type"] == "image",
    ),
    Benchmark(
        "mmmu_pro_standard", "MMMU-Pro", ("11",), "MMMU/MMMU_Pro", ("test",),
        _MMMU_COLUMNS, _mmmu_pro, "mmmu", 256, 1730, config="standard (10 options)", image="",
        post={"default": "Answer with the option letter from the given choices directly."},
        note="pictures stand before the text; an unreadable choice is worth 1/k",
    ),
    Benchmark(
        "hallusionbench", metric="hallusion", judge="needed: GPT-4 in the published numbers",
        note="the judge's prompt is shortened", **_HALLUSION,
    ),
    Benchmark(
        "hallusionbench_yes_no", metric="hallusion_words",
        note="read by the word yes, without a judge: not the published metric", **_HALLUSION,
    ),
    Benchmark(
        "coco2014_cap_val", "COCO", ("13", "14"), "lmms-lab-encoder/COCO-Caption", ("val",),
        ("question_id", "answer"), _caption, "cider", 64, 40504, needs="caption",
    ),
    Benchmark(
        "mvbench", "MVBench", ("2b", "12"), "OpenGVLab/MVBench",
        tuple(
            "action_antonym action_count action_localization action_prediction action_sequence "
            "character_order counterfactual_inference egocentric_navigation episodic_reasoning "
            "fine_grained_action fine_grained_pose moving_attribute moving_count moving_direction "
            "object_existence object_interaction object_shuffle scene_transition state_change "
            "unexpected_action".split()
        ),
        ("video", "question", "candidates", "answer"), _mvbench, "mvbench", 16, 4000, config="json",
        post={"default": "Only give the best option.\n"}, media="video", image="video",
        note="the mean over the tasks; an empty answer is wrong here, and left out by lmms-eval, "
        "which reads the hub's revision `video`; whole videos are cut to start and end",
    ),
    Benchmark(
        "videomme", "VideoMME", ("2b", "12"), "lmms-eval/Video-MME", ("test",),
        ("question_id", "videoID", "duration", "question", "options", "answer"), _videomme,
        "videomme", 16, 2700, config="videomme", media="video", image="videoID",
        post={"default": LETTER}, note="without subtitles",
    ),
)  # fmt: skip
BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in _TABLE}
