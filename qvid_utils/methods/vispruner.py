"""VisPruner (Zhang et al.): beyond text–visual attention, visual cues.

Idea: half of the tokens by the class token's attention, half so that what they show is diverse.
Formula: the first int(K/2) have the largest attention of the class token; from the others, in
falling order, rounds drop the eight of every second one that are most similar (cosine of the
patches) to one of the rest, until enough are gone.
ICCV 2025, https://arxiv.org/abs/2412.01818
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, class_attention, received
from .options import Options, option


@dataclass(frozen=True)
class Thinned(Options):
    """VisPruner: the best int(K · important), and of the others what is least alike.

    The others, best first, are split into every second one and the rest; of the first half the
    `step` most similar (cosine of the patches) to one of the second half go, and its survivors,
    the most similar first, stand before the second half in the next round.
    """

    important: float = option(0.5, least=0, most=1)
    step: int = option(8, least=1)

    def __call__(self, scores: Tensor, keep: int, patches: Tensor, frames: Tensor) -> Kept:
        check_scores(scores, keep)
        unit = normalize(patches.float(), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            order, first = best(scores[tokens], len(tokens)), int(k * self.important)
            cosine = unit[tokens] @ unit[tokens].T
            diverse = self._thin(order[first:], cosine, k - first)
            return torch.cat([order[:first], diverse]).sort().values, None, None

        return Kept(by_picture(frames, keep, choose)[0])

    def _thin(self, left: Tensor, cosine: Tensor, count: int) -> Tensor:
        if not count:
            return left[:0]
        while len(left) > count:
            even, odd = left[::2], left[1::2]
            alike = cosine[even[:, None], odd].amax(-1)
            gone = min(self.step, len(left) - count, len(even))
            left = torch.cat([even[best(alike, len(even))[gone:]], odd])
        return left


published = Method(
    "vispruner",
    class_attention,
    select=Thinned(),
    source="VisPruner (Zhang et al., 2025), official code, half important",
    departures="Where the code fails (an odd rest, fewer than eight to drop) a round drops what is "
    "left to drop. float32. " + BY_PICTURE,
    label="VisPruner",
    **paper("ICCV 2025", "2412.01818", "zhang2025vispruner"),
    **BEFORE,
)

methods = (
    published,
    received(
        published, source="VisPruner with the mean received attention that its author advises"
    ),
)
