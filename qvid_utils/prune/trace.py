"""What a block tells: each cut, and how many visual tokens the layers saw."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["CutRecord", "Trace"]


@dataclass(frozen=True, eq=False)
class CutRecord:
    """One cut of one prompt. Visual tokens are numbered 0..N_v-1 as in the caller's prompt.

    call: which call with pictures, from 0; row: of the batch; layer: where it was scored; method:
    by name; scores (n_visual,) and `scored` (n_visual,): the score of each token that was still
    there, and its number (-1 for one that stands for no single token: an earlier method's class
    token or sum); kept (K,): the numbers of the places that survive, where a method merges not
    always the tokens that stand there; n_query: query tokens that it was scored with (0 for a rule
    that reads none); seconds: host time of scoring and choosing.
    """

    call: int
    row: int
    layer: int
    method: str
    scores: Tensor
    scored: Tensor
    kept: Tensor
    n_visual: int
    n_query: int
    seconds: float


@dataclass(eq=False)
class Trace:
    """What happened inside a `pruned` block.

    cuts: every cut, in order; mean_tokens: for each row of the last call with pictures, visual
    tokens at a layer's input, mean over the layers (two_pass: the layers of the scoring pass are
    added; the pass of a score_question is not); query: that call's query tokens, bool over its
    (rows, columns), of the first method that needs a question; None where none does, or where
    another question than the prompt's own is scored with; layout: the family, the configuration and
    the arguments of that call, for showing it.

    `print(trace)` says in three lines what was kept; a notebook shows the pictures, too.
    """

    cuts: list[CutRecord] = field(default_factory=list)
    mean_tokens: list[float] = field(default_factory=list)
    query: Tensor | None = None
    layout: tuple[Any, Any, Mapping[str, Any]] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        from .show import text

        return text(self)

    def _repr_html_(self) -> str:
        from .show import page

        return page(self)
