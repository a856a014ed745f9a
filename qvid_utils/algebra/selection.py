"""From scores to kept tokens.

A selection is a pure function `(scores, keep, ...) -> Kept`. Like a rule it may ask for more
evidence by naming words of the vocabulary; one that merges tokens fills `Kept.merged`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Kept", "best", "by_picture", "check_scores", "shares", "top_k", "top_k_by_picture",
           "top_k_in_pictures", "unused"]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens that survive a cut.

    index (K,) int64, ascending, numbering the tokens that were scored; merged (K, d) replaces the
    rows of the kept tokens where a selection merges others into them, else None; patches (K, D)
    does so in the space before the projector, which they then go through; stands (K,) says which
    token each row is (a merged one: its centre; -1: no single token, but a class token or a sum)
    where rows have an order of their own, else None.
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


def unused(used: Tensor, n: int) -> Tensor:
    """The numbers below n that are not among `used`, ascending."""
    free = torch.ones(n, dtype=torch.bool, device=used.device)
    free[used] = False
    return free.nonzero()[:, 0]


def check_scores(scores: Tensor, keep: int) -> None:
    """ValueError unless the scores are (N_v,) finite numbers and keep is in 1..N_v; TypeError where
    keep is no whole number."""
    if isinstance(keep, bool) or not hasattr(keep, "__index__"):
        raise TypeError(f"keep={keep!r}: give the number of visual tokens to keep as an int")
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


# numbers within a picture, ascending; what stands there; which of the picture's tokens that is
Choice = tuple[Tensor, Tensor | None, Tensor | None]


def by_picture(
    frames: Tensor, keep: int, choose: Callable[[Tensor, int], Choice], rows: Tensor | None = None
) -> Choice:
    """Choose in each picture, tile or frame for itself, as official code does, within one budget.

    frames (N_v,): the picture of each token, -1 for one that shows no place; each picture gets a
    share of `keep` in proportion to its tokens. choose(tokens, k): `tokens` (n,) are a picture's,
    → numbers among these n, ascending, what stands there (their own content: None), and which
    token that is (`Kept.stands`; each in its place: None). A token that shows no place is kept only
    where all others are, the first ones first, with its content from rows (N_v, D). Of the three,
    the answer has those of the whole prompt.
    """
    groups = [(frames == f).nonzero()[:, 0] for f in range(int(frames.max()) + 1)]
    groups = [tokens for tokens in groups if len(tokens)]
    shown = sum(map(len, groups))
    chosen, contents, stand = [], [], []
    for tokens, k in zip(groups, shares([len(t) for t in groups], min(keep, shown)), strict=True):
        if k:
            numbers, content, who = choose(tokens, k)
            chosen.append(tokens[numbers])
            contents.append(content)
            stand.append(None if who is None else torch.where(who < 0, -1, tokens[who]))
    if keep > shown:
        chosen.append((frames < 0).nonzero()[: keep - shown, 0])
        contents.append(None if rows is None else rows[chosen[-1]])
        stand.append(chosen[-1])
    index = torch.cat(chosen)
    order = index.argsort()
    plain = any(who is None for who in stand)
    contents = None if rows is None else torch.cat(contents)[order]
    return index[order], contents, None if plain else torch.cat(stand)[order]


def top_k_in_pictures(scores: Tensor, keep: int, frames: Tensor) -> Kept:
    """As `top_k`, but a token that shows no place (frames -1: a class token, a line break) is kept
    only where all others are.

    scores (N_v,), frames (N_v,) → Kept with index (keep,) ascending. Errors as in `top_k`.
    """
    check_scores(scores, keep)
    shown, rest = (frames >= 0).nonzero()[:, 0], (frames < 0).nonzero()[:, 0]
    chosen = shown[best(scores[shown], min(keep, len(shown)))]
    more = rest[best(scores[rest], keep - len(chosen))] if keep > len(chosen) else rest[:0]
    return Kept(torch.cat([chosen, more]).sort().values)


def top_k_by_picture(scores: Tensor, keep: int, frames: Tensor) -> Kept:
    """As `top_k`, but each picture, tile or frame keeps its own best; see `by_picture`.

    scores (N_v,), frames (N_v,) → Kept with index (keep,) ascending. Errors as in `top_k`.
    """
    check_scores(scores, keep)

    def choose(tokens: Tensor, k: int) -> Choice:
        return best(scores[tokens], k).sort().values, None, None

    return Kept(by_picture(frames, keep, choose)[0])
