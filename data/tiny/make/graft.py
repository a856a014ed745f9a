"""What the embedded Qwen2-VL's decoder starts from: the LLaVA's weights in its own shapes.

Nine of the twelve layers stay; the stream is twice as wide, its new half nothing at first; the keys
and values of two heads become those of one group, at the least loss.
"""

from __future__ import annotations

import qwen
import torch
import train
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, Qwen2VLForConditionalGeneration

LAYERS = (0, 1, 2, 4, 6, 7, 9, 10, 11)  # the LLaVA's that stay: the others can be missed most
SAME = {"<|im_start|>": "<s>", "<|im_end|>": "</s>", "user": "USER:", "assistant": "ASSISTANT:"}
WORD = {word: i for i, word in enumerate(qwen.vocabulary())}


def translation() -> Tensor:
    """For every word of the Qwen2-VL, the LLaVA's word that it starts from; new ones from "the"."""
    return torch.tensor([train.WORD.get(SAME.get(w, w), train.WORD["the"]) for w in WORD])


def widened(weight: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A matrix in the corner of a larger one. New inputs read a little of everything, new outputs
    start at zero: what stands in the stream's new half is nothing at first, and can grow."""
    out = torch.randn(shape, generator=generator) * 0.02
    rows, columns = weight.shape
    out[rows:] = 0
    out[:rows, :columns] = weight
    return out


def grouped_keys(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
    """One key for the heads of a group: query, key (G, d_h, d) to the same queries turned, one key
    (d_h, d), and the share of the keys' weight that is lost.

    A rotary pair of dimensions is one complex number, which may be turned and scaled without
    touching positions: per pair, the best single key is the first singular vector of the group's.
    """
    half = key.shape[1] // 2
    k = torch.complex(key[:, :half], key[:, half:]).transpose(0, 1)  # (pairs, G, d)
    q = torch.complex(query[:, :half], query[:, half:]).transpose(0, 1)
    weight = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    u, s, vh = torch.linalg.svd(weight * k, full_matrices=False)
    size = s[:, :1].sqrt()
    one = size * vh[:, 0]
    turned = (u[:, :, :1] * size[:, None] / weight).conj() * q
    lost = 1 - float((s[:, 0] ** 2).sum() / (s**2).sum())

    def real(x: Tensor, axis: int) -> Tensor:
        return torch.cat([x.real, x.imag], axis)

    return real(turned.transpose(0, 1), 1), real(one, 0), lost


def grouped_values(value: Tensor, out: Tensor) -> tuple[Tensor, Tensor, float]:
    """One value for the heads of a group: value (G, d_h, d), out (G, d, d_h) to (d_h, d), the new
    out, and the share lost: the best of this rank for the stacked products out · value."""
    groups, size, width = value.shape
    u, s, vh = torch.linalg.svd((out @ value).reshape(groups * width, width), full_matrices=False)
    root = s[:size].sqrt()
    lost = float((s[size:] ** 2).sum() / (s**2).sum())
    return root[:, None] * vh[:size], (u[:, :size] * root).view(groups, width, size), lost


def grouped(attention: nn.Module, heads: int) -> tuple[dict[str, Tensor], float]:
    """The four maps of one LLaVA layer with its four heads in two groups, and what is lost."""
    q, k, v = (
        getattr(attention, f"{name}_proj").weight.detach().unflatten(0, (heads, -1))
        for name in "qkv"
    )
    o = attention.o_proj.weight.detach().unflatten(1, (heads, -1)).transpose(0, 1)
    best: tuple[float, dict[str, Tensor]] = (float("inf"), {})
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]):
        parts = []
        for pair in (order[:2], order[2:]):
            keys, values = grouped_keys(q[pair], k[pair]), grouped_values(v[pair], o[pair])
            parts.append((keys[0], keys[1], values[0], values[1], keys[2] + values[2]))
        lost = sum(part[4] for part in parts) / 4
        if lost < best[0]:
            found = {
                "q_proj": torch.cat([part[0] for part in parts]).flatten(0, 1),
                "k_proj": torch.cat([part[1] for part in parts]),
                "v_proj": torch.cat([part[2] for part in parts]),
                "o_proj": torch.cat([part[3] for part in parts]).transpose(0, 1).flatten(1),
            }
            best = (lost, found)
    return best[1], best[0]


@torch.no_grad()
def graft(llava: LlavaForConditionalGeneration, model: Qwen2VLForConditionalGeneration, seed: int):
    """Give `model`'s decoder the LLaVA's words and layers; the share lost by grouping, by layer."""
    generator = torch.Generator().manual_seed(seed)
    old, new = llava.model.language_model, model.model.language_model
    narrow, wide = old.config.hidden_size, new.config.hidden_size
    shrink = (narrow / wide) ** 0.5  # a norm over a stream with zeros divides by less
    words = translation()
    new.embed_tokens.weight.zero_()[:, :narrow] = old.embed_tokens.weight[words]
    model.lm_head.weight.copy_(
        widened(llava.lm_head.weight[words], model.lm_head.weight.shape, generator)
    )

    def norm(to: nn.Module, source: nn.Module) -> None:
        to.weight.fill_(shrink * float(source.weight.mean()))
        to.weight[:narrow] = shrink * source.weight

    def matrix(to: nn.Module, source: Tensor) -> None:
        to.weight.copy_(widened(source, to.weight.shape, generator))
        if to.bias is not None:
            to.bias.zero_()

    losses = []
    for layer, source in zip(new.layers, LAYERS, strict=True):
        source = old.layers[source]
        maps, lost = grouped(source.self_attn, old.config.num_attention_heads)
        losses.append(lost)
        for name, weight in maps.items():
            matrix(getattr(layer.self_attn, name), weight)
        for name in ("gate_proj", "up_proj", "down_proj"):
            matrix(getattr(layer.mlp, name), getattr(source.mlp, name).weight)
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm(getattr(layer, name), getattr(source, name))
    norm(new.norm, old.norm)
    return losses
