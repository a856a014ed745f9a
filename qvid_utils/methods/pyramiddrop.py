"""PyramidDrop (Xing et al.): a pyramid of visual tokens, fewer at each stage.

Idea: redundancy grows with depth, so the same ranking is made anew at three or four layers.
Formula: s_j = mean over heads of the attention that the last prompt token pays to visual token j in
the layer about to run; stage s keeps N·λˢ of all N tokens.
CVPR 2025, https://arxiv.org/abs/2410.17247
"""

from torch import Tensor

from ..algebra.cuts import staged
from .base import Method, paper
from .scoring import rule


@rule(source="PyramidDrop (Xing et al., 2025), official code", cost="one row")
def last_attention(last_row: Tensor) -> Tensor:
    """Attention that the last prompt token pays in the layer about to run, mean over heads.

    last_row (H, N_v) → (N_v,), in [0, 1].
    """
    return last_row.float().mean(0)


# LLaVA-1.5, tokens kept where layers 2, 8 and 16 begin: λ = 0.19, given by the author (repository
# issue 29) for 64; λ = 0.42 and 0.56 are derived in the same way. The means are 62.9, 127.4 and
# 191.9.
LISTS = {
    (576, 32, 64): (109, 20, 3),
    (576, 32, 128): (241, 101, 42),
    (576, 32, 192): (322, 180, 101),
}

#: The only setting in the repository: half of the tokens at layers 8, 16 and 24, a mean of 270 of
#: 576. `method("pyramiddrop", schedule=DEFAULT)`.
DEFAULT = staged(
    (8, 16, 24),
    32,
    counts={(576, 32, 270): (288, 144, 72)},
    share="original",
    source="PyramidDrop, official code: shares 0.5, 0.25, 0.125 at layers 8, 16, 24 of 32",
)

PAPER = paper("CVPR 2025", "2410.17247", "xing2025pyramiddrop")

methods = (
    Method(
        "pyramiddrop",
        last_attention,
        staged(
            (2, 8, 16),
            32,
            counts=LISTS,
            share="original",
            source="PyramidDrop, λ, λ², λ³ of all tokens at layers 2, 8, 16 of 32: its author",
        ),
        positions="contiguous_on_one_axis",
        source="PyramidDrop (Xing et al., 2025), official code",
        departures="keep is the mean over layers. λ = 0.19 for 64 of 576 tokens is the author's; "
        "0.42 and 0.56 for 128 and 192 are derived; elsewhere λ is solved for. At least one token "
        "stays. Positions along several axes, for which there is no code, stay. The repository's "
        "own setting is pyramiddrop.DEFAULT.",
        label="PyramidDrop",
        curve=("green", "*", ":"),
        printed="pdrop",
        **PAPER,
    ),
    Method(
        "last_attention",
        last_attention,
        departures="PyramidDrop's score with one cut where QViD makes it.",
        label="Last-token attention, single cut",
        curve=("green", "<", "--"),
        **PAPER | {"venue": "ours"},
    ),
)
