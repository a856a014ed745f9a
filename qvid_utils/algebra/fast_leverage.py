"""The fast routes of `leverage`, for a flat batch X (B, N_q, N_v) of matrices; all in float64.

The way through the Gram matrix: with X Xᵀ = U S Uᵀ (S = σ², an N_q by N_q problem), row k of
Uᵀ X is σ_k v_kᵀ. Its squares are the energy of each token in mode k, and divided by their sum
its participation V_jk². Squaring costs half the digits, so it is done in float64: for a mode at
1e-3 σ_1 the error is 1e-10, at 1e-6 σ_1 it is 1e-5, each time hundreds of times less than what
M's own rounding to float32 has cost already. A direction with σ_k² <= 1e-13 σ_1² is noise
(repeated or zero rows leave such directions behind), its vectors are arbitrary, and it gets no
vote.

Where every mode may vote (N_q <= r) the projector onto the rows of X is all that is asked for, and
with X Xᵀ = L Lᵀ its columns are those of L⁻¹ X: no eigenvalue problem. That holds as long as X Xᵀ
is well conditioned, which the two factors show; the other matrices go the way above.

The environment variable QVID_KERNEL=triton turns on one Triton kernel for all matrices; see
`leverage_triton`, also for what has not been tried. It is read at each call of `leverage`.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

import torch
from torch import Tensor

from .spectrum import NULL, check_finite, leading, live

__all__ = [
    "by_modes", "by_triton", "gram", "grouped", "kernel", "leverage_of", "reduced", "triangle",
]  # fmt: skip

GROUP = 2**18  # entries of X that are float64 at a time on a CPU: 2 MiB, about what a cache holds
WELL = 1e7  # a Gram matrix of this condition number or less is inverted: errors below 1e-7
ALONE = 32  # problems of fewer rows are too small for threads to matter
WORTH = 2**26  # multiply-adds of the Gram matrices below which a second thread costs more to start
KERNEL = "QVID_KERNEL"  # the environment variable that chooses the route of `leverage`


def grouped(score: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """score(X), on a CPU for some matrices at a time: a group is what is float64 at once.

    Where torch has several CPU threads they share out the groups, or one does all where there is
    little to do: decompositions of this size are slower with more threads inside each.
    """
    if X.device.type != "cpu":
        return score(X)
    groups = -(-len(X) // max(1, GROUP // X[0].numel()))
    threads = min(torch.get_num_threads(), len(X))
    if threads == 1 or min(X.shape[1:]) < ALONE:
        return torch.cat([score(part) for part in X.tensor_split(groups)])
    before = torch.get_num_threads()
    one_inside = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        if X.numel() * min(X.shape[1:]) < WORTH:
            torch.set_num_threads(1)
            return torch.cat([score(part) for part in X.tensor_split(groups)])
        with ThreadPoolExecutor(threads, **one_inside) as pool:
            return torch.cat(list(pool.map(score, X.tensor_split(max(groups, threads)))))
    finally:
        torch.set_num_threads(before)  # what threads to come begin with


def reduced(X: Tensor) -> Tensor:
    """(B, m, N_v) float64 with the right singular directions of X, m = min(N_q, N_v)."""
    if X.shape[-2] <= X.shape[-1]:
        return X.double()
    # Same right singular directions and column norms from N_v rows; unlike XᵀX, Householder QR is
    # accurate column by column, so small columns beside huge ones keep their digits.
    return torch.linalg.qr(X.double(), mode="r").R


def gram(X: Tensor) -> Tensor:
    """X Xᵀ (B, m, m) in the precision of X. Raises ValueError on NaN or infinite entries."""
    G = torch.bmm(X, X.mT)
    check_finite(G.sum().isfinite(), X)  # each entry of X is in it, squared
    return G


def leverage_of(X: Tensor, rank: int | float) -> Tensor:
    """`leverage` of X (B, N_q, N_v) through torch, for a rank that was checked: (B, N_v)."""
    X = reduced(X)
    if not isinstance(rank, Integral):
        return by_modes(X, lambda s: leading(s, rank), 0)
    if rank < X.shape[1]:
        return by_modes(X, lambda s: leading(s, rank), 0, first=int(rank))
    G = gram(X)
    inverse, failed = triangle(G)
    condition = torch.linalg.matrix_norm(G) * torch.linalg.matrix_norm(inverse).square()
    found = torch.bmm(inverse, X).square_().sum(1).clamp_max_(1)
    ill = (failed | ~(condition <= WELL)).nonzero()[:, 0]
    if len(ill):
        found[ill] = by_modes(X[ill], torch.ones_like, 0)
    return found


def triangle(G: Tensor) -> tuple[Tensor, Tensor]:
    """L⁻¹ (B, m, m) where G = L Lᵀ, and where there is none (B,), for which L⁻¹ means nothing."""
    L, failed = torch.linalg.cholesky_ex(G)
    unit = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device).expand_as(G)
    return torch.linalg.solve_triangular(L, unit, upper=False), failed != 0


def by_modes(
    X: Tensor, choose: Callable[[Tensor], Tensor], power: float, first: int | None = None
) -> Tensor:
    """Σ_k σ_k^power V_jk² over the chosen modes that are not zero; at most 1 for power 0.

    X (B, m, N_v) float64, m <= N_v; choose(σ² (B, m), largest first) → which modes (B, m); first:
    so many at most are chosen, the leading ones (None: read off the choice, for which the host
    waits) → (B, N_v). Only the rows u_kᵀ X that count are formed.
    """
    s, U = torch.linalg.eigh(gram(X))  # smallest first
    largest_first = s.flip(-1)
    votes = (choose(largest_first).bool() & live(largest_first)).flip(-1)
    some = votes.any(0).nonzero()[:, 0] if first is None else slice(-first, None)
    votes = votes[:, some]
    parts = torch.bmm(U[..., some].mT, X).square_()  # σ_k² V_jk²
    # A row's own norm is truer than its eigenvalue: each mode that counts sums to 1 exactly.
    norms = parts.sum(-1).where(votes, 1)
    weights = votes * (norms.reciprocal_() if power == 0 else norms.pow_(power / 2 - 1))
    found = torch.bmm(weights[:, None], parts)[:, 0]
    return found.clamp_max_(1) if power == 0 else found  # rounding can go above 1


# -------------------------------------------------------------------------------- the other route


def kernel() -> str:
    """The route of `leverage` by QVID_KERNEL: torch or triton. ValueError for another name.

    `leverage` asks at each score; `run` and `measure` ask before they begin.
    """
    name = os.environ.get(KERNEL) or "torch"
    if name not in ("torch", "triton"):
        raise ValueError(f"{KERNEL}={name}: give torch (the default) or triton")
    return name


def by_triton(X: Tensor, rank: int | float) -> Tensor | None:
    """`leverage` of X (B, N_q, N_v) by the Triton kernel, (B, N_v) float64.

    None where the kernel does not apply, or did not solve an eigenvalue problem to the end.
    Raises ImportError where Triton, ValueError where a GPU for it is missing.
    """
    try:
        from . import leverage_triton
    except ImportError as error:
        raise ImportError(
            f"{KERNEL}=triton needs the extra triton: pip install 'qvid-workbook[triton]', "
            f"or unset {KERNEL}"
        ) from error
    if not leverage_triton.usable(X.device):
        raise ValueError(
            f"{KERNEL}=triton: the interaction matrix is on {X.device} and the kernel needs a GPU; "
            f"move the model there or unset {KERNEL}"
        )
    if X.shape[1] > min(leverage_triton.LARGEST, X.shape[2]):
        return None
    check_finite(torch.isfinite(X).all(), X)
    scores, residuals = leverage_triton.leverage_of(X, rank, NULL)
    return scores if bool((residuals <= leverage_triton.CONVERGED).all()) else None
