"""The published scorers by cases worked by hand from the benchmarks' rules."""

from dataclasses import replace
from types import SimpleNamespace as Row

import numpy as np
import pandas as pd
import published_samples as samples
import pytest
import twins

from qvid_utils.families import Unavailable
from qvid_utils.workbook.benchmarks import scoring
from qvid_utils.workbook.benchmarks.base import score
from qvid_utils.workbook.benchmarks.published import published, reading, scorers
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.tables import report

SCORERS = scorers.PUBLISHED_SCORERS


def hit(metric, prediction, answer="", judge=None, **row):
    return SCORERS[metric].hit(prediction, Row(answer=answer, **row), judge)


def totals(metric, hits, **columns):
    frame = pd.DataFrame(columns)
    found = SCORERS[metric].total(frame, np.array(hits, float))
    return {name: pytest.approx(scoring.value_of(ratios)) for name, ratios in found.items()}


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("said, worth", [("Red.", 1), (" red ", 1), ("red star", 0), ("", 0)])
def test_gqa_takes_the_same_words_without_case_and_marks(said, worth):
    assert hit("exact", said, "red") == worth


@pytest.mark.parametrize("same, share", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_pays_by_how_many_people_say_so(same, share):
    """Leave one out: with 3 of 10, seven see three, three see two: 7/10 · 1 + 3/10 · 2/3 = 0.9."""
    answers = ["star"] * same + [f"other{i}" for i in range(10 - same)]
    assert hit("vqa", "star", answers=answers) == pytest.approx(share)


@pytest.mark.parametrize(
    "text, words",
    [
        ("The Two, dogs?", "2 dogs"),
        ("dont", "don't"),
        ("a.b", "ab"),
        ("3.5 m", "3.5 m"),
        ("St. Ives", "st ives"),
        ("1,000", "1000"),
        ("red/blue", "red blue"),
        ("red/ blue", "red blue"),
        ("Bob's", "bob 's"),
        ("none", "0"),
        ("ten\nstars", "10 stars"),
        ("couldnt've", "couldn't've"),
    ],
)
def test_vqa_words(text, words):
    assert reading.vqa_words(text) == words


@pytest.mark.parametrize(
    "said, target, right",
    [
        ("10.5", "10", True),
        ("10.51", "10", False),
        ("-9.5", "-10", True),
        ("50%", "0.5", True),
        ("52%", "50%", True),
        ("Two", "two", True),
        ("0", "0", True),
        ("0.0", "0", False),
        ("ten", "10", False),
        ("2,000", "2000", False),
    ],
)
def test_chartqa_is_relaxed_by_five_percent(said, target, right):
    assert hit("chartqa", said, target) == right


def test_ocrbench_looks_for_any_answer_inside():
    assert hit("ocrbench", "It says STAR\nbar", answers=["none", "star bar"], kind="IIIT5K") == 1
    assert hit("ocrbench", "ＳＴＡＲ", answers=["star"], kind="IIIT5K") == 1
    assert hit("ocrbench", "sta r", answers=["star"], kind="IIIT5K") == 0
    assert hit("ocrbench", "x ^ 2 + 1", answers=["x^2"], kind="HME100k") == 1
    assert hit("ocrbench", "X^2", answers=["x^2"], kind="HME100k") == 0  # formulas keep their case


# ---------------------------------------------------------------- letters


@pytest.mark.parametrize(
    "said, worth", [("B", 1), ("b", 1), ("B. blue", 1), ("b. blue", 0), ("(B)", 0), ("A. B", 0)]
)
def test_scienceqa_takes_the_letter_as_llava_does(said, worth):
    assert hit("scienceqa", said, "B") == worth


@pytest.mark.parametrize("said, worth", [(" C. eye", 1), ("C", 1), ("c.", 1), ("C eye", 0)])
def test_ai2d_takes_the_opening_letter(said, worth):
    assert hit("ai2d", said, "C") == worth


@pytest.mark.parametrize("said, worth", [("C", 1), ("cat", 1), (" C. two", 1), ("Answer C", 0)])
def test_seedbench_takes_the_first_character(said, worth):
    assert hit("seedbench", said, "C") == worth


@pytest.mark.parametrize(
    "said, letter",
    [
        ("B", "B"),
        ("(C)", "C"),
        ("A red star", "A"),  # three words: A is no article yet
        ("A big red star", ""),  # A may be the article, and no option's text is there
        ("B.", "B"),
        ("I say (D). It is", "D"),
        ("A or B", ""),
        ("it is a teddy bear", "A"),
        ("a rabbit and a teddy bear", ""),
    ],
)
def test_mmbench_matches_a_letter_or_one_option(said, letter):
    options = dict(zip("ABCD", ["Teddy bear", "rabbit", "cow", "hen"], strict=True))
    assert reading.mmbench_letter(said, options) == letter


def test_mmbench_is_static_without_a_judge_and_asks_one_where_nothing_matches():
    row = {"options": ["fast", "slow"], "asked": "how ?"}
    assert hit("mmbench", "the answer is: B!", "B", **row) == 1
    asked = []
    judge = lambda prompt: asked.append(prompt) or "B"  # noqa: E731
    assert hit("mmbench", "A", "A", judge, **row) == 1 and asked == []
    assert hit("mmbench", "not quick", "B", judge, **row) == 1
    assert "A. fast B. slow" in asked[0] and "Answer: not quick" in asked[0]


def test_mmbench_wants_all_turns_of_a_question():
    found = totals("mmbench", [1, 1, 1, 0], group=["5", "5", "6", "6"])
    assert found == {"circular": 50, "accuracy": 75}


@pytest.mark.parametrize(
    "said, letter",
    [
        ("D", "D"),
        ("The answer is C", "C"),
        ("It is (B) and not much else here", "B"),
        ("not (A), so D", "D"),  # closes the answer: before brackets
        ("B. But C is near", "B"),  # opens the answer: before all else
        ("first A) then B: then (C) so it is", "C"),  # brackets before colon
        ("answer is D, though C. too big", "C"),  # of equals the last, as the harness has it
        ("we pick D. The answer is C in all", "C"),  # a phrase before a period
        ("", ""),
        ("none", ""),
        ("Dog", "D"),  # anywhere, in the last place
        ("Animal", "A"),
    ],
)
def test_a_spoken_letter(said, letter):
    assert reading.spoken_letter(said, "ABCD") == letter


@pytest.mark.parametrize(
    "said, read",
    [("B", "B"), ("(b) fall", "B"), ("C. up", "C"), ("a man", "A"), ("falls", "falls")],
)
def test_mvbench_reads_a_lone_letter(said, read):
    assert reading.mvbench_letter(said) == read


def test_mvbench_is_the_mean_over_tasks():
    found = totals("mvbench", [1, 1, 1, 0, 0, 0], split=["a", "a", "a", "a", "b", "b"])
    assert found == {"accuracy": 37.5, "accuracy_a": 75, "accuracy_b": 0}


def test_videomme_has_its_lengths_apart():
    found = totals("videomme", [1, 0, 1, 1], split=["short", "short", "medium", "long"])
    assert found == {"accuracy": 75, "accuracy_short": 50, "accuracy_medium": 100,
                     "accuracy_long": 100}  # fmt: skip


@pytest.mark.parametrize(
    "said, letter",
    [
        ("(B)", "B"),
        ("B", "B"),
        ("A or (C)", "C"),  # brackets before bare letters
        ("A and then B", "B"),  # the last one
        ("B.", "B"),
        ("It looks like a very blue thing", "B"),  # more than five words: an option's text
        ("blue", ""),
    ],
)
def test_mmmu_reads_a_choice(said, letter):
    assert reading.mmmu_letter(said, ["red", "blue", "two", "one"]) == letter


def test_an_unreadable_choice_is_worth_a_guess():
    row = {"kind": "multiple-choice", "options": list("abcdefghij"), "answers": ["A"]}
    assert hit("mmmu", "?", "A", **row) == pytest.approx(0.1)
    assert [hit("mmmu", x, "A", **row) for x in "AB"] == [1, 0]


@pytest.mark.parametrize(
    "said, answers, right",
    [
        ("2", ["2"], True),
        ("The answer is 2.004", ["2"], True),  # two decimals
        ("so x = 1,000", ["1000"], True),
        ("The final result is a red star.", ["red star"], True),
        ("12", ["2"], False),
        ("x", ["x"], True),
        ("box", ["x"], False),  # a single letter needs a space beside it
        ("3", ["two", "3.00"], True),
    ],
)
def test_mmmu_open_answers(said, answers, right):
    assert reading.mmmu_open(said, answers) is right


# ---------------------------------------------------------------- yes and no


@pytest.mark.parametrize(
    "said, word",
    [
        ("No", "no"),
        ("yes", "yes"),
        ("There is not", "no"),
        ("No, it is. Yes", "no"),
        ("Yes. No", "yes"),  # the first sentence alone
        ("red", "yes"),  # POPE's script: all that is not "no"
        ("NO", "yes"),  # as that script has it
        ("none", "yes"),
    ],
)
def test_pope_reads_no_by_its_words(said, word):
    assert reading.pope_word(said) == word


def test_pope_has_f1_per_split_and_their_mean():
    """random: TP 1, FP 1, FN 1: 2/4; popular: TP 1: 1; pooled: 2·2/(2·2+1+1)."""
    said, true = ["yes", "yes", "no", "Yes"], ["yes", "no", "yes", "yes"]
    found = totals("pope_published", [1, 0, 0, 1], prediction=said, answer=true,
                   split=["random"] * 3 + ["popular"])  # fmt: skip
    assert found == {"f1": 75, "accuracy": 50, "f1_random": 50, "f1_popular": 100,
                     "f1_pooled": pytest.approx(100 * 4 / 6), "accuracy_lmms": 50,
                     "f1_lmms": pytest.approx(100 * 4 / 6), "unread": 0}  # fmt: skip


def test_garbage_is_yes_to_popes_script_and_wrong_to_lmms_eval():
    """Six of twelve are yes: all read as yes, F1 = 2·6/(2·6+6); as lmms-eval reads it nothing is.
    "Yes, it is." is yes to the script and no word alone to lmms-eval; "no" is right twice."""
    said, true = ["", "</s>", "the the", "?"] * 3, ["yes", "no"] * 6
    found = totals("pope_published", [1, 0] * 6, prediction=said, answer=true, split=["a"] * 12)
    assert found["f1"] == 100 * 2 / 3 and found["f1_lmms"] == found["accuracy_lmms"] == 0
    assert found["unread"] == 100
    said, true = ["Yes, it is.", "yes", "no", "Yes"], ["yes", "yes", "no", "no"]
    found = totals("pope_published", [1, 1, 1, 0], prediction=said, answer=true, split=["a"] * 4)
    assert found["f1"] == 80 and found["accuracy_lmms"] == 50
    assert found["f1_lmms"] == pytest.approx(100 * 2 / 3), "the first is neither word, no miss"


READS = [  # metric, columns of the question, what is read, what is not
    ("pope_published", {}, ["Yes, it is.", "not there", "NO"], ["", "?", "the the", "know"]),
    ("mme_published", {}, ["yes", "N", "No, it"], ["maybe", ""]),
    ("scienceqa", {}, ["B", "b", "A. red"], ["red", "", "the B"]),
    ("ai2d", {}, ["C", "C. eye"], ["eye", ""]),
    ("seedbench", {}, ["C", "c", "a cat"], ["(C)", "", "?"]),
    ("mmbench", {"options": ["red", "blue"]}, ["A", "it is blue"], ["it", ""]),
    ("mmmu", {"kind": "multiple-choice", "options": ["x", "y"]}, ["(A)", "B."], ["none", ""]),
    ("mmmu", {"kind": "open", "options": []}, ["5"], ["", " "]),
    ("mvbench", {}, ["B", "(b) fall"], ["it falls", ""]),
    ("videomme", {}, ["The answer is B."], ["it", ""]),
    ("hallusion_words", {}, ["Yes.", "no"], ["maybe", ""]),
    ("exact", {}, ["red"], ["", " \n"]),
]


@pytest.mark.parametrize("metric, row, read, lost", READS, ids=[one for one, *_ in READS])
def test_an_answer_in_which_nothing_is_read_is_told_from_a_wrong_one(metric, row, read, lost):
    reads = SCORERS[metric].reads
    assert [reads(text, Row(**row)) for text in read] == [True] * len(read)
    assert [reads(text, Row(**row)) for text in lost] == [False] * len(lost)


def test_the_metrics_say_what_share_was_not_read(tmp_path):
    one = published("pope", samples.write("pope", tmp_path))
    frame = one.samples.rename(columns={"id": "sample"}).drop(columns="image")
    said = ["yes", "no", "yes", "?", "", "no"]
    found = score(one, frame.assign(prediction=said))
    assert list(found)[-1] == "unread" and found["unread"] == pytest.approx(100 / 3)
    assert score(one, frame.assign(prediction="yes"))["unread"] == 0
    gqa = published("gqa", samples.write("gqa", tmp_path / "gqa"))
    frame = gqa.samples.rename(columns={"id": "sample"}).drop(columns="image")
    assert score(gqa, frame.assign(prediction=["red", " "]))["unread"] == 50
    assert "unread" not in score(gqa, frame.assign(prediction="red"))


@pytest.mark.parametrize(
    "said, word",
    [("Yes.", "yes"), ("n", "no"), ("Yes, it is", "yes"), ("not", "no"), ("a no", "no"),
     ("It is no", "other"), ("", "other"), ("x", "other")],
)  # fmt: skip
def test_mme_reads_the_first_four_characters(said, word):
    assert reading.mme_word(said) == word


def test_mme_adds_pairs_and_knows_its_cognition():
    """color: 1 of 2 and no pair, 50; code_reasoning: all, 200."""
    columns = {"split": ["color"] * 2 + ["code_reasoning"] * 2, "group": list("aabb")}
    found = totals("mme_published", [1, 0, 1, 1], **columns)
    assert found == {"points": 250, "perception": 50, "cognition": 200, "accuracy": 75}
    with pytest.raises(ValueError, match=r"MME counts pairs; 'b' of 'color' has 1 question\(s\)"):
        totals("mme_published", [1], split=["color"], group=["b"])


# ---------------------------------------------------------------- HallusionBench


def test_hallusion_counts_questions_figures_and_questions_over_figures():
    """Figure 0: both right; figure 1: one of two; x right twice, y once, z without a picture."""
    found = totals(
        "hallusion_words", [1, 1, 1, 0, 1],
        figure=["0", "0", "1", "1", "none"], pair=["x", "y", "x", "y", "z"],
        without=[False] * 4 + [True],
    )  # fmt: skip
    assert found == {"aAcc": 80, "fAcc": 50, "qAcc": pytest.approx(200 / 3)}


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize("verdict, worth", [("Correct", 1), ("incorrect.", 0), ("unclear", None)])
def test_hallusion_takes_the_judges_word(verdict, worth, without):
    worth = without if worth is None else worth
    row = {"asked": "Is it?", "details": "It is.", "without": without}
    assert hit("hallusion", "maybe", judge=lambda prompt: verdict, **row) == worth


def test_hallusion_tells_the_judge_all_three_texts():
    seen = []
    row = {"asked": "Is it?", "details": "It is.", "without": False}
    hit("hallusion", "Surely", judge=lambda p: seen.append(p) or "correct", **row)
    assert all(text in seen[0] for text in ("Is it?", "It is.", "Surely"))


# ---------------------------------------------------------------- captions


@pytest.fixture
def tools():
    pytest.importorskip("pycocoevalcap", reason="the extra caption is not installed")
    try:
        scorers.caption_tools()
    except Unavailable as missing:
        pytest.skip(str(missing))


def test_cider_of_perfect_captions(tools):
    """pycocoevalcap with Java's tokenizer: a caption that equals its references has 10."""
    texts = ["A red star stands on the left.", "Two blue dots are below a line."]
    frame = pd.DataFrame({"prediction": texts, "answers": [[t, t] for t in texts]})
    ratios = SCORERS["cider"].total(frame, np.full(2, np.nan))["CIDEr"]
    assert scoring.value_of(ratios) == pytest.approx(10)
    assert np.isfinite(scoring.error_of(scoring.pull_of(ratios, ["a", "b"])))
    swapped = frame.assign(prediction=texts[::-1])
    assert scoring.value_of(SCORERS["cider"].total(swapped, np.zeros(2))["CIDEr"]) < 0.5


BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("mark", BREAKS, ids=map(ascii, BREAKS))
def test_a_caption_is_one_line(mark):
    """Without Java: what the tokenizer is given, as many lines as captions, no word lost."""
    given = [[f"a red{mark}star"], [f"{mark}two{mark}", "blue  dots "]]
    held = scorers.captions(given)
    assert held == {0: [{"caption": "a red star"}],
                    1: [{"caption": "two"}, {"caption": "blue dots"}]}  # fmt: skip
    lines = "\n".join(one["caption"] for each in held.values() for one in each)
    assert len(lines.splitlines()) == 3


def test_cider_gives_its_tokenizer_single_lines_of_both_sides(monkeypatch):
    """Tools that only look: predictions and references come without a break."""
    seen = []

    class Tokenizer:
        def tokenize(self, given):
            seen.append([one["caption"] for each in given.values() for one in each])

    class Cider:
        def compute_score(self, true, said):
            return None, [1.0, 2.0]

    monkeypatch.setattr(scorers, "caption_tools", lambda: (Tokenizer, Cider))
    frame = pd.DataFrame({"prediction": ["a\rb", "c"], "answers": [["d\u2028e", "f"], ["g\x85h"]]})
    assert scoring.value_of(SCORERS["cider"].total(frame, np.zeros(2))["CIDEr"]) == 1.5
    assert sorted(seen) == [["a b", "c"], ["d e", "f", "g h"]]


def test_captions_run_end_to_end(tools, tmp_path):
    """Files, suite, a small random model, Java and all: one long row, in CIDEr's own unit."""
    samples.write("coco2014_cap_val", tmp_path)
    one = replace(published("coco2014_cap_val", tmp_path), new_tokens=3)
    words = "what do you see ?"  # the twin knows no other
    one = one._with(one.samples.assign(question=words))
    records = runner.evaluate(twins.twin("llava"), twins.PROCESSOR, [one], [Cell()])
    assert records["score"].isna().all()  # no caption has a score of its own
    (row,) = report.summary(records, [one]).to_dict("records")
    assert (row["metric"], row["unit"], row["n"]) == ("CIDEr", "1", 2) and row["value"] >= 0
