"""ToMe (Bolya et al.): token merging, inside the vision tower.

Idea: in every layer of the tower the most alike tokens become one, so that later layers run on
fewer. Formula: tokens at even places look for the odd one whose key (mean over heads) has the
largest cosine; the r closest pairs become their size-weighted mean (`algebra.tome`).
ICLR 2023, https://arxiv.org/abs/2210.09461
"""

from torch import Tensor

from ..algebra.cuts import at
from ..algebra.tome import ToMe
from .base import Method, paper
from .scoring import rule


@rule(source="the vision tower has chosen")
def slots(filled: Tensor) -> Tensor:
    """1 for a slot that the vision tower filled, 0 for one that it left empty.

    filled (N_v,) bool → (N_v,).
    """
    return filled.float()


methods = (
    Method(
        "tome",
        slots,
        at(0, source="inside the vision tower"),
        encode=ToMe(),
        positions="contiguous",
        source="ToMe (Bolya et al., 2023), sections 3.1 and 3.2; the schedule r is ours",
        departures="Merges in the layers that the model reads (of LLaVA-1.5 all but the last), "
        "evenly, the remainder in the first: no source of a ToMe row for LLaVA has a list. As in "
        "the official code the tokens leave the tower unmerged ones first, then those at odd "
        "places, not in the order of the picture. Several pictures share keep evenly.",
        label="ToMe",
        curve=("orange", "v", ":"),
        **paper("ICLR 2023", "2210.09461", "bolya2023tome"),
    ),
)
