"""Our scorers and prompts against lmms-eval's own functions, on the same rows and answers.

Runs where the extra `lmms` is installed. Only its task files are imported, never its models.
"""

import importlib.util
import itertools
import random
import string
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import published_samples as samples
import pytest

from qvid_utils.workbook.benchmarks.published import BENCHMARKS, entries, reading, scorers

pytest.importorskip("lmms_eval", reason="the extra lmms is not installed")

# What the task files import and scoring does not use.
UNUSED = ["cv2", "datasets", "openai", "requests", "tqdm", "pytz", "sacrebleu", "evaluate",
          "sklearn", "pycocotools.coco",
          "lmms_eval.verifiers", "lmms_eval.verifiers.openai",
          "lmms_eval.tasks._task_utils.file_utils"]  # fmt: skip


def stand_in(name):
    """A module that has whatever is asked of it."""
    made = ModuleType(name)
    made.__path__ = []
    made.__getattr__ = lambda key: type(key, (), {"__init__": lambda *_, **__: None})
    return made


@pytest.fixture(autouse=True, scope="module")
def only_the_task_files():
    """lmms-eval's packages without what they import on import, for the tests of this file."""
    before = dict(sys.modules)
    root = Path(importlib.util.find_spec("lmms_eval").submodule_search_locations[0])
    for name in [n for n in sys.modules if n.partition(".")[0] == "lmms_eval"]:
        del sys.modules[name]
    for name in ("lmms_eval", "lmms_eval.tasks", "lmms_eval.api", "lmms_eval.filters"):
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    for name in UNUSED:
        if name.startswith("lmms_eval") or importlib.util.find_spec(name.split(".")[0]) is None:
            sys.modules[name] = stand_in(name)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def functions(name):
    """The module of a task."""
    return importlib.import_module(f"lmms_eval.tasks.{name}")


SAID = [
    *["yes", "No", "Yes.", "no, it is not", "not", "y", "n", "", "I see a red star", "NO"],
    *["A", "b", "C.", "(D)", "A. red", "B) blue", "the answer is C", "Answer: D", "A or B", "E"],
    *["It is a blue one and no red", "red", "blue.", "The best answer is: (B).", "two", "one star"],
    *["10", "10.4", "10%", "1,000", "-3", "2.004", "so it is 10", "x = 10", "ten", "0", "0.0"],
    *["A big red star stands here", "J", "(J)", "option 9", "dont", "a.b", "St. Ives", "x^2 + 1"],
    *["brand", "The Brand", "other?", "nan", "first (A) then B. last C", "D it is", "is it C? no"],
]


def ours(name, doc):
    entry = BENCHMARKS[name]
    return SimpleNamespace(
        **({"kind": "", "split": "test"} | entry.row(doc, entry.words_after("llava")))
    )


def hit(name, doc, said, judge=None):
    return scorers.PUBLISHED_SCORERS[BENCHMARKS[name].metric].hit(said, ours(name, doc), judge)


def docs(name):
    return [dict(row) for row in samples.ROWS[name]]


def random_answers(count=300):
    """Odd answers: letters, words and marks in any order."""
    rng = random.Random(0)
    parts = [*"ABCDE", *"abc", "(A)", "(B)", "C.", "D:", "answer is", "the", "red", "blue", "is",
             ",", "no", "Yes", "1", "10", ".", "so", "=", "couldnt", "'s", "/", "-",
             "\n"]  # fmt: skip
    return [
        rng.choice(["", " "]).join(rng.choices(parts, k=rng.randint(1, 8))) for _ in range(count)
    ]


EVERY = SAID + random_answers()


# ---------------------------------------------------------------- prompts


