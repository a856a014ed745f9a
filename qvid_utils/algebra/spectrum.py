"""The interaction matrix M and how many directions it has: spectrum, energy shares, ranks.

Pure functions over the last two axes (N_q question tokens by N_v visual tokens); any axes before
them are a batch, usually the heads. Everything is computed in float64, whatever came in.
"""

from numbers import Integral, Real

import torch
from torch import Tensor

__all__ = [
    "NULL",
    "check_energy_share",
    "check_finite",
    "check_rank",
    "concentration",
    "effective_rank",
    "flat",
    "leading",
    "live",
    "numerical_rank",
    "per_column",
    "singular_values",
    "widen",
]

NULL = 1e-13  # a squared singular value at or below this share of the largest counts as zero


# --------------------------------------------------------------------------- how many directions


def singular_values(M: Tensor) -> Tensor:
    """Singular values σ, largest first.

    M (..., N_q, N_v) → (..., min(N_q, N_v)) float64, by SVD and not through the Gram matrix, so
    that small ones are true down to 1e-16 of the largest. ValueError on NaN or infinite entries.
    """
    return per_column(torch.linalg.svdvals(widen(M)), M)


def effective_rank(M: Tensor, share: float) -> Tensor:
    """The fewest leading modes whose σ² add up to `share` of Σσ².

    M (..., N_q, N_v) → (...,) int64, 0 for a zero matrix. Raises TypeError or ValueError unless
    share is a number in (0, 1). Source: the energy threshold of SVD-Prune.
    """
    return leading(singular_values(M).square(), check_energy_share(share)).sum(-1)


def numerical_rank(M: Tensor) -> Tensor:
    """Number of directions with σ_k² > 1e-13 σ_1².  M (..., N_q, N_v) → (...,) int64."""
    return live(singular_values(M).square()).sum(-1)


def concentration(M: Tensor) -> Tensor:
    """How few modes hold the energy: Σ_k p_k² with p_k = σ_k² / Σσ²; 1 / it counts the modes.

    M (..., N_q, N_v) → (...,) float64: 1 where one mode holds all, 1/m where m share it equally,
    0 for a zero matrix. Without a decomposition: ‖M Mᵀ‖² / ‖M‖⁴. Errors as in `widen`.
    """
    X = widen(M)
    scale = X.abs().amax((-2, -1), keepdim=True)  # keeps the fourth powers in range
    X = X / scale.where(scale > 0, 1)
    gram = X @ X.mT if X.shape[-2] <= X.shape[-1] else X.mT @ X
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    return gram.square().sum((-2, -1)) / trace.where(trace > 0, 1).square()


def live(s: Tensor) -> Tensor:
    """Which of the squared singular values s (..., m), largest first, are not zero: (..., m)."""
    return s > NULL * s[..., :1]


def leading(s: Tensor, rank: int | float) -> Tensor:
    """Which of the modes with σ² = s (..., m), largest first, a checked rank takes: (..., m)."""
    if isinstance(rank, Integral):
        return torch.arange(s.shape[-1], device=s.device).expand_as(s) < rank
    before = s.cumsum(-1) - s  # a mode counts while those before it fall short of the share
    return before < (rank - 1e-12) * s.sum(-1, keepdim=True)


# ----------------------------------------------------------------------------------- what came in


def check_rank(rank: int | float) -> int | float:
    """`rank` itself, if it is a number of modes (int >= 1) or a share of the energy in (0, 1).

    Raises TypeError for anything that is no number, ValueError for a number out of range.
    """
    allowed = "give a number of modes (int, 1 or more) or a share of the energy between 0 and 1"
    if isinstance(rank, bool) or not isinstance(rank, Real):
        raise TypeError(f"rank={rank!r}: {allowed}")
    if not (rank >= 1 if isinstance(rank, Integral) else 0 < rank < 1):
        raise ValueError(f"rank={rank!r}: {allowed}")
    return rank


def check_energy_share(share: float) -> float:
    """`share` as a plain float in (0, 1).

    Raises TypeError for anything that is no number, ValueError for a number out of range.
    """
    allowed = "give a share of the energy between 0 and 1, such as 0.9"
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"share={share!r}: {allowed}")
    if not 0 < share < 1:
        raise ValueError(f"share={share!r}: {allowed}")
    return float(share)


def widen(M: Tensor) -> Tensor:
    """M in float64, checked; on the CPU where the device has no float64 (Apple's MPS).

    Raises TypeError unless M is floating-point, ValueError unless it has two non-empty last axes
    and finite entries.
    """
    _check_shape(M)
    low, high = M.aminmax()  # NaN if there is one; a pass without a mask, and one synchronisation
    check_finite(torch.isfinite(low) & torch.isfinite(high), M)
    return (M.cpu() if M.device.type == "mps" else M).double()


def flat(M: Tensor) -> Tensor:
    """M (..., N_q, N_v) as one batch (B, N_q, N_v), without its gradient.

    In its own precision, on a device that has float64. Raises TypeError unless M is floating-point,
    ValueError unless it has two non-empty last axes; who reads it looks for NaN (`check_finite`).
    """
    _check_shape(M)
    M = M.detach()
    return (M.cpu() if M.device.type == "mps" else M).reshape(-1, *M.shape[-2:])


def per_column(result: Tensor, M: Tensor) -> Tensor:
    """A result (B, n) of a flat batch with the batch axes of M, on M's device: (..., n)."""
    result = result.reshape(*M.shape[:-2], -1)
    return result.float().to(M.device) if M.device.type == "mps" else result


def check_finite(fine: Tensor, M: Tensor) -> None:
    """ValueError with a count of M's broken entries unless `fine`, one boolean on any device."""
    if bool(fine):
        return
    broken = int((~torch.isfinite(M)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {M.numel()} entries of the interaction matrix are NaN or infinite: look "
            "for NaN or overflow in the hidden states that were scored"
        )
    raise ValueError(
        f"the interaction matrix has entries up to {float(M.abs().max()):.0e}, whose squares "
        "overflow: divide it by its largest entry"
    )


def _check_shape(M: Tensor) -> None:
    if M.dim() < 2 or 0 in M.shape:
        raise ValueError(
            f"the interaction matrix has shape {tuple(M.shape)}: it needs at least one question "
            "token and one visual token in its last two axes"
        )
    if not M.is_floating_point():
        raise TypeError(f"the interaction matrix holds {M.dtype}: give floating-point numbers")
