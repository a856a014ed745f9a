"""A padded batch of prompts with pictures, where a decoder layer begins: `Scene`.

It knows which of the caller's tokens are still there, and shows one prompt of them as `Evidence`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.evidence import Evidence, needing

__all__ = ["Scene"]


@dataclass(eq=False)
class Scene:
    """A padded batch of prompts with pictures, at the LLM input of the layer about to run.

    The caller's own, (B, S): ids, given (no padding), counts of visual tokens, pictures (where they
    were), entered (which of them the cuts at layer 0 left), features (B, S, d) entering layer 0;
    drafted: how many columns at the end are guesses of assisted decoding, which no rule sees. Of
    the tokens that are left, (B, S'): valid (no padding and no filler), visual, number (of a visual
    token among its row's), column (in the caller's prompt), hidden and before (B, S', d) entering
    this layer and the one before, rotary: cos and sin.
    """

    ids: Tensor
    given: Tensor
    visual: Tensor
    drafted: int = 0
    features: Tensor | None = None
    hidden: Tensor | None = None
    before: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.end = self.ids.shape[1] - self.drafted  # the column behind the prompt
        self.visual[:, self.end :] = False
        self.valid, self.counts = self.given, self.visual.sum(1).tolist()
        self.lengths = self.given.sum(1).tolist()  # of each row, without what is dropped
        self.pictures = self.entered = self.visual
        self.number = self.visual.cumsum(1) - 1
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        self.column = places.expand(self.ids.shape)

    def enter(self, i: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], sees: set[str]) -> None:
        """Layer i is about to run on `hidden`; what no rule sees is not held on to."""
        self.before = self.hidden if sees & needing("before") else None
        self.hidden, self.rotary = hidden, self.rotary or rotary
        if i == 0 and sees & needing("entry"):
            self.features = hidden

    @property
    def prompt_ids(self) -> Tensor:
        """(B, S - drafted): the prompts alone."""
        return self.ids[:, : self.end]

    def take(self, order: Tensor) -> None:
        """Keep the tokens `order` (B, S') in that order."""

        def rows(t: Tensor | None) -> Tensor | None:
            if t is not None:
                t = t.expand(len(order), -1, -1)  # a rotary pair may serve all rows
                t = t.gather(1, order[..., None].expand(-1, -1, t.shape[-1]))
            return t

        self.hidden, self.before = rows(self.hidden), rows(self.before)
        self.rotary = (rows(self.rotary[0]), rows(self.rotary[1]))
        for name in ("valid", "visual", "number", "column"):
            setattr(self, name, getattr(self, name).gather(1, order))

    def relabel(self, row: int, slots: Tensor, sources: Tensor, known: Tensor) -> None:
        """In the columns `slots` of a row now stand the tokens of the columns `sources`; those not
        `known` get the number -1."""
        number, column = self.number.clone(), self.column.clone()
        number[row, slots] = torch.where(known, self.number[row, sources], -1)
        column[row, slots] = torch.where(known, self.column[row, sources], self.column[row, slots])
        self.number, self.column = number, column

    def close_entry(self) -> None:
        """Layer 0 has been entered for good: who is left there."""
        left = self.visual & (self.number >= 0)
        self.entered = torch.zeros_like(self.entered).scatter(1, self.column, left)

    def _features(self, row: int, places: Tensor) -> Tensor | None:
        """What the projector gave for the tokens at `places`; None if one stands for none."""
        if self.features is None or bool((self.number[row, places] < 0).any()):
            return None
        return self.features[row, self.column[row, places]]

    def places(self, row: int) -> Tensor:
        """(N_v,): where a row's visual tokens stand among its S' columns."""
        return self.visual[row].nonzero()[:, 0]

    def evidence(
        self,
        i: int,
        row: int,
        places: Tensor,
        layers: nn.ModuleList,
        words: Tensor | None = None,
        make: Callable[..., Evidence] = Evidence,
        **about: Any,
    ) -> Evidence:
        """What one prompt shows where layer i begins; places (N_v,) of its visual tokens; words
        (B, S): the query among the ids."""
        here = (self.valid[row] & (self.column[row] < self.end)).nonzero()[:, 0]
        visual, columns = torch.searchsorted(here, places), self.column[row, here]
        cos, sin = (t.expand(len(self.valid), -1, -1)[row, here] for t in self.rotary)
        prompt = self.given[row, : self.end].nonzero()[:, 0]

        def shown() -> Tensor:
            return self.pictures[row].nonzero()[:, 0]

        def at_entry() -> tuple[Tensor, Tensor]:
            written = prompt[prompt > shown()[-1]]  # the text after the picture is never cut
            return self.features[row, self.entered[row]], self.features[row, written]

        return make(
            layer=i,
            row=row,
            stream=self.hidden[row, here],
            cos=cos,
            sin=sin,
            visual=visual,
            ids=self.ids[row, prompt],
            module=layers[i],
            before=None if self.before is None else self.before[row, here],
            module_before=layers[i - 1] if i else None,
            find_query=lambda: words[row, columns].nonzero()[:, 0],
            features_of=self._features(row, places),
            find_text=lambda: (columns > shown()[-1]).nonzero()[:, 0],
            at_entry=at_entry,
            **about,
        )
