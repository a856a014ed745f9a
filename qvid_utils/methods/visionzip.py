"""VisionZip (Yang et al.): dominant tokens stay, the rest is merged into contextual ones.

Idea: a few tokens gather what the vision tower saw; of the others, alike ones can be one.
Formula: dominant tokens have the largest attention of the class token, summed over heads;
contextual tokens are evenly spaced ones of the rest, each plus the mean of those whose keys are
most similar to its own.
CVPR 2025, https://arxiv.org/abs/2412.04467
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores, unused
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, class_attention, received
from .options import Options, option


@dataclass(frozen=True)
class VisionZip(Options):
    """VisionZip: the class token, the dominant tokens, and the contextual ones, merged of the rest.

    Of K tokens, contextual = round(K · part) and dominant = K - contextual, the class token among
    them. The rest in its order: evenly spaced targets, and every other token joins the target that
    its key (mean over heads) is most similar to; target + mean of its members is a contextual
    token. Order: class token, dominant as in the picture, contextual.
    """

    part: float = option(10 / 64, least=0, below=1)
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __call__(
        self,
        scores: Tensor,
        keep: int,
        tower_keys: Tensor,
        patches: Tensor,
        cls_patch: Tensor,
        frames: Tensor,
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().mean(0), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            contextual = min(round(k * self.part), k - 1)
            dominant, targets, merged = _contextual(
                scores[tokens], unit[tokens], patches[tokens], k - contextual - 1, contextual
            )
            used = torch.cat([dominant, targets])
            slots = torch.cat([used, unused(used, len(tokens))[:1]])  # one for the class token
            content = [cls_patch[tokens[:1]], patches[tokens[dominant]], merged]
            stands = torch.cat([used.new_tensor([-1]), used])
            return slots.sort().values, torch.cat(content), stands

        index, rows, stands = by_picture(frames, keep, choose, patches)
        return Kept(index, patches=rows, stands=stands)


@dataclass(frozen=True)
class VisionZipInPlace(Options):
    """VisionZip without a class token: K - round(K · part) dominant tokens, the rest merged as
    there but behind the projector; every token stays in its place."""

    part: float = option(10 / 64, least=0, below=1)
    merges: ClassVar[bool] = True

    def __call__(
        self, scores: Tensor, keep: int, tower_keys: Tensor, hidden: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().mean(0), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            contextual = min(round(k * self.part), k - 1)
            dominant, targets, merged = _contextual(
                scores[tokens], unit[tokens], hidden[tokens], k - contextual, contextual
            )
            slots, order = torch.cat([dominant, targets]).sort()
            return slots, torch.cat([hidden[tokens[dominant]], merged])[order], None

        return Kept(*by_picture(frames, keep, choose, hidden)[:2])


def _contextual(
    scores: Tensor, unit: Tensor, rows: Tensor, dominant: int, contextual: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the dominant tokens and of the targets, and the contextual tokens (C, D)."""
    chosen = best(scores, dominant).sort().values
    left = unused(chosen, len(scores))
    if not contextual:
        return chosen, left[:0], rows[:0]
    target = torch.zeros_like(left, dtype=torch.bool)
    target[:: max(1, len(left) // contextual)] = True
    target &= target.cumsum(0) <= contextual
    targets, members = left[target], left[~target]
    nearest = (unit[members] @ unit[targets].T).argmax(-1)
    sums = torch.zeros_like(rows[targets]).index_add_(0, nearest, rows[members])
    sizes = torch.bincount(nearest, minlength=contextual).clamp(min=1)
    return chosen, targets, rows[targets] + sums / sizes[:, None]


published = Method(
    "visionzip",
    class_attention,
    select=VisionZip(),
    source="VisionZip (Yang et al., 2025), official code",
    departures="The class token counts inside K; contextual = round(K·10/64) carries its 54+10, "
    "108+20, 162+30 to any K (the code keeps at least one). Mean over heads in float32. "
    + BY_PICTURE,
    label="VisionZip",
    curve=("purple", "P", "--"),
    **paper("CVPR 2025", "2412.04467", "yang2025visionzip"),
    **BEFORE,
)

methods = (
    published,
    received(
        published,
        select=VisionZipInPlace(),
        source="VisionZip adapted as in EffiVLM-Bench: behind the projector, in place",
        departures="No class token among the K; attention of the layer that gives the patches (the "
        "bench: block 30 of Qwen2-VL's 32); keys are averaged over the patches of a token.",
    ),
)
