"""Ours, from QViD: as many modes as hold 0.9 of the energy, heads weighted by how concentrated they
are, and a budget for each prompt from its spectrum.

Formulas: as `qvid`, with r_h the fewest modes of head h whose σ² add up to 0.9 of the whole; or
Σ_h w_h L_hj / Σ_h w_h with L_hj the leverage in head h and w_h = Σ_k p_k², p_k = σ_k² / Σσ².

The budget takes two phases: look at the prompts, then prune each with its own count.

    sizes = []
    with observed(model, "interaction", layer=3) as found:
        for batch in batches:
            model(**batch)
            sizes += [modes(one["interaction"]) for one in found]
            found.clear()
    keeps = share_out(sizes, keep=64, limits=visual_tokens_of_each)
    with pruned(model, "qvid", keeps[:8]):  # the first batch of eight
        ...
"""

from collections.abc import Sequence

from torch import Tensor

from ..algebra.leverage import leverage
from ..algebra.spectrum import concentration
from .base import Method, adapted
from .qvid import OPEN, published
from .scoring import rule


@rule(source="ours: leverage of each head weighted by how concentrated its spectrum is")
def qvid_head_weighted(interaction: Tensor, *, rank: int | float = 16) -> Tensor:
    """As `qvid`, but a head speaks with the weight w_h = Σ_k p_k², p_k = σ_k² / Σσ².

    w_h is 1 where one mode holds all energy and 1/m where m modes share it: Σ_h w_h L_hj / Σ_h w_h.
    interaction (H, N_q, N_v) → (N_v,), in [0, 1]; zeros for a zero matrix.
    """
    weight = concentration(interaction)[:, None]
    total = weight.sum(0)
    return ((leverage(interaction, rank) * weight).sum(0) / total.where(total > 0, 1)).float()


def modes(interaction: Tensor) -> float:
    """How many modes the interaction has: 1 / Σ_k p_k² with p_k = σ_k² / Σσ², mean over the heads.

    interaction (H, N_q, N_v) → from 1 (one mode holds all energy) to min(N_q, N_v); a head of
    zeros counts as 1. A soft rank without a threshold: exp of the spectrum's Rényi entropy.
    """
    held = concentration(interaction)
    return float((1 / held.where(held > 0, 1)).mean())


def share_out(
    sizes: Sequence[float], keep: int, limits: int | Sequence[int], least: int = 1
) -> list[int]:
    """Counts in proportion to `sizes`, from `least` to each prompt's limit, whose mean is `keep`.

    sizes: one positive number for each prompt, e.g. its `modes`; limits: visual tokens of all, or
    of each prompt. One factor serves all prompts that reach neither bound, c_i = factor · size_i,
    rounded by largest remainder (a tie goes to the earlier prompt): the sum is keep · n exactly.
    Raises ValueError for a size that is no positive number, and where bounds leave no such mean.
    """
    n = len(sizes)
    tops = [limits] * n if isinstance(limits, int) else list(limits)
    if not n or len(tops) != n:
        raise ValueError(f"{n} sizes and {len(tops)} limits: give one of each for every prompt")
    if any(not 0 < size < float("inf") for size in sizes):
        raise ValueError(f"sizes={list(sizes)}: give one positive number for each prompt")
    if least < 1 or not n * least <= keep * n <= sum(tops) or min(tops) < least:
        raise ValueError(
            f"keep={keep}: the mean of counts from {least} to {min(tops)}..{max(tops)} visual "
            f"tokens lies between {least} and {sum(tops) / n:.1f}"
        )
    low, high = 0.0, max(top / size for top, size in zip(tops, sizes, strict=True))

    def counts(factor: float) -> list[float]:
        return [min(top, max(least, factor * s)) for top, s in zip(tops, sizes, strict=True)]

    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if sum(counts(middle)) <= keep * n else (low, middle)
    wanted = counts(low)  # the sum is at most keep · n, and as near as numbers allow
    shares = [int(count + 1e-9) for count in wanted]
    by_rest = sorted(range(n), key=lambda i: (shares[i] - wanted[i], i))
    able = [i for i in by_rest if shares[i] < tops[i]]
    for i in able[: keep * n - sum(shares)]:
        shares[i] += 1
    return shares


methods = (
    adapted(
        published,
        "adaptive",
        params={"rank": 0.9},
        source="ours: QViD with the fewest modes that hold 0.9 of the energy, head by head",
        departures="SVD-Prune's τ in QViD's equation 6. " + OPEN,
        label="QViD, adaptive rank",
        curve=("sky", "d", "--"),
        apart="ours",
    ),
    Method(
        "qvid_head_weighted",
        qvid_head_weighted,
        departures="Not published. Else as qvid.",
        label="QViD, heads weighted",
        apart="ours",
    ),
)
