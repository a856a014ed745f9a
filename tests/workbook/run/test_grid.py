"""Cells of one batch in one pass, against every cell by itself."""

from collections import Counter

import pytest
import torch
from twins import DOTS, STAR, ask, twin

from qvid_utils.families import FAMILIES, Unavailable, family_of
from qvid_utils.families.calls import pictures_once
from qvid_utils.methods import METHODS, RULES, Method, rule
from qvid_utils.prune import pruned
from qvid_utils.workbook.run import grid, grid_cell
from qvid_utils.workbook.run.grid import Grid, answers
from qvid_utils.workbook.run.shared_layers import layers_once

NEW = {"max_new_tokens": 3, "min_new_tokens": 2, "do_sample": False}
RULES4 = ("qvid", "column_norm", "last_attention", "variation")
TWELVE = [(name, keep, {"layer": 3}) for name in RULES4 for keep in (3, 5, 9)]


@torch.no_grad()
def by_itself(model, inputs, cell):
    """(new ids, trace) of one run, nothing shared."""
    start = inputs["input_ids"].shape[1]
    if cell is None:
        return model.generate(**inputs, **NEW)[:, start:], None
    name, keep, *more = cell
    with pruned(model, name, keep, **(more[0] if more else {})) as trace:
        return model.generate(**inputs, **NEW)[:, start:], trace


def check(model, inputs, cells):
    found = answers(model, inputs, cells, **NEW)
    assert len(found) == len(cells)
    for cell, ours in zip(cells, found, strict=True):
        ids, trace = by_itself(model, inputs, cell)
        assert torch.equal(ours.ids, ids), cell
        if cell is None:
            assert not ours.cuts
            continue
        assert ours.mean_tokens == trace.mean_tokens, cell
        for a, b in zip(ours.cuts, trace.cuts, strict=True):
            assert (a.row, a.layer, a.method, a.n_visual, a.n_query) == (
                b.row, b.layer, b.method, b.n_visual, b.n_query,
            )  # fmt: skip
            assert torch.equal(a.kept, b.kept) and torch.equal(a.scored, b.scored), cell
            torch.testing.assert_close(a.scores, b.scores, atol=1e-6, rtol=1e-5)
    return found


def available(model, names):
    for name in names:
        try:
            with pruned(model, name, 5):
                yield name
        except (Unavailable, ValueError):
            pass


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_cell_answers_as_it_does_alone(model_type):
    """Rules and keeps at one layer, other layers, the unpruned model, staged, two passes, spans,
    in a batch of prompts of unequal length."""
    model, inputs = twin(model_type), ask(STAR, DOTS, model_type=model_type)
    more = [("qvid", 5), ("qvid", 5, {"layer": 0}), ("qvid", 5, {"layer": 6, "rank": 2})]
    more += [None, ("qvid", 5, {"reading": "two_pass"}), ("qvid", 5, {"query": "content"})]
    more += [("qvid_rope", 5, {"layer": 3}), ("v2drop", 9)]
    check(model, inputs, [*TWELVE, *more])


def test_all_methods_in_one_grid():
    model, inputs = twin(), ask(STAR, DOTS)
    names = [name for name in available(model, METHODS) if name != "tome"]
    assert len(names) > 30
    check(model, inputs, [(name, 6) for name in names])


def test_cells_that_number_positions_differently_are_not_mixed():
    one = {"layer": 3, "positions": "contiguous"}
    cells = [(name, 5, more) for name in ("qvid", "stride") for more in ({"layer": 3}, one)]
    found = check(twin(), ask(STAR, DOTS), cells)
    assert not torch.equal(found[0].ids, found[1].ids)  # else the test would see nothing


def test_one_prompt_alone():
    check(twin(), ask(STAR), [*TWELVE, None])


