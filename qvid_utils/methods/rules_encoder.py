"""Scoring rules that look at the vision tower: what its class token attends to, what its tokens
receive, the leverage of its features. The cut is at the door of the language model."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.leverage import leverage
from ..algebra.spectrum import check_rank, widen
from .rules import rule

__all__ = [
    "alike", "class_attention", "divprune", "last_class_attention", "received_attention",
    "relevance", "slots", "svd_prune", "trim",
]  # fmt: skip


@rule(source="FasterVLM (Zhang et al., 2024), official code; HiRED, VisionZip: its sum over heads")
def class_attention(cls_row: Tensor) -> Tensor:
    """Attention that the tower's class token pays in the layer that gives the patches, mean over
    heads.

    cls_row (H_t, N_v) → (N_v,), in [0, 1]; 0 for a token that shows no place.
    """
    return cls_row.float().mean(0)


@rule(source="the adaptation to towers without a class token that VisPruner's author advises")
def received_attention(received: Tensor) -> Tensor:
    """Attention that a token receives from all tokens of its picture, mean over heads and queries.

    received (N_v,) → (N_v,), the same in float32, in [0, 1]; 0 for a token that shows no place.
    """
    return received.float()


@rule(source="LLaVA-PruMerge (Shang et al., 2024), official code")
def last_class_attention(last_cls_row: Tensor) -> Tensor:
    """Softmax of the class token's query times all keys of the tower's last layer, scaled by
    1/sqrt(D): the heads are never separated, so it is no attention of the model's.

    last_cls_row (N_v,) → (N_v,), the same in float32, in [0, 1]; 0 for a token that shows no place.
    """
    return last_cls_row.float()


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
    that shows no place. ValueError unless 0 < tau < 1, and where a switch is not True or False.
    """
    if not isinstance(tau, float):
        raise ValueError(f"tau={tau!r}: give a share of the energy between 0 and 1")
    for name, value in (("center", center), ("per_frame", per_frame)):
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r}: give True or False")
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


@rule(source="DivPrune (Alvar et al., 2025): the criterion of its first pick")
def divprune(features: Tensor) -> Tensor:
    """Cosine distance of a token to its nearest neighbour among the others.

    features (N_v, d) → (N_v,), in [0, 2]; a single token scores 0.
    """
    unit = normalize(features.float(), dim=-1)
    near = (unit @ unit.T).fill_diagonal_(-1).amax(-1)
    return 1 - near if len(unit) > 1 else torch.zeros_like(near)


# --- the text tower of CLIP --------------------------------------------------------------------


@rule(source="TRIM (Song et al., 2024), official code")
def trim(clip_image: Tensor, clip_text: Tensor, *, sign: int = -1) -> Tensor:
    """sign · v_j · t, a patch's embedding times the text's (its first segment), neither normalised.

    clip_image (N_v, D_p), clip_text (segments, D_p) → (N_v,). The official code negates: the
    patches least like the words stay. Its softmax over tokens changes no order and is left out.
    ValueError unless sign is 1 or -1.
    """
    _check_sign(sign)
    return sign * (clip_image.float() @ clip_text[0].float())


@rule(source="CDPruner (Zhang et al., 2025), official code")
def relevance(clip_image: Tensor, clip_text: Tensor, *, sign: int = -1) -> Tensor:
    """sign · cos(v_j, t), mean over the text's segments, stretched to (0, 1] in each prompt.

    clip_image (N_v, D_p), clip_text (segments, D_p) → (N_v,), in [1e-6, 1 + 1e-6] where the
    cosines differ by 1: (r - min + 1e-6) / (max - min), and all 1 where they are equal.
    ValueError unless sign is 1 or -1.
    """
    _check_sign(sign)
    v, t = (normalize(x.float(), dim=-1) for x in (clip_image, clip_text))
    r = (sign * (v @ t.T)).mean(-1)
    span = r.max() - r.min()
    return (r - r.min() + 1e-6) / span if bool(span > 0) else torch.ones_like(r)


def _check_sign(sign: int) -> None:
    if sign not in (1, -1):
        raise ValueError(f"sign={sign!r}: give 1 or -1")


# --- methods that work in another place: their rule only says where ---------------------------


@rule(source="the vision tower has chosen")
def slots(filled: Tensor) -> Tensor:
    """1 for a slot that the vision tower filled, 0 for one that it left empty.

    filled (N_v,) bool → (N_v,).
    """
    return filled.float()


@rule(source="the selection looks at no score")
def alike(hidden: Tensor) -> Tensor:
    """All tokens are alike.

    hidden (N_v, d) for its length → (N_v,) zeros.
    """
    return hidden.new_zeros(len(hidden), dtype=torch.float32)
