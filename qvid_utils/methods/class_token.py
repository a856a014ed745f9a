"""The attention of the vision tower's class token, a score that six published methods share, and
what stands in for it where a tower has no class token. Their cuts are before the language model.
"""

from typing import Any

from torch import Tensor

from ..algebra.cuts import at
from .base import Method, adapted
from .scoring import rule


@rule(source="FasterVLM (Zhang et al., 2024), official code; HiRED, VisionZip: its sum over heads")
def class_attention(cls_row: Tensor) -> Tensor:
    """Attention that the tower's class token pays in the layer that gives the patches, mean over
    heads.

    cls_row (H_t, N_v) → (N_v,), in [0, 1]; 0 for a token that shows no place.
    """
    return cls_row.float().mean(0)


@rule(source="the adaptation to towers without a class token that VisPruner's author advises")
def received_attention(received: Tensor) -> Tensor:
    """Attention that a token receives from all tokens of its picture, mean over heads and queries.

    received (N_v,) → (N_v,), the same in float32, in [0, 1]; 0 for a token that shows no place.
    """
    return received.float()


#: The cut of the methods whose tokens are chosen before the language model sees them.
BEFORE = {
    "schedule": at(0, source="before the language model"),
    "positions": "contiguous_on_one_axis",
}
BY_PICTURE = (
    "Several pictures, tiles or frames share the budget in proportion to their tokens; a token "
    "that shows no place (line break, class token of a frame) goes before all others."
)
SAME_ROW = "On LLaVA-1.5 HiRED, FasterVLM and VisionZip's dominant part rank by this one row. "
RECEIVED = (
    "Our adaptation to towers without a class token: mean attention received, over heads and "
    "queries, pooled as the model pools its features. " + BY_PICTURE
)


def received(published: Method, *, departures: str = "", **changes: Any) -> Method:
    """The published method with mean received attention as its score; departures: further ones."""
    return adapted(
        published,
        "received",
        rule=received_attention,
        departures=f"{departures} {RECEIVED}".strip(),
        **changes,
    )
