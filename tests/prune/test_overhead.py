"""What a block adds around the arithmetic: operations, synchronisations, masks, passes; counted."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from twins import DOTS, STAR, ask, twin

from qvid_utils.families import family_of
from qvid_utils.prune import cutting as pruning
from qvid_utils.prune import pruned

FAMILIES = ["llava", "qwen2_vl"]
METHODS = [("qvid", {}), ("qvid", {"reading": "two_pass"}), ("fastv", {}), ("variation", {})]


class Counting(TorchDispatchMode):
    """Operations by name; synchronisations are those whose result or shape the host must know."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))

    @property
    def waits(self):
        return sum(self.seen[f"aten.{n}.default"] for n in ("_local_scalar_dense", "nonzero"))


@torch.no_grad()
def prefill_and_step(model, inputs):
    """(operations, synchronisations) of a prefill and of one decoded token."""
    rows, length = inputs["input_ids"].shape
    with Counting() as first:
        cache = model(**inputs, logits_to_keep=1, use_cache=True).past_key_values
    mask = torch.cat([inputs["attention_mask"], torch.ones(rows, 1, dtype=torch.long)], 1)
    step = {"input_ids": torch.full((rows, 1), 7), "attention_mask": mask}
    with Counting() as second:
        model(**step, past_key_values=cache, position_ids=torch.full((rows, 1), length))
    return [(sum(c.seen.values()), c.waits) for c in (first, second)]


@pytest.mark.parametrize("method, more", METHODS)
@pytest.mark.parametrize("prompts", [(STAR,), (STAR, DOTS)], ids=["alone", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_waits_for_the_device(family, prompts, method, more):
    added = []
    for layers in (8, 16):
        model, inputs = twin(family, layers=layers), ask(*prompts, model_type=family)
        plain = prefill_and_step(model, inputs)
        with pruned(model, method, 5, layer=2, **more):
            ours = prefill_and_step(model, inputs)
        added.append([b[1] - a[1] for a, b in zip(plain, ours, strict=True)])
        steps = ours[1][0] - plain[1][0]
        # for the padded a mask, and a look at a key of each row to know it again; else next to none
        assert steps <= (50 if len(prompts) > 1 else 8)
    assert added[0] == added[1]  # twice the layers, no more waiting
    assert added[0][0] <= 16 * len(prompts) + 4 and added[0][1] <= 1 + len(prompts)


@pytest.mark.parametrize("method, more", METHODS)
def test_no_mask_is_built_where_none_is_needed(method, more, monkeypatch):
    built, original = [], pruning.create_causal_mask
    monkeypatch.setattr(
        pruning, "create_causal_mask", lambda *a, **k: built.append(original(*a, **k)) or built[-1]
    )
    model = twin()
    with pruned(model, method, 5, layer=2, **more):
        prefill_and_step(model, ask(STAR))
        assert built == [None, None]  # once for the prompt, once for the token
        prefill_and_step(model, ask(STAR, DOTS))
        assert len(built) == 4 and built[3] is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_of_two_passes_stops_and_keeps_no_cache(family):
    model, inputs = twin(family), ask(STAR, model_type=family)
    runs, caches = Counter(), []

    def seen(i):
        def hook(module, args, kwargs, out):
            runs[i] += 1
            caches.append((i, kwargs.get("past_key_values")))

        return hook

    hooks = [
        layer.register_forward_hook(seen(i), with_kwargs=True)
        for i, layer in enumerate(family_of(model).part(model, "layers"))
    ]
    with torch.no_grad(), pruned(model, "qvid", 5, layer=3, reading="two_pass"):
        out = model(**inputs, use_cache=True)
    for hook in hooks:
        hook.remove()
    assert [runs[i] for i in range(8)] == [2, 2, 2, 1, 1, 1, 1, 1]
    assert caches[:3] == [(0, None), (1, None), (2, None)]
    words = inputs["input_ids"].shape[1] - int((inputs["input_ids"] == 4).sum())
    assert {part.keys.shape[2] for part in out.past_key_values.layers} == {words + 5}


@pytest.mark.parametrize("method, projections", [("qvid", 2), ("fastv", 2), ("variation", 0)])
def test_nothing_is_projected_twice_for_one_score(method, projections):
    model, inputs = twin(), ask(STAR)
    calls = Counter()
    attention = [layer.self_attn for layer in family_of(model).part(model, "layers")]
    weights = {w.data_ptr() for a in attention for w in (a.q_proj.weight, a.k_proj.weight)}

    class Linears(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            for tensor in args:
                if isinstance(tensor, torch.Tensor) and tensor.data_ptr() in weights:
                    calls[str(function).split(".")[1]] += 1
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Linears():
        model(**inputs)
        before = calls["mm"]
        with pruned(model, method, 5, layer=2):
            model(**inputs)
    assert before == 2 * 8
    assert calls["mm"] - before == 2 * 8 + projections
