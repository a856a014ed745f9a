"""HiRED (Arif et al.): high-resolution early dropping by the class token's attention.

Idea: a budget is shared out among the tiles of a picture by what the class token attends to in an
early layer, and spent in each tile by its attention in a late one. LLaVA-1.5 has one tile.
Formula: s_j = sum over heads of the attention that the class token pays to patch j in the layer
whose output the model projects.
AAAI 2025, https://arxiv.org/abs/2408.10945
"""

from dataclasses import dataclass

from torch import Tensor

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores
from .base import Method
from .class_token import BEFORE, BY_PICTURE, SAME_ROW, class_attention
from .options import Options

__all__ = ["Rate", "methods"]


@dataclass(frozen=True)
class Rate(Options):
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


methods = (
    Method(
        "hired",
        class_attention,
        select=Rate(),
        source="HiRED (Arif et al., 2025), official code for LLaVA-1.5",
        departures=SAME_ROW + "Exactly K; official_counts=True gives its 191, 127, 63 for 192, "
        "128, 64 of 576. Its sharing out among the tiles of LLaVA-NeXT is not here: no family of "
        "this package has such tiles. " + BY_PICTURE,
        label="HiRED",
        venue="AAAI 2025",
        link="https://arxiv.org/abs/2408.10945",
        key="arif2025hired",
        **BEFORE,
    ),
)
