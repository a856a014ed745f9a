"""FastV (Chen et al.): an image is worth half its tokens after layer 2.

Idea: behind the first layers, visual tokens that the last prompt token hardly attends to can go.
Formula: s_j = mean over heads of the attention (causal softmax over the whole sequence) that the
last prompt token paid to visual token j in layer K - 1; the cut is where layer K begins, K = 2.
ECCV 2024, https://arxiv.org/abs/2403.06764
"""

from torch import Tensor

from ..algebra.cuts import at
from .base import Method, paper
from .scoring import rule


@rule(source="FastV (Chen et al., 2024), official code", cost="one row")
def previous_attention(last_row_before: Tensor) -> Tensor:
    """Attention that the last prompt token paid in the layer that has just run, mean over heads.

    last_row_before (H, N_v) → (N_v,), in [0, 1].
    """
    return last_row_before.float().mean(0)


PAPER = paper("ECCV 2024", "2403.06764", "chen2024fastv")

methods = (
    Method(
        "fastv",
        previous_attention,
        at(2, source="FastV, K = 2"),
        source="FastV (Chen et al., 2024), K = 2, official code",
        departures="Ranks once, at the prefill. The paper's text averages the attention received "
        "from all tokens; the official code reads the last prompt token's, as here.",
        label="FastV",
        curve=("orange", "^", "-"),
        **PAPER,
    ),
    Method(
        "fastv_k3",
        previous_attention,
        at(3, source="FastV, K = 3"),
        source="FastV (Chen et al., 2024), K = 3, the official evaluation file",
        departures="The setting that later works build on, without its second run of layer 2. "
        "Which setting is behind FastV's rows at 192, 128 and 64 tokens is not published.",
        label="FastV, K = 3",
        **PAPER,
    ),
)
