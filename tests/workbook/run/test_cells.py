"""Cells of the comparison: what they are called, what they do, and that the runner does it."""

import dataclasses

import numpy as np
import pytest
import torch
from twins import embedded

from qvid_utils import pruned
from qvid_utils.algebra.cuts import Cut
from qvid_utils.methods.qvid_variants import modes, share_out
from qvid_utils.prune import observed
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.other_questions import other_questions
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.run import asker
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import CONTROLS, Cell
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.store import Store
from qvid_utils.workbook.studies.cell_lists import (
    FIRST_CUTS,
    REPOSITIONED,
    comparison_cells,
    our_cells,
    position_cells,
    seed_cells,
)


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


@pytest.fixture(scope="module")
def suites():
    return [suite("tiny_gqa").head(6)]


PAIR = Cell("qvid", 10, before=("divprune", 72, {"positions": "original"}))
SHARED = Cell("qvid", 16, shared=True)


def test_labels_say_what_differs():
    assert PAIR.labels["variant"] == "after divprune 72"
    assert SHARED.labels["variant"] == "budget shared by spectrum"
    assert Cell("v2drop", 16, lists="scaled").labels["variant"] == "lists=scaled"
    assert Cell("random", 16, 0, {"seed": 2}).labels["variant"] == "seed=2"


def test_keys_differ_where_what_is_done_differs():
    cells = [Cell("qvid", 10), PAIR, Cell("qvid", 10, shared=True),
             Cell("qvid", 10, before=("divprune", 36, {"positions": "original"})),
             Cell("qvid", 10, before=("divprune", 72)), Cell("v2drop", 16),
             Cell("v2drop", 16, lists="scaled")]  # fmt: skip
    parts = [cell.parts for cell in cells]
    assert all(a != b for i, a in enumerate(parts) for b in parts[:i])


@pytest.mark.parametrize(
    "cell, says",
    [
        (lambda: Cell(shared=True), "no layer and no parameters"),
        (lambda: Cell(before=("divprune", 72)), "no layer and no parameters"),
        (lambda: Cell("qvid", 10, before=("divprunne", 72)), "did you mean divprune"),
        (lambda: Cell("qvid", 10, before=("divprune", 72, {"rank": 3})), "no rank"),
        (lambda: Cell("v2drop", 16, lists="sometimes"), "allowed are"),
    ],
)
def test_a_bad_cell_is_refused_when_it_is_made(cell, says):
    with pytest.raises(ValueError, match=says):
        cell()


def test_stages_of_a_pair():
    (first, size, place), (last, keep, own) = PAIR.stages([144])
    assert (first.name, size, first.positions, place) == ("divprune", 72, "original", {})
    assert (last.name, keep, own) == ("qvid", 10, {})
    late = Cell("qvid", 9, 4, before=("stride", 36, {"layer": 0}))
    (stride, _, place), (_, _, own) = late.stages([144])
    assert stride.name == "stride" and place == {"layer": 0} and own == {"layer": 4}


def test_the_lists_hold_what_the_notebook_compares(loaded):
    config, budgets = loaded[0].config, (48, 32, 16)
    pairs = [cell for cell in our_cells(config, budgets) if cell.before]
    assert {(c.before[1], c.before[0]) for c in pairs} == {
        (size, name) for size, names in FIRST_CUTS.items() for name in names
    }
    for cell in pairs:  # 12 layers: the first with `size` tokens, eleven with `keep`
        mean = (cell.before[1] + 11 * cell.keep) / 12
        assert any(budget - 1 < mean <= budget for budget in budgets if budget < cell.before[1])
    assert sorted(c.keep for c in our_cells(config, budgets) if c.shared) == [4, 16, 21, 32, 39, 48]
    assert {c.keep for c in seed_cells(config, budgets)} == {4, 16, 21, 32, 39, 48}
    free = position_cells([16])
    assert [c.method for c in free[: len(REPOSITIONED)]] == list(REPOSITIONED)
    assert all(c.chosen.positions == "original" for c in free[: len(REPOSITIONED)])
    two = comparison_cells(config, [16], ["qvid", "divprune"])
    assert [(c.method, c.keep) for c in two] == [("qvid", 16), ("divprune", 16), ("qvid", 4)]


def test_a_pair_answers_as_pruned_does(loaded, suites):
    model, processor = loaded
    found = evaluate(*loaded, suites, [Cell(), PAIR], batch_size=2)
    found = found[found["method"] == "qvid"].set_index("sample")
    for row in suites[0].samples.itertuples():
        inputs = prompts(processor, suites[0].samples.query("id == @row.id"), model.device)
        stages = [("divprune", 72, {"positions": "original"}), ("qvid", 10)]
        with torch.inference_mode(), pruned(model, stages) as trace:
            ids = model.generate(**inputs, max_new_tokens=asker.NEW_TOKENS, do_sample=False)
        said = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert found.loc[row.id, "prediction"] == said.strip()
        assert found.loc[row.id, "mean_tokens"] == trace.mean_tokens[0] == (72 + 11 * 10) / 12


