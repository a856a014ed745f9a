"""One cell of a grid: its cut, what it chose, and the pass that scores for several at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...algebra.selection import Kept
from ...methods import Method
from ...methods.evidence import Evidence, needing
from ...prune import CutRecord
from ...prune.stages import Looking, Stage, kept_of, scores_of

__all__ = ["GridCell", "looking", "record_of"]


@dataclass(eq=False)
class GridCell:
    """One cell on a batch: its one cut, and for each prompt what it chose, once that is known."""

    number: int
    method: Method
    layer: int
    keeps: list[int]
    chosen: list[tuple[Tensor, Kept]] = field(default_factory=list)
    cuts: list[CutRecord] = field(default_factory=list)

    @property
    def place(self) -> tuple:
        """Cells of one place read the same evidence."""
        query = self.method.query
        return self.layer, id(query) if isinstance(query, Tensor) else query, self.method.rope

    @property
    def scores(self) -> tuple:
        """Cells of one place that are equal in this have the same scores."""
        return id(self.method.rule), repr(sorted(self.method.params.items()))

    @property
    def length(self) -> tuple:
        """Cells that are equal in this can be one batch."""
        kept = tuple(len(kept.index) for _, kept in self.chosen)
        return self.layer, self.method.positions, kept

    def twin(self, other: "GridCell") -> bool:
        """Whether two cells of one length leave the same stream: then one runs for both."""
        pairs = [(a, b) for (_, a), (_, b) in zip(self.chosen, other.chosen, strict=True)]
        plain = all(k.merged is k.patches is k.stands is None for pair in pairs for k in pair)
        return plain and all(torch.equal(a.index, b.index) for a, b in pairs)


def looking(name: str, cells: Sequence[GridCell]) -> Stage:
    """A stage that scores for all cells of one place and cuts nothing."""
    first = cells[0]

    def look(evidence: Evidence) -> None:
        row, scores = len(first.chosen), {}
        for cell in cells:
            if cell.scores not in scores:
                scores[cell.scores] = scores_of(cell.method, evidence)
            found = scores[cell.scores]
            kept = kept_of(cell.method, evidence, found, cell.keeps[row])
            cell.chosen.append((found, kept))

    words = set().union(*(cell.method.sees for cell in cells))
    return Looking(replace(first.method, name=name), words, layer=first.layer, look=look)


def record_of(cut: CutRecord, cell: GridCell, shared_by: int) -> CutRecord:
    """What the cell chose for a prompt that was looked at; the seconds are its part."""
    scores, kept = cell.chosen[cut.row]
    return replace(
        cut,
        method=cell.method.name,
        scores=scores.detach(),
        kept=cut.scored[kept.index],
        n_query=cut.n_query if needing("query") & cell.method.sees else 0,
        seconds=cut.seconds / shared_by,
    )
