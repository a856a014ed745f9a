"""Scores between leverage and the column norm: ridge leverage and sigma^p weights.

Both weigh the votes V_jk² of the right singular directions of M by how much energy a direction
holds, and neither has a rank to choose. Pure functions over the last two axes (N_q question tokens
by N_v visual tokens); any axes before them are a batch, usually the heads.

Ridge leverage needs no decomposition: with G = M Mᵀ + λI = L Lᵀ it is ‖L⁻¹ m_j‖² for column m_j.
λ bounds the condition number of G by 1 + m/α (m: how many modes the mean is taken over), so for the
two products with M float32 is enough unless α is very small, which is known before; what is N_q by
N_q is done in float64. L is inverted, a small triangle, and multiplied with M: faster than solving
for N_v columns.
"""

from numbers import Real

import torch
from torch import Tensor

from .fast_leverage import by_modes, gram, grouped, reduced, triangle
from .spectrum import check_finite, flat, live, per_column, widen

__all__ = ["check_alpha", "penalty", "ridge", "sigma_weighted"]

WELL = 1024  # a condition number up to which float32 will do
PART = 2**17  # entries of M whose products are held at a time on a CPU
RANGE = 1e-25, 1e30  # of ‖M‖² in float32: outside, squares may be lost to 0 or to infinity


def check_alpha(alpha: float) -> float:
    """`alpha` as a plain float, a finite number above 0.

    Raises TypeError unless it is a number (a bool is none), ValueError if out of range.
    """
    allowed = "give a finite number above 0 (1: the mean σ² itself)"
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"alpha={alpha!r}: {allowed}")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha={alpha!r}: {allowed}")
    return float(alpha)


def ridge(M: Tensor, alpha: float = 1.0, width: int | None = None, mean: str = "modes") -> Tensor:
    """Statistical ridge leverage of each column, Σ_k σ_k²/(σ_k² + λ) V_jk², with λ of `penalty`.

    Between the leverage of all modes (α → 0) and, times λ, the squared column norm (α → ∞). Each
    matrix of the batch has its own λ; the score of a prompt is the mean over its heads.
    M (..., N_q, N_v), floating-point → (..., N_v) float64, in [0, 1]; sums over the columns to the
    effective dimension Σ_k σ_k²/(σ_k² + λ). Scaling M changes nothing; a zero matrix scores zero.
    Products of a float32 M are taken in float32 where m/α and M's range allow it, all else in
    float64: at 40 by 576 and α = 0.3 the error is 2e-8, for a column with a score near 1 4e-7.
    Errors as in `penalty`.
    Source: Alaoui and Mahoney, 2015, Fast randomized kernel ridge regression with statistical
    guarantees; as a score of visual tokens it is ours.
    """
    alpha = check_alpha(alpha)
    X = flat(M)
    modes = _modes(X, width)
    if X.dtype == torch.float32 and 1 + modes / alpha <= WELL:
        found = _ridge(X, alpha, modes, mean)
        if found is not None:
            return per_column(found, M)
    return per_column(grouped(lambda X: _ridge(X.double(), alpha, modes, mean), X), M)


def penalty(M: Tensor, alpha: float = 1.0, width: int | None = None, mean: str = "modes") -> Tensor:
    """λ = α · mean σ² of each matrix.

    mean="modes": Σσ² / m over m = min(N_q, N_v, width) modes, where width is the width of a head
    (M = Q Kᵀ has no more directions than that; None: not known). mean="energy": the mean weighted
    by the energy itself, Σσ⁴ / Σσ² = tr(G²) / tr(G), for which nothing has to be counted.
    M (..., N_q, N_v) → (...,) float64, in squared units of M; 0 for a zero matrix.
    Raises TypeError or ValueError on a bad alpha (`check_alpha`), width or mean, on entries that
    are NaN or infinite, on an empty or integer M.
    """
    alpha = check_alpha(alpha)
    X = flat(M)
    modes = _modes(X, width)
    found = grouped(lambda X: _penalty(_gram_of_the_smaller_side(X), alpha, modes, mean), X)
    found = found.reshape(M.shape[:-2])
    return found.float().to(M.device) if M.device.type == "mps" else found


