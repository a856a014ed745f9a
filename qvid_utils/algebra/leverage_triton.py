"""Leverage of every head in one Triton kernel: Gram matrix, its eigenvectors by Jacobi, scores.

Opt-in: `leverage.leverage` comes here where the environment variable QVID_KERNEL is `triton`, and
needs the extra `triton` and a GPU, or Triton's interpreter (TRITON_INTERPRET=1, which is slow and
for tests). It has run in the interpreter and has been compiled for GPUs; it has never run on one,
so nothing is said of its speed, and the route through torch stays the default.

One program computes one matrix (N_q by N_v, a head of a prompt) in float64 and reads it three times
in blocks of columns: for M Mᵀ, for the norms of the rows u_kᵀ M, for the scores. Only N_q by N_q is
held. N_q is padded with zeros to n = 16, 32 or 64. In step m of a sweep (m = 1 to n - 1) row i is
rotated with row i XOR m, all pairs at once, so that a sweep meets every pair once.
"""

from numbers import Integral

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["CONVERGED", "LARGEST", "leverage_of", "usable"]

LARGEST = 64  # rows of a matrix at most: n by n numbers, twice, are in one program's registers
SWEEPS = 20  # five to eight are usual
CONVERGED = 1e-15  # what is off the diagonal, as a share of the whole: as exact as LAPACK


@triton.jit
def _rotated(G, V, i, j, step):
    """Rows and columns i of G, rows i of V, turned so that G[i, i ^ step] becomes 0."""
    n: tl.constexpr = G.shape[0]
    partner = i ^ step
    on, across = i == j, partner == j
    along = tl.sum(tl.where(on, G, 0.0), 0)[None, :]
    here = tl.sum(tl.where(on, G, 0.0), 1)[:, None]
    there = tl.sum(tl.where(across, along, 0.0), 1)[:, None]
    met = tl.where(across, G, 0.0)
    # The mean of G[i, p] and G[p, i], so that both rows of a pair turn by the same angle exactly.
    between = 0.5 * (tl.sum(met, 1)[:, None] + tl.sum(met, 0)[:, None])
    alone = between == 0.0
    slope = (there - here) / tl.where(alone, 1.0, 2.0 * between)
    up = (slope > 0.0) | ((slope == 0.0) & (i < partner))
    tangent = tl.where(up, 1.0, -1.0) / (tl.abs(slope) + tl.sqrt(1.0 + slope * slope))
    tangent = tl.where(alone, 0.0, tangent)
    cosine = 1.0 / tl.sqrt(1.0 + tangent * tangent)
    sine = tangent * cosine
    rows = tl.broadcast_to(partner, (n, n))
    G = cosine * G - sine * tl.gather(G, rows, 0)
    V = cosine * V - sine * tl.gather(V, rows, 0)
    columns = tl.broadcast_to(j ^ step, (n, n))
    G = tl.trans(cosine) * G - tl.trans(sine) * tl.gather(G, columns, 1)
    return tl.where(across, 0.0, G), V


