"""Several methods in one block: each cuts what the ones before have left."""

import itertools
from dataclasses import replace

import pytest
import torch
from oracle import masked
from pairwise import matrix
from twins import BOTH, DOTS, STAR, TALK, ask, built, language

from qvid_utils.algebra.cuts import Cut, Infeasible
from qvid_utils.families import FAMILIES
from qvid_utils.methods import method
from qvid_utils.prune import pruned

EXACT = 1e-5
KERNELS = ("sdpa", "eager")
LAYERS = 8
PAIRS = {
    "two doors": [("stride", 12, {"layer": 0}), ("qvid", 5, {"rank": 3})],
    "one door": [("random", 11, {"layer": 3}), ("column_norm", 5, {"layer": 3})],
    "three": [("stride", 12, {"layer": 0}), ("fastv", 8), ("qvid", 3, {"layer": 5, "rank": 2})],
}


def generate(model, inputs, **more):
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [4, 5], **more}
    return model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)


@matrix("family, kernel, pair", itertools.product(sorted(FAMILIES), KERNELS, PAIRS))
def test_a_pair_obeys_the_oracles(family, kernel, pair):
    """Dropping is hiding, cached decoding is recomputing, a row is the row alone."""
    model, prompts = built(family, attention=kernel), (BOTH, STAR, TALK)
    inputs = ask(*prompts, model_type=family)
    with pruned(model, PAIRS[pair]) as trace:
        logits = model(**inputs).logits
    expected, alive = masked(model, inputs, trace.cuts)
    for row, here in enumerate(alive):
        ours = logits[row, -int(here.sum()) :]
        assert (ours - expected[row, here]).abs().max() <= 2 * EXACT
    with pruned(model, PAIRS[pair]) as trace:
        out = generate(model, inputs)
    expected, _ = masked(model, inputs, trace.cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    steps = expected[:, start : start + len(out.logits)]
    assert (torch.stack(out.logits, 1) - steps).abs().max() <= EXACT
    for row, prompt in enumerate(prompts):
        with pruned(model, PAIRS[pair]) as alone:
            one = generate(model, ask(prompt, model_type=family))
        kept = [cut.kept.tolist() for cut in trace.cuts if cut.row == row]
        assert kept == [cut.kept.tolist() for cut in alone.cuts]
        near = torch.stack(one.logits, 1)[0] - torch.stack(out.logits, 1)[row]
        assert near.abs().max() <= EXACT


@pytest.mark.parametrize("pair", PAIRS)
def test_keeping_everything_twice_changes_no_bit(pair):
    model, inputs = built(), ask(STAR, DOTS)
    every = [(name, 16, more[0] if more else {}) for name, _, *more in PAIRS[pair]]
    logits = model(**inputs).logits
    with pruned(model, every) as trace:
        assert torch.equal(model(**inputs).logits, logits)
    assert all(len(cut.kept) == 16 for cut in trace.cuts)


def test_each_method_sees_what_the_one_before_left():
    model = built()
    with pruned(model, PAIRS["two doors"]) as trace:
        model(**ask(STAR))
    first, second = trace.cuts
    assert (first.method, first.layer, len(first.kept)) == ("stride", 0, 12)
    assert (second.method, second.layer, len(second.kept)) == ("qvid", 1, 5)
    assert torch.equal(second.scored, first.kept)
    assert set(second.kept.tolist()) < set(first.kept.tolist())
    assert trace.mean_tokens == [(12 + 7 * 5) / 8]
    assert trace.query.sum() == second.n_query and first.n_query == 0


def test_at_one_door_the_order_is_the_callers():
    model, inputs, kept = built(), ask(STAR), []
    ab = [("random", 8, {"layer": 3}), ("column_norm", 4, {"layer": 3})]
    ba = [("column_norm", 8, {"layer": 3}), ("random", 4, {"layer": 3})]
    for pair in (ab, ba):
        with pruned(model, pair) as trace:
            model(**inputs)
        assert [cut.method for cut in trace.cuts] == [pair[0][0], pair[1][0]]
        kept.append(set(trace.cuts[0].kept.tolist()))
    assert kept[0] != kept[1]
    with pruned(model, list(reversed(PAIRS["two doors"]))) as trace:  # at two doors it is not
        model(**inputs)
    assert [cut.method for cut in trace.cuts] == ["stride", "qvid"]


def test_two_questions_two_spans():
    """Each method finds its own query."""
    model, inputs = built(), ask(STAR)
    pair = [("qvid", 9, {"layer": 1}), ("qvid", 4, {"layer": 3, "query": "content"})]
    with pruned(model, pair) as trace:
        model(**inputs)
    assert trace.cuts[0].n_query > trace.cuts[1].n_query > 0


@pytest.mark.parametrize("order", ["contiguous first", "original first"])
def test_each_cut_has_its_own_positions(order):
    """A cut that keeps positions keeps the ones that it finds, renumbered or not."""
    policies = ["contiguous", "original"]
    policies = policies if order == "contiguous first" else policies[::-1]
    pair = [("stride", 9, {"layer": 2, "positions": policies[0]}),
            ("random", 4, {"layer": 5, "positions": policies[1]})]  # fmt: skip
    model, inputs, seen = built(), ask(STAR), {}
    layers = language(model).layers
    rotary, dummy = language(model).rotary_emb, torch.zeros(1)

    def spy(i):
        return lambda m, a, k: seen.setdefault(i, []).append(k["position_embeddings"][0][0])

    with pruned(model, pair) as trace:
        spies = [layers[i].register_forward_pre_hook(spy(i), with_kwargs=True) for i in (2, 5)]
        generate(model, inputs, max_new_tokens=2)
        for s in spies:
            s.remove()
    ids, total = inputs["input_ids"][0], inputs["input_ids"].shape[1]
    columns = (ids == 4).nonzero()[:, 0]

    def left(cut):
        gone = set(columns.tolist()) - set(columns[cut.kept].tolist())
        return torch.tensor([i for i in range(total) if i not in gone])

    first, second = map(left, trace.cuts)
    if order == "contiguous first":
        found = torch.isin(first, second).nonzero()[:, 0]  # numbers among the first survivors
        expected = {2: (torch.arange(len(first)), len(first)), 5: (found, len(first))}
    else:
        expected = {2: (first, total), 5: (torch.arange(len(second)), len(second))}
    for i, (prompt, then) in expected.items():
        assert torch.equal(seen[i][0], rotary(dummy, prompt[None])[0][0])
        assert torch.equal(seen[i][1], rotary(dummy, torch.tensor([[then]]))[0][0])


def test_a_staged_method_works_on_what_an_encoder_cut_left():
    """Its mean is that of the tokens it finds; alone, a mean of 4 is below its floor."""

    def three(keep, n_visual, n_layers, layer=None):
        if keep > n_visual / 2:
            raise Infeasible(f"a mean of {keep} of {n_visual}")
        return Cut(3, keep), Cut(5, 1)

    staged, model = replace(method("random"), schedule=three), built()
    with pruned(model, [("stride", 10, {"layer": 0}), (staged, 4)]) as trace:
        model(**ask(STAR))
    assert [(cut.layer, len(cut.kept)) for cut in trace.cuts] == [(0, 10), (3, 4), (5, 1)]
    with (
        pytest.raises(Infeasible, match="after the others: a mean of 4 of 6"),
        pruned(model, [("stride", 6, {"layer": 0}), (staged, 4)]),
    ):
        model(**ask(STAR))


def twice(keep, n_visual, n_layers, layer=None):
    return Cut(3, keep), Cut(5, keep - 1)


TWICE = replace(method("random"), schedule=twice)


@pytest.mark.parametrize(
    ("methods", "more", "error", "match"),
    [
        ([], {}, TypeError, r"method=\[\]: give a method's name, or a list such as"),
        ([("qvid",)], {}, TypeError, "give a method's name, or a list"),
        (["qvid", 16], {}, TypeError, r"\[... 'qvid' ...\]: give a method's name"),
        ([("qvid", 8, 3)], {}, TypeError, "the third part is a dict of options"),
        ([("qvid", 8)], {"keep": 8}, TypeError, "keep: belongs to one of several methods"),
        ([("qvid", 8)], {"layer": 2}, TypeError, "layer: belongs to one of several methods"),
        ([("qvid", 4), ("random", 8, {"layer": 5})], {}, ValueError,
         "'random' after the others: keep=8: the prompt has 4 visual tokens"),
        ([(TWICE, 12), ("random", 4, {"layer": 4})], {}, ValueError,
         "'random' keeps 11 visual tokens at layer 5, where the others have left 4"),
        ([("stride", 8), ("qvid", 4, {"reading": "two_pass"})], {}, ValueError,
         "reading='two_pass' starts over"),
        ([("qvid", 8, {"ranc": 2})], {}, ValueError, "takes no ranc"),
        ([("stride", 17), ("qvid", 4)], {}, ValueError, "keep=17: the prompt has 16"),
        ([("stride", 8, {"layer": LAYERS})], {}, ValueError, "layer=8"),
        (5, {}, TypeError, "method=5: give a method's name"),
    ],
)  # fmt: skip
def test_a_bad_composition_is_one_clear_sentence(methods, more, error, match):
    model = built()
    with pytest.raises(error, match=match) as caught, pruned(model, methods, **more):
        model(**ask(STAR))
    assert "\n" not in str(caught.value)
    assert not any(m._forward_pre_hooks for m in model.modules())
