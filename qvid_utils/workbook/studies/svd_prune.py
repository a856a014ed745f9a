"""The stored run of notebook 07: SVD-Prune, and what else chooses without the question.

    python -m qvid_utils run --stored svd_prune --limit 120

asks the embedded model under every cell of `cells` and writes the answers and the long table into
data/measured/image_alone, which the notebook reads with `tables.stored.stored`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...algebra.spectrum import effective_rank, widen
from ...paths import DATA, RUNS
from ...prune import observed
from ...startup import start
from ..benchmarks import Suite
from ..benchmarks.base import FULL
from ..benchmarks.paper_profile import name_of
from ..benchmarks.prompts import prompts, same_share
from ..run.cell import Cell, grid
from ..run.evaluate import evaluate, setting
from ..run.look import look
from ..tables.stored import store

__all__ = [
    "FOLDER", "KEEPS", "TAUS", "as_published", "at_positions", "attention_by_place", "cells",
    "chosen_by_place", "positions_of", "ranks", "tau_cells", "tau_of",
]  # fmt: skip

FOLDER = DATA / "measured" / "image_alone"
KEEPS = (48, 32, 16, 8, 4)  # of 144: SVD-Prune's 192, 128, 64, 32 and 16 of 576
TAU_KEEPS = (48, 16, 4)
TAUS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
PUBLISHED, KEPT = "contiguous", "original"  # what becomes of the rotary positions
#: Method -> where its cut is made; None: where the method makes it.
WITHOUT_MERGING = {"svd_prune": None, "fastervlm": None, "divprune": None, "random": 0, "stride": 0,
                   "qvid": None}  # fmt: skip
#: The other rows of SVD-Prune's Table 1, as published: merged tokens have no place of their own.
AS_PUBLISHED = ("tome", "fastv", "trim", "pyramiddrop", "sparsevlm", "visionzip")


def cells(keeps: Sequence[int] = KEEPS) -> list[Cell]:
    """Methods that see the picture alone, random and even spacing at the LLM input, and QViD: each
    with tokens renumbered (as published for the first three) and at their own positions. Then the
    other methods of SVD-Prune's Table 1."""
    found = [Cell()]
    for positions in (PUBLISHED, KEPT):
        for name, layer in WITHOUT_MERGING.items():
            found += grid([name], keeps, [layer], positions=positions)
    return found + grid(AS_PUBLISHED, keeps)


def tau_cells(keeps: Sequence[int] = TAU_KEEPS, taus: Sequence[float] = TAUS) -> list[Cell]:
    """SVD-Prune over its energy threshold, patches as they are and centred, positions kept."""
    return [
        cell
        for center in (False, True)
        for tau in taus
        for cell in grid(["svd_prune"], keeps, tau=tau, center=center, positions=KEPT)
    ]


def positions_of(records: pd.DataFrame) -> pd.Series:
    """What became of the positions in each record: "contiguous", "original", or "full"."""
    variant = records["variant"].fillna("")
    said = np.select(
        [records["method"] == FULL, variant.str.contains(KEPT)], ["full", KEPT], PUBLISHED
    )
    return pd.Series(said, records.index)


def at_positions(records: pd.DataFrame, positions: str) -> pd.DataFrame:
    """The records of `cells` with tokens "contiguous" or "original", the full model's with both;
    the variant is empty, so that a method has one name."""
    if positions not in (PUBLISHED, KEPT):
        raise ValueError(f"positions={positions!r}: it must be {PUBLISHED!r} or {KEPT!r}")
    plain = records[~records["variant"].fillna("").str.contains("tau=")]
    return plain[positions_of(plain).isin(["full", positions])].assign(variant="")


def as_published(records: pd.DataFrame) -> pd.DataFrame:
    """The records of the full model and the methods of SVD-Prune's Table 1, as published."""
    names = [FULL, "svd_prune", *AS_PUBLISHED]
    return at_positions(records, PUBLISHED)[lambda frame: frame["method"].isin(names)]


def tau_of(records: pd.DataFrame) -> pd.DataFrame:
    """The records of `tau_cells`, with their columns tau and center."""
    found = records["variant"].str.extract(r"tau=(?P<tau>[\d.]+), center(?P<center>=False)?")
    chosen = records[found["tau"].notna()]
    found = found[found["tau"].notna()]
    return chosen.assign(tau=found["tau"].astype(float), center=found["center"].isna())