KWARGS = {"pre_prompt": "", "post_prompt": entries.WORD}
LETTER = {"pre_prompt": "", "post_prompt": entries.LETTER}
PROMPTS = {
    "gqa": ("gqa.utils", "gqa_doc_to_text", KWARGS),
    "scienceqa_img": ("scienceqa.utils", "sqa_doc_to_text", LETTER | {"format": "default"}),
    "textvqa": ("textvqa.utils", "textvqa_doc_to_text", KWARGS | {"ocr": False}),
    "textvqa_ocr": ("textvqa.utils", "textvqa_doc_to_text", KWARGS | {"ocr": True}),
    "pope": ("pope.utils", "pope_doc_to_text", KWARGS),
    "mme": ("mme.utils", "mme_doc_to_text", KWARGS),
    "mmbench_en_dev": ("mmbench.en_utils", "mmbench_doc_to_text", LETTER),
    "ai2d": ("ai2d.utils", "ai2d_doc_to_text", LETTER | {"prompt_format": "mcq"}),
    "chartqa": ("chartqa.utils", "chartqa_doc_to_text", {
        "pre_prompt": "", "post_prompt": "\nAnswer the question with a single word."}),
    "mmmu_val": ("mmmu.utils", "mmmu_doc_to_text", {
        "prompt_type": "format", "multiple_choice_prompt": entries.CHOICE,
        "open_ended_prompt": entries.OPEN}),
    "ocrbench": ("ocrbench.utils", "ocrbench_doc_to_text", {"pre_prompt": "", "post_prompt": ""}),
    "seedbench_image": ("seedbench.utils", "seed_doc_to_text", None),
    "mmmu_pro_standard": ("mmmu_pro.utils", "mmmu_pro_doc_to_text", {
        "post_prompt": "Answer with the option letter from the given choices directly."}),
    "hallusionbench": ("hallusion_bench.evaluate_hb", "hb_doc_to_text", {}),
    "mvbench": ("mvbench.utils", "mvbench_doc_to_text", {
        "post_prompt": "Only give the best option.\n"}),
    "videomme": ("videomme.utils", "videomme_doc_to_text", LETTER),
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_the_harness_own(name):
    module, function, options = PROMPTS[name]
    text = getattr(functions(module), function)
    for doc in docs(name):
        theirs = text(dict(doc)) if options is None else text(dict(doc), dict(options))
        assert ours(name, doc).question == theirs


# ---------------------------------------------------------------- scorers


def test_gqa():
    theirs = functions_metric()
    for said, doc in itertools.product(EVERY, docs("gqa")):
        same = theirs([said.strip()], [doc["answer"]], ignore_case=True, ignore_punctuation=True)
        assert hit("gqa", doc, said) == same["exact_match"], said


def functions_metric():
    return importlib.import_module("lmms_eval.api.metrics").exact_match_hf_evaluate


def test_scienceqa():
    theirs = functions("scienceqa.utils").sqa_process_results
    for said, doc in itertools.product(EVERY, docs("scienceqa_img")):
        assert hit("scienceqa_img", doc, said) == theirs(doc, [said])["exact_match"], said


def test_textvqa_and_its_words():
    theirs = functions("textvqa.utils").textvqa_process_results
    processor = functions("_task_utils.vqa_eval_metric").EvalAIAnswerProcessor
    for said in EVERY:
        doc = docs("textvqa")[0] | {"answers": list(samples.TEN)}
        assert hit("textvqa", doc, said) == pytest.approx(theirs(doc, [said])["exact_match"]), said
    words = [*processor.CONTRACTIONS, *processor.NUMBER_MAP, *string.punctuation]
    for text in [*EVERY, *words, *(f"a {word} b" for word in words)]:
        assert reading.vqa_words(text) == processor()(text), text


def test_pope():
    """The same F1 on plain answers; other words POPE's own script reads, and the harness drops."""
    module = functions("pope.utils")
    rng = np.random.default_rng(0)
    said = rng.choice(["yes", "no", "Yes", "No"], 200)
    true = rng.choice(["yes", "no"], 200)
    rows = [{"question_id": i, "answer": a} for i, a in enumerate(true)]
    results = [module.pope_process_results(r, [s]) for r, s in zip(rows, said, strict=True)]
    frame = pd.DataFrame({"prediction": said, "answer": true, "split": "random"})
    right = [reading.pope_word(s) == t for s, t in zip(said, true, strict=True)]
    found = scorers.PUBLISHED_SCORERS["pope_published"].total(frame, np.array(right, float))
    f1 = module.pope_aggregate_f1_score([r["pope_f1_score"] for r in results])
    accuracy = module.pope_aggregate_accuracy([r["pope_accuracy"] for r in results])
    assert found["f1_pooled"][0].value == pytest.approx(100 * f1)
    assert found["accuracy"][0].value == pytest.approx(100 * accuracy)


def test_mme():
    module = functions("mme.utils")
    assert set(scorers.COGNITION) == set(module.eval_type_dict["Cognition"])
    for said in EVERY:
        assert reading.mme_word(said) == module.parse_pred_ans(said), said
    rng = np.random.default_rng(0)
    rows = [{"question_id": f"{i}", "category": c, "answer": a} for c in ("color", "OCR")
            for i in range(20) for a in ("Yes", "No")]  # fmt: skip
    said = rng.choice(["yes", "no"], len(rows))
    results = [module.mme_process_results(r, [s])["mme_perception_score"]
               for r, s in zip(rows, said, strict=True)]  # fmt: skip
    frame = pd.DataFrame({"split": [r["category"] for r in rows],
                          "group": [r["category"] + r["question_id"] for r in rows]})  # fmt: skip
    hits = np.array([r["score"] for r in results])
    found = scorers.PUBLISHED_SCORERS["mme_published"].total(frame, hits)
    assert sum(r.value for r in found["points"]) == pytest.approx(
        module.mme_aggregate_results(results)
    )


def test_mmbench_static():
    """Four options; where the hub writes "nan" the harness looks for that text, and we do not."""
    module = functions("mmbench.mmbench_evals")
    judge = module.MMBench_Evaluator()
    options = dict(zip("ABCD", samples.OPTIONS, strict=True))
    doc = docs("mmbench_en_dev")[0] | options
    for said, true in itertools.product(EVERY, "AC"):
        data = pd.DataFrame([{"index": 5, "answer": true, "prediction": said, **options}])
        theirs = judge.eval_sub_data(data, {5: true}, static_only=True)
        assert hit("mmbench_en_dev", doc | {"answer": true}, said) == theirs, said


def test_ai2d():
    module, exact = functions("ai2d.utils"), functions_metric()
    reader = object.__new__(module.MultiChoiceRegexFilter)
    for said, doc in itertools.product(EVERY, docs("ai2d")):
        (read,) = module.MultiChoiceRegexFilter.apply(reader, [[said]], [doc])
        same = exact([read.strip()], ["C"], ignore_case=True, ignore_punctuation=True)
        assert hit("ai2d", doc, said) == same["exact_match"], said


def test_chartqa():
    theirs = functions("chartqa.utils").chartqa_process_results
    for said, doc in itertools.product(EVERY, docs("chartqa")):
        for target in (doc["answer"], "0", "0.1", "10%"):
            doc = doc | {"answer": target}
            assert hit("chartqa", doc, said) == theirs(doc, [said.strip()])["relaxed_overall"], said


def test_ocrbench():
    theirs = functions("ocrbench.utils").ocrbench_process_results
    for said, doc in itertools.product([*EVERY, "ｓｔａｒ", "x^2", "X ^2"], docs("ocrbench")):
        assert hit("ocrbench", doc, said) == theirs(doc, [said])["ocrbench_accuracy"]["score"], said


def test_seedbench():
    module = functions("seedbench.utils")
    for said in EVERY:
        doc = docs("seedbench_image")[0]
        theirs = module.seed_aggregation_result(
            [module.seed_process_result(doc, [said])["seed_all"]]
        )
        assert hit("seedbench_image", doc, said) == theirs, said


def test_mmmu_choices_and_open_answers():
    """A guess apart: where the harness draws a letter, ours is worth the draw's average."""
    module = functions("mmmu.utils")
    index, letters = dict(zip("ABCD", samples.OPTIONS, strict=True)), list("ABCD")
    for said in EVERY:
        read = reading.mmmu_letter(said, samples.OPTIONS)
        if read:
            assert read == module.parse_multi_choice_response(said, letters, index), said
        else:
            drawn = {module.parse_multi_choice_response(said, letters, index) for _ in range(60)}
            assert len(drawn) > 1, said
        for answer in (["2"], ["red"], ["x"], ["10", "1000"]):
            gold = answer if len(answer) > 1 else answer[0]
            theirs = module.eval_open(gold, module.parse_open_response(said))
            assert reading.mmmu_open(said, answer) == theirs, (said, answer)


def test_hallusion_without_a_judge():
    module = functions("hallusion_bench.evaluate_hb")
    rng = np.random.default_rng(0)
    rows = [{"category": "VD", "subcategory": "figure", "set_id": str(s), "figure_id": str(f),
             "question_id": str(q), "gt_answer": str(rng.integers(2)), "question": "?",
             "gt_answer_details": "."}
            for s in range(9) for f in range(2) for q in range(3)]  # fmt: skip
    said = rng.choice(["Yes, it is", "No", "unclear"], len(rows), p=[0.6, 0.3, 0.1])
    asked = pd.DataFrame([vars(ours("hallusionbench_yes_no", row)) for row in rows])
    hits = [hit("hallusionbench_yes_no", r, s) for r, s in zip(rows, said, strict=True)]
    found = scorers.PUBLISHED_SCORERS["hallusion_words"].total(asked, np.array(hits))
    for metric, ratios in found.items():
        told = [row | {"model_prediction": s} for row, s in zip(rows, said, strict=True)]
        theirs = module.hb_aggregation_result_intern(told, metric)
        assert ratios[0].value == pytest.approx(100 * theirs), metric


def test_hallusion_with_a_judge():
    """The harness counts verdicts 1, 0 and 2 of its judge; ours come from the same words."""
    module = functions("hallusion_bench.utils")
    rng = np.random.default_rng(1)
    rows = [{"category": c, "subcategory": "x", "set_id": str(s), "figure_id": str(f),
             "question_id": str(q), "gt_answer": "1", "question": "?", "gt_answer_details": ".",
             "visual_input": "1"} for c in ("VD", "VS") for s in range(6) for f in range(2)
            for q in range(2)]  # fmt: skip
    words = rng.choice(["correct", "incorrect", "unclear"], len(rows), p=[0.6, 0.3, 0.1])
    hits = [
        hit("hallusionbench", r, "x", lambda p, w=w: w) for r, w in zip(rows, words, strict=True)
    ]
    asked = pd.DataFrame([vars(ours("hallusionbench", row)) for row in rows])
    found = scorers.PUBLISHED_SCORERS["hallusion"].total(asked, np.array(hits))
    code = {"correct": "1", "incorrect": "0", "unclear": "2"}
    told = [row | {"v": code[w]} for row, w in zip(rows, words, strict=True)]
    told = module.assign_correctness(told, correctness_entry="v")
    theirs = {
        "aAcc": module.get_eval_all(told, model_correctness_entry="v"),
        "fAcc": module.get_eval_fig(told),
        "qAcc": module.get_eval_pair_all(told, model_correctness_entry="v"),
    }
    for metric, counts in theirs.items():
        share = 100 * counts["correct"] / counts["total"]
        assert found[metric][0].value == pytest.approx(share), metric


def test_mvbench():
    module = functions("mvbench.utils")
    for said in EVERY:
        theirs = module.mvbench_process_results(docs("mvbench")[0], [said])["mvbench_accuracy"]
        assert hit("mvbench", docs("mvbench")[0], said) == theirs["score"], said


def test_videomme():
    theirs = functions("_task_utils.mcq_extract").extract_mcq_answer
    for said in EVERY:
        assert reading.spoken_letter(said, "ABCD") == theirs(said, choices=list("ABCD")), said
