"""SVD-Prune (Apedo et al.): leverage of the picture's own features, without question or attention.

Idea: the tokens that take part in the dominant variance of the features carry the picture.
Formula: F = U Σ Vᵀ of the N × D patch features, k the fewest directions with Σ_{j<=k} σ_j² >= τ of
the whole, l_i = (1/k) Σ_{j<=k} U_ij² (section 3.2); the K largest stay, re-sorted into the order of
the picture.
arXiv 2604.11530, https://arxiv.org/abs/2604.11530; no public code.
"""

import torch
from torch import Tensor

from ..algebra.leverage import leverage
from ..algebra.selection import top_k_by_picture
from ..algebra.spectrum import check_rank, widen
from .base import Method, adapted, paper
from .class_token import BEFORE, BY_PICTURE
from .scoring import rule


@rule(source="SVD-Prune, section 3.2: leverage of the encoder's features, energy threshold τ")
def svd_prune(
    patches: Tensor,
    frames: Tensor,
    *,
    tau: float = 0.9,
    center: bool = False,
    per_frame: bool = False,
) -> Tensor:
    """Leverage of the patches F = U Σ Vᵀ in their leading directions, l_i = (1/k) Σ_{j<=k} U_ij².

    k is the fewest directions whose σ² add up to `tau` of the whole, and below N, where all
    leverages would be 1. center: take the mean patch off first; per_frame: each picture, tile or
    frame is a matrix of its own, else the whole prompt is one.
    patches (N_v, D), frames (N_v,) → (N_v,), in [0, 1]; sums to 1 for each matrix; 0 for a token
    that shows no place. ValueError unless 0 < tau < 1.
    """
    if not isinstance(tau, float):
        raise ValueError(f"tau={tau!r}: give a share of the energy between 0 and 1")
    check_rank(tau)
    scores = patches.new_zeros(len(patches), dtype=torch.float32)
    matrices = [frames == f for f in frames.unique() if f >= 0] if per_frame else [frames >= 0]
    for tokens in matrices:
        scores[tokens] = _participation(widen(patches[tokens]), tau, center).to(scores)
    return scores


def _participation(F: Tensor, tau: float, center: bool) -> Tensor:
    F = F - F.mean(0) * center
    found = leverage(F.mT, tau)  # sums to k
    if len(F) > 1 and round(float(found.sum())) >= len(F):
        found = leverage(F.mT, len(F) - 1)
    return found / found.sum().clamp(min=1)


published = Method(
    "svd_prune",
    svd_prune,
    source="SVD-Prune (arXiv 2604.11530), section 3.2; no public code",
    departures="The features are what the model projects, before its projector, as the paper's "
    "operation counts show (on Qwen2-VL before the merger's norm; behind the projector 79 % of the "
    "kept tokens are the same on the embedded LLaVA and 9 % on the embedded Qwen2-VL, where 11 % "
    "are by chance), and they are not centred. The paper leaves open: centring (off), energy (σ²), "
    "τ (0.9), positions (renumbered), and every model but LLaVA-1.5: all pictures and frames of a "
    "prompt are one matrix, a token that joins patches holds them in a row. k stays below N. A "
    "token that shows no place scores 0.",
    label="SVD-Prune",
    curve=("vermilion", "H", "-"),
    **paper("arXiv 2604.11530", "2604.11530", "apedo2026svdprune"),
    **BEFORE,
)

central = True  # one of the papers that this workbook is about
methods = (
    published,
    adapted(
        published,
        "per_frame",
        select=top_k_by_picture,
        params={"per_frame": True},
        source="SVD-Prune (arXiv 2604.11530), section 3.2, for each frame",
        departures="Not in the paper: each picture, tile or frame is a matrix of its own. "
        + BY_PICTURE,
        label="SVD-Prune per frame",
    ),
)
