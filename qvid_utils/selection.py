"""From scores to kept tokens.

A selection is a pure function `(scores, keep, ...) -> Kept`. Like a rule it may ask for more
evidence by naming words of the vocabulary; one that merges tokens fills `Kept.merged`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Kept", "greedy_dpp", "pooled", "share_evenly", "top_k", "with_mean"]


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens that survive a cut.

    index (K,) int64, ascending, numbering the tokens that were scored; merged (K, d) replaces the
    rows of the kept tokens where a selection merges others into them, else None; patches (K, D) is
    the same before the projector, which the engine then sends them through.
    Raises ValueError if the shapes do not fit.
    """

    index: Tensor
    merged: Tensor | None = None
    patches: Tensor | None = None

    def __post_init__(self):
        if self.index.dim() != 1 or self.index.dtype != torch.long:
            raise ValueError(
                f"Kept.index must be one row of int64 numbers, got {self.index.dtype} of shape "
                f"{tuple(self.index.shape)}"
            )
        for name in ("merged", "patches"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.index):
                raise ValueError(
                    f"Kept.{name} has {len(rows)} rows for {len(self.index)} kept tokens: "
                    "give one row per kept token"
                )


def top_k(scores: Tensor, keep: int) -> Kept:
    """The `keep` highest scores, in the order of the sequence; a tie goes to the earlier token.

    scores (N_v,) → Kept with index (keep,) ascending. Device of the scores.
    Raises ValueError on another shape, on NaN or infinite scores, and on keep outside 1..N_v.
    """
    if scores.dim() != 1:
        raise ValueError(
            f"scores must be one number per visual token, got shape {tuple(scores.shape)}"
        )
    if not 1 <= keep <= len(scores):
        raise ValueError(
            f"keep={keep}: there are {len(scores)} scores, keep 1 to {len(scores)} of them"
        )
    broken = int((~torch.isfinite(scores)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(scores)} scores are NaN or infinite: look for NaN or overflow in "
            "the hidden states that were scored"
        )
    # torch.topk leaves the order of equal scores open; a stable sort does not.
    order = scores.sort(descending=True, stable=True).indices
    return Kept(order[:keep].sort().values)


def share_evenly(keep: int, sizes: Sequence[int]) -> list[int]:
    """`keep` tokens shared among pictures (or frames) that have `sizes` of them: as evenly as can
    be, the remainder to the first ones, nobody above its size.

    Raises ValueError unless len(sizes) <= keep <= sum(sizes).
    """
    if not len(sizes) <= keep <= sum(sizes):
        raise ValueError(
            f"keep={keep}: {len(sizes)} pictures (or frames) of {sum(sizes)} visual tokens share "
            f"them evenly, keep {len(sizes)} to {sum(sizes)} of them"
        )
    shares = [0] * len(sizes)
    while left := keep - sum(shares):
        able = [i for i, size in enumerate(sizes) if shares[i] < size]
        each, more = divmod(left, len(able))
        for place, i in enumerate(able):
            shares[i] = min(sizes[i], shares[i] + each + (place < more))
    return shares


def pooled(scores: Tensor, keep: int, hidden: Tensor, grid: tuple[int, int, int]) -> Kept:
    """Average pooling to exactly `keep` cells; the scores do not matter.

    Each picture or frame gets an even share of the cells: rows × cols of them, the split of its
    share that is nearest to its own aspect. A token on a border counts in both cells by the part
    of it that lies there. Where no split comes within a factor of 2 of the picture's aspect, the
    tokens in reading order are cut into equal lengths instead. A cell stands in the slot of the
    token at its middle.
    scores (N_v,), hidden (N_v, d), grid (T, R, C) with T·R·C = N_v → Kept, merged (keep, d).
    Raises ValueError where the grid is another, or keep is not in T..N_v.
    """
    frames, rows, cols = grid
    if frames * rows * cols != len(scores):
        raise ValueError(
            f"pooling: {len(scores)} visual tokens are left of the {frames} × {rows} × {cols} grid "
            "of the picture; pool before anything is dropped"
        )
    index, merged = [], []
    for frame, cells in enumerate(share_evenly(keep, [rows * cols] * frames)):
        split = _split(cells, rows, cols)
        if split is None:
            weights, middle = _areas(rows * cols, cells), _middles(rows * cols, cells)
        else:
            weights = torch.kron(_areas(rows, split[0]), _areas(cols, split[1]))
            middle = _middles(rows, split[0])[:, None] * cols + _middles(cols, split[1])
        start = frame * rows * cols
        here = hidden[start : start + rows * cols]
        merged.append(weights.to(here) @ here)
        index.append(start + middle.flatten())
    return Kept(torch.cat(index).to(hidden.device), torch.cat(merged))


def _split(cells: int, rows: int, cols: int) -> tuple[int, int] | None:
    """The (rows, cols) of exactly that many cells nearest to the picture's aspect, if near it."""
    splits = [(r, cells // r) for r in range(1, rows + 1) if cells % r == 0 and cells // r <= cols]
    strain = {(r, c): max(r * cols / (c * rows), c * rows / (r * cols)) for r, c in splits}
    best = min(splits, key=strain.__getitem__, default=None)
    return best if best is not None and strain[best] <= 2 else None


def _areas(n: int, k: int) -> Tensor:
    """(k, n) float64: how much of the j-th of n tokens lies in the i-th of k equal parts of their
    row, each part's weights adding up to 1."""
    edge, place = torch.arange(k + 1), torch.arange(n)  # in whole 1/k of a token, so exact
    start = torch.maximum(edge[:-1, None] * n, place * k)
    end = torch.minimum(edge[1:, None] * n, (place + 1) * k)
    return (end - start).clamp(min=0).double() / n


def _middles(n: int, k: int) -> Tensor:
    """(k,): the token at the middle of each part."""
    return (2 * torch.arange(k) + 1) * n // (2 * k)


def with_mean(scores: Tensor, keep: int, patches: Tensor) -> Kept:
    """TRIM's output: the `keep` - 1 best tokens in the order of the picture, then the plain mean of
    all others; both before the projector.

    scores (N_v,), patches (N_v, D) → Kept with patches (keep, D); the slots are those of the best
    `keep`, the mean stands in the last one. Errors as in `top_k`.
    """
    index = top_k(scores, keep).index
    if keep == 1:
        return Kept(index, patches=patches.mean(0, keepdim=True))
    best = top_k(scores, keep - 1).index
    others = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    others[best] = False
    return Kept(index, patches=torch.cat([patches[best], patches[others].mean(0, keepdim=True)]))


def greedy_dpp(scores: Tensor, keep: int, features: Tensor) -> Kept:
    """Greedy MAP of a determinantal point process: relevant tokens that differ from each other.

    Kernel L_ij = r_i cos(f_i, f_j) r_j with relevance r = scores; each step takes the token that
    raises det L of the chosen ones most, kept track of by a Cholesky factor. Where the rank of L is
    used up (no determinant is left to raise), the rest goes by relevance.
    scores (N_v,) >= 0, features (N_v, d) → Kept; float64. Errors as in `top_k`.
    """
    top_k(scores, keep)
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
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
