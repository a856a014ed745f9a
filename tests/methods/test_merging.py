"""Methods that merge or renumber: equal to the language model run on the sequence they leave."""

import itertools
from dataclasses import replace

import pytest
import torch
from oracle import places, recording, relayed
from pairwise import matrix
from twins import (
    BOTH,
    DOTS,
    ELSEWHERE,
    HAVE_CLASS,
    QWEN,
    QWEN3,
    STAR,
    TALK,
    ask,
    built,
    cases,
    language,
)

from qvid_utils.algebra.cuts import Cut, Staged, at
from qvid_utils.algebra.selection import Kept
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.methods import METHODS, method
from qvid_utils.prune import pruned

KERNELS = ("sdpa", "eager")
KEEP = 7
EXACT = 1e-5
LAYERS = 8

NAMES = [
    name
    for name, m in METHODS.items()
    if (m.merges or m.positions != "original") and name not in ELSEWHERE
]
NEED_CLASS = {"cls_row", "last_cls_row"}


def stages(keep, n_visual, n_layers, layer=None):
    """Three cuts for any number of tokens, large enough that clusters have several members."""
    return Cut(1, max(1, n_visual * 6 // 10)), Cut(3, max(1, n_visual * 4 // 10)), Cut(6, 2)


def carried(name, family):
    if NEED_CLASS & {*METHODS[name].rule.sees} and family not in HAVE_CLASS:
        return False
    if "patches" in METHODS[name].select_sees and not FAMILIES[family].patchwise:
        return False
    if family in QWEN3 and METHODS[name].merges and name != "holov_received":
        return isinstance(METHODS[name].schedule, Staged) and name != "sparsevlm"
    return family not in QWEN or METHODS[name].positions != "contiguous"


def stages_later(keep, n_visual, n_layers, layer=None):
    """The same behind the first two layers, after which features of single tokens are added."""
    return tuple(replace(cut, layer=cut.layer + 1) for cut in stages(keep, n_visual, n_layers))


def small(name, family):
    chosen = METHODS[name]
    own = stages_later if family in QWEN3 else stages
    return replace(chosen, schedule=own) if isinstance(chosen.schedule, Staged) else chosen


cells = matrix(
    "family, name, kernel, case",
    [
        cell
        for family in sorted(FAMILIES)
        for cell in itertools.product([family], NAMES, KERNELS, cases(family))
        if carried(cell[1], family)
    ],
)


def generate(model, inputs, tokens=4):
    more = {"max_new_tokens": tokens, "do_sample": False, "suppress_tokens": [4, 5]}
    return model.generate(**inputs, **more, return_dict_in_generate=True, output_logits=True)


def renumbers(chosen, family):
    return chosen.positions != "original" and family not in QWEN


@cells
@torch.no_grad()
def test_pruning_is_the_layers_on_what_is_left(family, name, kernel, case):
    """Every logit of the prompt, and of four tokens decoded with the cache."""
    model, inputs = built(family, attention=kernel), ask(*cases(family)[case], model_type=family)
    chosen, kept = recording(small(name, family))
    with pruned(model, chosen, KEEP) as trace:
        logits = model(**inputs).logits
    anew = renumbers(chosen, family)
    for row in range(len(logits)):
        expected = relayed(model, inputs, trace.cuts, kept, row, anew)
        assert (logits[row, -len(expected) :] - expected).abs().max() <= 2 * EXACT
    kept.clear()
    with pruned(model, chosen, KEEP) as trace:
        out = generate(model, inputs)
    for row, steps in enumerate(torch.stack(out.logits, 1)):
        expected = relayed(model, inputs, trace.cuts, kept, row, anew, out.sequences[:, :-1])
        assert (steps - expected[-len(steps) :]).abs().max() <= 2 * EXACT


@torch.no_grad()
def test_the_oracle_sees_what_is_merged_and_where():
    """It is no echo: with another content, order or position of one token it disagrees."""
    model, inputs = built(), ask(STAR)
    chosen, kept = recording(small("sparsevlm", "llava"))
    with pruned(model, chosen, KEEP) as trace:
        logits = model(**inputs).logits[0]

    def off(wrong, renumber=True):
        found = relayed(model, inputs, trace.cuts, [wrong, *kept[1:]], 0, renumber)
        return (logits[-len(found) :] - found).abs().max() > 1e-3

    first = kept[0]
    assert first.merged is not None and not off(first)
    assert off(first, renumber=False)
    assert off(Kept(first.index, first.merged.flip(0)))
    assert off(Kept(first.index))


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("name", [n for n in NAMES if METHODS[n].positions == "contiguous"])
def test_what_a_family_cannot_renumber_says_so(family, name):
    model = built(family)
    with (
        pytest.raises(Unavailable, match="counts positions along several axes"),
        pruned(model, name, KEEP),
    ):
        pass


@pytest.mark.parametrize("family", QWEN3)
@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].merges])
def test_what_would_be_added_to_single_tokens_is_not_added_to_sums(family, name):
    """Refused, by whichever reason comes first, or no sum at all: then carried."""
    model, inputs = built(family), ask(STAR, model_type=family)
    early = r"merges tokens at layer [01], and qwen3.* adds a feature of each single token after "
    reasons = (
        f"{early}its first 2 layers|no class token|along several axes|no text tower|joins patches"
    )
    if name in ("holov_received",):
        with pruned(model, name, KEEP):
            model(**inputs)
        return
    with pytest.raises(Unavailable, match=reasons), pruned(model, name, KEEP):
        model(**inputs)


