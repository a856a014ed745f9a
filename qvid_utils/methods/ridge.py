"""Ours: ridge leverage of the interaction, and powers of its singular values. No rank to choose.

Idea: QViD counts a mode fully up to rank r and not at all beyond; let instead its energy say how
far it counts. So the score goes over from the leverage of all modes to the column norm.
Formulas: s_j = mean over heads of Σ_k σ_k²/(σ_k² + λ_h) V_jk², with λ_h = alpha · mean σ² of head
h over its min(N_q, N_v, d_h) modes; or of Σ_k σ_k^power V_jk², in which power = 0 is QViD's score
with all modes, and 2 the column norm.
Statistical ridge leverage: Alaoui and Mahoney, NeurIPS 2015, https://arxiv.org/abs/1411.0306; as a
score of visual tokens it is ours.
"""

import torch
from torch import Tensor

from ..algebra.ridge import ridge as ridge_leverage
from ..algebra.ridge import sigma_weighted
from .scoring import rule


@rule(source="ours: statistical ridge leverage (Alaoui and Mahoney, 2015), mean over heads")
def ridge(interaction: Tensor, keys: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Ridge leverage Σ_k σ_k²/(σ_k² + λ) V_jk² with λ = alpha · mean σ² of each head, mean over the
    heads.

    The keys only say how many modes a head can have. alpha → 0 is `qvid` with all modes.
    interaction (H, N_q, N_v), keys (H, N_v, d_h) → (N_v,), in [0, 1]; sums to the mean effective
    dimension of the heads.
    """
    M = interaction.to(torch.promote_types(interaction.dtype, torch.float32))
    return ridge_leverage(M, alpha, width=keys.shape[-1]).mean(0).float()


@rule(source="ours: σ^p weights, from QViD's leverage (p = 0) to the column norm (p = 2)")
def sigma_power(interaction: Tensor, *, power: float = 1.0) -> Tensor:
    """Votes weighted by a power of the singular value, Σ_k σ_k^power V_jk², mean over the heads.

    power = 0 is `qvid` with all modes, 2 keeps the tokens of `column_norm`.
    interaction (H, N_q, N_v) → (N_v,), >= 0; zeros for a zero matrix.
    """
    return sigma_weighted(interaction, power).mean(0).float()
