"""Who may come in: models whose hooks would run, one block at a time, one thread at a time."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback

from ..families import Family, Unavailable
from ..methods.evidence import needing
from .stages import Stage

__all__ = ["COMPILED", "Turnstile", "check_parts", "check_positions", "check_uncompiled"]

COMPILED = (
    "pruning keeps state between calls, which a compiled forward would freeze: generate with "
    "disable_compile=True, and give the model itself instead of torch.compile's"
)
_OPEN: WeakKeyDictionary = WeakKeyDictionary()  # base model -> its last block's turnstile
_BLOCKS: ContextVar[tuple] = ContextVar("blocks that this context is inside", default=())


class Turnstile:
    """One block of a model: the thread that opened it may ask, or one that carries its context, as
    `asyncio.to_thread` and `contextvars.copy_context().run` do; one call at a time."""

    def __init__(self) -> None:
        self.key, self.owner, self.closed = object(), None, False
        self.lock, self.inside = threading.Lock(), None

    @contextmanager
    def open(self, base: nn.Module) -> Iterator[None]:
        """The block is open. RuntimeError where another one is."""
        other = _OPEN.get(base)
        if other is not None and (there := other()) is not None and not there.closed:
            raise RuntimeError(
                "this model is already inside a pruned block: leave it first, blocks do not nest"
            )
        self.owner = threading.get_ident()
        try:
            _OPEN[base] = ref(self)
            _BLOCKS.set((*_BLOCKS.get(), self.key))
            yield
        finally:
            self.closed = True
            _BLOCKS.set(tuple(key for key in _BLOCKS.get() if key is not self.key))

    def enter(self) -> None:
        """A call begins. RuntimeError for another thread's."""
        me = threading.get_ident()
        if me != self.owner and self.key not in _BLOCKS.get():
            raise RuntimeError(
                "this thread has not opened the pruned block that the model is inside: open a "
                "block in the thread that asks, one after the other, or start the thread with "
                "contextvars.copy_context().run"
            )
        if self.inside != me and not self.lock.acquire(blocking=False):
            raise RuntimeError(
                "two threads ask a model inside one pruned block at once: let one thread wait for "
                "the other, or give each a model of its own"
            )
        self.inside = me

    def leave(self) -> bool:
        """A call has ended, and whether it was one that entered."""
        if self.inside != threading.get_ident():
            return False
        self.inside = None
        self.lock.release()
        return True


def check_uncompiled(*modules: nn.Module) -> None:
    """ValueError inside a compiled forward: a graph would keep what one call's hooks decided."""
    compiled = any(getattr(m, "_compiled_call_impl", None) is not None for m in modules)
    if compiled or get_eval_frame_callback():
        raise ValueError(COMPILED)


def check_positions(family: Family, config: Any, stages: Sequence[Stage]) -> None:
    """Unavailable where the language model's attention or positions do not carry the methods;
    config: the language model's."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
        # a window over shortened columns would mean another distance
        raise Unavailable("pruning needs full attention in all layers; this model has windows")
    if family.one_axis:
        return
    if any(stage.method.positions == "contiguous" for stage in stages):
        raise Unavailable(
            f"positions='contiguous': {family.name} counts positions along several axes, which "
            "cannot be renumbered; use 'original'"
        )
    moved = [s.method.name for s in stages if getattr(s.method.select, "reorders", False)]
    if moved:
        raise Unavailable(
            f"method {moved[0]!r} puts tokens in an order of its own, and {family.name} counts "
            "positions along several axes, which cannot be renumbered"
        )


def check_parts(model: nn.Module, family: Family, stages: Sequence[Stage]) -> None:
    """ValueError, with its name, for a part that is compiled and that hooks hang on. Parts inside a
    decoder layer may be, and the vision tower where no method looks at it."""
    tower = any(stage.sees & needing("tower") or stage.site for stage in stages)
    addresses = [family.layers, family.language]
    addresses += [family.vision, family.vision_of_videos] if tower else []
    prefix = next((f"{name}." for name, m in model.named_modules() if m is model.base_model), "")
    watched = [prefix + address for address in addresses if address]
    for name, kind in _compiled(model):
        inner = name.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
        above = any(f"{address}.".startswith(f"{inner}.") or not inner for address in watched)
        layer = inner.rpartition(".")[0] == prefix + family.layers
        below = tower and any(f"{inner}.".startswith(f"{address}.") for address in watched[2:])
        if above or layer or below:
            raise ValueError(
                f"model{inner and '.'}{inner} is {kind}, and compiled parts run without the hooks "
                "that prune: give the model as it was before torch.compile"
            )


def _compiled(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(address, how) of each compiled part."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield name, "a ScriptModule (torch.jit)"
        elif type(module).__name__ == "OptimizedModule":
            yield name, "wrapped by torch.compile (OptimizedModule)"
        elif getattr(module, "_compiled_call_impl", None) is not None:
            yield name, "compiled in place (module.compile())"
