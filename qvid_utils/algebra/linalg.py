"""Singular directions of the interaction matrix M: leverage, energy, spectrum, effective rank.

Pure functions over the last two axes (N_q question tokens by N_v visual tokens); any axes before
them are a batch, usually the heads. Everything is computed in float64, whatever came in.

The way through the Gram matrix: with M Mᵀ = U S Uᵀ (S = σ², an N_q by N_q problem), row k of
Uᵀ M is σ_k v_kᵀ. Its squares are the energy of each token in mode k, and divided by their sum
its participation V_jk². Squaring costs half the digits, so it is done in float64: for a mode at
1e-3 σ_1 the error is 1e-10, at 1e-6 σ_1 it is 1e-5, each time hundreds of times less than what
M's own rounding to float32 has cost already. A direction with σ_k² <= 1e-13 σ_1² is noise
(repeated or zero rows leave such directions behind), its vectors are arbitrary, and it gets no
vote.

Where every mode may vote (N_q <= r) the projector onto the rows of M is all that is asked for, and
with M Mᵀ = L Lᵀ its columns are those of L⁻¹ M: no eigenvalue problem. That holds as long as M Mᵀ
is well conditioned, which the two factors show; else the way is the one above.

Only the rows u_kᵀ M that vote are formed, and on a CPU the float64 copy of M is made a slab at a
time, in the same memory: fetching fresh memory for larger buffers costs more than the arithmetic.
Where torch has several CPU threads they share out the heads, or one does them all where there is
little to do: decompositions of this size are slower with more threads inside each.

`leverage` has a second route, one Triton kernel for all heads, which the environment variable
QVID_KERNEL=triton turns on; see `linalg_triton`, also for what has not been tried. It is read at
each call; `energy` and the other functions here have one route and do not look at it.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral, Real

import torch
from torch import Tensor

__all__ = [
    "NULL",
    "check_rank",
    "concentration",
    "effective_rank",
    "energy",
    "kernel",
    "leverage",
    "leverage_qr",
    "numerical_rank",
    "query_leverage",
    "residual_query_leverage",
    "spectrum",
    "widen",
]

NULL = 1e-13  # a squared singular value at or below this share of the largest counts as zero
SLAB = 2**17  # entries of M that are float64 at a time on a CPU: 1 MiB, about what a cache holds
WELL = 1e7  # a Gram matrix of this condition number or less is inverted: errors below 1e-7
ALONE = 32  # problems of fewer rows are too small for threads to matter
WORTH = 2**26  # multiply-adds of the Gram matrices below which a second thread costs more to start
KERNEL = "QVID_KERNEL"  # the environment variable that chooses the route of `leverage`


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
    X = _flat(M)
    found = _by_triton(X, rank) if kernel() == "triton" else None
    if found is not None:
        return _back(found, M)

    def score(X: Tensor) -> Tensor:
        slabs, G = _gram(X)
        if isinstance(rank, Integral) and rank >= G.shape[-1]:
            inverse = _inverse_root(G)
            if inverse is not None:
                every = torch.ones_like(G[:, 0])
                found = _weighted(slabs, inverse.mT, every, lambda _, every: every, few=False)
                return found.clamp_max_(1)
        s, U = _eigh(G)
        first = int(rank) if isinstance(rank, Integral) else None
        return _participation(slabs, s, U, _leading(s, rank), first)

    return _back(_shared_out(score, X), M)


def energy(M: Tensor, rank: int | float | None = None) -> Tensor:
    """Energy of each column in the leading modes, Σ_{k<=r} σ_k² V_jk²; all modes if rank is None.

    M (..., N_q, N_v) → (..., N_v) float64, >= 0, in squared units of M. Over all modes it is
    the squared norm of the column. Errors as in `leverage`.
    Source: QViD, appendix E (sigma-weighted).
    """
    if rank is None:
        return _back(widen(M).square().sum(-2), M)
    check_rank(rank)
    slabs, G = _gram(_flat(M))
    s, U = _eigh(G)
    return _back(_weighted(slabs, U, _leading(s, rank), lambda _, counts: counts.double()), M)


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
    slabs, G = _gram(_flat(M.mT))
    s, U = _eigh(G)
    return _back(_participation(slabs, s, U, ~_leading(s, rank)), M)


def spectrum(M: Tensor) -> Tensor:
    """Singular values σ, largest first.

    M (..., N_q, N_v) → (..., min(N_q, N_v)) float64, by SVD and not through the Gram matrix, so
    that small ones are true down to 1e-16 of the largest. ValueError on NaN or infinite entries.
    """
    return _back(torch.linalg.svdvals(widen(M)), M)


def effective_rank(M: Tensor, share: float) -> Tensor:
    """The fewest leading modes whose σ² add up to `share` of Σσ².

    M (..., N_q, N_v) → (...,) int64, 0 for a zero matrix. Raises ValueError unless share is in
    (0, 1). Source: the energy threshold of SVD-Prune.
    """
    if isinstance(check_rank(share), Integral):
        raise ValueError(f"share={share!r}: give a share of the energy between 0 and 1")
    return _leading(spectrum(M).square(), share).sum(-1)


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


def numerical_rank(M: Tensor) -> Tensor:
    """Number of directions with σ_k² > 1e-13 σ_1².  M (..., N_q, N_v) → (...,) int64."""
    return _live(spectrum(M).square()).sum(-1)


def widen(M: Tensor) -> Tensor:
    """M in float64, checked; on the CPU where the device has no float64 (Apple's MPS).

    Raises TypeError unless M is floating-point, ValueError unless it has two non-empty last axes
    and finite entries.
    """
    return _checked(M).double()


def _checked(M: Tensor) -> Tensor:
    # M as it came, on a device that has float64
    if M.dim() < 2 or 0 in M.shape:
        raise ValueError(
            f"the interaction matrix has shape {tuple(M.shape)}: it needs at least one question "
            "token and one visual token in its last two axes"
        )
    if not M.is_floating_point():
        raise TypeError(f"the interaction matrix holds {M.dtype}: give floating-point numbers")
    low, high = M.aminmax()  # NaN if there is one; a pass without a mask, and one synchronisation
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        broken = int((~torch.isfinite(M)).sum())
        raise ValueError(
            f"{broken} of {M.numel()} entries of the interaction matrix are NaN or infinite: look "
            "for NaN or overflow in the hidden states that were scored"
        )
    return M.cpu() if M.device.type == "mps" else M


def _back(result: Tensor, M: Tensor) -> Tensor:
    result = result.reshape(*M.shape[:-2], -1)
    return result.float().to(M.device) if M.device.type == "mps" else result


def _flat(M: Tensor) -> Tensor:
    # (B, N_q, N_v), checked; no gradient flows through a choice of tokens
    return _checked(M).detach().reshape(-1, *M.shape[-2:])


def kernel() -> str:
    """The route of `leverage` by QVID_KERNEL: torch or triton. ValueError for another name.

    `leverage` asks at each score; `runner.evaluate` and `measure` ask before they begin.
    """
    name = os.environ.get(KERNEL) or "torch"
    if name not in ("torch", "triton"):
        raise ValueError(f"{KERNEL}={name}: give torch (the default) or triton")
    return name


def _by_triton(X: Tensor, rank: int | float) -> Tensor | None:
    # None where the kernel does not apply, or did not solve an eigenvalue problem to the end
    try:
        from . import linalg_triton
    except ImportError as error:
        raise ImportError(
            f"{KERNEL}=triton needs the extra triton: pip install 'qvid-workbook[triton]', "
            f"or unset {KERNEL}"
        ) from error
    if not linalg_triton.usable(X.device):
        raise ValueError(
            f"{KERNEL}=triton: the interaction matrix is on {X.device} and the kernel needs a GPU; "
            f"move the model there or unset {KERNEL}"
        )
    if X.shape[1] > min(linalg_triton.LARGEST, X.shape[2]):
        return None
    scores, residuals = linalg_triton.leverage_of(X, rank, NULL)
    return scores if bool((residuals <= linalg_triton.CONVERGED).all()) else None


def _shared_out(score: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    # score(X), the matrices of the batch shared out among torch's threads, one inside each
    threads = torch.get_num_threads()
    if X.device.type != "cpu" or min(threads, len(X)) == 1 or min(X.shape[1:]) < ALONE:
        return score(X)
    alone = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:
        if X.numel() * min(X.shape[1:]) < WORTH:
            torch.set_num_threads(1)
            return score(X)
        with ThreadPoolExecutor(min(threads, len(X)), **alone) as pool:
            return torch.cat(list(pool.map(score, X.tensor_split(min(threads, len(X))))))
    finally:
        torch.set_num_threads(threads)  # what threads to come begin with


def _gram(X: Tensor) -> tuple["_Slabs", Tensor]:
    # (X, X Xᵀ): the new X (B, m, N_v) has the right singular directions of the old,
    # m = min(N_q, N_v)
    if X.shape[-2] > X.shape[-1]:
        # Same right singular directions and column norms from N_v rows; unlike MᵀM, Householder QR
        # is accurate column by column, so small columns beside huge ones keep their digits.
        X = torch.linalg.qr(X.double(), mode="r").R
    G = X.new_empty(len(X), X.shape[1], X.shape[1], dtype=torch.float64)
    slabs = _Slabs(X)
    for part, slab in slabs:
        torch.bmm(slab, slab.mT, out=G[part])
    return slabs, G


def _eigh(G: Tensor) -> tuple[Tensor, Tensor]:
    # (σ², U), largest first: G = U diag(σ²) Uᵀ; row k of Uᵀ X is σ_k v_kᵀ
    s, U = torch.linalg.eigh(G)
    return s.flip(-1).clamp_min(0), U.flip(-1)  # eigh sorts upwards, and can round below 0


def _inverse_root(G: Tensor) -> Tensor | None:
    # L⁻¹ where G = L Lᵀ; None where some G of the batch is singular or not well conditioned
    L, failed = torch.linalg.cholesky_ex(G)
    unit = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device).expand_as(G)
    inverse = torch.linalg.solve_triangular(L, unit, upper=False)
    condition = torch.linalg.matrix_norm(G) * torch.linalg.matrix_norm(inverse).square()
    return inverse if bool(((failed == 0) & (condition <= WELL)).all()) else None


class _Slabs:
    """The matrices of a batch (B, m, N_v), some at a time in float64, in the same memory."""

    def __init__(self, X: Tensor):
        self.X, on_cpu = X, X.device.type == "cpu"
        self.size = min(len(X), max(1, SLAB // X[0].numel())) if on_cpu else len(X)
        self.wide = X if X.dtype == torch.float64 else None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        X, size = self.X, self.size
        if self.wide is None and size == len(X):
            self.wide = X.double()
        buffer = (
            None if self.wide is not None else X.new_empty(size, *X.shape[1:], dtype=torch.float64)
        )
        for start in range(0, len(X), size):
            part = slice(start, start + size)
            if buffer is None:
                yield part, self.wide[part]
            else:
                yield part, buffer[: len(X[part])].copy_(X[part])


def _weighted(
    slabs: _Slabs,
    U: Tensor,
    chosen: Tensor,
    weigh: Callable[[Tensor, Tensor], Tensor],
    few: bool = True,
) -> Tensor:
    # (B, N_v): Σ_k w_k (u_kᵀ X)² over the chosen modes; weigh((u_kᵀ X)², chosen) gives the w_k;
    # few: leave out the modes that count in no matrix, for which the host waits
    some = chosen.any(0).nonzero()[:, 0] if few else slice(None)
    rows, votes = U[..., some].mT, chosen[:, some]
    count, _, n = slabs.X.shape
    out = U.new_empty(count, 1, n)
    memory = U.new_empty(slabs.size, rows.shape[1], n)
    for part, slab in slabs:
        parts = torch.bmm(rows[part], slab, out=memory[: len(slab)]).square_()
        torch.bmm(weigh(parts, votes[part])[:, None], parts, out=out[part])
    return out[:, 0]


def _live(s: Tensor) -> Tensor:
    return s > NULL * s[..., :1]


def _leading(s: Tensor, rank: int | float) -> Tensor:
    # (..., m) bool: which of the sorted modes count
    if isinstance(rank, Integral):
        return torch.arange(s.shape[-1], device=s.device).expand_as(s) < rank
    before = s.cumsum(-1) - s  # a mode counts while those before it fall short of the share
    return before < (rank - 1e-12) * s.sum(-1, keepdim=True)


def _participation(
    slabs: _Slabs, s: Tensor, U: Tensor, chosen: Tensor, first: int | None = None
) -> Tensor:
    # first: so many modes at most are chosen, the leading ones
    def weigh(parts: Tensor, counts: Tensor) -> Tensor:
        norms = parts.sum(-1)
        # A row's own norm is truer than its eigenvalue: each mode that counts sums to 1 exactly.
        return counts / norms.where(counts, 1)  # 1/σ², else 0

    chosen = (chosen & _live(s))[:, :first]
    out = _weighted(slabs, U[..., :first], chosen, weigh, few=first is None)
    return out.clamp_max_(1)  # rounding can go above 1
