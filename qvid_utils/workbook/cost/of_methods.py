"""What the cells of a table cost: `flops` for methods by name, with their own schedules."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...algebra.cuts import tokens_per_layer
from ...methods import Method, method
from ..benchmarks.base import FULL
from . import budgets, flops


def tokens_run(
    name: str | Method,
    keep: int | None,
    n_visual: int,
    depth: int,
    layer: int | None = None,
    reading: str = "",
) -> list[int]:
    """Visual tokens of each layer run, under a method's own schedule; "full" runs all of them.

    reading: default the method's. Raises ValueError as the schedule does, `Infeasible` where it
    cannot have that mean.
    """
    if name == FULL:
        return [n_visual] * depth
    chosen = method(name)
    cuts = chosen.schedule(keep, n_visual, depth, layer)
    if (reading or chosen.reading) == "two_pass" and cuts[0].layer:
        return budgets.two_pass(n_visual, cuts[0].keep, cuts[0].layer, depth)
    return tokens_per_layer(cuts, n_visual, depth)


def cost_of(
    config: Any,
    name: str | Method,
    keep: int | None,
    n_visual: int,
    text: float,
    questions: int,
    *,
    layer: int | None = None,
    blocks: Sequence[int] | None = None,
) -> flops.Cost:
    """FLOPs of one prompt's prefill, by part, its scores included where they are known.

    name: a method, its name, or "full"; text: other tokens of the prompt; questions: of these, the
    question's; blocks: patches of each picture. A method that shrinks pictures inside the tower is
    counted as if it did so behind it.
    """
    depth = flops.decoder_of(config).layers
    visual, scored = tokens_run(name, keep, n_visual, depth, layer), []
    if name != FULL:
        chosen = method(name)
        cuts = chosen.schedule(keep, n_visual, depth, layer)
        counts = [n_visual, *(cut.keep for cut in cuts)][: len(cuts)]
        known, rank = chosen.rule.cost, chosen.params.get("rank", 16)
        if known and isinstance(rank, int):
            scored = [
                sum(flops.scoring(config, known, n, questions, rank).values()) for n in counts
            ]
    return flops.prefill(config, visual, text, blocks=blocks, scored=scored)


def cost_table(
    cells: pd.DataFrame, config: Any, n_visual: int, text: float, questions: int, **more: Any
) -> pd.DataFrame:
    """The frame with a column `gflops`: the prefill of each row's method, keep and layer."""
    layers = [None if pd.isna(layer) else int(layer) for layer in cells["layer"]]
    staged = [name != FULL and hasattr(method(name).schedule, "depths") for name in cells["method"]]
    totals = [
        cost_of(
            config, name, n_visual if name == FULL else int(keep), n_visual, text, questions,
            layer=None if several else layer, **more,
        ).total
        for name, keep, layer, several in zip(
            cells["method"], cells["keep"], layers, staged, strict=True
        )
    ]  # fmt: skip
    return cells.assign(gflops=[total / 1e9 for total in totals])


def at_own_layer(cells: pd.DataFrame, n_visual: int, depth: int) -> pd.DataFrame:
    """The rows whose one cut is where the method cuts by default; staged ones and "full" stay.

    cells: method, keep, layer (missing where there is no single one).
    """
    own = [
        pd.isna(layer) or method(name).schedule(int(keep), n_visual, depth)[0].layer == int(layer)
        for name, keep, layer in zip(cells["method"], cells["keep"], cells["layer"], strict=True)
    ]
    return cells[own]


def at_cost(cells: pd.DataFrame, budgets: Sequence[float]) -> pd.DataFrame:
    """Methods by budgets: `all` of each at a cost, on straight lines between its own cells.

    cells: method, gflops, all. NaN where a method's cells do not reach; nothing is extrapolated.
    """
    found = {}
    for name, own in cells.groupby("method", sort=False):
        own = own.sort_values("gflops")
        cost, value = own["gflops"].to_numpy(float), own["all"].to_numpy(float)
        found[name] = np.interp(budgets, cost, value, left=np.nan, right=np.nan)
    return pd.DataFrame(found, index=list(budgets)).T
