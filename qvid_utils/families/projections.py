"""Queries, keys and attention rows of one decoder layer, made again from what enters the layer.

All families here name these parts alike: `input_layernorm`, `self_attn` with `q_proj` and `k_proj`,
`head_dim`, `num_key_value_groups`, `scaling`, perhaps `q_norm` and `k_norm`; rotary pairs turn the
two halves of a head. Nothing depends on the attention kernel, and everything is float32 or wider.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

__all__ = ["attention_rows", "product", "project", "rotated", "wide"]

BLOCK = 2**24  # entries of an attention map that are there at once; one row of all heads at least


def project(layer: nn.Module, name: str, rows: Tensor) -> Tensor:
    """q_proj or k_proj of a decoder layer on rows of its input: (n, d) → (H, n, d_h).

    The layer's own input norm comes first, the bias is added in float32, the norm of each head's
    queries or keys, where the layer has one, is part of the projection, and key heads that serve
    several query heads are repeated, so that both projections have H heads.
    """
    attention = layer.self_attn
    out = product(getattr(attention, name), layer.input_layernorm(rows))
    out = out.unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{name[0]}_norm", None)  # per head, where the family has one
    out = (out if norm is None else wide(norm(out))).transpose(0, 1)
    groups = attention.num_key_value_groups if name == "k_proj" else 1
    return out.repeat_interleave(groups, 0) if groups > 1 else out


def product(linear: nn.Module, rows: Tensor) -> Tensor:
    """What a linear layer makes of rows (..., d), the bias added in float32.

    The layer itself is called, without its bias: the weight may be adapted, quantised, parametrised
    or elsewhere.
    """
    biases = [(n, p) for n, p in linear.named_parameters() if n in ("bias", "base_layer.bias")]
    if len(biases) != 1 or biases[0][1].is_meta:
        return wide(linear(rows))
    # a key bias can be 100 times the content: in half precision the sum would round it away
    name, bias = biases[0]
    zero = {name: torch.zeros_like(bias)}
    return wide(torch.func.functional_call(linear, zero, (rows,))) + wide(bias)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (H, n, d_h) turned by the rotary pair of its n tokens, cos and sin (n, d_h) each."""
    half = x.shape[-1] // 2
    return x * wide(cos) + torch.cat([-x[..., half:], x[..., :half]], -1) * wide(sin)


def attention_rows(
    layer: nn.Module,
    stream: Tensor,
    rows: Tensor,
    cos: Tensor,
    sin: Tensor,
    instead: Callable[[Tensor], Tensor] = lambda queries: queries,
) -> Iterator[Tensor]:
    """Attention that the tokens `rows` (n,) pay to all S tokens, a few rows at a time.

    stream (S, d) enters the layer, cos and sin (S, d_h) → blocks (H, n', S): softmax over the
    sequence, nobody looks ahead. instead: what stands in for the queries (H, n', d_h), unrotated.
    """
    everyone = torch.arange(len(stream), device=stream.device)
    keys = rotated(project(layer, "k_proj", stream), cos, sin)
    for some in rows.split(max(1, BLOCK // keys[..., 0].numel())):
        queries = instead(project(layer, "q_proj", stream[some]))
        queries = rotated(queries, cos[some], sin[some])
        logits = queries @ keys.mT * layer.self_attn.scaling
        yield logits.masked_fill(everyone > some[:, None], -torch.inf).softmax(-1)


def wide(values: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
