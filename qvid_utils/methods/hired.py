"""HiRED (Arif et al.): high-resolution early dropping by the class token's attention.

Idea: a budget is shared out among the tiles of a picture by what the class token attends to in an
early layer, and spent in each tile by its attention in a late one. LLaVA-1.5 has one tile.
Formula: s_j = sum over heads of the attention that the class token pays to patch j in the layer
whose output the model projects. Of K tokens the whole picture keeps int(α·K); of its int((1-α)·n)
patches that the class token attends to most in the first layer, c_t lie in the part of tile t,
which keeps the share c_t / Σ c of the rest.
AAAI 2025, https://arxiv.org/abs/2408.10945
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.selection import Kept, best, check_scores, shares
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, SAME_ROW, class_attention
from .options import Options, option


def pictures_of(frames: Tensor, tiles: Tensor) -> list[list[Tensor]]:
    """The tokens of each picture: [all], or [whole, tile, tile, ...] where it is shown twice.

    frames, tiles (N_v,): the words. What several tiles show is the picture before it in large.
    """
    found: list[list[Tensor]] = []
    for frame in range(int(frames.max()) + 1):
        tokens = (frames == frame).nonzero()[:, 0]
        parts = [tokens[tiles[tokens] == tile] for tile in tiles[tokens].unique()]
        if len(parts) > 1 and found:
            found[-1] += parts
        elif len(tokens):
            found.append([tokens])
    return found


def weighted_shares(weights: list[int], sizes: list[int], keep: int, exact: bool) -> list[int]:
    """`keep` in proportion to the weights, rounded down, none above its size; exact: what is left
    goes to the largest remainders that have room, then to whoever has, the earlier first."""
    total = sum(weights) or len(weights)
    weights = weights if sum(weights) else [1] * len(weights)
    parts = [min(n, keep * w // total) for w, n in zip(weights, sizes, strict=True)]
    order = sorted(range(len(sizes)), key=lambda i: (-(keep * weights[i] % total), i))
    while exact and sum(parts) < min(keep, sum(sizes)):
        for i in order:
            parts[i] += int(sum(parts) < keep and parts[i] < sizes[i])
    return parts


@dataclass(frozen=True)
class Tiles(Options):
    """HiRED: the best of each picture; of one that is shown whole and in tiles, of each part.

    alpha: share of the whole picture. official_counts: a budget is given as a rate with three
    digits there, and K tokens of n become int(n · rate) (191, 127, 63 for 192, 128, 64 of 576);
    what rounding down leaves of the tiles' shares is lost.
    """

    alpha: float = option(0.5, least=0, most=1)
    official_counts: bool = False

    def __call__(
        self, scores: Tensor, keep: int, frames: Tensor, tiles: Tensor, first_cls_row: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        pictures, early = pictures_of(frames, tiles), first_cls_row.sum(0)
        sizes = [sum(map(len, parts)) for parts in pictures]
        chosen, shown = [], sum(sizes)
        for parts, n, k in zip(pictures, sizes, shares(sizes, min(keep, shown)), strict=True):
            if self.official_counts:
                k = max(1, n * (1000 * k // n) // 1000)
            for tokens, count in zip(parts, self._budgets(parts, k, early), strict=True):
                chosen.append(tokens[best(scores[tokens], count)])
        if keep > shown:
            chosen.append((frames < 0).nonzero()[: keep - shown, 0])
        return Kept(torch.cat(chosen).sort().values)

    def _budgets(self, parts: list[Tensor], keep: int, early: Tensor) -> list[int]:
        whole, *tiles = parts
        if not tiles:
            return [keep]
        sizes, n = [len(tile) for tile in tiles], len(whole)
        first = max(int(keep * self.alpha), keep - sum(sizes))
        top = best(early[whole], int(n * (1 - self.alpha)))
        # as the official code has it: strips of the reading order, not quadrants
        strips = (top * len(tiles) // n).bincount(minlength=len(tiles)).tolist()
        rest = weighted_shares(strips, sizes, keep - min(n, first), not self.official_counts)
        return [min(n, first), *rest]


methods = (
    Method(
        "hired",
        class_attention,
        select=Tiles(),
        source="HiRED (Arif et al., 2025), official code for LLaVA-1.5 and LLaVA-NeXT",
        departures=SAME_ROW + "Exactly K; official_counts=True gives its 191, 127, 63 for 192, "
        "128, 64 of 576. Tiles of LLaVA-NeXT as in the code: their shares follow strips of the "
        "reading order of the whole picture, where the paper draws quadrants; here a tile holds "
        "what the model shows of it, without the padding that the model cuts off. " + BY_PICTURE,
        label="HiRED",
        **paper("AAAI 2025", "2408.10945", "arif2025hired"),
        **BEFORE,
    ),
)
