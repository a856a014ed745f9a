"""Many (rule, keep, layer) cells in one pass over shared work: the layers below the cut run once.

Two cells that prune the same batch at different layers, or keep different tokens, have everything
below the cut in common. `layers_once` remembers, for each decoder layer, the first prompt that went
through it: its stream as it came in and as it went out, and what the layer left in the cache. A
later prompt that comes in equal to the last bit is answered from memory, to the last bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .families import family_of

__all__ = ["layers_once"]


@contextmanager
def layers_once(model: nn.Module) -> Iterator[None]:
    """Inside the block a decoder layer computes the same prompt once, however many calls bring it.

    Only the first prompt that a layer sees is remembered: let it be the unpruned one, and use a
    block for each batch. Decoding steps and everything with gradients run as always. Answers are
    those without the block, bit for bit. Raises RuntimeError for a block within a block.
    """
    layers = family_of(model).part(model, "layers")
    if any("forward" in vars(layer) for layer in layers):
        raise RuntimeError("layers_once is already on for this model: blocks do not nest")
    try:
        for number, layer in enumerate(layers):
            layer.forward = _remembering(layer.forward, number)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _remembering(forward: Callable, number: int) -> Callable:
    memory: list[tuple[Tensor, dict, Tensor, Tensor, Tensor]] = []  # at most one prompt

    def once(hidden: Tensor, **given: Any) -> Tensor:
        cache = given.get("past_key_values")
        if torch.is_grad_enabled() or cache is None or cache.get_seq_length(number):
            return forward(hidden, **given)
        told = {k: v for k, v in given.items() if k not in ("past_key_values", "position_ids")}
        if not memory:
            out = forward(hidden, **given)
            kept = cache.layers[number]
            memory.append((hidden, told, out, kept.keys, kept.values))
            return out
        before, known, out, keys, values = memory[0]
        if not (_equal(hidden, before) and _equal(told, known)):
            return forward(hidden, **given)
        cache.update(keys, values, number)
        return out

    return once


def _equal(a: Any, b: Any) -> bool:
    """Whether two arguments of a layer are equal, tensors to the last bit."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b
