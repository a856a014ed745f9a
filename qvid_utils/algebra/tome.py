"""What a method may do inside the vision tower, as data and formulas; `tower_site` carries it out.

ToMe merges alike tokens in every layer; downsampling shows the tower a smaller picture. Letters:
t tokens of one picture in the tower (class token included), d_k key width, D tower width.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Downsampling", "ToMe", "fewest", "match", "merge", "merge_counts", "rows_and_columns"]


@dataclass(frozen=True)
class ToMe:
    """Merge alike tokens in each layer, after attention and before the MLP (Bolya et al., 2023).

    proportional: add the log of a token's size to all logits of its key, as if each patch that it
    stands for were still there (the source's choice for models that are not trained with merging).
    """

    proportional: bool = True

    def __str__(self) -> str:
        return "ToMe" if self.proportional else "ToMe without proportional attention"


@dataclass(frozen=True)
class Downsampling:
    """Show the tower the picture in rows × cols patches, position embeddings interpolated."""

    def __str__(self) -> str:
        return "downsampling"


# ------------------------------------------------------------------------------------------ ToMe


def fewest(tokens: int, layers: int) -> int:
    """The fewest tokens that merging can leave: each layer merges at most half of what is not the
    class token, ⌊(t-1)/2⌋."""
    for _ in range(layers):
        tokens -= (tokens - 1) // 2
    return tokens


@cache
def merge_counts(tokens: int, left: int, layers: int) -> tuple[int, ...]:
    """r, how many tokens each of the layers merges away, so that exactly `left` of `tokens` stay.

    Evenly, the remainder in the first layers; where ⌊(t-1)/2⌋ of a late layer caps that, the layers
    before it take what is missing, again as evenly as can be. Counts include the class token.
    Raises ValueError where `left` is more than `tokens` or less than `fewest` allows.
    """
    if not fewest(tokens, layers) <= left <= tokens:
        raise ValueError(
            f"{left} of {tokens} tokens after {layers} layers: merging leaves "
            f"{fewest(tokens, layers)} to {tokens}"
        )

    def run(high: int, first: int) -> tuple[int, ...]:
        """At most `high` in the first layers, one less in the others."""
        counts, t = [], tokens
        for layer in range(layers):
            counts.append(min(high - (layer >= first), (t - 1) // 2))
            t -= counts[-1]
        return tuple(counts)

    # One more in one layer takes one token more away in the end, or none: every count is met.
    levels = ((high, first) for high in range(1, tokens + 1) for first in range(1, layers + 1))
    plans = (run(*level) for level in levels)
    if left == tokens:
        return (0,) * layers
    return next(counts for counts in plans if sum(counts) == tokens - left)


def match(keys: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite matching: which tokens at even places merge into which at odd ones.

    keys (B, t, d_k), place 0 is the class token, which never merges into another. Each even token
    looks for the odd one of largest cosine; the r closest pairs merge (a tie: the earlier token).
    → staying (B, n_even - r) in order, leaving (B, r), partner (B, r), numbered among even, even
    and odd tokens. ValueError for r outside 0..⌊(t-1)/2⌋.
    """
    most = (keys.shape[1] - 1) // 2
    if not 0 <= r <= most:
        raise ValueError(f"r={r}: of {keys.shape[1]} tokens a layer can merge 0 to {most}")
    unit = functional.normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=-1)
    cosine = unit[:, 0::2] @ unit[:, 1::2].mT
    cosine[:, 0] = -torch.inf
    partner = cosine.argmax(-1)
    nearest = cosine.gather(2, partner[..., None])[..., 0]
    order = nearest.sort(dim=1, descending=True, stable=True).indices
    leaving = order[:, :r]
    return order[:, r:].sort(dim=1).values, leaving, partner.gather(1, leaving)


def merge(x: Tensor, size: Tensor, pairs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The size-weighted mean of each group: Σ size·x / Σ size; several tokens may join one.

    x (B, t, D), size (B, t) patches that each stands for → (B, t - r, D) and (B, t - r): the even
    tokens that stay, then all odd ones. The order of the picture's rows is lost, as in the source.
    """
    staying, leaving, partner = pairs

    def grouped(values: Tensor) -> Tensor:
        def take(t: Tensor, places: Tensor) -> Tensor:
            return t.gather(1, places[..., None].expand(-1, -1, t.shape[-1]))

        even, odd = values[:, 0::2], values[:, 1::2]
        into = partner[..., None].expand(-1, -1, values.shape[-1])
        return torch.cat([take(even, staying), odd.scatter_add(1, into, take(even, leaving))], 1)

    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weight = size[..., None].to(wide.dtype)
    sizes = grouped(weight)
    return (grouped(wide * weight) / sizes).to(x.dtype), sizes[..., 0]


# ---------------------------------------------------------------------------------- downsampling

STRETCH = 2  # how much longer the one side of a square picture may become


def rows_and_columns(patches: int, side: int) -> tuple[int, int]:
    """The grid of exactly `patches` cells that is nearest to a square, no side above `side` and
    none more than twice the other; a tie lies on its side (fewer rows than columns).

    Raises ValueError with the nearest possible counts where there is no such grid.
    """
    best: dict[int, tuple[int, int]] = {}
    for rows in range(1, side + 1):  # rising: the last grid of a count is nearest to a square
        for cols in range(rows, min(side, STRETCH * rows) + 1):
            best[rows * cols] = rows, cols
    if patches in best:
        return best[patches]
    below = max((n for n in best if n < patches), default=None)
    above = min((n for n in best if n > patches), default=None)
    near = [f"{n} ({best[n][0]} × {best[n][1]})" for n in (below, above) if n is not None]
    raise ValueError(
        f"a picture of {side} × {side} patches cannot be shown in {patches}: no side may be more "
        f"than {STRETCH} times the other; possible are {' and '.join(near)}"
    )
