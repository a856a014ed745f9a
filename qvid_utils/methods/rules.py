"""Every scoring rule: one short pure function each, from evidence to one score per visual token.

The signature is the contract. Positional parameters are evidence, named by a word of
`evidence.WORDS`; keyword-only parameters are hyper-parameters with a default. A rule sees one
prompt, takes any device and dtype, and returns (N_v,) scores in float32 or better, higher = kept.

Scores that come out of a decomposition are computed in float64 and rounded to float32 at the end:
tokens that are equal on paper then tie exactly, and a tie goes to the earlier token.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from ..algebra.leverage import energy, leverage
from ..algebra.leverage import leverage_qr as leverage_by_qr
from ..algebra.spectrum import concentration, widen
from .evidence import WORDS, needing

__all__ = ["RULES", "Rule", "rule"]

# Names that `Method` and `pruned` take for themselves: a hyper-parameter could never be reached.
RESERVED = frozenset(
    ("model", "method", "keep", "layer", "query", "positions", "reading", "processor", "rope")
    + ("name", "rule", "schedule", "select", "params", "source", "note", "label")
    + ("encode", "extra", "official_counts", "clip")
)


@dataclass(frozen=True, eq=False)
class Rule:
    """A scoring rule: a pure function with what it reads, its defaults and where it comes from.

    sees: the words of evidence, in the order of the function's arguments; params: its keyword-only
    defaults. Calling the rule calls the function.
    """

    name: str
    function: Callable[..., Tensor]
    sees: tuple[str, ...]
    params: dict[str, Any]
    source: str

    def __call__(self, *evidence, **params) -> Tensor:
        return self.function(*evidence, **params)

    @property
    def query_aware(self) -> bool:
        """Whether the score depends on text: does the rule see a word made from text tokens?"""
        return not needing("query", "text").isdisjoint(self.sees)


RULES: dict[str, Rule] = {}


def rule(*, source: str) -> Callable[[Callable[..., Tensor]], Rule]:
    """Decorator: make a function a `Rule` and list it in `RULES` under its own name.

    source: paper and equation, or what the rule is for. Raises ValueError at import if the source
    is empty, an argument is no word of the vocabulary, a hyper-parameter has no default or a name
    that is taken, or another module already has a rule of that name.
    """
    if not source.strip():
        raise ValueError("rule(source=...): say which paper and equation the rule comes from")

    def register(function: Callable[..., Tensor]) -> Rule:
        name = function.__name__
        sees, params = _read_signature(name, function)
        known = RULES.get(name)
        # Running a notebook cell again replaces its own rule; taking over another's is a mistake.
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(
                f"rule {name!r} exists already in {known.function.__module__}: choose another name"
            )
        made = Rule(name, function, sees, params, source)
        object.__setattr__(made, "__doc__", function.__doc__)
        RULES[name] = made
        return made

    return register


def _read_signature(name: str, function: Callable) -> tuple[tuple[str, ...], dict[str, Any]]:
    sees, params = [], {}
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            raise ValueError(f"rule {name!r}: {argument} hides what the rule reads; name each word")
        if argument.kind is argument.KEYWORD_ONLY:
            if argument.default is argument.empty:
                raise ValueError(f"rule {name!r}: hyper-parameter {argument.name} needs a default")
            if argument.name in RESERVED:
                raise ValueError(
                    f"rule {name!r}: a hyper-parameter cannot be called {argument.name}, "
                    "methods use that name themselves"
                )
            params[argument.name] = argument.default
        elif argument.name in WORDS and argument.default is argument.empty:
            sees.append(argument.name)
        else:
            raise ValueError(
                f"rule {name!r}: {argument.name} is no word of evidence; allowed without a default "
                f"are {', '.join(WORDS)}; put hyper-parameters after a *"
            )
    if not sees:
        raise ValueError(f"rule {name!r} reads nothing: name at least one of {', '.join(WORDS)}")
    return tuple(sees), params


# --- the query–vision interaction matrix -----------------------------------------------------


@rule(source="QViD, section 3.4, equation 6")
def qvid(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """Participation in the top `rank` query–vision modes of each head, mean over the heads.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1]; sums to the mean r_eff of the heads.
    """
    return leverage(interaction, rank).mean(0).float()


@rule(source="QViD, appendix E (per-head max)")
def per_head_max(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """As `qvid`, but the head that wants a token most speaks for all.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1].
    """
    return leverage(interaction, rank).amax(0).float()


@rule(source="QViD, appendix B (column norm)")
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


@rule(source="QViD, appendix F (the printed QR + SVD)")
def leverage_qr(interaction: Tensor, *, rank: int = 16) -> Tensor:
    """`qvid` by the paper's printed recipe, which has no rank cut; for comparison.

    interaction (H, N_q, N_v) → (N_v,), in [0, 1].
    """
    return leverage_by_qr(interaction, rank).mean(0)


@rule(source="ours: leverage of each head weighted by how concentrated its spectrum is")
def qvid_head_weighted(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """As `qvid`, but a head speaks with the weight w_h = Σ_k p_k², p_k = σ_k² / Σσ².

    w_h is 1 where one mode holds all energy and 1/m where m modes share it: Σ_h w_h L_hj / Σ_h w_h.
    interaction (H, N_q, N_v) → (N_v,), in [0, 1]; zeros for a zero matrix.
    """
    weight = concentration(interaction)[:, None]
    total = weight.sum(0)
    return ((leverage(interaction, rank) * weight).sum(0) / total.where(total > 0, 1)).float()


# --- attention and token dynamics -------------------------------------------------------------


@rule(source="PyramidDrop (Xing et al., 2025), official code")
def last_attention(last_row: Tensor) -> Tensor:
    """Attention that the last prompt token pays in the layer about to run, mean over heads.

    last_row (H, N_v) → (N_v,), in [0, 1].
    """
    return last_row.float().mean(0)


@rule(source="FastV (Chen et al., 2024), official code")
def previous_attention(last_row_before: Tensor) -> Tensor:
    """Attention that the last prompt token paid in the layer that has just run, mean over heads.

    last_row_before (H, N_v) → (N_v,), in [0, 1].
    """
    return last_row_before.float().mean(0)


@rule(source="V2Drop (Chen et al., 2026), L2 variation")
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
    return 1 - torch.nn.functional.cosine_similarity(hidden.float(), previous.float(), dim=-1)


def _raters(relevance: Tensor) -> Tensor:
    # the text that the picture calls for more than for the mean; all of it where all is equal
    above = relevance > relevance.mean()
    return above if bool(above.any()) else torch.ones_like(above)


@rule(source="SparseVLM (Zhang et al., 2025), v1.5, official code")
def sparsevlm(text_rows_before: Tensor, text_relevance: Tensor) -> Tensor:
    """Attention that the raters paid in the layer that has just run, mean over heads and raters.

    Raters are the text tokens after the picture whose relevance is above its mean.
    text_rows_before (H, N_t, N_v), text_relevance (N_t,) → (N_v,), in [0, 1].
    """
    return text_rows_before.float()[:, _raters(text_relevance.float())].mean((0, 1))


@rule(source="SparseVLM+ (SparseVLM repository, version 2.0), official code")
def sparsevlm_plus(
    text_rows_before: Tensor, text_relevance: Tensor, rope_bias: Tensor, *, heads: int = 14
) -> Tensor:
    """As `sparsevlm`, each attention divided by what RoPE alone gives, mean of the strongest heads.

    The heads with the largest sum over raters and visual tokens count: `heads` of them, or half of
    the model's where it has fewer than twice as many (14 of 28 is what the source's comment says).
    text_rows_before (H, N_t, N_v), text_relevance (N_t,), rope_bias (N_t, N_v) → (N_v,); the bias
    may be negative, so a score may be, too. ValueError unless heads is 1 or more.
    """
    if heads < 1:
        raise ValueError(f"heads={heads}: let at least one head count")
    raters = _raters(text_relevance.float())
    corrected = text_rows_before.float()[:, raters] / rope_bias.float()[raters]
    few = min(heads, max(1, len(corrected) // 2))
    order = corrected.sum((1, 2)).sort(descending=True, stable=True).indices
    return corrected[order[:few].sort().values].mean((0, 1))


@rule(source="FitPrune (Ye et al., 2024), official code")
def fitprune(received_from_visual: Tensor, received_from_text: Tensor) -> Tensor:
    """Attention received from the picture, per visual token, times that received from the text.

    received_from_visual (N_v,), received_from_text (N_v,) → (N_v,), >= 0.
    """
    return received_from_visual.float() / len(received_from_visual) * received_from_text.float()


@rule(source="DART (Wen et al., 2025), official code: the norm that chooses its pivots")
def key_norm(key_norms_before: Tensor) -> Tensor:
    """L1 norm of a token's keys in the layer that has just run.

    key_norms_before (N_v,) → (N_v,), >= 0.
    """
    return key_norms_before.float()


# --- floors: what a choice without looking reaches --------------------------------------------


@rule(source="floor: chance")
def random(hidden: Tensor, prompt: int, *, seed: int = 0) -> Tensor:
    """A shuffle drawn from (seed, prompt), the same on every device and in every batch.

    hidden (N_v, d) for its length, prompt int → (N_v,) distinct whole numbers.
    """
    text = f"{index(seed)} {index(prompt)}".encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(number))
    return order.float().to(hidden.device)


@rule(source="floor: uniform stride")
def stride(hidden: Tensor) -> Tensor:
    """Evenly spread tokens: the van der Corput sequence 0, 1/2, 1/4, 3/4, 1/8, … as a ranking.

    hidden (N_v, d) for its length → (N_v,) distinct whole numbers <= 0. The best K lie N_v/K apart
    where K is a power of two; in between, gaps are N_v/2^m or half of that, with 2^m <= K.
    """
    n = len(hidden)
    bits = max(1, (n - 1).bit_length())
    point = torch.arange(2**bits)
    turn = sum(((point >> i) & 1) << (bits - 1 - i) for i in range(bits))  # bits reversed
    first = torch.full((n,), 2**bits).scatter_reduce(0, (point * n) >> bits, turn, "amin")
    return -first.float().to(hidden.device)