def test_a_shared_budget_gives_each_question_its_part(loaded, suites, tmp_path):
    """The shares, worked out from the observed interaction, prompt by prompt."""
    model, processor = loaded
    with Store(tmp_path) as store:
        found = evaluate(*loaded, suites, [Cell(), SHARED], batch_size=4, store=store)
        (log,) = [path for path in store.cells.glob("*shared*.jsonl")]
        assert log.stat().st_size
    sizes, samples = [], suites[0].samples
    for name in samples["id"]:
        inputs = prompts(processor, samples[samples["id"] == name], model.device)
        with torch.inference_mode(), observed(model, "interaction", layer=1) as seen:
            model(**inputs)
        sizes.append(modes(seen[0]["interaction"]))
    wanted = dict(zip(samples["id"], share_out(sizes, 16, 144), strict=True))
    mine = found[found["method"] == "qvid"].set_index("sample")["mean_tokens"]
    assert {name: round(mean * 12 - 144) // 11 for name, mean in mine.items()} == wanted
    assert len(set(wanted.values())) > 1
    assert mine.mean() == pytest.approx((144 + 11 * 16) / 12)


def test_a_shared_budget_among_others_has_a_key_of_its_own(loaded, tmp_path):
    """With two of the six questions each has another part: nothing stored may be served."""
    with Store(tmp_path) as store:
        parts = {"model": "m"}
        keys = [
            {task.cell.shared: task.log.key for task in runner.tasks_of(
                store, parts, [suite("tiny_gqa")], [SHARED, Cell("qvid", 16)], limit=limit)}
            for limit in (6, 2)
        ]  # fmt: skip
    assert keys[0][True] != keys[1][True] and keys[0][False] == keys[1][False]


def test_a_pair_that_asks_for_more_than_is_left_is_refused(loaded, suites):
    cell = Cell("qvid", 80, before=("divprune", 72))
    with pytest.raises(ValueError, match="after the others: keep=80.*72 visual"):
        evaluate(*loaded, suites, [cell])


def test_cuts_of_a_pair_by_layer(loaded, suites):
    model, processor = loaded
    inputs = prompts(processor, suites[0].samples.head(1), model.device)
    with torch.inference_mode(), pruned(model, PAIR.stages([144])) as trace:
        model(**inputs)
    assert [Cut(c.layer, len(c.kept)) for c in trace.cuts] == [Cut(0, 72), Cut(1, 10)]


# ---------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize(
    "numbers, says",
    [
        ({"keep": 0}, "cell with keep=0: give a whole number of 1 or more"),
        ({"keep": -3}, "cell with keep=-3: give a whole number of 1 or more"),
        ({"keep": 1.5}, "cell with keep=1.5: give a whole number of 1 or more"),
        ({"keep": True}, "cell with keep=True: give a whole number of 1 or more"),
        ({"keep": "5"}, "cell with keep='5': give a whole number of 1 or more"),
        ({"keep": np.float64(5)}, "give a whole number of 1 or more"),
        ({"keep": 5, "layer": -1}, "cell with layer=-1: give a whole number of 0 or more"),
        ({"keep": 5, "layer": 1.5}, "cell with layer=1.5: give a whole number of 0 or more"),
        ({"keep": 5, "layer": True}, "cell with layer=True"),
        ({"share": float("nan")}, "share=nan"),
        ({"keep": 5, "before": ("divprune", 0)}, "cell with before=0: give a whole number of 1"),
        ({"keep": 5, "before": ("divprune",)}, "give .method, keep. or .method, keep, options."),
    ],
)
def test_a_number_that_no_budget_or_layer_is_says_so(numbers, says):
    with pytest.raises((TypeError, ValueError), match=says):
        Cell("qvid", **numbers)


def test_numbers_of_numpy_are_numbers():
    cell = Cell("qvid", np.int64(5), np.int32(2))
    assert (cell.keep, cell.layer) == (5, 2) and type(cell.keep) is type(cell.layer) is int


# ---------------------------------------------------------------- scored without the question


def test_a_control_is_a_cell_of_its_own(loaded, suites, tmp_path):
    """Each as `pruned` has it, question by question; the key and the label say which it is."""
    one = suites[0].head(6)
    cells = [Cell("qvid", 8), *(Cell("qvid", 8, control=way) for way in CONTROLS)]
    found = evaluate(*loaded, [one], cells, store=tmp_path)
    assert found["variant"].unique().tolist() == ["", *(f"control={way}" for way in CONTROLS)]
    assert len(list(tmp_path.glob("cells/*.jsonl"))) == 4
    others, model, processor = other_questions(one), *loaded
    for way in CONTROLS:
        said = []
        for row in one.samples.itertuples():
            inputs = prompts(processor, [row], "cpu")
            more = {"control": way}
            if way == "another-question":
                more = {"score_question": others[row.id]}
            with pruned(model, "qvid", 8, **more), torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=2, do_sample=False)
            new = ids[:, inputs["input_ids"].shape[1] :]
            said.append(processor.batch_decode(new, skip_special_tokens=True)[0].strip())
        mine = found[found["variant"] == f"control={way}"].set_index("sample")["prediction"]
        assert mine[one.samples["id"]].tolist() == said, way


def test_another_question_is_about_another_picture():
    one = suite("tiny_gqa")
    others, rows = other_questions(one), one.samples.set_index("id")
    asked_of = one.samples.groupby("question")["picture"].agg(set)
    assert list(others) == one.samples["id"].tolist()
    for name, other in others.items():
        assert other != rows.loc[name, "question"]
        assert asked_of[other] - {rows.loc[name, "picture"]}
    crowded = suite("crowded_gqa")
    assert list(other_questions(crowded).values()) == crowded.samples["swap"].tolist()
    with pytest.raises(ValueError, match="has no other question about another picture for"):
        other_questions(dataclasses.replace(one, samples=one.samples.head(1)))


def test_what_no_control_applies_to_is_refused_before_a_question(loaded, suites):
    with pytest.raises(ValueError, match="control='loud': it must be one of another-question, noi"):
        Cell("qvid", 8, control="loud")
    with pytest.raises(ValueError, match="the full model has no layer"):
        Cell(control="noise")
    with pytest.raises(ValueError, match="does not apply to method 'divprune', which reads no que"):
        evaluate(*loaded, suites[:1], [Cell("divprune", 8, control="noise")])
