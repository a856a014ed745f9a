"""V²Drop (Chen et al.): drop the visual tokens that vary least from layer to layer.

Idea: a token that a layer hardly changes has said what it has to say; no attention, no query.
Formula: s_j = ‖x_j(ℓ) - x_j(ℓ-1)‖, the norm of what the last layer added to the stream; three
stages, each of which keeps a share of the tokens that are there, the last leaves one.
CVPR 2026, https://arxiv.org/abs/2509.01552
"""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..algebra.cuts import staged
from .base import Method, paper
from .scoring import rule


@rule(source="V2Drop (Chen et al., 2026), L2 variation", cost="difference")
def variation(hidden: Tensor, previous: Tensor) -> Tensor:
    """How far a token moved through the last layer, ‖x_j(ℓ) - x_j(ℓ-1)‖.

    hidden (N_v, d), previous (N_v, d) → (N_v,), >= 0.
    """
    return (hidden.float() - previous.float()).norm(dim=-1)


@rule(source="V2Drop, first release (until March 2026): cosine")
def turning(hidden: Tensor, previous: Tensor) -> Tensor:
    """How far a token turned in the last layer, 1 - cos(x_j(ℓ), x_j(ℓ-1)).

    hidden (N_v, d), previous (N_v, d) → (N_v,), in [0, 2].
    """
    return 1 - cosine_similarity(hidden.float(), previous.float(), dim=-1)


# LLaVA-1.5 (576 visual tokens, 32 layers), per cent pruned of the current tokens at layers 3, 17
# and 22, from the paper as quoted by its readers (repository issue 6). The means come out at
# 193.75, 131.0 and 66.7 tokens, which only "of the current tokens" explains.
LLAVA = {
    (576, 32, 192): (50, 70, 100),
    (576, 32, 128): (72, 75, 100),
    (576, 32, 64): (95, 95, 100),
}

# Qwen2-VL-7B (28 layers, any number of visual tokens: here of 1000), per cent pruned of the current
# tokens at layers 3, 16 and 22, from the official code. Its mean, 0.226 N, makes it the row of
# 22.2 %; for 33.3 and 11.1 % no list is known.
QWEN2_VL = {(1000, 28, 222): (75, 95, 100)}

STAGES = staged(
    (3, 17, 22),
    32,
    last=1,
    published=LLAVA,
    source="V2Drop, layers 3, 17, 22 of 32; lists for LLaVA-1.5 from its paper",
)
PAPER = paper("CVPR 2026", "2509.01552", "chen2026v2drop")
BUDGET = (
    "keep is the mean over layers. For models and budgets without a published list one ratio "
    "serves the first two stages and is solved for; the last leaves one token."
)

methods = (
    Method(
        "v2drop",
        variation,
        STAGES,
        source="V2Drop (Chen et al., 2026), L2 variation, official code since March 2026",
        departures=BUDGET,
        label="V²Drop",
        curve=("purple", "P", "-"),
        **PAPER,
    ),
    Method(
        "v2drop_cosine",
        turning,
        STAGES,
        source="V2Drop, first release (August 2025 to March 2026): cosine",
        departures=BUDGET + " The lists are the paper's, which came with the L2 variation.",
        label="V²Drop, cosine",
        **PAPER | {"venue": "arXiv, 2025"},
    ),
    Method(
        "v2drop_qwen2_vl",
        variation,
        staged(
            (3, 16, 22),
            28,
            last=1,
            published=QWEN2_VL,
            source="V2Drop, layers 3, 16, 22 of 28, official code for Qwen2-VL",
        ),
        source="V2Drop (Chen et al., 2026), official code for Qwen2-VL",
        departures="At 22.2 % of the tokens in 28 layers the official shares 0.25, 0.05, 0 of the "
        "current count. For 33.3 and 11.1 % no list is published: there, as everywhere else, one "
        "ratio for the first two stages is solved for.",
        label="V²Drop, Qwen2-VL's layers",
        **PAPER,
    ),
    Method(
        "variation",
        variation,
        departures="V2Drop's score with one cut where QViD makes it: compares the scores alone.",
        label="Variation, single cut",
        short="V²Drop's score",
        curve=("vermilion", "X", ":"),
        **PAPER | {"venue": "ours"},
    ),
)
