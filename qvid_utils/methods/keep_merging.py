"""Selections that merge: VisionZip and PruMerge, as published and adapted, and TRIM.

As published they need a class token and write before the projector (`Kept.patches`), in an order
of their own. Adapted to any tower they write behind it (`Kept.merged`), and every token keeps its
place. All choose in each picture for itself, within one budget.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores, top_k

__all__ = ["PruMerge", "PruMergeInPlace", "VisionZip", "VisionZipInPlace", "WithMean"]


@dataclass(frozen=True)
class VisionZip:
    """VisionZip: the class token, the dominant tokens, and the contextual ones, merged of the rest.

    Of K tokens, contextual = round(K · share) and dominant = K - contextual, the class token among
    them. The rest in its order: evenly spaced targets, and every other token joins the target that
    its key (mean over heads) is most similar to; target + mean of its members is a contextual
    token. Order: class token, dominant as in the picture, contextual.
    """

    share: float = 10 / 64
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __post_init__(self):
        _check_share(self.share)

    def __call__(
        self,
        scores: Tensor,
        keep: int,
        tower_keys: Tensor,
        patches: Tensor,
        cls_patch: Tensor,
        frames: Tensor,
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().mean(0), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            contextual = min(round(k * self.share), k - 1)
            dominant, targets, merged = _contextual(
                scores[tokens], unit[tokens], patches[tokens], k - contextual - 1, contextual
            )
            used = torch.cat([dominant, targets])
            slots = torch.cat([used, _unused(used, len(tokens))[:1]])  # one for the class token
            content = [cls_patch[tokens[:1]], patches[tokens[dominant]], merged]
            stands = torch.cat([used.new_tensor([-1]), used])
            return slots.sort().values, torch.cat(content), stands

        index, rows, stands = by_picture(frames, keep, choose, patches)
        return Kept(index, patches=rows, stands=stands)


@dataclass(frozen=True)
class VisionZipInPlace:
    """VisionZip without a class token: K - round(K · share) dominant tokens, the rest merged as
    there but behind the projector; every token stays in its place."""

    share: float = 10 / 64
    merges: ClassVar[bool] = True

    def __post_init__(self):
        _check_share(self.share)

    def __call__(
        self, scores: Tensor, keep: int, tower_keys: Tensor, hidden: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().mean(0), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            contextual = min(round(k * self.share), k - 1)
            dominant, targets, merged = _contextual(
                scores[tokens], unit[tokens], hidden[tokens], k - contextual, contextual
            )
            slots, order = torch.cat([dominant, targets]).sort()
            return slots, torch.cat([hidden[tokens[dominant]], merged])[order], None

        return Kept(*by_picture(frames, keep, choose, hidden)[:2])


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"share={share}: give the part of contextual tokens, 0 or more, below 1")


def _check_neighbours(neighbours: int) -> None:
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours}: give how many are added, 0 or more")


def _contextual(
    scores: Tensor, unit: Tensor, rows: Tensor, dominant: int, contextual: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the dominant tokens and of the targets, and the contextual tokens (C, D)."""
    chosen = best(scores, dominant).sort().values
    left = _unused(chosen, len(scores))
    if not contextual:
        return chosen, left[:0], rows[:0]
    target = torch.zeros_like(left, dtype=torch.bool)
    target[:: max(1, len(left) // contextual)] = True
    target &= target.cumsum(0) <= contextual
    targets, members = left[target], left[~target]
    nearest = (unit[members] @ unit[targets].T).argmax(-1)
    sums = torch.zeros_like(rows[targets]).index_add_(0, nearest, rows[members])
    sizes = torch.bincount(nearest, minlength=contextual).clamp(min=1)
    return chosen, targets, rows[targets] + sums / sizes[:, None]


@dataclass(frozen=True)
class PruMerge:
    """LLaVA-PruMerge: K - 1 tokens, each with its nearest others added, and one of all the rest.

    To a kept token the `neighbours` others with the most similar keys are added, each times its
    score; the last token is the sum of the dropped ones times their scores. Scores are not
    normalised. Order: highest score first.
    plus: half of the kept tokens are the best, the other half lies evenly over the picture.
    adaptive: the published way without a budget: keep what scores above Q3 + 1.5 (Q3 - Q1), with
    `plus` every s-th token besides, s = int(int(1/ratio)/3); `keep` has no say.
    official_counts: K tokens and the one of the rest, K + 1.
    """

    plus: bool = False
    adaptive: bool = False
    official_counts: bool = False
    neighbours: int = 32
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __post_init__(self):
        _check_neighbours(self.neighbours)

    def __call__(
        self, scores: Tensor, keep: int, last_keys: Tensor, patches: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(last_keys.float(), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            own, rows = scores[tokens], patches[tokens]
            kept = self._kept(own, min(k if self.official_counts else k - 1, len(tokens) - 1))
            dropped = _unused(kept, len(tokens))
            rest = (own[dropped, None] * rows[dropped]).sum(0, keepdim=True)
            slots = torch.cat([kept, dropped[:1]]).sort().values
            merged = _with_neighbours(kept, own, unit[tokens], rows, self.neighbours)
            stands = torch.cat([kept, kept.new_tensor([-1])])
            return slots, torch.cat([merged, rest]), stands

        index, rows, stands = by_picture(frames, keep, choose, patches)
        return Kept(index, patches=rows, stands=stands)

    def _kept(self, scores: Tensor, count: int) -> Tensor:
        if not self.adaptive:
            return _best_and_spread(scores, count) if self.plus else best(scores, count)
        n = len(scores)
        low, high = torch.quantile(scores.float(), scores.new_tensor([0.25, 0.75]).float())
        above = int((scores > high + 1.5 * (high - low)).sum())
        above = min(max(above, 1), n - 1)
        kept = best(scores, above)
        if self.plus:
            step = max(1, n // max(above, 1) // 3)
            strided = torch.arange(0, n - 1, step, device=scores.device)
            kept = torch.cat([kept, strided[~torch.isin(strided, kept)]])[: n - 1]
        return kept


@dataclass(frozen=True)
class PruMergeInPlace:
    """PruMerge without a class token: K tokens, each with its nearest others added behind the
    projector, in their places; no token for the rest."""

    plus: bool = False
    neighbours: int = 32
    merges: ClassVar[bool] = True

    def __post_init__(self):
        _check_neighbours(self.neighbours)

    def __call__(
        self, scores: Tensor, keep: int, tower_keys: Tensor, hidden: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().transpose(0, 1).flatten(1), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            own, rows = scores[tokens], hidden[tokens]
            kept = (_best_and_spread(own, k) if self.plus else best(own, k)).sort().values
            return kept, _with_neighbours(kept, own, unit[tokens], rows, self.neighbours), None

        return Kept(*by_picture(frames, keep, choose, hidden)[:2])


def _best_and_spread(scores: Tensor, count: int) -> Tensor:
    """The best half (rounded up), then tokens in the middle of equal stretches of the picture; one
    that is taken leaves its turn to the next that is free."""
    n, few = len(scores), count // 2
    kept = best(scores, count - few).tolist()
    taken = set(kept)
    for j in range(few):
        place = (2 * j + 1) * n // (2 * few)
        while place in taken:
            place = (place + 1) % n
        kept.append(place)
        taken.add(place)
    return torch.tensor(kept, dtype=torch.long, device=scores.device)


def _with_neighbours(
    kept: Tensor, scores: Tensor, unit: Tensor, rows: Tensor, count: int
) -> Tensor:
    """rows of the kept tokens, plus score times row of each one's nearest others: (K, D)."""
    alike = unit[kept] @ unit.T
    alike[torch.arange(len(kept)), kept] = -torch.inf
    near = alike.sort(dim=-1, descending=True, stable=True).indices[:, : min(count, len(rows) - 1)]
    return rows[kept] + (scores[near, None] * rows[near]).sum(1)


def _unused(used: Tensor, n: int) -> Tensor:
    free = torch.ones(n, dtype=torch.bool, device=used.device)
    free[used] = False
    return free.nonzero()[:, 0]


@dataclass(frozen=True)
class WithMean:
    """TRIM: the K - 1 best tokens in the order of the picture, then the plain mean of all others;
    both before the projector.

    The slots are those of the best K, the mean stands in the last one. official_counts: K best and
    the mean, as many as the official code gives. Errors as in `top_k`.
    """

    official_counts: bool = False
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True  # the mean stands behind all others

    def __call__(self, scores: Tensor, keep: int, patches: Tensor) -> Kept:
        top_k(scores, keep)
        keep = min(keep + self.official_counts, len(scores))
        index = top_k(scores, keep).index
        alone = index[:0] if keep == 1 else top_k(scores, keep - 1).index
        others = torch.ones_like(scores, dtype=torch.bool)
        others[alone] = False
        mean = patches[others].mean(0, keepdim=True)
        stands = torch.cat([alone, alone.new_tensor([-1])])
        return Kept(index, patches=torch.cat([patches[alone], mean]), stands=stands)
