"""SCOPE (Deng et al.): saliency and coverage.

Idea: tokens that the class token attends to, and that cover what no kept token is like.
Formula: one by one, the token m with the largest Σ_n max(0, cos(n, m) - best cosine of n to a token
picked so far) times s_m^α; cosines of the patches, s the class token's attention, α = 1.
NeurIPS 2025, https://arxiv.org/abs/2510.24214
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, by_picture, check_scores
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, class_attention, received
from .options import Options, option


@dataclass(frozen=True)
class Coverage(Options):
    """SCOPE: tokens one by one, each time the largest gain in coverage times its score.

    gain of m = Σ_n max(0, cos(n, m) - the best cosine of n to a token picked so far), weighted by
    score^alpha; cosines of the patches.
    """

    alpha: float = option(1.0, least=0)

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


published = Method(
    "scope",
    class_attention,
    select=Coverage(),
    source="SCOPE (Deng et al., 2025), official code, α = 1",
    departures="The gain times the score, the code's default; its other mode, which adds the two, "
    "has no option here. Mean over heads for their sum, which picks the same. float32. "
    + BY_PICTURE,
    label="SCOPE",
    **paper("NeurIPS 2025", "2510.24214", "deng2025scope"),
    **BEFORE,
)

methods = (
    published,
    received(published, source="SCOPE with mean received attention"),
)
