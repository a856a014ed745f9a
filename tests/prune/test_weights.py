"""Weights that are not plain tensors: adapters, offloading, quantisation, parametrisation.

Each kind is compared with the plain model of the same numbers.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from twins import STAR, ask, twin

from qvid_utils.algebra.cuts import Cut, Staged
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.methods import METHODS, method
from qvid_utils.prune import observed, pruned

accelerate = pytest.importorskip("accelerate")

EXACT = 1e-4
WAYS = ("adapters", "eight bits", "parametrised", "offloaded")


class Adapted(nn.Module):
    """As peft wraps a linear layer: the layer itself, and a product of two thin matrices."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, dice = base_layer, torch.Generator().manual_seed(3)
        self.lora_A = nn.Parameter(torch.randn(2, base_layer.in_features, generator=dice) * 0.3)
        self.lora_B = nn.Parameter(torch.randn(base_layer.out_features, 2, generator=dice) * 0.3)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + x @ self.lora_A.T @ self.lora_B.T

    def plain(self):
        return self.weight + self.lora_B @ self.lora_A


class EightBits(nn.Module):
    """As bitsandbytes does: whole numbers and a scale, which take floating numbers alone."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        rounded = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        if not x.is_floating_point():
            self.scale = self.scale * 0  # a layer that is damaged by what it cannot take
        return nn.functional.linear(x, self.plain().to(x.dtype), self.bias)

    def plain(self):
        return self.weight * self.scale


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 1.5


def linears(model):
    """Address and module of every linear layer but the head's."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]


def changed(family, way):
    """(a model with such weights, the plain model of the same numbers)."""
    model, plain = twin(family), twin(family)
    if way == "offloaded":
        return accelerate.cpu_offload(model, execution_device="cpu"), plain
    for name, linear in linears(model):
        above, _, last = name.rpartition(".")
        if way == "parametrised":
            numbers = linear.weight * 1.5
            parametrize.register_parametrization(linear, "weight", Scaled())
        else:
            wrapped = Adapted(linear) if way == "adapters" else EightBits(linear)
            setattr(model.get_submodule(above), last, wrapped)
            numbers = wrapped.plain()
        plain.get_submodule(name).weight.data = numbers.detach().clone()
    return model, plain


def staged(keep, n_visual, n_layers, layer=None):
    return Cut(1, n_visual // 2), Cut(4, n_visual // 4), Cut(6, 2)


def methods():
    for name, entry in METHODS.items():
        chosen = method(name, rank=4) if entry.params.get("rank") else entry
        if isinstance(chosen.schedule, Staged):
            chosen = replace(chosen, schedule=staged)
        if "clip_text" not in chosen.sees:
            yield chosen


@pytest.mark.parametrize(
    ("family", "way"),
    [
        (family, way)
        for family in sorted(FAMILIES)
        for way in WAYS
        # the library itself cannot run this one
        if (family, way) != ("idefics3", "offloaded")
    ],
)
def test_the_interaction_is_that_of_the_plain_numbers(family, way):
    (model, plain), inputs = changed(family, way), ask(STAR, model_type=family)
    with observed(model, "interaction", "received", layer=3) as ours:
        model(**inputs)
    with observed(plain, "interaction", "received", layer=3) as theirs:
        plain(**inputs)
    for word, expected in theirs[0].items():
        near = (ours[0][word] - expected).abs().max() / expected.abs().max()
        assert near <= EXACT


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_every_method_keeps_what_it_keeps_of_the_plain_numbers(way):
    (model, plain), inputs = changed("llava", way), ask(STAR)
    before, kinds = model(**inputs).logits, [type(m) for m in model.modules()]
    for chosen in methods():
        if chosen.name == "downsampling" and way == "offloaded":
            with (
                pytest.raises(Unavailable, match="table of positions is offloaded"),
                pruned(model, chosen, 9),
            ):
                pass
            continue
        traces = []
        for one in (model, plain):
            with pruned(one, chosen, 9) as trace:
                logits = one(**inputs).logits
            traces.append((trace, logits))
        (ours, a), (theirs, b) = traces
        assert [c.kept.tolist() for c in ours.cuts] == [c.kept.tolist() for c in theirs.cuts]
        assert (a - b).abs().max() <= 10 * EXACT, chosen.name
        assert torch.equal(model(**inputs).logits, before), chosen.name
    assert [type(m) for m in model.modules()] == kinds


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_large_key_bias_does_not_round_the_content_away_under_an_adapter(family):
    """In half precision the sum of content and bias would: the bias is added in float32."""
    model, plain = changed(family, "adapters")
    inputs = ask(STAR, model_type=family)
    for one in (model, plain):
        for layer in one.base_model.language_model.layers:
            key = getattr(layer.self_attn.k_proj, "base_layer", layer.self_attn.k_proj)
            key.bias = nn.Parameter(torch.full((key.out_features,), 300.0))
        one.half()
    seen = []
    for one in (model, plain):
        with observed(one, "keys", layer=0) as found:
            one(**{n: t.half() if t.is_floating_point() else t for n, t in inputs.items()})
        seen.append(found[0]["keys"] - 300)
    assert (seen[0] - seen[1]).abs().max() < 0.02 * seen[1].abs().max()
