"""Ways to generate: drafted tokens are no prompt; budgets in % of each prompt; what is refused."""

import pytest
import torch
from twins import BOTH, STAR, ask, built, twin

from qvid_utils.families import FAMILIES
from qvid_utils.prune import pruned

KEEP = 7
GREEDY = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [4, 5]}


def repeated(family):
    """A prompt that ends as it has ended before: prompt lookup drafts from the first call on."""
    inputs = ask(STAR, model_type=family)
    rows = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {n: torch.cat([t, t[:, -6:]], 1) if n in rows else t for n, t in inputs.items()}


@pytest.mark.parametrize("name", ["qvid", "fastv", "last_attention"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_drafted_tokens_are_neither_question_nor_last_token(family, name):
    model, inputs = built(family), repeated(family)
    drafts = []
    spy = model.base_model.register_forward_pre_hook(
        lambda _, args, given: drafts.append(given.get("input_ids", args[:1])), with_kwargs=True
    )
    try:
        with pruned(model, name, KEEP, layer=3) as plain:
            expected = model.generate(**inputs, **GREEDY)
        drafts.clear()
        with pruned(model, name, KEEP, layer=3) as drafted:
            answer = model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=5)
    finally:
        spy.remove()
    first = drafts[0] if isinstance(drafts[0], torch.Tensor) else drafts[0][0]
    assert first.shape[1] > inputs["input_ids"].shape[1]  # it drafts before the prompt is scored
    assert [c.kept.tolist() for c in drafted.cuts] == [c.kept.tolist() for c in plain.cuts]
    assert drafted.cuts[0].n_query == plain.cuts[0].n_query
    assert torch.equal(answer, expected)


def test_an_assistant_drafts_and_the_model_itself_may_not():
    model, other, inputs = built(), built(seed=1), ask(STAR)
    with pruned(model, "qvid", KEEP, layer=3) as plain:
        expected = model.generate(**inputs, **GREEDY)
        answer = model.generate(**inputs, **GREEDY, assistant_model=other)
        assert torch.equal(answer, expected)
        for more in ({"assistant_model": model}, {"assistant_early_exit": 2}):
            with pytest.raises(ValueError, match="own assistant"):
                model.generate(**inputs, **GREEDY, **more)
    assert [c.kept.tolist() for c in plain.cuts] == [plain.cuts[0].kept.tolist()] * 2


def test_generation_config_says_it_too():
    model, inputs = twin(), ask(STAR)
    model.generation_config.prefill_chunk_size = 9
    with pruned(model, "qvid", KEEP), pytest.raises(ValueError, match="prefill_chunk_size"):
        model.generate(**inputs, **GREEDY)
    model.generation_config.prefill_chunk_size = 99
    with pruned(model, "qvid", KEEP) as trace:
        model.generate(**inputs, **GREEDY)
    assert len(trace.cuts) == 1


# ------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("name", ["qvid", "tome", "v2drop", "divprune"])
def test_a_share_is_that_of_each_prompts_own_tokens(name):
    model, inputs = built(), ask(BOTH, STAR)
    with pruned(model, name, share=75) as trace:
        model(**inputs)
    with pruned(model, name, [24, 12] if name != "tome" else 24) as counted:
        model(**(inputs if name != "tome" else ask(BOTH)))
    kept = [c.kept.tolist() for c in trace.cuts]
    if name == "tome":
        assert [len(k) for k in kept] == [24, 12]
        kept = kept[:1]
    assert kept == [c.kept.tolist() for c in counted.cuts]


def test_a_share_of_each_row_and_in_a_composition():
    model, inputs = built(), ask(BOTH, STAR)
    with pruned(model, "qvid", share=[25, 50]) as trace:
        model(**inputs)
    assert [len(c.kept) for c in trace.cuts] == [8, 8]
    pair = [("divprune", None, {"share": 50}), ("qvid", None, {"share": 25})]
    with pruned(model, pair) as both:
        model(**inputs)
    assert [len(c.kept) for c in both.cuts] == [16, 8, 8, 4]


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({"keep": 4, "share": 50}, TypeError, "give one of them"),
        ({"share": 0}, ValueError, "share=0"),
        ({"share": 101}, ValueError, "share=101"),
        ({"share": "half"}, TypeError, "share='half'"),
        ({"share": [50, 20]}, ValueError, r"\[50 %, 20 %\]|\[50.* %, 20.* %\]"),
    ],
)
def test_a_share_that_is_none_is_one_sentence(more, error, match):
    with pytest.raises(error, match=match) as caught, pruned(built(), "qvid", **more):
        built()(**ask(STAR))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- small things that must be so


def test_the_layers_behind_a_cut_get_no_position_ids():
    """Flash attention would take positions with holes for several sequences in one row."""
    model, seen = built(), {}
    layers = model.base_model.language_model.layers
    with pruned(model, "qvid", KEEP, layer=3):
        spies = [
            layers[i].register_forward_pre_hook(
                lambda _, args, given, i=i: seen.update({i: given["position_ids"]}),
                with_kwargs=True,
            )
            for i in (2, 3, 7)
        ]
        model(**ask(STAR))
        for spy in spies:
            spy.remove()
    assert seen[2] is not None and seen[3] is None and seen[7] is None


def test_a_cache_row_that_is_near_another_is_still_another():
    """The tolerance is for rounding between equal rows, not for rows that are merely alike."""
    model, inputs = built(), ask(STAR, BOTH)
    with pruned(model, "qvid", KEEP, layer=3):
        cache = model(**inputs).past_key_values
        keys = cache.layers[-1].keys
        place = keys.shape[2] - 1
        keys[:, :, place] *= 1 + 2e-3
        with pytest.raises(ValueError, match="rows of this cache have been exchanged"):
            model(input_ids=torch.tensor([[7], [8]]), past_key_values=cache)
        keys[:, :, place] /= 1 + 2e-3
        model(input_ids=torch.tensor([[7], [8]]), past_key_values=cache)
