"""QViD: query–vision decomposition (Athi et al.), and the scores that its paper compares it with.

Idea: the query–vision interaction M = Q Kᵀ of a head, taken before RoPE, is of low rank; a visual
token matters as far as it takes part in M's leading right singular directions.
Formula: s_j = mean over heads of Σ_{k<=r} V_jk², with M_h = U Σ Vᵀ (equation 6). The question's
tokens give Q, the visual tokens K, both from the stream that enters layer 3; r = 16; the K highest
scores stay.
ICML 2026, workshop on Adaptation and Generalization in Foundation Models.
"""

from torch import Tensor

from ..algebra.leverage import energy, leverage
from ..algebra.leverage import leverage_qr as leverage_by_qr
from ..algebra.spectrum import widen
from .base import Method, adapted
from .scoring import rule


@rule(source="QViD, section 3.4, equation 6", cost="leverage")
def qvid(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """Participation in the top `rank` query–vision modes of each head, mean over the heads.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1]; sums to the mean r_eff of the heads.
    """
    return leverage(interaction, rank).mean(0).float()


@rule(source="QViD, appendix E (per-head max)", cost="leverage")
def per_head_max(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """As `qvid`, but the head that wants a token most speaks for all.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1].
    """
    return leverage(interaction, rank).amax(0).float()


@rule(source="QViD, appendix B (column norm)", cost="energy")
def column_norm(interaction: Tensor) -> Tensor:
    """Raw interaction energy ‖M[:, j]‖², summed over question tokens and heads.

    interaction (H, N_q, N_v) → (N_v,), >= 0.
    """
    return widen(interaction).square().sum((0, 1)).float().to(interaction.device)


@rule(source="QViD, appendix E (sigma-weighted, global matrix)")
def sigma_weighted(interaction: Tensor, *, rank: int | float | None = None) -> Tensor:
    """Σ_k σ_k² V_jk² of the matrix with all heads stacked along the question axis.

    interaction (H, N_q, N_v) → (N_v,), >= 0. Over all modes (rank None, the paper's) it equals
    `column_norm`: the two keep the same tokens.
    """
    return energy(interaction.flatten(0, 1), rank).float()  # of (H·N_q, N_v)


@rule(source="QViD, appendix F (the printed QR + SVD)", cost="QR and SVD")
def leverage_qr(interaction: Tensor, *, rank: int = 16) -> Tensor:
    """`qvid` by the paper's printed recipe, which has no rank cut; for comparison.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1].
    """
    return leverage_by_qr(interaction, rank).mean(0)


PAPER = {"venue": "ICML 2026 workshop", "key": "athi2026qvid"}
OPEN = (
    "The paper leaves the query span, the layer's numbering and the positions after the cut open: "
    "here the user's words, three layers have run, original positions. The rank is also capped by "
    "the numerical rank of M."
)
ENERGIES = PAPER | {
    "departures": "The paper does not say how heads are joined: here their energies are added up, "
    "which is the energy of their matrices one above the other. It prints the norm in one place "
    "and its square in another, which rank differently over several heads: here the square. Query "
    "span, layer and positions as qvid."
}

published = Method(
    "qvid",
    qvid,
    source="QViD, section 3.4 and 4.1: equation 6, layer 3, rank 16, no RoPE",
    departures=OPEN,
    label="QViD",
    curve=("blue", "o", "-"),
    **PAPER,
)

central = True  # one of the papers that this workbook is about
methods = (
    published,
    adapted(
        published,
        "rope",
        rope=True,
        source="QViD, section 3.2: what its argument against positions leaves out",
        departures="The ablation that the paper argues from and does not print. " + OPEN,
        label="QViD with RoPE",
        curve=("purple", "D", "-"),
    ),
    Method(
        "per_head_max",
        per_head_max,
        departures=OPEN,
        label="Per-head max",
        curve=("sky", "s", "-"),
        **PAPER | {"venue": "QViD, Appendix E"},
    ),
    Method(
        "column_norm",
        column_norm,
        label="Column norm",
        curve=("vermilion", "v", "--"),
        **ENERGIES | {"venue": "QViD, Appendix B"},
    ),
    Method(
        "sigma_weighted",
        sigma_weighted,
        label="Sigma-weighted",
        curve=("orange", "D", "--"),
        **ENERGIES | {"venue": "QViD, Appendix E"},
    ),
    Method(
        "leverage_qr",
        leverage_qr,
        departures="As printed, without the cap at the numerical rank: repeated or zero query "
        "tokens let noise vote. Else as qvid.",
        label="QViD, printed QR recipe",
        curve=("ink", "p", "-"),
        **PAPER | {"venue": "QViD, Appendix F"},
    ),
)
