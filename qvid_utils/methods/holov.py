"""HoloV (Zou et al.): do not just chase highlighted tokens, keep the holistic context.

Idea: attention gathers in a few places; so each stretch of the picture gets a share of the budget.
Formula: 16 stretches of the reading order; the weight of one is the mean over its tokens of
s_j + α · variance_j, s the class token's attention times 1000, variance that of the cosines to the
stretch's other tokens, scaled to the mean of s; α = 0.09. In each the tokens with the largest s.
NeurIPS 2025, https://arxiv.org/abs/2510.02912
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, class_attention, received
from .options import Options, option


@dataclass(frozen=True)
class Chunks(Options):
    """HoloV: a share of the budget for each of `chunks` stretches of the picture, there the best.

    A chunk's weight is the mean over its tokens of score + alpha · variance, where the variance (of
    the cosines to the chunk's other tokens) is scaled to the mean of the chunk's scores. Shares are
    rounded down, what is left goes to the heaviest chunks, one each. Chunk after chunk, the best
    first: the tokens are put in that order.
    A chunk kept whole stays in the order of the picture. in_place: so do all tokens.
    official_counts: what a full chunk cannot take is lost and padded with zero vectors, as in the
    official code; else it goes to the heaviest chunks that have room, one each in turn.
    """

    chunks: int = option(16, least=1)
    alpha: float = option(0.09, least=0)
    official_counts: bool = False
    in_place: bool = False

    mixes: ClassVar[bool] = False  # it only puts tokens in another order

    @property
    def reorders(self) -> bool:
        return not self.in_place

    @property
    def merges(self) -> bool:
        return not self.in_place

    def __post_init__(self):
        super().__post_init__()
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


published = Method(
    "holov",
    class_attention,
    select=Chunks(),
    source="HoloV (Zou et al., 2025), official code, 16 chunks, α = 0.09",
    departures="What a full chunk cannot take goes to others (official_counts=True: zero vectors, "
    "as in the code). α is there and changes next to nothing, by the official formula: the "
    "variance is scaled to the mean of the scores, so that it makes every weight 1 + α times as "
    "large. A chunk of one token is weighted like the rest (the code forgets a factor of 1000 "
    "there). " + BY_PICTURE,
    label="HoloV",
    **paper("NeurIPS 2025", "2510.02912", "zou2025holov"),
    **BEFORE,
)

methods = (
    published,
    received(
        published,
        select=Chunks(in_place=True),
        source="HoloV with mean received attention",
        departures="Tokens stay in the order of the picture.",
    ),
)
