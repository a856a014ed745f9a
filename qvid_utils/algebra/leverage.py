"""Leverage: how strongly each visual token takes part in the leading directions of M.

Pure functions over the last two axes (N_q question tokens by N_v visual tokens); any axes before
them are a batch, usually the heads. `leverage_svd` is the definition in five lines, `leverage_qr`
the paper's printed recipe; `leverage` is the same number by the routes of `fast_leverage`.
"""

from numbers import Integral

import torch
from torch import Tensor

from .fast_leverage import by_modes, by_triton, grouped, kernel, leverage_of, reduced
from .spectrum import check_rank, flat, leading, live, per_column, widen

__all__ = [
    "energy",
    "leverage",
    "leverage_qr",
    "leverage_svd",
    "query_leverage",
    "residual_query_leverage",
]


def leverage(M: Tensor, rank: int | float) -> Tensor:
    """Participation of each column in the leading right singular directions, Σ_{k<=r} V_jk².

    M (..., N_q, N_v) → (..., N_v) float64, in [0, 1]; sums over the columns to
    r_eff = min(rank, N_q, N_v, numerical rank). A share as rank takes, per matrix, the fewest
    modes that hold that share of Σσ². A zero matrix scores zero.
    With QVID_KERNEL=triton in the environment by one Triton kernel, where N_q <= 64 and N_q <= N_v
    and where it finds the problem solved; everything else goes through torch, and so does all by
    default.
    Raises ValueError on NaN or infinite entries and on a bad rank (`check_rank`); with
    QVID_KERNEL=triton ImportError or ValueError where Triton or a GPU for it is missing.
    Source: QViD, equation 5.
    """
    check_rank(rank)
    X = flat(M)
    found = by_triton(X, rank) if kernel() == "triton" else None
    if found is None:
        found = grouped(lambda X: leverage_of(X, rank), X)
    return per_column(found, M)


def leverage_svd(M: Tensor, rank: int | float) -> Tensor:
    """As `leverage`, straight from the definition: one SVD in float64, which is slow.

    M (..., N_q, N_v) → (..., N_v) float64. Errors as in `leverage`. Source: QViD, equation 5.
    """
    s, Vh = torch.linalg.svd(widen(M), full_matrices=False)[1:]
    s = s.square()
    votes = leading(s, check_rank(rank)) & live(s)
    return per_column((Vh.square() * votes[..., None]).sum(-2), M)


def leverage_qr(M: Tensor, rank: int) -> Tensor:
    """The paper's printed recipe: QR of Mᵀ, SVD of Rᵀ, squares of the first r rows of V.

    M (..., N_q, N_v) → (..., N_v), in the precision of M but at least float32;
    r = min(rank, N_q, N_v). Kept as the paper gives it, without a rank cut: where rows of M repeat
    or vanish, arbitrary null directions vote too and the scores sum to r, not to the rank.
    `leverage` is the same number where M has full rank.
    Raises TypeError or ValueError unless rank is an int >= 1.
    Source: QViD, appendix F.
    """
    if not isinstance(check_rank(rank), Integral):
        raise ValueError(
            f"rank={rank!r}: the paper's QR recipe takes a number of modes (int, 1 or more); "
            "for a share of the energy use `leverage`"
        )
    M = M if M.dtype in (torch.float32, torch.float64) else M.float()
    r = min(rank, *M.shape[-2:])
    Q, R = torch.linalg.qr(M.mT)  # (..., N_v, m), (..., m, N_q)
    Vh = torch.linalg.svd(R.mT, full_matrices=False).Vh  # (..., m, m)
    return (Q @ Vh.mT)[..., :r].square().sum(-1)


def energy(M: Tensor, rank: int | float | None = None) -> Tensor:
    """Energy of each column in the leading modes, Σ_{k<=r} σ_k² V_jk²; all modes if rank is None.

    M (..., N_q, N_v) → (..., N_v) float64, >= 0, in squared units of M. Over all modes it is
    the squared norm of the column. Errors as in `leverage`.
    Source: QViD, appendix E (sigma-weighted).
    """
    if rank is None:
        return per_column(widen(M).square().sum(-2), M)
    check_rank(rank)
    found = grouped(lambda X: by_modes(reduced(X), lambda s: leading(s, rank), 2), flat(M))
    return per_column(found, M)


def query_leverage(M: Tensor, rank: int | float) -> Tensor:
    """Participation of each question token in the leading left singular directions, Σ_{k<=r} U_ik².

    M (..., N_q, N_v) → (..., N_q) float64, in [0, 1]; sums to r_eff. Errors as in `leverage`.
    Source: QViD, equation 3 (dominant) and appendix K.2.
    """
    return leverage(M.mT, rank)


def residual_query_leverage(M: Tensor, rank: int | float) -> Tensor:
    """Participation of each question token in the directions after `rank`, noise left out.

    M (..., N_q, N_v) → (..., N_q) float64, in [0, 1]; sums to numerical rank - r_eff. Where M
    has full row rank this is 1 - `query_leverage`: the two say one thing, not two.
    Errors as in `leverage`. Source: QViD, equation 3 (residual).
    """
    check_rank(rank)
    found = grouped(lambda X: by_modes(reduced(X), lambda s: ~leading(s, rank), 0), flat(M.mT))
    return per_column(found, M)
