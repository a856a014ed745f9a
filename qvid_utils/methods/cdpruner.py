"""CDPruner (Zhang et al.): maximise the conditional diversity of what is kept.

Idea: tokens that are relevant to the question and unlike each other, as one determinant.
Formula: kernel L_ij = r_i cos(f_i, f_j) r_j of the projected features f, relevance r the negated
cosine of a patch and the text in CLIP's space, stretched to (0, 1]; greedily the set of largest
det L.
NeurIPS 2025, https://arxiv.org/abs/2506.10967
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.cuts import at
from ..algebra.selection import Kept, top_k
from .base import Method, paper
from .scoring import rule
from .trim import check_sign


@rule(source="CDPruner (Zhang et al., 2025), official code")
def relevance(clip_image: Tensor, clip_text: Tensor, *, sign: int = -1) -> Tensor:
    """sign · cos(v_j, t), mean over the text's segments, stretched to (0, 1] in each prompt.

    clip_image (N_v, D_p), clip_text (segments, D_p) → (N_v,), in [1e-6, 1 + 1e-6] where the
    cosines differ by 1: (r - min + 1e-6) / (max - min), and all 1 where they are equal.
    ValueError unless sign is 1 or -1.
    """
    check_sign(sign)
    v, t = (normalize(x.float(), dim=-1) for x in (clip_image, clip_text))
    r = (sign * (v @ t.T)).mean(-1)
    span = r.max() - r.min()
    return (r - r.min() + 1e-6) / span if bool(span > 0) else torch.ones_like(r)


def greedy_dpp(scores: Tensor, keep: int, features: Tensor) -> Kept:
    """Greedy MAP of a determinantal point process: relevant tokens that differ from each other.

    Kernel L_ij = r_i cos(f_i, f_j) r_j with relevance r = scores; each step takes the token that
    raises det L of the chosen ones most, kept track of by a Cholesky factor. Where the rank of L is
    used up (no determinant is left to raise), the rest goes by relevance.
    scores (N_v,) >= 0, features (N_v, d) → Kept; float64. Errors as in `top_k`.
    """
    top_k(scores, keep)
    unit = normalize(features.double(), dim=-1)
    r = scores.double()
    kernel = r[:, None] * (unit @ unit.mT) * r
    gain = kernel.diagonal().clone()  # what each token would multiply the determinant by
    floor = 1e-10 * gain.max()
    factor = kernel.new_zeros(keep, len(r))
    chosen = torch.zeros(len(r), dtype=torch.bool, device=r.device)
    for step in range(keep):
        left = gain.masked_fill(chosen, -torch.inf)
        if not bool(left.max() > floor):
            rest = r.masked_fill(chosen, -torch.inf).sort(descending=True, stable=True).indices
            chosen[rest[: keep - step]] = True
            break
        j = int(left.argmax())
        chosen[j] = True
        factor[step] = (kernel[j] - factor[:step, j] @ factor[:step]) / gain[j].sqrt()
        gain = gain - factor[step].square()
    return Kept(chosen.nonzero()[:, 0])


methods = (
    Method(
        "cdpruner",
        relevance,
        at(0, source="before the language model"),
        select=greedy_dpp,
        query="content",
        positions="contiguous",
        source="CDPruner (Zhang et al., 2025), official code",
        departures="Relevance is stretched per prompt, not per batch. The question loses every "
        "sentence that asks for the form of the answer (the code: one). Each segment of a long "
        "question has its own begin and end mark, which the official code gives to the whole only. "
        "Where the kernel's rank is used up the rest goes by relevance.",
        label="CDPruner",
        **paper("NeurIPS 2025", "2506.10967", "zhang2025cdpruner"),
    ),
)
