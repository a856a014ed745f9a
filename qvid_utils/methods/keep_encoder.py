"""Selections of the encoder-side methods that merge nothing: spread, coverage, chunks.

Each is a frozen dataclass whose fields are the method's constants; called as any selection,
`(scores, keep, <words>) -> Kept`. All but DivPrune's choose in each picture for itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores, top_k

__all__ = ["Chunks", "Coverage", "Rate", "Thinned", "greedy_dpp", "max_min"]


@dataclass(frozen=True)
class Rate:
    """HiRED on LLaVA-1.5: the best of each picture, as `top_k_by_picture`.

    official_counts: a budget is given as a rate with three digits there, and K tokens of n become
    int(n · rate): 191, 127, 63 for 192, 128, 64 of 576.
    """

    official_counts: bool = False

    def __call__(self, scores: Tensor, keep: int, frames: Tensor) -> Kept:
        check_scores(scores, keep)

        def choose(tokens: Tensor, k: int) -> Choice:
            n = len(tokens)
            if self.official_counts:
                k = max(1, n * (1000 * k // n) // 1000)
            return best(scores[tokens], k).sort().values, None, None

        return Kept(by_picture(frames, keep, choose)[0])


@dataclass(frozen=True)
class Thinned:
    """VisPruner: the best int(K · important), and of the others what is least alike.

    The others, best first, are split into every second one and the rest; of the first half the
    `step` most similar (cosine of the patches) to one of the second half go, and its survivors,
    the most similar first, stand before the second half in the next round.
    """

    important: float = 0.5
    step: int = 8

    def __post_init__(self):
        if not 0 <= self.important <= 1 or self.step < 1:
            raise ValueError(
                f"{self}: give a share from 0 to 1 as important, and a step of 1 or more"
            )

    def __call__(self, scores: Tensor, keep: int, patches: Tensor, frames: Tensor) -> Kept:
        check_scores(scores, keep)
        unit = normalize(patches.float(), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            order, first = best(scores[tokens], len(tokens)), int(k * self.important)
            cosine = unit[tokens] @ unit[tokens].T
            diverse = self._thin(order[first:], cosine, k - first)
            return torch.cat([order[:first], diverse]).sort().values, None, None

        return Kept(by_picture(frames, keep, choose)[0])

    def _thin(self, left: Tensor, cosine: Tensor, count: int) -> Tensor:
        if not count:
            return left[:0]
        while len(left) > count:
            even, odd = left[::2], left[1::2]
            alike = cosine[even[:, None], odd].amax(-1)
            gone = min(self.step, len(left) - count, len(even))
            left = torch.cat([even[best(alike, len(even))[gone:]], odd])
        return left


@dataclass(frozen=True)
class Coverage:
    """SCOPE: tokens one by one, each time the largest gain in coverage times its score.

    gain of m = Σ_n max(0, cos(n, m) - the best cosine of n to a token picked so far), weighted by
    score^alpha; cosines of the patches.
    """

    alpha: float = 1.0

    def __post_init__(self):
        _check_alpha(self.alpha)

    def __call__(self, scores: Tensor, keep: int, patches: Tensor, frames: Tensor) -> Kept:
        check_scores(scores, keep)
        unit, weight = normalize(patches.float(), dim=-1), scores.float() ** self.alpha

        def choose(tokens: Tensor, k: int) -> Choice:
            cosine = unit[tokens] @ unit[tokens].T
            covered, picked = torch.zeros_like(weight[tokens]), []
            taken = torch.zeros_like(covered, dtype=torch.bool)
            for _ in range(k):
                gain = (cosine - covered[:, None]).clamp(min=0).sum(0) * weight[tokens]
                new = gain.masked_fill(taken, -1).argmax()
                covered, taken[new] = torch.maximum(covered, cosine[:, new]), True
                picked.append(new)
            return torch.stack(picked).sort().values, None, None

        return Kept(by_picture(frames, keep, choose)[0])


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha={alpha}: give a number, 0 or more")


def max_min(scores: Tensor, keep: int, features: Tensor) -> Kept:
    """DivPrune: the highest score first, then again and again the token that lies farthest from
    those picked (cosine distance to the nearest of them).

    scores (N_v,), features (N_v, d) → Kept with index (keep,) ascending. A picked token is out of
    the choice, a tie goes to the earlier one. Errors as in `top_k`.
    """
    check_scores(scores, keep)
    unit = normalize(features.float(), dim=-1)
    new = scores.argmax()
    picked, distance = [new], torch.full_like(unit[:, 0], torch.inf)
    for _ in range(keep - 1):
        distance = torch.minimum(distance, 1 - unit @ unit[new])
        distance[new] = -torch.inf
        new = distance.argmax()
        picked.append(new)
    return Kept(torch.stack(picked).sort().values)


@dataclass(frozen=True)
class Chunks:
    """HoloV: a share of the budget for each of `chunks` stretches of the picture, there the best.

    A chunk's weight is the mean over its tokens of score + alpha · variance, where the variance (of
    the cosines to the chunk's other tokens) is scaled to the mean of the chunk's scores. Shares are
    rounded down, what is left goes to the heaviest chunks, one each. Chunk after chunk, the best
    first: the tokens are put in that order.
    A chunk kept whole stays in the order of the picture. in_place: so do all tokens.
    official_counts: what a full chunk cannot take is lost and padded with zero vectors, as in the
    official code; else it goes to the heaviest chunks that have room, one each in turn.
    """

    chunks: int = 16
    alpha: float = 0.09
    official_counts: bool = False
    in_place: bool = False

    @property
    def reorders(self) -> bool:
        return not self.in_place

    @property
    def merges(self) -> bool:
        return not self.in_place  # it puts tokens in another order

    def __post_init__(self):
        if self.chunks < 1:
            raise ValueError(f"chunks={self.chunks}: give 1 or more")
        _check_alpha(self.alpha)
        if self.in_place and self.official_counts:
            raise ValueError("in_place=True has no place for the zero vectors of official_counts")

    def __call__(
        self, scores: Tensor, keep: int, features: Tensor, hidden: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(features.float(), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            parts = [part for part in tokens.tensor_split(self.chunks) if len(part)]
            weights = torch.stack([self._weight(scores[part], unit[part]) for part in parts])
            counts = self._counts(weights, [len(part) for part in parts], k)
            order = torch.cat([
                p if n == len(p) else p[best(scores[p], n)]
                for p, n in zip(parts, counts, strict=True)
            ])  # fmt: skip
            numbers = torch.searchsorted(tokens, order)
            if self.in_place:
                return numbers.sort().values, None, None
            zeros = hidden.new_zeros(k - len(order), hidden.shape[1])
            free = torch.ones_like(tokens, dtype=torch.bool)
            free[numbers] = False
            slots = torch.cat([numbers, free.nonzero()[: len(zeros), 0]]).sort().values
            nobody = numbers.new_full((len(zeros),), -1)
            return slots, torch.cat([hidden[order], zeros]), torch.cat([numbers, nobody])

        index, rows, stands = by_picture(frames, keep, choose, None if self.in_place else hidden)
        return Kept(index, rows, stands=stands)

    def _weight(self, scores: Tensor, unit: Tensor) -> Tensor:
        scores = scores.double() * 1e3  # the small constants below are meant for this scale
        if len(scores) == 1:
            return scores[0]
        cosine = (unit @ unit.T).double().fill_diagonal_(0)
        others = len(scores) - 1
        mean = cosine.sum(1, keepdim=True) / others
        variance = (cosine - mean).square().sum(1) / others
        scale = scores.abs().mean() / (variance.mean() + 1e-6)
        return (scores + self.alpha * scale * variance).mean()

    def _counts(self, weights: Tensor, room: list[int], keep: int) -> list[int]:
        heaviest = best(weights, len(room)).tolist()
        counts = (weights / (weights.sum() + 1e-6) * keep).floor().long().tolist()
        for i in heaviest[: keep - sum(counts)]:
            counts[i] += 1
        counts = [min(pair) for pair in zip(counts, room, strict=True)]
        while sum(counts) < keep and not self.official_counts:
            for i in heaviest[:]:
                if counts[i] < room[i] and sum(counts) < keep:
                    counts[i] += 1
        return counts


def greedy_dpp(scores: Tensor, keep: int, features: Tensor) -> Kept:
    """Greedy MAP of a determinantal point process: relevant tokens that differ from each other.

    Kernel L_ij = r_i cos(f_i, f_j) r_j with relevance r = scores; each step takes the token that
    raises det L of the chosen ones most, kept track of by a Cholesky factor. Where the rank of L is
    used up (no determinant is left to raise), the rest goes by relevance.
    scores (N_v,) >= 0, features (N_v, d) → Kept; float64. Errors as in `top_k`.
    """
    top_k(scores, keep)
    unit = normalize(features.double(), dim=-1)
    r = scores.double()
    kernel = r[:, None] * (unit @ unit.mT) * r
    gain = kernel.diagonal().clone()  # what each token would multiply the determinant by
    floor = 1e-10 * gain.max()
    factor = kernel.new_zeros(keep, len(r))
    chosen = torch.zeros(len(r), dtype=torch.bool, device=r.device)
    for step in range(keep):
        left = gain.masked_fill(chosen, -torch.inf)
        if not bool(left.max() > floor):
            rest = r.masked_fill(chosen, -torch.inf).sort(descending=True, stable=True).indices
            chosen[rest[: keep - step]] = True
            break
        j = int(left.argmax())
        chosen[j] = True
        factor[step] = (kernel[j] - factor[:step, j] @ factor[:step]) / gain[j].sqrt()
        gain = gain - factor[step].square()
    return Kept(chosen.nonzero()[:, 0])
