"""From scores to kept tokens.

A selection is a pure function `(scores, keep, ...) -> Kept`. Like a rule it may ask for more
evidence by naming words of the vocabulary; one that merges tokens fills `Kept.merged`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .clustering import density_peaks, means

__all__ = [
    "Kept", "Recycle", "Spread",
    "best", "by_picture", "check_scores", "shares", "top_k", "top_k_by_picture",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens that survive a cut.

    index (K,) int64, ascending, numbering the tokens that were scored; merged (K, d) replaces the
    rows of the kept tokens where a selection merges others into them, else None; patches (K, D)
    does so in the space before the projector, which they then go through; stands (K,) says which
    token each row is (a merged one: its centre) where rows have an order of their own, else None.
    Raises ValueError if the shapes do not fit.
    """

    index: Tensor
    merged: Tensor | None = None
    patches: Tensor | None = None
    stands: Tensor | None = None

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
        if self.merged is not None and self.patches is not None:
            raise ValueError("Kept has merged and patches: give the contents in one space")


def top_k(scores: Tensor, keep: int) -> Kept:
    """The `keep` highest scores, in the order of the sequence; a tie goes to the earlier token.

    scores (N_v,) → Kept with index (keep,) ascending. Device of the scores.
    Raises ValueError on another shape, on NaN or infinite scores, and on keep outside 1..N_v.
    """
    check_scores(scores, keep)
    return Kept(best(scores, keep).sort().values)


def best(scores: Tensor, count: int) -> Tensor:
    """The `count` highest scores' numbers, highest first; a tie goes to the earlier token."""
    # torch.topk leaves the order of equal scores open; a stable sort does not.
    return scores.sort(descending=True, stable=True).indices[:count]


def check_scores(scores: Tensor, keep: int) -> None:
    """ValueError unless the scores are (N_v,) finite numbers and keep is in 1..N_v."""
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


