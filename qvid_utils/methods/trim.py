"""TRIM (Song et al.): less is more, tokens by CLIP's own match of picture and text.

Idea: CLIP says which patches belong to the words of the question.
Formula: s_j = -(v_j · t), a patch's CLIP embedding times the text's (the official code negates);
one more token is the plain mean of what is dropped.
COLING 2025, https://arxiv.org/abs/2409.10994
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..algebra.cuts import at
from ..algebra.selection import Kept, top_k
from .base import Method, paper
from .options import Options
from .scoring import rule


@rule(source="TRIM (Song et al., 2024), official code")
def trim(clip_image: Tensor, clip_text: Tensor, *, sign: int = -1) -> Tensor:
    """sign · v_j · t, a patch's embedding times the text's (its first segment), neither normalised.

    clip_image (N_v, D_p), clip_text (segments, D_p) → (N_v,). The official code negates: the
    patches least like the words stay. Its softmax over tokens changes no order and is left out.
    ValueError unless sign is 1 or -1.
    """
    check_sign(sign)
    return sign * (clip_image.float() @ clip_text[0].float())


def check_sign(sign: int) -> None:
    """ValueError unless the sign is 1 or -1."""
    if sign not in (1, -1):
        raise ValueError(f"sign={sign!r}: give 1 or -1")


@dataclass(frozen=True)
class WithMean(Options):
    """TRIM: the K - 1 best tokens in the order of the picture, then the plain mean of all others;
    both before the projector.

    The slots are those of the best K, the mean stands in the last one. official_counts: K best and
    the mean, as many as the official code gives. Errors as in `top_k`.
    """

    official_counts: bool = False
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True  # the mean stands behind all others

    def __call__(self, scores: Tensor, keep: int, patches: Tensor) -> Kept:
        top_k(scores, keep)
        keep = min(keep + self.official_counts, len(scores))
        index = top_k(scores, keep).index
        alone = index[:0] if keep == 1 else top_k(scores, keep - 1).index
        others = torch.ones_like(scores, dtype=torch.bool)
        others[alone] = False
        mean = patches[others].mean(0, keepdim=True)
        stands = torch.cat([alone, alone.new_tensor([-1])])
        return Kept(index, patches=torch.cat([patches[alone], mean]), stands=stands)


methods = (
    Method(
        "trim",
        trim,
        at(0, source="before the projector"),
        select=WithMean(),
        positions="contiguous",
        source="TRIM (Song et al., 2024), official code without its interquartile rule",
        departures="The mean token counts inside keep (official_counts=True: beyond it). All "
        "pictures of a prompt are scored as one; CLIP runs in float32.",
        label="TRIM",
        curve=("ink", "<", ":"),
        **paper("COLING 2025", "2409.10994", "song2025trim"),
    ),
)
