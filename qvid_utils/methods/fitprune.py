"""FitPrune (Ye et al.): prune so that the attention distribution stays as it is; here its score.

Idea: a visual token matters as far as both the picture and the text attend to it.
Formula: s_j = (attention received from the visual tokens / N_v) · (attention received from the
text), where each entry of the attention map is its maximum over the heads.
AAAI 2025, https://arxiv.org/abs/2409.10197
"""

from torch import Tensor

from .base import Method, paper
from .scoring import rule


@rule(source="FitPrune (Ye et al., 2024), official code")
def fitprune(received_from_visual: Tensor, received_from_text: Tensor) -> Tensor:
    """Attention received from the picture, per visual token, times that received from the text.

    received_from_visual (N_v,), received_from_text (N_v,) → (N_v,), >= 0.
    """
    return received_from_visual.float() / len(received_from_visual) * received_from_text.float()


methods = (
    Method(
        "fitprune",
        fitprune,
        source="FitPrune (Ye et al., 2024), official code: its score",
        departures="One cut where QViD makes it; the code deletes some tokens after every layer, "
        "by tables that are fitted offline and published for LLaVA-1.5-7B alone.",
        label="FitPrune's score, single cut",
        **paper("AAAI 2025", "2409.10197", "ye2025fitprune"),
    ),
)
