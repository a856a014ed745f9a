"""LLaVA-PruMerge (Shang et al.): prune by outliers, merge what is pruned into what is kept.

Idea: the class token's attention is sparse; its outliers stay, and each takes in the tokens that
are most like it.
Formula: s_j = softmax over all keys of the tower's last layer of (class token's query · key_j)/√D,
heads not separated; to a kept token are added its 32 nearest others by their keys, each times its
score, and one more token is the sum of all dropped ones times theirs.
ICCV 2025, https://arxiv.org/abs/2403.15388
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..algebra.selection import Choice, Kept, best, by_picture, check_scores, unused
from .base import Method, adapted, paper
from .class_token import BEFORE, BY_PICTURE, received
from .options import Options, option
from .scoring import rule


@rule(source="LLaVA-PruMerge (Shang et al., 2024), official code")
def last_class_attention(last_cls_row: Tensor) -> Tensor:
    """Softmax of the class token's query times all keys of the tower's last layer, scaled by
    1/sqrt(D): the heads are never separated, so it is no attention of the model's.

    last_cls_row (N_v,) → (N_v,), the same in float32, in [0, 1]; 0 for a token that shows no place.
    """
    return last_cls_row.float()


@dataclass(frozen=True)
class PruMerge(Options):
    """LLaVA-PruMerge: K - 1 tokens, each with its nearest others added, and one of all the rest.

    To a kept token the `neighbours` others with the most similar keys are added, each times its
    score; the last token is the sum of the dropped ones times their scores. Scores are not
    normalised. Order: highest score first.
    plus: half of the kept tokens are the best, the other half lies evenly over the picture.
    adaptive: the published way without a budget: keep what scores above Q3 + 1.5 (Q3 - Q1), with
    `plus` every s-th token besides, s = int(int(1/ratio)/3); `keep` has no say.
    official_counts: K tokens and the one of the rest, K + 1.
    """

    plus: bool = False
    adaptive: bool = False
    official_counts: bool = False
    neighbours: int = option(32, least=0)
    merges: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __call__(
        self, scores: Tensor, keep: int, last_keys: Tensor, patches: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(last_keys.float(), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            own, rows = scores[tokens], patches[tokens]
            kept = self._kept(own, min(k if self.official_counts else k - 1, len(tokens) - 1))
            dropped = unused(kept, len(tokens))
            rest = (own[dropped, None] * rows[dropped]).sum(0, keepdim=True)
            slots = torch.cat([kept, dropped[:1]]).sort().values
            merged = _with_neighbours(kept, own, unit[tokens], rows, self.neighbours)
            stands = torch.cat([kept, kept.new_tensor([-1])])
            return slots, torch.cat([merged, rest]), stands

        index, rows, stands = by_picture(frames, keep, choose, patches)
        return Kept(index, patches=rows, stands=stands)

    def _kept(self, scores: Tensor, count: int) -> Tensor:
        if not self.adaptive:
            return _best_and_spread(scores, count) if self.plus else best(scores, count)
        n = len(scores)
        low, high = torch.quantile(scores.float(), scores.new_tensor([0.25, 0.75]).float())
        above = int((scores > high + 1.5 * (high - low)).sum())
        above = min(max(above, 1), n - 1)
        kept = best(scores, above)
        if self.plus:
            step = max(1, n // max(above, 1) // 3)
            strided = torch.arange(0, n - 1, step, device=scores.device)
            kept = torch.cat([kept, strided[~torch.isin(strided, kept)]])[: n - 1]
        return kept


@dataclass(frozen=True)
class PruMergeInPlace(Options):
    """PruMerge without a class token: K tokens, each with its nearest others added behind the
    projector, in their places; no token for the rest."""

    plus: bool = False
    neighbours: int = option(32, least=0)
    merges: ClassVar[bool] = True

    def __call__(
        self, scores: Tensor, keep: int, tower_keys: Tensor, hidden: Tensor, frames: Tensor
    ) -> Kept:
        check_scores(scores, keep)
        unit = normalize(tower_keys.float().transpose(0, 1).flatten(1), dim=-1)

        def choose(tokens: Tensor, k: int) -> Choice:
            own, rows = scores[tokens], hidden[tokens]
            kept = (_best_and_spread(own, k) if self.plus else best(own, k)).sort().values
            return kept, _with_neighbours(kept, own, unit[tokens], rows, self.neighbours), None

        return Kept(*by_picture(frames, keep, choose, hidden)[:2])


def _best_and_spread(scores: Tensor, count: int) -> Tensor:
    """The best half (rounded up), then tokens in the middle of equal stretches of the picture; one
    that is taken leaves its turn to the next that is free."""
    n, few = len(scores), count // 2
    kept = best(scores, count - few).tolist()
    taken = set(kept)
    for j in range(few):
        place = (2 * j + 1) * n // (2 * few)
        while place in taken:
            place = (place + 1) % n
        kept.append(place)
        taken.add(place)
    return torch.tensor(kept, dtype=torch.long, device=scores.device)


def _with_neighbours(
    kept: Tensor, scores: Tensor, unit: Tensor, rows: Tensor, count: int
) -> Tensor:
    """rows of the kept tokens, plus score times row of each one's nearest others: (K, D)."""
    alike = unit[kept] @ unit.T
    alike[torch.arange(len(kept)), kept] = -torch.inf
    near = alike.sort(dim=-1, descending=True, stable=True).indices[:, : min(count, len(rows) - 1)]
    return rows[kept] + (scores[near, None] * rows[near]).sum(1)


published = Method(
    "prumerge",
    last_class_attention,
    select=PruMerge(),
    source="LLaVA-PruMerge (Shang et al., 2024), official code",
    departures="The paper has no fixed budget: here K-1 tokens and the merged rest (K, "
    "official_counts=True: K+1); adaptive=True is its outlier rule, for each picture and not "
    "pooled over the batch, with at least one token. float32. " + BY_PICTURE,
    label="PruMerge",
    **paper("ICCV 2025", "2403.15388", "shang2025prumerge"),
    **BEFORE,
)
plus = adapted(
    published,
    "plus",
    select=PruMerge(plus=True),
    source="LLaVA-PruMerge (Shang et al., 2024), official code, PruMerge+",
    departures="As prumerge. With a fixed budget half of the K-1 are the best, half lie evenly, as "
    "in the code's fixed branch, which has them twice where they meet: here the next free token. "
    "adaptive=True is the published rule, with a stride of at least one (the code stops where more "
    "than a third are outliers).",
    label="PruMerge+",
    venue=published.venue,
)

methods = (
    published,
    plus,
    received(
        published,
        select=PruMergeInPlace(),
        source="PruMerge adapted as in EffiVLM-Bench: behind the projector, in place",
        departures="The best K, where the bench takes outliers by the interquartile range and "
        "fills up with a stride. Scores and keys of the layer that gives the patches, heads "
        "separated; no token for the rest.",
    ),
    received(
        plus,
        select=PruMergeInPlace(plus=True),
        source="PruMerge+ adapted as in EffiVLM-Bench: behind the projector, in place",
        departures="As prumerge_received, but half of the tokens are the best, half lie evenly.",
    ),
)
