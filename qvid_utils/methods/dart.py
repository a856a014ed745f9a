"""DART (Wen et al.): stop looking for important tokens, duplication matters more.

Idea: a few pivots stay, and with them whatever is least like them; which pivots matters little.
Formula: pivots are the visual and text tokens with the largest L1 norm of their cached keys; each
pivot in turn takes the tokens left whose final-norm stream has the smallest cosine with its own.
EMNLP 2025, https://arxiv.org/abs/2502.11494
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.cuts import at
from ..algebra.selection import Kept, top_k
from .base import Method, paper
from .options import Options, option
from .scoring import rule


@rule(source="DART (Wen et al., 2025), official code: the norm that chooses its pivots")
def key_norm(key_norms_before: Tensor) -> Tensor:
    """L1 norm of a token's keys in the layer that has just run.

    key_norms_before (N_v,) → (N_v,), >= 0.
    """
    return key_norms_before.float()


@dataclass(frozen=True)
class Spread(Options):
    """DART's selection: pivots, and what is least like them.

    The `visual_pivots` tokens with the largest scores stay. These, then the `text_pivots` text
    tokens with the largest key norms, take turns: each takes the tokens left whose cosine with it
    is smallest, as many as the rest shared among the pivots to come, rounded up.
    official_counts: the published count, pivots + 8·⌊keep / 8⌋ (keep + 4 where 8 divides keep).
    """

    visual_pivots: int = option(4, least=1)
    text_pivots: int = option(4, least=0)
    official_counts: bool = False

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
        unlike = -normalize(pivots, dim=-1) @ normalize(normed, dim=-1).mT  # (pivots, N_v)
        free = torch.ones_like(scores, dtype=torch.bool).index_fill(0, own, False)
        left = keep - len(own)
        for turn, row in enumerate(unlike):
            share = math.ceil(left / (len(pivots) - turn))
            order = row.masked_fill(~free, -torch.inf).sort(descending=True, stable=True).indices
            free[order[:share]] = False
            left -= share
        return Kept((~free).nonzero()[:, 0])


methods = (
    Method(
        "dart",
        key_norm,
        at(2, source="DART, K = 2"),
        select=Spread(),
        source="DART (Wen et al., 2025), official code, K = 2",
        departures="Exactly keep tokens, shared among the pivots as evenly as can be; "
        "official_counts=True keeps 4 + 8·⌊keep / 8⌋. Pivots take turns by falling norm, the "
        "picture's first; in the code a set of Python's decides. The reading of the cached states "
        "as rotated keys, and of the text as all that follows the picture, is ours.",
        label="DART",
        **paper("EMNLP 2025", "2502.11494", "wen2025dart"),
    ),
)
