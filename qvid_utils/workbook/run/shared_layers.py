"""Layers below a cut, computed once for all cells; passes that end at a layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...families import family_of
from ...families.attached import Attached

__all__ = ["Enough", "copied", "is_on", "layers_once", "stopping", "up_to"]


class Enough(Exception):
    """Ends a pass whose scores have been taken."""


@contextmanager
def up_to(model: nn.Module, layer: int) -> Iterator[None]:
    """A block that ends where a decoder layer would run: what is observed there has been seen."""
    with suppress(Enough), stopping(family_of(model).part(model, "layers")[layer]):
        yield


@contextmanager
def stopping(layer: nn.Module) -> Iterator[None]:
    """A pass ends where this layer would run; its input is still passed."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Enough

    with Attached() as hung:
        hung.instead(layer, "forward", stop)
        yield


def copied(value: Any, count: int) -> Any:
    """A batch so many times over, one copy after the other; of one row views, and no copies."""
    if isinstance(value, Tensor):
        if len(value) == 1:
            return value.expand(count, *value.shape[1:])
        return value.repeat(count, *[1] * (value.dim() - 1))
    return value * count if isinstance(value, list | tuple) else value


def is_on(model: nn.Module) -> bool:
    return any("forward" in vars(layer) for layer in family_of(model).part(model, "layers"))


@contextmanager
def layers_once(model: nn.Module) -> Iterator[None]:
    """Inside the block a decoder layer computes the same prompt once, however many calls bring it.

    Only the first prompts that a layer sees are remembered: let them be the unpruned ones, and use
    a block for each batch. The same batch several times over is known again, too. Decoding steps
    and everything with gradients run as always. Answers are those without the block, bit for bit.
    Raises RuntimeError for a block within a block.
    """
    if is_on(model):
        raise RuntimeError("layers_once is already on for this model: blocks do not nest")
    with Attached() as hung:
        for number, layer in enumerate(family_of(model).part(model, "layers")):
            hung.instead(layer, "forward", _remembering(layer.forward, number))
        yield


def _remembering(forward: Callable, number: int) -> Callable:
    memory: list[tuple[Tensor, dict, Tensor, Tensor, Tensor]] = []  # at most one batch

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
        count = len(hidden) // len(before)
        if not count or not (_equal(hidden, before, count) and _equal(told, known, count)):
            return forward(hidden, **given)
        if count > 1:
            out, keys, values = (copied(t, count) for t in (out, keys, values))
        cache.update(keys, values, number)
        return out

    return once


def _equal(a: Any, b: Any, count: int = 1) -> bool:
    """Whether an argument of a layer equals another, or so many copies of it, to the last bit."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape == b.shape:
            return torch.equal(a, b)
        if len(b) == 1 and a.data_ptr() == b.data_ptr() and a.stride() == (0, *b.stride()[1:]):
            return a.shape[1:] == b.shape[1:]  # views of that very row
        copies = (count, *b.shape)
        return a.shape == (count * len(b), *b.shape[1:]) and torch.equal(
            a.unflatten(0, copies[:2]), b.expand(copies)
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k], count) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y, count) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b
