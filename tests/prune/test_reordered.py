"""Methods that put tokens in an order of their own, what comes behind them, and what is refused."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from twins import DOTS, STAR, ask, built

from qvid_utils.algebra.cuts import at
from qvid_utils.algebra.selection import Kept
from qvid_utils.families import Unavailable
from qvid_utils.methods import METHODS, RULES, method
from qvid_utils.methods.holov import Chunks
from qvid_utils.prune import observed, pruned


def behind(first, **options):
    """What a second method at the LLM input is told, and what it sees, behind `first`."""
    model, seen = built("llava"), {}

    def look(scores, keep, hidden):
        seen["hidden"] = hidden
        return Kept(torch.arange(keep))

    second = replace(METHODS["stride"], select=look, schedule=at(0))
    with torch.no_grad(), pruned(model, [(first, 6), (second, 4)]) as trace:
        model(**ask(STAR))
    return trace.cuts, seen["hidden"]


def test_later_methods_know_whose_tokens_stand_in_another_order():
    """HoloV's tokens as they came from the projector, each under its number."""
    model = built("llava")
    with torch.no_grad(), observed(model, "hidden", layer=0) as found:
        model(**ask(STAR))
    plain = found[0]["hidden"]
    (first, second), hidden = behind(method("holov", chunks=2))
    assert second.scored.tolist() != sorted(second.scored.tolist())
    assert sorted(second.scored.tolist()) == first.kept.tolist()
    assert torch.equal(hidden, plain[second.scored])
    assert torch.equal(second.kept, second.scored[:4])


def test_a_token_that_is_no_single_one_has_no_number():
    (_, second), _ = behind("visionzip")
    assert second.scored[0] == -1 and (second.scored[1:] >= 0).all()
    (_, second), _ = behind("prumerge")
    assert second.scored[-1] == -1
    for later in ("svd_prune", "dart"):
        blind = method(later) if later == "dart" else replace(method(later), schedule=at(2))
        context = (
            pytest.raises(ValueError, match="stands for no single token.*put the method")
            if later == "svd_prune"
            else nullcontext()
        )
        with context, torch.no_grad(), pruned(built("llava"), [("visionzip", 8), (blind, 4)]):
            built("llava")(**ask(STAR))


def test_relevance_is_taken_from_those_that_are_left_at_the_door():
    """SparseVLM's raters behind a cut at layer 0 hear nothing of the dropped tokens."""
    model, found = built("llava"), []

    def look(scores, keep, text_relevance):
        found.append(text_relevance)
        return Kept(torch.arange(keep))

    second = replace(METHODS["stride"], select=look, schedule=at(3))
    with torch.no_grad():
        for first in ([], [("divprune", 5, {"positions": "original"})]):
            with pruned(model, [*first, (second, 4)]):
                model(**ask(STAR))
        with pruned(model, [("divprune", 5, {"positions": "original"}), (second, 4)]) as trace:
            model(**ask(STAR))
        with observed(model, "features", "text_relevance", layer=0) as seen:
            model(**ask(STAR))
    assert not torch.allclose(found[0], found[1])
    assert torch.allclose(found[0], seen[0]["text_relevance"])
    assert len(trace.cuts[0].kept) == 5 and torch.equal(found[1], found[2])


@pytest.mark.parametrize("name", ["visionzip", "prumerge", "holov", "trim", "sparsevlm"])
def test_an_order_of_its_own_needs_positions_of_its_own(name):
    with pytest.raises(ValueError, match="order of its own, at places that were others'"):
        method(name, positions="original")


def test_a_family_with_several_axes_has_no_place_for_another_order():
    other = replace(method("stride"), select=Chunks(), positions="contiguous_on_one_axis")
    with (
        pytest.raises(Unavailable, match="order of its own, and Qwen2-VL counts positions"),
        pruned(built("qwen2_vl"), replace(other, schedule=at(0)), 4),
    ):
        pass


def test_each_prompt_has_its_number_or_all_have_one():
    model, inputs = built("llava"), ask(STAR, DOTS, STAR, DOTS)
    with torch.no_grad():
        for keep in (4, [4], [4, 5, 6, 7]):
            with pruned(model, "qvid", keep):
                model(**inputs)
        with (
            pytest.raises(ValueError, match="2 numbers for a batch of 4 prompts"),
            pruned(model, "qvid", [4, 8]),
        ):
            model(**inputs)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dart", {"visual_pivots": 0, "text_pivots": 0}, "visual_pivots=0: give a whole number, 1"),
        ("dart", {"visual_pivots": -1}, "visual_pivots=-1: give a whole number, 1 or more"),
        ("holov", {"alpha": float("nan")}, "alpha=nan: give a number"),
        ("scope", {"alpha": float("inf")}, "alpha=inf: give a number"),
        ("holov", {"official_counts": True, "in_place": True}, "no place for the zero vectors"),
    ],
)
def test_constants_that_choose_nothing_are_refused(name, options, says):
    with pytest.raises(ValueError, match=says):
        method(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sparsevlm_plus", {"heads": 0}, "heads=0: let at least one"),
    ],
)
def test_switches_of_a_rule_are_told_apart(name, options, says):
    model = built("llava")
    with torch.no_grad(), pytest.raises(ValueError, match=says), pruned(model, name, 8, **options):
        model(**ask(STAR))


@pytest.mark.parametrize("rule", [RULES["trim"], RULES["relevance"]])
def test_a_sign_is_one_or_minus_one(rule):
    with pytest.raises(ValueError, match="sign=0: give 1 or -1"):
        rule(torch.eye(3), torch.eye(3), sign=0)
