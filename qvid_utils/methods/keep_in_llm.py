"""Selections of methods inside the language model: SparseVLM's recycling, DART's pivots."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.clustering import density_peaks, means
from ..algebra.selection import Kept, top_k

__all__ = ["Recycle", "Spread"]


@dataclass(frozen=True)
class Recycle:
    """SparseVLM's selection: the best tokens stay, some of the others are clustered and merged.

    Of D dropped tokens the int(share·D) + 1 best form int(that / size) + 1 clusters by density
    peaks on the stream; each becomes its plain mean. All count inside `keep`: as many as possible
    stay as they are, and at least one does (so a tiny `keep` gets fewer clusters); keep = N_v
    merges nothing. Merged tokens stand behind the kept ones, in the order of their centres
    (positions must be contiguous), or, `in_place`, where their centre stood.
    """

    share: float = 0.3
    size: int = 10
    in_place: bool = False

    merges = True

    @property
    def reorders(self) -> bool:
        return not self.in_place

    def clusters(self, dropped: int) -> tuple[int, int]:
        """(how many of the dropped tokens are recycled, into how many clusters)."""
        recycled = int(self.share * dropped) + 1
        return recycled, int(recycled / self.size) + 1

    def unmerged(self, keep: int, n: int) -> int:
        """How many of the `keep` tokens that n become stay as they are."""
        fits = (k for k in range(keep, 0, -1) if k < n and k + self.clusters(n - k)[1] == keep)
        return next(fits, 1)

    def __call__(self, scores: Tensor, keep: int, hidden: Tensor) -> Kept:
        everyone = top_k(scores, keep).index
        if keep == len(scores):
            return Kept(everyone)
        stay = self.unmerged(keep, len(scores))
        best = top_k(scores, stay).index
        if stay == keep:
            return Kept(best)
        others = _all_but(scores, best).nonzero()[:, 0]
        recycled = others[top_k(scores[others], self.clusters(len(others))[0]).index]
        centres, member = density_peaks(hidden[recycled], keep - stay)
        merged = means(hidden[recycled], member, keep - stay)
        stands = torch.cat([best, recycled[centres]])
        rows = torch.cat([hidden[best], merged])
        index, order = stands.sort()
        return Kept(index, rows[order]) if self.in_place else Kept(index, rows, stands=stands)


@dataclass(frozen=True)
class Spread:
    """DART's selection: pivots, and what is least like them.

    The `visual_pivots` tokens with the largest scores stay. These, then the `text_pivots` text
    tokens with the largest key norms, take turns: each takes the tokens left whose cosine with it
    is smallest, as many as the rest shared among the pivots to come, rounded up.
    official_counts: the published count, pivots + 8·⌊keep / 8⌋ (keep + 4 where 8 divides keep).
    """

    visual_pivots: int = 4
    text_pivots: int = 4
    official_counts: bool = False

    merges = False

    def __post_init__(self):
        if min(self.visual_pivots, self.text_pivots) < 0 or not self.visual_pivots:
            raise ValueError(
                f"visual_pivots={self.visual_pivots}, text_pivots={self.text_pivots}: give one "
                "visual pivot or more, and no negative number"
            )

    def __call__(
        self,
        scores: Tensor,
        keep: int,
        normed: Tensor,
        text_normed: Tensor,
        text_key_norms_before: Tensor,
    ) -> Kept:
        top_k(scores, keep)
        if self.official_counts:
            pivots = self.visual_pivots + self.text_pivots
            keep = min(len(scores), self.visual_pivots + keep // pivots * pivots)
        own = scores.sort(descending=True, stable=True).indices[: min(self.visual_pivots, keep)]
        text = text_key_norms_before.sort(descending=True, stable=True).indices[: self.text_pivots]
        pivots = torch.cat([normed[own], text_normed[text]])
        unlike = -_unit(pivots) @ _unit(normed).mT  # (pivots, N_v)
        free = _all_but(scores, own)
        left = keep - len(own)
        for turn, row in enumerate(unlike):
            share = math.ceil(left / (len(pivots) - turn))
            order = row.masked_fill(~free, -torch.inf).sort(descending=True, stable=True).indices
            free[order[:share]] = False
            left -= share
        return Kept((~free).nonzero()[:, 0])


def _all_but(scores: Tensor, index: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).index_fill(0, index, False)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
