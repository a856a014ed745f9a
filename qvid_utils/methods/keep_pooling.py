"""Average pooling to exactly K cells: the baseline that looks at no score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..algebra.selection import Kept

__all__ = ["pooled", "share_evenly"]


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