@triton.jit
def _block(X, start, n_query, n_visual, i, width: tl.constexpr):
    """(n, width) float64: columns from `start` on, 0 outside the matrix."""
    columns = start + tl.arange(0, width)[None, :]
    inside = (i < n_query) & (columns < n_visual)
    return tl.load(X + i * n_visual + columns, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def _votes(G, i, j, rank: tl.constexpr, is_share: tl.constexpr, null: tl.constexpr):
    """Which modes vote: in the order of their energy, the earlier first where it is equal."""
    diagonal = tl.maximum(tl.where(i == j, G, 0.0), 0.0)
    mine, other = tl.sum(diagonal, 1)[:, None], tl.sum(diagonal, 0)[None, :]
    before = (other > mine) | ((other == mine) & (j < i))
    if is_share:
        held = tl.sum(tl.where(before, other, 0.0), 1)
        votes = held < (rank - 1e-12) * tl.sum(mine)
    else:
        votes = tl.sum(before.to(tl.int32), 1) < rank
    energy = tl.sum(diagonal, 1)
    return votes & (energy > null * tl.max(energy, 0))


@triton.jit
def _leverage(
    M,
    scores,
    residuals,
    n_query,
    n_visual,
    rank: tl.constexpr,
    is_share: tl.constexpr,
    null: tl.constexpr,
    converged: tl.constexpr,
    sweeps: tl.constexpr,
    n: tl.constexpr,
    width: tl.constexpr,
):
    matrix = tl.program_id(0)
    X = M + matrix.to(tl.int64) * n_query * n_visual
    out = scores + matrix.to(tl.int64) * n_visual
    i, j = tl.arange(0, n)[:, None], tl.arange(0, n)[None, :]

    G = tl.zeros((n, n), tl.float64)
    for start in range(0, n_visual, width):
        x = _block(X, start, n_query, n_visual, i, width)
        G = tl.dot(x, tl.trans(x), G, out_dtype=tl.float64)
    V = tl.where(i == j, 1.0, 0.0).to(tl.float64)
    whole = tl.sum(tl.sum(G * G, 1), 0)
    off = tl.sum(tl.sum(tl.where(i == j, 0.0, G * G), 1), 0)
    sweep = 0
    while (sweep < sweeps) & (off > converged * converged * whole):
        for step in range(1, n):
            G, V = _rotated(G, V, i, j, step)
        off = tl.sum(tl.sum(tl.where(i == j, 0.0, G * G), 1), 0)
        sweep += 1
    tl.store(residuals + matrix, tl.sqrt(off / tl.where(whole > 0.0, whole, 1.0)))

    votes = _votes(G, i, j, rank, is_share, null)
    # A row's own norm is truer than its eigenvalue: each mode that votes sums to 1 exactly.
    norms = tl.zeros((n,), tl.float64)
    for start in range(0, n_visual, width):
        x = _block(X, start, n_query, n_visual, i, width)
        parts = tl.dot(V, x, out_dtype=tl.float64)
        norms += tl.sum(parts * parts, 1)
    weights = tl.where(votes, 1.0 / tl.where(votes, norms, 1.0), 0.0)[:, None]
    for start in range(0, n_visual, width):
        x = _block(X, start, n_query, n_visual, i, width)
        parts = tl.dot(V, x, out_dtype=tl.float64)
        score = tl.minimum(tl.sum(weights * parts * parts, 0), 1.0)  # rounding can go above 1
        columns = start + tl.arange(0, width)
        tl.store(out + columns, score, mask=columns < n_visual)


def _shape(n_query: int) -> dict[str, int]:
    """n, columns of a block and warps of a program for so many rows."""
    n = max(16, triton.next_power_of_2(n_query))
    return {"n": n, "width": 32, "num_warps": {16: 2, 32: 4, 64: 8}[n]}


def usable(device: torch.device) -> bool:
    """Whether Triton has something to run on: a GPU, or its interpreter."""
    return device.type == "cuda" or triton.knobs.runtime.interpret


def leverage_of(X: Tensor, rank: int | float, null: float) -> tuple[Tensor, Tensor]:
    """Leverage of each matrix and how far its eigenproblem is from being solved.

    X (B, N_q, N_v) finite floating-point numbers with N_q <= 64; rank: a number of modes or a share
    of the energy; modes with σ² <= null · σ_1² do not vote → (B, N_v) float64 in [0, 1] and (B,)
    float64: ‖off-diagonal‖ / ‖whole‖ of what M Mᵀ has been turned into. Scores are good where that
    is at most CONVERGED. ValueError for more rows.
    """
    count, n_query, n_visual = X.shape
    if n_query > LARGEST:
        raise ValueError(f"{n_query} rows: the kernel takes {LARGEST} at most")
    scores = X.new_empty(count, n_visual, dtype=torch.float64)
    residuals = X.new_empty(count, dtype=torch.float64)
    is_share = not isinstance(rank, Integral)
    number = float(rank) if is_share else int(rank)
    settings = {"rank": number, "is_share": is_share, "null": null}
    settings |= {"converged": CONVERGED, "sweeps": SWEEPS, **_shape(n_query)}
    _leverage[(count,)](X.contiguous(), scores, residuals, n_query, n_visual, **settings)
    return scores, residuals