def shares(sizes: Sequence[int], keep: int) -> list[int]:
    """`keep` shared out in proportion to the sizes, as whole numbers that add up to it.

    What rounding down leaves goes to the largest remainders, a tie to the earlier one. No share
    exceeds its size. Raises ValueError unless keep is in 0..sum of the sizes.
    """
    total = sum(sizes)
    if not 0 <= keep <= total:
        raise ValueError(f"keep={keep}: there are {total} tokens to share it out among")
    parts = [keep * size // total for size in sizes]
    left = sorted(range(len(sizes)), key=lambda i: (-(keep * sizes[i] % total), i))
    for i in left[: keep - sum(parts)]:
        parts[i] += 1
    return parts


Choice = tuple[Tensor, Tensor | None]  # numbers within a picture, ascending, and their contents


def by_picture(
    frames: Tensor, keep: int, choose: Callable[[Tensor, int], Choice], rows: Tensor | None = None
) -> Choice:
    """Choose in each picture, tile or frame for itself, as official code does, within one budget.

    frames (N_v,): the picture of each token, -1 for one that shows no place; each picture gets a
    share of `keep` in proportion to its tokens. choose(tokens, k): `tokens` (n,) are a picture's,
    → numbers among these n, ascending, and what stands there (their own content: None). A token
    that shows no place is kept only where all others are, the first ones first, with its content
    from rows (N_v, D).
    """
    groups = [(frames == f).nonzero()[:, 0] for f in range(int(frames.max()) + 1)]
    groups = [tokens for tokens in groups if len(tokens)]
    shown = sum(map(len, groups))
    chosen, contents = [], []
    for tokens, k in zip(groups, shares([len(t) for t in groups], min(keep, shown)), strict=True):
        if k:
            numbers, content = choose(tokens, k)
            chosen.append(tokens[numbers])
            contents.append(content)
    if keep > shown:
        chosen.append((frames < 0).nonzero()[: keep - shown, 0])
        contents.append(None if rows is None else rows[chosen[-1]])
    index = torch.cat(chosen)
    order = index.argsort()
    return index[order], None if rows is None else torch.cat(contents)[order]


def top_k_by_picture(scores: Tensor, keep: int, frames: Tensor) -> Kept:
    """As `top_k`, but each picture, tile or frame keeps its own best; see `by_picture`.

    scores (N_v,), frames (N_v,) → Kept with index (keep,) ascending. Errors as in `top_k`.
    """
    check_scores(scores, keep)
    index, _ = by_picture(frames, keep, lambda t, k: (best(scores[t], k).sort().values, None))
    return Kept(index)


@dataclass(frozen=True)
class Recycle:
    """SparseVLM's selection: the best tokens stay, some of the others are clustered and merged.

    Of D dropped tokens the int(share·D) + 1 best form int(that / size) + 1 clusters by density
    peaks on the stream; each becomes its plain mean. All count inside `keep`: as many as possible
    stay as they are, and at least one does (so a tiny `keep` gets fewer clusters); keep = N_v
    merges nothing. Merged tokens stand behind the kept ones, in the order of their centres
    (positions must be contiguous), or, `in_place`, where their centre stood.
    """

    share: float = 0.3
    size: int = 10
    in_place: bool = False

    merges = True

    @property
    def reorders(self) -> bool:
        return not self.in_place

    def clusters(self, dropped: int) -> tuple[int, int]:
        """(how many of the dropped tokens are recycled, into how many clusters)."""
        recycled = int(self.share * dropped) + 1
        return recycled, int(recycled / self.size) + 1

    def unmerged(self, keep: int, n: int) -> int:
        """How many of the `keep` tokens that n become stay as they are."""
        fits = (k for k in range(keep, 0, -1) if k < n and k + self.clusters(n - k)[1] == keep)
        return next(fits, 1)

    def __call__(self, scores: Tensor, keep: int, hidden: Tensor) -> Kept:
        everyone = top_k(scores, keep).index
        if keep == len(scores):
            return Kept(everyone)
        stay = self.unmerged(keep, len(scores))
        best = top_k(scores, stay).index
        if stay == keep:
            return Kept(best)
        others = _all_but(scores, best).nonzero()[:, 0]
        recycled = others[top_k(scores[others], self.clusters(len(others))[0]).index]
        centres, member = density_peaks(hidden[recycled], keep - stay)
        merged = means(hidden[recycled], member, keep - stay)
        stands = torch.cat([best, recycled[centres]])
        rows = torch.cat([hidden[best], merged])
        index, order = stands.sort()
        return Kept(index, rows[order]) if self.in_place else Kept(index, rows, stands=stands)


@dataclass(frozen=True)
class Spread:
    """DART's selection: pivots, and what is least like them.

    The `visual_pivots` tokens with the largest scores stay. These, then the `text_pivots` text
    tokens with the largest key norms, take turns: each takes the tokens left whose cosine with it
    is smallest, as many as the rest shared among the pivots to come, rounded up.
    official_counts: the published count, pivots + 8·⌊keep / 8⌋ (keep + 4 where 8 divides keep).
    """

    visual_pivots: int = 4
    text_pivots: int = 4
    official_counts: bool = False

    merges = False

    def __call__(
        self,
        scores: Tensor,
        keep: int,
        normed: Tensor,
        text_normed: Tensor,
        text_key_norms_before: Tensor,
    ) -> Kept:
        top_k(scores, keep)
        if self.official_counts:
            pivots = self.visual_pivots + self.text_pivots
            keep = min(len(scores), self.visual_pivots + keep // pivots * pivots)
        own = scores.sort(descending=True, stable=True).indices[: min(self.visual_pivots, keep)]
        text = text_key_norms_before.sort(descending=True, stable=True).indices[: self.text_pivots]
        pivots = torch.cat([normed[own], text_normed[text]])
        unlike = -_unit(pivots) @ _unit(normed).mT  # (pivots, N_v)
        free = _all_but(scores, own)
        left = keep - len(own)
        for turn, row in enumerate(unlike):
            share = math.ceil(left / (len(pivots) - turn))
            order = row.masked_fill(~free, -torch.inf).sort(descending=True, stable=True).indices
            free[order[:share]] = False
            left -= share
        return Kept((~free).nonzero()[:, 0])


def _all_but(scores: Tensor, index: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).index_fill(0, index, False)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)