@torch.inference_mode()
def ranks(
    model: nn.Module,
    processor: Any,
    suites: Sequence[Suite],
    taus: Sequence[float] = TAUS,
    limit: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How many directions of its patches F (N_v, D) hold a share τ of Σσ², for each picture.

    One row per picture, centring and τ: suite, picture, center, tau, rank, of (N_v, which leverage
    stays below). No answer is generated.
    """
    rows = []
    for suite, batch in _pictures(suites, limit, seed):
        inputs = prompts(processor, batch, model.device)
        with observed(model, "patches", layer=0) as seen:
            model(**inputs, logits_to_keep=1)
        for found, name in zip(seen, batch["picture"], strict=True):
            F = widen(found["patches"])
            for center in (False, True):
                M = (F - F.mean(0) * center)[None].mT
                rows += [
                    {"suite": suite.name, "picture": name, "center": center, "tau": tau,
                     "rank": min(int(effective_rank(M, tau)), len(F) - 1), "of": len(F)}
                    for tau in taus
                ]  # fmt: skip
    return pd.DataFrame(rows)


@torch.inference_mode()
def attention_by_place(model: nn.Module, processor: Any, samples: pd.DataFrame) -> pd.DataFrame:
    """Attention that a token receives by its place in the prompt, mean over heads and layers.

    For the causal attention a (S, S) of a prompt: raw, Σ_i a_ij / S over all tokens i, and
    per_attender, Σ_i a_ij / (S - j) over those that can see token j. Both are 1 in the mean over a
    prompt's visual tokens. One row per place, mean over the prompts that reach it: place (the first
    visual token is 0), picture (whether it is one), raw, per_attender, n (prompts).
    Source: SVD-Prune, figure 1; which model and layers it shows is not said.
    """
    kernel, rows = model.config._attn_implementation, []
    model.set_attn_implementation("eager")  # the other kernels do not give the map
    try:
        for place in range(len(samples)):
            inputs = prompts(processor, samples.iloc[[place]], model.device)
            maps = model(**inputs, output_attentions=True, logits_to_keep=1).attentions
            received = torch.stack([layer[0].float().mean(0).sum(0) for layer in maps]).mean(0)
            visual = inputs["input_ids"][0] == model.config.image_token_id
            number, first = len(visual), int(visual.int().argmax())
            seen = torch.arange(number, 0, -1, device=received.device)
            values = {"raw": received / number, "per_attender": received / seen}
            values = {k: (v / v[visual].mean()).cpu() for k, v in values.items()}
            told = {"place": np.arange(number) - first, "picture": visual.cpu(), **values}
            rows.append(pd.DataFrame({k: np.asarray(v) for k, v in told.items()}))
    finally:
        model.set_attn_implementation(kernel)
    by = pd.concat(rows).groupby(["place", "picture"])
    return by[["raw", "per_attender"]].mean().assign(n=by.size()).reset_index()


def chosen_by_place(
    model: nn.Module, processor: Any, samples: pd.DataFrame, methods: Sequence[str], keep: int
) -> pd.DataFrame:
    """How often each visual token is kept: method, place, kept (share of the prompts)."""
    asked = [Cell(name, keep) for name in methods]
    maps = look(model, processor, samples, asked)
    kept = maps.groupby(["method", "token"], sort=False)["kept"].mean().reset_index()
    return kept.rename(columns={"token": "place"})


def _pictures(
    suites: Sequence[Suite], limit: int | None, seed: int, size: int = 25
) -> Iterator[tuple[Suite, pd.DataFrame]]:
    for suite in suites:
        samples = suite.head(limit, seed).samples.drop_duplicates("picture")
        for start_at in range(0, len(samples), size):
            yield suite, samples.iloc[start_at : start_at + size]


def make(
    profile: str = "tiny",
    *,
    limit: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    out: Path | None = None,
) -> list[Path]:
    """The stored run of notebook 07: the questions of the suites under all cells. limit: questions
    of each suite; folder: the store to go on from; out: where it is written."""
    start(seed)
    model, processor, suites = setting(profile)
    keeps, few = ([same_share(keep, model) for keep in of] for of in (KEEPS, TAU_KEEPS))
    records = evaluate(
        model, processor, suites, [*cells(keeps), *tau_cells(few)], limit=limit, seed=seed,
        store=folder or RUNS / profile / "records", progress=True,
    )  # fmt: skip
    about = {"model": name_of(model), "device": model.device.type,
             "dtype": str(model.dtype).removeprefix("torch.")}  # fmt: skip
    return store(records, suites, out or FOLDER, f"{profile}_llava", **about)
