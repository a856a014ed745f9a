"""From scores to kept tokens.

A selection is a pure function `(scores, keep, ...) -> Kept`. Like a rule it may ask for more
evidence by naming words of the vocabulary; one that merges tokens fills `Kept.merged`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Kept", "top_k"]


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens that survive a cut.

    index (K,) int64, ascending, numbering the tokens that were scored; merged (K, d) replaces the
    rows of the kept tokens where a selection merges others into them, else None.
    Raises ValueError if the shapes do not fit.
    """

    index: Tensor
    merged: Tensor | None = None

    def __post_init__(self):
        if self.index.dim() != 1 or self.index.dtype != torch.long:
            raise ValueError(
                f"Kept.index must be one row of int64 numbers, got {self.index.dtype} of shape "
                f"{tuple(self.index.shape)}"
            )
        if self.merged is not None and len(self.merged) != len(self.index):
            raise ValueError(
                f"Kept.merged has {len(self.merged)} rows for {len(self.index)} kept tokens: "
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
