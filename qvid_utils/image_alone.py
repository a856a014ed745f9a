"""The stored run of notebook 07: SVD-Prune, and what else chooses without the question.

    python -m qvid_utils.image_alone --limit 120

asks the embedded model under every cell of `cells` and writes the answers and the long table into
data/measured/image_alone, which the notebook reads with `runner.stored`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .benchmarks import Suite
from .benchmarks.observation import prompts
from .linalg import effective_rank, widen
from .paths import DATA, RUNS
from .pruning import observed
from .runner import Cell, evaluate, grid, setting, store
from .startup import start

__all__ = ["FOLDER", "KEEPS", "TAUS", "cells", "positions_of", "ranks", "tau_cells", "tau_of"]

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
    """Methods that see the picture alone, chance and even spacing at the same door, and QViD: each
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
        [records["method"] == "full", variant.str.contains(KEPT)], ["full", KEPT], PUBLISHED
    )
    return pd.Series(said, records.index)


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


def _pictures(
    suites: Sequence[Suite], limit: int | None, seed: int, size: int = 25
) -> Iterator[tuple[Suite, pd.DataFrame]]:
    for suite in suites:
        samples = suite.head(limit, seed).samples.drop_duplicates("picture")
        for start_at in range(0, len(samples), size):
            yield suite, samples.iloc[start_at : start_at + size]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: the questions of the embedded suites under all cells, stored."""
    parser = argparse.ArgumentParser(
        prog="python -m qvid_utils.image_alone", description="The stored run of notebook 07."
    )
    parser.add_argument("--limit", type=int, metavar="N", help="questions per suite (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws the questions under --limit")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    chosen = parser.parse_args(argv)
    start(chosen.seed)
    began = perf_counter()
    model, processor, suites = setting("tiny")
    asked = [*cells(), *tau_cells()]
    kept = {"store": RUNS / "tiny" / "records", "progress": True}  # the same command goes on
    more = {"limit": chosen.limit, "seed": chosen.seed, **kept}
    records = evaluate(model, processor, suites, asked, **more)
    for path in store(records, suites, chosen.out, "tiny_llava"):
        print(path)
    print(f"{len(records)} answers, {perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