def test_only_what_differs_runs_again(monkeypatch):
    """Vision and lower layers once, a score per rule and prompt, the rest once per length."""
    model, inputs = twin(), ask(STAR, DOTS)
    ran, scored, pictures = Counter(), Counter(), []
    parts = family_of(model).part(model, "layers")
    hooks = [
        layer.mlp.register_forward_hook(lambda m, args, out, i=i: ran.update({i: len(out)}))
        for i, layer in enumerate(parts)
    ]
    tower = family_of(model).part(model, "vision")
    hooks.append(tower.register_forward_hook(lambda *_: pictures.append(1)))
    score = grid_cell.scores_of
    monkeypatch.setattr(
        grid_cell, "scores_of", lambda m, e: scored.update([m.name]) or score(m, e)
    )  # fmt: skip
    answers(model, inputs, TWELVE, max_new_tokens=1)
    for hook in hooks:
        hook.remove()
    assert [ran[i] for i in range(8)] == [2, 2, 2, 24, 24, 24, 24, 24]
    assert scored == dict.fromkeys(RULES4, 2) and len(pictures) == 1


def test_batches_have_a_limit_and_the_answers_do_not_change(monkeypatch):
    model, inputs, sizes = twin(), ask(STAR, DOTS), []
    monkeypatch.setattr(grid, "ROWS", 5)  # two cells of two prompts
    original = Grid._batch
    monkeypatch.setattr(
        Grid, "_batch", lambda self, cells: sizes.append(len(cells)) or original(self, cells)
    )
    check(model, inputs, TWELVE)
    assert sizes == [2] * 6


def test_cells_that_keep_the_same_run_once(monkeypatch):
    """Column norm and the sum over all modes are one score: one of them runs."""
    model, inputs, sizes = twin(), ask(STAR, DOTS), []
    original = Grid._batch
    monkeypatch.setattr(
        Grid, "_batch", lambda self, cells: sizes.append(len(cells)) or original(self, cells)
    )
    names = ("column_norm", "stride", "sigma_weighted")
    found = check(model, inputs, [(name, 5, {"layer": 3}) for name in names])
    assert sizes == [2]
    assert [one.cuts[0].method for one in found] == list(names)


def test_answers_end_where_they_would_alone():
    """A batch of cells runs on until its last row has ended; each cell's ids do not."""
    model, inputs = twin(), ask(STAR)
    options = {"max_new_tokens": 6, "do_sample": False}
    cells = [(name, 2, {"layer": 3}) for name in (*RULES4, "stride", "random")]
    plain = [one.ids[0].tolist() for one in answers(model, inputs, cells, **options)]
    places = {end: {ids.index(end) if end in ids else 6 for ids in plain} for end in plain[0]}
    end = max(places, key=lambda token: len(places[token]))
    assert len(places[end]) > 1, "the answers must end at several places"
    found = answers(model, inputs, cells, eos_token_id=end, pad_token_id=0, **options)
    for ours, before in zip(found, plain, strict=True):
        assert ours.ids[0].tolist() == before[: before.index(end) + 1 if end in before else 6]


def test_what_it_refuses():
    model, inputs = twin(), ask(STAR)
    for name, value in (("do_sample", True), ("num_beams", 2), ("num_return_sequences", 2)):
        with pytest.raises(ValueError, match=f"{name}={value}: a grid answers greedily"):
            answers(model, inputs, TWELVE, **{name: value})
    with pytest.raises(RuntimeError, match="open pictures_once and layers_once first"):
        Grid(model, inputs)
    with pictures_once(model), layers_once(model):
        made = Grid(model, inputs)
        assert made.shares(("qvid", 5)) and made.shares(None) and made.shares(("qvid", [5]))
        alone = [
            ("v2drop", 6),
            ("qvid", 5, {"reading": "two_pass"}),
            ("qvid", 99),
            ("qvid", [5, 5]),
        ]
        assert not any(map(made.shares, alone))
        with pytest.raises(ValueError, match="runs `alone`"):
            next(made.together([("v2drop", 6)]))
    with pytest.raises(ValueError, match="keep=99"):
        answers(model, inputs, [("qvid", 5), ("qvid", 99)], **NEW)


def test_nothing_is_left_behind_also_after_an_error():
    @rule(source="for the test")
    def falls_over(hidden: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no")

    model, inputs = twin(), ask(STAR)
    bad = Method("falls_over", RULES.pop("falls_over"))
    before = by_itself(model, inputs, None)[0]
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    with pytest.raises(ZeroDivisionError):
        answers(model, inputs, [("qvid", 5), (bad, 5)], **NEW)
    assert not any("forward" in vars(part) for part in family_of(model).part(model, "layers"))
    now = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    assert now == hooks
    assert "get_image_features" not in vars(model.base_model)
    assert torch.equal(by_itself(model, inputs, None)[0], before)
