"""Who may go on with a cache: what is remembered of each sequence while its cache is alive."""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

__all__ = ["Ledger", "Ledgers"]

_CUT: WeakSet = WeakSet()  # caches that hold a pruned prompt, whichever block pruned it


@dataclass(eq=False)
class Ledger:
    """What is remembered of a sequence whose cache is alive.

    seen: for each layer with a cut, which of the tokens cached from there on are real, bool
    (rows, cached), or None where all are; renumbered: those of these layers that count positions
    anew; lost: columns of the caller's that layer 0's cache lacks; pads (rows,): the caller's
    padding; place, mark (rows, d_h): the place of the prompt's last token in the last layer's cache
    and a key that stands there, by which a row is known again.
    """

    seen: dict[int, Tensor | None] = field(default_factory=dict)
    renumbered: set[int] = field(default_factory=set)
    lost: int = 0
    pads: Tensor | int = 0
    place: int = 0
    mark: Tensor | None = None


class Ledgers:
    """The ledgers of one block, by cache."""

    def __init__(self, depth: int):
        self.depth = depth
        self.forget()

    def forget(self) -> None:
        self.known: WeakKeyDictionary = WeakKeyDictionary()

    def of(self, cache: Any, past: int) -> Ledger:
        """The ledger of a cache that holds `past` tokens. ValueError where it was pruned in another
        block, or its rows are no longer those of the prompt."""
        if cache is None:
            return Ledger()
        if past == 0:
            self.known[cache] = Ledger()
            _CUT.discard(cache)
        elif cache not in self.known:
            # Filled outside the block: fine, unless another block has pruned it. Unequal lengths
            # give a copy of a pruned cache away; after a cut at layer 0 all lengths are equal.
            lengths = {int(cache.get_seq_length(i)) for i in range(self.depth)}
            if cache in _CUT or len(lengths) > 1:
                raise ValueError(
                    "this cache was pruned in another block: continue it there, or start the "
                    "conversation afresh"
                )
            self.known[cache] = Ledger()
        self._check_rows(cache, self.known[cache])
        return self.known[cache]

    def was_cut(self, cache: Any, ledger: Ledger) -> None:
        """The cache holds a pruned prompt from now on."""
        if cache is not None:
            self.known[cache] = ledger
            _CUT.add(cache)

    def remember(self, cache: Any, ledger: Ledger) -> None:
        """A prompt has ended: keep a key of each row, where rows differ in what is padding."""
        if cache is not None and any(seen is not None for seen in ledger.seen.values()):
            ledger.place = int(cache.get_seq_length(self.depth - 1)) - 1
            ledger.mark = self._mark(cache, ledger.place)

    def _mark(self, cache: Any, place: int) -> Tensor | None:
        keys = getattr(cache.layers[self.depth - 1], "keys", None)
        return None if keys is None else keys[:, 0, place].clone()

    def _check_rows(self, cache: Any, ledger: Ledger) -> None:
        if ledger.mark is None:
            return
        now, then = self._mark(cache, ledger.place), ledger.mark
        # beams of one prompt may change places: their rows are equal up to rounding
        near = 4 * torch.finfo(then.dtype).eps ** 0.75 * then.norm(dim=1)
        if now.shape != then.shape or bool(((now - then).norm(dim=1) > near).any()):
            raise ValueError(
                "the rows of this cache have been exchanged or taken out since the prompt, and "
                "they differ in their padding: start the conversations afresh"
            )
