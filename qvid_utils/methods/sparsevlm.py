"""SparseVLM (Zhang et al.): text tokens rate the visual ones, and what is dropped is recycled.

Idea: the text that the picture speaks to should say which visual tokens stay; of the others the
best are clustered and merged, so that what they say is not lost.
Formula: raters are the text tokens after the picture whose relevance, the mean over visual tokens v
of softmax over text t of (v · t) at the model's input, is above its mean; s_j = mean over heads and
raters of the attention paid to visual token j in the layer that has just run.
ICML 2025, https://arxiv.org/abs/2410.04417; SparseVLM+ is version 2.0 of its repository.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.clustering import density_peaks, means
from ..algebra.cuts import staged
from ..algebra.selection import Kept, top_k
from .base import Method, adapted, paper
from .options import Options, option
from .scoring import rule


def _raters(relevance: Tensor) -> Tensor:
    # the text that the picture calls for more than for the mean; all of it where all is equal
    above = relevance > relevance.mean()
    return above if bool(above.any()) else torch.ones_like(above)


@rule(source="SparseVLM (Zhang et al., 2025), v1.5, official code")
def sparsevlm(text_rows_before: Tensor, text_relevance: Tensor) -> Tensor:
    """Attention that the raters paid in the layer that has just run, mean over heads and raters.

    Raters are the text tokens after the picture whose relevance is above its mean.
    text_rows_before (H, N_t, N_v), text_relevance (N_t,) → (N_v,), in [0, 1].
    """
    return text_rows_before.float()[:, _raters(text_relevance.float())].mean((0, 1))


@rule(source="SparseVLM+ (SparseVLM repository, version 2.0), official code")
def sparsevlm_plus(
    text_rows_before: Tensor, text_relevance: Tensor, rope_bias: Tensor, *, heads: int = 14
) -> Tensor:
    """As `sparsevlm`, each attention divided by what RoPE alone gives, mean of the strongest heads.

    The heads with the largest sum over raters and visual tokens count: `heads` of them, or half of
    the model's where it has fewer than twice as many (14 of 28 is what the source's comment says).
    text_rows_before (H, N_t, N_v), text_relevance (N_t,), rope_bias (N_t, N_v) → (N_v,); the bias
    may be negative, so a score may be, too. ValueError unless heads is 1 or more.
    """
    if heads < 1:
        raise ValueError(f"heads={heads}: let at least one head count")
    raters = _raters(text_relevance.float())
    corrected = text_rows_before.float()[:, raters] / rope_bias.float()[raters]
    few = min(heads, max(1, len(corrected) // 2))
    order = corrected.sum((1, 2)).sort(descending=True, stable=True).indices
    return corrected[order[:few].sort().values].mean((0, 1))


@dataclass(frozen=True)
class Recycle(Options):
    """SparseVLM's selection: the best tokens stay, some of the others are clustered and merged.

    Of D dropped tokens the int(part·D) + 1 best form int(that / size) + 1 clusters by density
    peaks on the stream; each becomes its plain mean. All count inside `keep`: as many as possible
    stay as they are, and at least one does (so a tiny `keep` gets fewer clusters); keep = N_v
    merges nothing. Merged tokens stand behind the kept ones, in the order of their centres
    (positions must be contiguous), or, `in_place`, where their centre stood.
    """

    part: float = option(0.3, least=0, below=1)
    size: int = option(10, least=1)
    in_place: bool = False

    merges = True

    @property
    def reorders(self) -> bool:
        return not self.in_place

    def clusters(self, dropped: int) -> tuple[int, int]:
        """(how many of the dropped tokens are recycled, into how many clusters)."""
        recycled = int(self.part * dropped) + 1
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
        others = torch.ones_like(scores, dtype=torch.bool).index_fill(0, best, False)
        others = others.nonzero()[:, 0]
        recycled = others[top_k(scores[others], self.clusters(len(others))[0]).index]
        centres, member = density_peaks(hidden[recycled], keep - stay)
        merged = means(hidden[recycled], member, keep - stay)
        stands = torch.cat([best, recycled[centres]])
        rows = torch.cat([hidden[best], merged])
        index, order = stands.sort()
        return Kept(index, rows[order]) if self.in_place else Kept(index, rows, stands=stands)


# LLaVA-1.5, tokens kept where layers 3, 7 and 16 begin, from the official code: version 1.5 (top-k
# of 300/200/110, 303/110/36, 238/48/26, 66/30/17, and the merged tokens), then "+".
# Labels book a pruning layer at its output: the means at layer inputs are 206.5, 145.4, 114.1 and
# 82.25 (v1.5), 206.75, 144.1, 113.9 and 81.8 (+).
LISTS = {
    (576, 32, 192): (309, 204, 113),
    (576, 32, 128): (312, 117, 39),
    (576, 32, 96): (249, 55, 27),
    (576, 32, 64): (82, 32, 18),
}
PLUS_LISTS = {
    (576, 32, 192): (300, 200, 118),
    (576, 32, 128): (238, 108, 60),
    (576, 32, 96): (246, 54, 28),
    (576, 32, 64): (66, 34, 20),
}

PAPER = paper("ICML 2025", "2410.04417", "zhang2025sparsevlm")
BUDGET = (
    "192, 128, 96 and 64 of 576 tokens in 32 layers are the official lists, whose true means over "
    "layer inputs lie 14 to 18 tokens above the label; else keep is the mean, and one ratio of the "
    "current tokens, solved for, serves all stages. Scores in float32, not in half precision. "
)

published = Method(
    "sparsevlm",
    sparsevlm,
    staged(
        (3, 7, 16),
        32,
        counts=LISTS,
        source="SparseVLM v1.5, after layers 2, 6, 15 of 32; its lists for LLaVA-1.5",
    ),
    select=Recycle(),
    positions="contiguous",
    source="SparseVLM (Zhang et al., 2025), v1.5, official code",
    departures=BUDGET + "Merged tokens count inside K. Without the noise of 1e-6 on the densities "
    "(a tie goes to the earlier token), so that a run repeats; a merged token is the plain mean, "
    "without 1e-6 in the denominator.",
    label="SparseVLM",
    curve=("green", "h", "-"),
    **PAPER,
)

methods = (
    published,
    adapted(
        published,
        "in_place",
        select=Recycle(in_place=True),
        positions="original",
        source="SparseVLM v1.5, our adaptation to positions along several axes",
        departures="Not published: a merged token stands where its cluster's centre stood, and "
        "all positions are kept; the mean of a single cluster, whose centre could be any of its "
        "tokens, stands where the earliest of them stood. Else as sparsevlm.",
        label="SparseVLM, merged in place",
        short="SparseVLM",
    ),
    Method(
        "sparsevlm_plus",
        sparsevlm_plus,
        staged(
            (3, 7, 16),
            32,
            counts=PLUS_LISTS,
            source="SparseVLM+, after layers 2, 6, 15 of 32; its lists for LLaVA-1.5",
        ),
        source="SparseVLM+ (SparseVLM repository, version 2.0), official code",
        departures=BUDGET + "The code takes 14 heads, of 28 by its comment; a model with fewer "
        "than 28 gives half of its heads.",
        label="SparseVLM+",
        curve=("green", "s", "--"),
        **PAPER | {"venue": "repository, 2025"},
    ),
)
