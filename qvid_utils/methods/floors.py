"""Floors: what a choice without looking reaches. A shuffle, a uniform stride, average pooling, a
smaller picture. A method that does not beat them has found nothing.
"""

import hashlib
from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from ..algebra.cuts import at
from ..algebra.selection import Kept
from ..algebra.tome import Downsampling
from .base import Method
from .class_token import BEFORE
from .scoring import rule
from .tome import slots


@rule(source="floor: chance")
def random(hidden: Tensor, prompt: int, *, seed: int = 0) -> Tensor:
    """A shuffle drawn from (seed, prompt), the same on every device and in every batch.

    hidden (N_v, d) for its length, prompt int → (N_v,) distinct whole numbers.
    """
    text = f"{index(seed)} {index(prompt)}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(number))
    return order.float().to(hidden.device)


@rule(source="floor: uniform stride")
def stride(hidden: Tensor) -> Tensor:
    """Evenly spread tokens: the van der Corput sequence 0, 1/2, 1/4, 3/4, 1/8, … as a ranking.

    hidden (N_v, d) for its length → (N_v,) distinct whole numbers <= 0. The best K lie N_v/K apart
    where K is a power of two; in between, gaps are N_v/2^m or half of that, with 2^m <= K.
    """
    n = len(hidden)
    bits = max(1, (n - 1).bit_length())
    point = torch.arange(2**bits)
    turn = sum(((point >> i) & 1) << (bits - 1 - i) for i in range(bits))  # bits reversed
    first = torch.full((n,), 2**bits).scatter_reduce(0, (point * n) >> bits, turn, "amin")
    return -first.float().to(hidden.device)


@rule(source="the selection looks at no score")
def alike(hidden: Tensor) -> Tensor:
    """All tokens are alike.

    hidden (N_v, d) for its length → (N_v,) zeros.
    """
    return hidden.new_zeros(len(hidden), dtype=torch.float32)


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


pooled.merges = True  # a cell's mean is no token's own


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


FLOOR = {"venue": "floor", "apart": "floors"}

methods = (
    Method(
        "random",
        random,
        departures="A floor of ours: cuts once, by default where QViD does. The seed and the "
        "prompt draw the shuffle, so equal prompts lose equal places.",
        label="Random",
        curve=("grey", "o", ":"),
        **FLOOR,
    ),
    Method(
        "stride",
        stride,
        departures="A floor of ours: cuts once, by default where QViD does.",
        label="Uniform stride",
        curve=("pale", "d", "-."),
        **FLOOR,
    ),
    Method(
        "pooling",
        alike,
        select=pooled,
        source="floor: average pooling of the projected features to exactly keep cells",
        departures="Cells are rows × cols by area, a border token in both by its part; where no "
        "such split of keep is near the picture's aspect, equal lengths of the reading order. "
        "Where positions stay, each cell stands at that of its middle token.",
        label="Average pooling",
        **FLOOR | BEFORE,
    ),
    Method(
        "downsampling",
        slots,
        at(0, source="inside the vision tower"),
        encode=Downsampling(),
        positions="contiguous",
        source="floor: a smaller picture, position embeddings interpolated",
        departures="To exactly keep patches: the grid nearest to a square, so 48 are 6 × 8 and the "
        "picture is squeezed a little; counts without a grid up to 1:2 are refused. Resized after "
        "the processor (bicubic, antialiased).",
        label="Image downsampling",
        **FLOOR,
    ),
)