# --------------------------------------------------------------------------------- who is who


def test_later_cuts_know_reordered_tokens_by_their_numbers():
    """Behind an order of its own, token 9 is still token 9 in the trace, with its own features."""
    model, inputs = built(), ask(STAR)
    first, kept = recording(replace(METHODS["sparsevlm"], schedule=at(3)))
    seen = {}

    def look(scores, keep, features, hidden):
        seen.update(features=features, hidden=hidden)
        return Kept(torch.arange(keep))

    plan = {"layer": 5, "positions": "contiguous"}
    then = replace(METHODS["column_norm"], select=look, schedule=at(5, 8))
    with pruned(model, [(first, 9), (then, 4, plan)]) as trace:
        model(**inputs)
    stands, before, after = kept[0].stands, *trace.cuts
    assert after.scored.tolist() == before.scored[stands].tolist() != before.kept.tolist()
    assert after.kept.tolist() == after.scored[:4].tolist()
    door = {}
    hook = (
        language(model)
        .layers[0]
        .register_forward_pre_hook(lambda module, args: door.update(stream=args[0]))
    )
    model(**inputs)
    hook.remove()
    mine = door["stream"][0, places(model, inputs)[0]]
    assert torch.equal(seen["features"], mine[stands])


@torch.no_grad()
def test_selections_with_counts_of_their_own_report_the_mean_they_make():
    model, inputs = built(), ask(BOTH, STAR, TALK)
    official = method("dart", official_counts=True)
    with pruned(model, official, 9, layer=3) as trace:
        model(**inputs)
    assert [len(cut.kept) for cut in trace.cuts] == [12, 12]
    assert trace.mean_tokens == [(3 * 32 + 5 * 12) / 8, (3 * 16 + 5 * 12) / 8, 0]
    with pruned(model, [("dart", 9, {"official_counts": True, "layer": 2}),
                        ("qvid", 5, {"layer": 6, "rank": 3})]) as trace:  # fmt: skip
        model(**ask(DOTS))
    assert [(cut.layer, len(cut.kept)) for cut in trace.cuts] == [(2, 12), (6, 5)]
    assert trace.mean_tokens == [(2 * 16 + 4 * 12 + 2 * 5) / 8]
    with pruned(model, official, 9, layer=3, reading="two_pass") as trace:
        model(**ask(DOTS))
    assert trace.mean_tokens == [12 + 16 * 3 / 8]