def sigma_weighted(M: Tensor, power: float) -> Tensor:
    """Votes weighted by a power of the singular value, Σ_k σ_k^p V_jk².

    power p = 0 is the leverage of all modes, 2 the squared column norm.
    M (..., N_q, N_v) → (..., N_v) float64, >= 0, in M's units to the power p; a zero matrix scores
    zero. Directions with σ_k² <= 1e-13 σ_1² have no vote.
    Raises TypeError or ValueError unless power is a number >= 0; on M as in `penalty`.
    Source: p = 2 is QViD, appendix E; the family is ours.
    """
    allowed = "give a number from 0 (leverage) on; 2 is the column norm"
    if isinstance(power, bool) or not isinstance(power, Real):
        raise TypeError(f"power={power!r}: {allowed}")
    if not 0 <= power < float("inf"):
        raise ValueError(f"power={power!r}: {allowed}")
    if power == 2:
        return per_column(widen(M).square().sum(-2), M)
    return per_column(grouped(lambda X: by_modes(reduced(X), live, power), flat(M)), M)


def _modes(X: Tensor, width: int | None) -> int:
    if width is None:
        return min(X.shape[1:])
    if isinstance(width, bool) or not hasattr(width, "__index__"):
        raise TypeError(f"width={width!r}: give the width of a head (int, 1 or more), or None")
    if width.__index__() < 1:
        raise ValueError(f"width={width!r}: give the width of a head (int, 1 or more), or None")
    return min(*X.shape[1:], width.__index__())


def _penalty(G: Tensor, alpha: float, modes: int, mean: str) -> Tensor:
    # (B,); G is M Mᵀ or Mᵀ M
    if mean not in ("modes", "energy"):
        raise ValueError(
            f"mean={mean!r}: give 'modes' (σ² over all modes) or 'energy' (weighted by energy)"
        )
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    if mean == "modes":
        return alpha * trace / modes
    share = G / trace.where(trace > 0, 1)[:, None, None]  # the fourth powers stay in range
    return alpha * trace * share.square().sum((-2, -1))


def _gram_of_the_smaller_side(X: Tensor) -> Tensor:
    return gram((X if X.shape[1] <= X.shape[2] else X.mT).double())


def _ridge(X: Tensor, alpha: float, modes: int, mean: str) -> Tensor | None:
    # (B, N_v) float64, products in the precision of X; None where float32 does not hold ‖X‖²
    few_rows = X.shape[1] <= X.shape[2]
    wide = X if few_rows else X.mT
    G = torch.bmm(wide, wide.mT).double()
    trace = G.diagonal(dim1=-2, dim2=-1).sum(-1)
    if X.dtype == torch.float32:
        low, high = RANGE
        if not bool(((trace > low) & (trace < high)).all()):
            return None
    else:
        check_finite(torch.isfinite(trace.sum()), X)
    damped = G if few_rows else G.clone()
    added = _penalty(G, alpha, modes, mean).where(trace > 0, 1)  # of a zero matrix: any λ will do
    damped.diagonal(dim1=-2, dim2=-1).add_(added[:, None])
    inverse, _ = triangle(damped)
    if few_rows:
        found = _squared_norms(inverse.to(X.dtype), X)
    else:  # the diagonal of (XᵀX + λI)⁻¹ XᵀX
        found = (torch.bmm(inverse.mT, inverse) * G).sum(1)
    return found.clamp_(0, 1)


def _squared_norms(A: Tensor, X: Tensor) -> Tensor:
    # (B, N_v) float64: ‖A x_j‖², on a CPU some matrices at a time
    size = max(1, PART // X[0].numel()) if X.device.type == "cpu" else len(X)
    found = X.new_empty(len(X), X.shape[2], dtype=torch.float64)
    for start in range(0, len(X), size):
        part = slice(start, start + size)
        rows = torch.bmm(A[part], X[part])
        found[part] = rows.square_().sum(1, dtype=torch.float64)
    return found
