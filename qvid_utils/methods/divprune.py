"""DivPrune (Alvar et al.): the most diverse tokens, by the max–min diversity problem.

Idea: importance scores keep duplicates; keep instead tokens that are far from each other.
Formula: first the token farthest from its nearest neighbour (cosine distance of the projected
features), then again and again the one whose distance to the nearest picked one is largest.
CVPR 2025, https://arxiv.org/abs/2503.02175
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Kept, check_scores
from .base import Method, paper
from .class_token import BEFORE
from .scoring import rule


@rule(source="DivPrune (Alvar et al., 2025): the criterion of its first pick")
def divprune(features: Tensor) -> Tensor:
    """Cosine distance of a token to its nearest neighbour among the others.

    features (N_v, d) → (N_v,), in [0, 2]; a single token scores 0.
    """
    unit = normalize(features.float(), dim=-1)
    near = (unit @ unit.T).fill_diagonal_(-1).amax(-1)
    return 1 - near if len(unit) > 1 else torch.zeros_like(near)


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


methods = (
    Method(
        "divprune",
        divprune,
        select=max_min,
        source="DivPrune (Alvar et al., 2025), official code",
        departures="A picked token is out of the choice (the code can pick a duplicate again). "
        "Exactly K. Over all visual tokens of the prompt, line breaks too, as in its LLaVA-NeXT "
        "code.",
        label="DivPrune",
        curve=("ink", "s", "-."),
        **paper("CVPR 2025", "2503.02175", "alvar2025divprune"),
        **BEFORE,
    ),
)
