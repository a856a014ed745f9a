"""The lists of cells that the notebooks compare, and those that fill a table of the papers."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ...algebra.cuts import Cut
from ...methods import METHODS, RULES, method
from ..benchmarks.base import FULL
from ..benchmarks.prompts import same_share
from ..run.cell import Cell, grid, keeps_of
from ..tables.beside_paper import PAPER_TOKENS
from ..tables.paper_tables import CELL as PRINTED
from ..tables.paper_tables import cells_of
from .equal_budgets import COMPARED, LEFT_OUT, entries, keep_after

SEEDS = (1, 2)  # more shuffles of `random` beside its own, 0
#: Methods at the LLM input that renumber positions, and whose tokens have places of their own.
REPOSITIONED = ("svd_prune", "fastervlm", "vispruner", "divprune", "scope", "cdpruner")
#: How many of 144 tokens a cut at the LLM input leaves to QViD, and whose cut it is.
FIRST_CUTS = {72: ("divprune", "fastervlm", "svd_prune", "cdpruner", "stride"),
              36: ("divprune", "fastervlm", "svd_prune")}  # fmt: skip


def every_method() -> list[str]:
    """The methods of the table, then every rule that none of them uses: a new rule is in."""
    used = {entry.rule.name for entry in METHODS.values()}
    return [*METHODS, *(name for name in RULES if name not in used)]


def comparison_cells(
    config: Any, budgets: Iterable[int], methods: Sequence[str] = COMPARED
) -> list[Cell]:
    """Methods at equal label and at equal mean; a cell that serves both stands once.

    config: of a model with one picture size.
    """
    found = entries(config, budgets, methods)
    asked = dict.fromkeys((e.method, e.keep, e.lists) for e in found if e.keep is not None)
    return [Cell(name, keep, lists=lists) for name, keep, lists in asked]


def seed_cells(config: Any, budgets: Sequence[int]) -> list[Cell]:
    """Chance again, with other shuffles."""
    keeps = _counts(config, budgets, "random")
    return [cell for seed in SEEDS for cell in grid(["random"], keeps, seed=seed)]


def option_cells(keeps: Sequence[int]) -> list[Cell]:
    """QViD's ranks and spans."""
    ranks = [cell for rank in (1, 2, 4, 8) for cell in grid(["qvid"], keeps, rank=rank)]
    spans = [cell for span in ("content", "prompt") for cell in grid(["qvid"], keeps, query=span)]
    return [*ranks, *spans]


def position_cells(keeps: Sequence[int]) -> list[Cell]:
    """At the LLM input: methods that renumber with original positions, and random under both."""
    kept = grid(["random", "stride"], keeps, [0])
    renumbered = grid(["random", "stride"], keeps, [0], positions="contiguous")
    return [*grid(REPOSITIONED, keeps, positions="original"), *kept, *renumbered]


def our_cells(config: Any, budgets: Sequence[int]) -> list[Cell]:
    """QViD behind a cut at the LLM input, at equal means, and with a budget for each question."""
    (cut,) = METHODS["qvid"].schedule(1, 1, config.get_text_config().num_hidden_layers)
    cells = []
    cuts = [(same_share(n, config), name) for n in FIRST_CUTS for name in FIRST_CUTS[n]]
    for first, name in cuts:
        options = {"layer": 0} if name == "stride" else {"positions": "original"}
        for budget in (b for b in budgets if b < first):
            keep = keep_after([Cut(0, first)], budget, config, cut.layer)
            cells.append(Cell("qvid", keep, before=(name, first, options)))
    return [*cells, *(Cell("qvid", keep, shared=True) for keep in _counts(config, budgets, "qvid"))]


def _counts(config: Any, budgets: Sequence[int], name: str) -> list[int]:
    """What the method is asked for, under both readings."""
    found = entries(config, budgets, [name])
    return list(dict.fromkeys(entry.keep for entry in found if entry.keep is not None))


def scoring_cells(config: Any) -> list[Cell]:
    """Notebook 02: all methods, at equal label and mean; seeds, options, positions, ours."""
    keeps = keeps_of(config)
    rest = [name for name in every_method() if name in LEFT_OUT or name not in METHODS]
    return [
        Cell(), *comparison_cells(config, keeps), *grid(rest, keeps), *seed_cells(config, keeps),
        *option_cells(keeps), *position_cells(keeps), *our_cells(config, keeps),
    ]  # fmt: skip


def layer_cells(layers: Iterable[int], keeps: Sequence[int]) -> list[Cell]:
    """Notebook 03: where to cut, for QViD, its raw energy and chance."""
    return [Cell(), *grid(["qvid", "column_norm", "random"], keeps, list(layers))]


def stored_cells(config: Any) -> list[Cell]:
    """The stored run: notebook 02 whole; notebook 03 without column norm, to save time."""
    depth = config.get_text_config().num_hidden_layers
    (default,) = METHODS["qvid"].schedule(1, 1, depth)  # its layer is among the scoring cells
    others = [layer for layer in range(depth) if layer != default.layer]
    scoring = scoring_cells(config)
    known = {tuple(cell.labels.values()) for cell in scoring}
    layers = grid(["qvid", "random"], keeps_of(config), others)
    return [*scoring, *(c for c in layers if tuple(c.labels.values()) not in known)]


def table_cells(table: str, config: Any) -> list[Cell]:
    """The cells of a paper's table of answers (`tables.cells_of`), the full model first: all else
    is shown in % of it.

    config: of the model that is asked. Counts are the printed ones, of as many visual tokens as the
    paper's model has, or the same shares of a model with another number.
    """
    frame = cells_of(table)
    printed = PAPER_TOKENS.get(frame["model"].iloc[0])
    whole = getattr(config, "image_seq_length", printed)
    found = [Cell()]
    for row in frame[frame["method"] != FULL].drop_duplicates(PRINTED).itertuples():
        keep, share, layer, rank = (
            None if pd.isna(value) else value
            for value in (row.keep, row.retention_pct, row.layer, row.rank)
        )
        keep = None if keep is None else round(int(keep) * whole / printed)
        more = {} if rank is None else {"rank": int(rank) if rank >= 1 else rank}
        layer = (
            None if layer is None or int(layer) == _own_layer(row.method, config) else int(layer)
        )
        found.append(Cell(row.method, keep, layer, more, share=share))
    return found


def _own_layer(name: str, config: Any) -> int:
    """Where the method cuts first if nobody says."""
    return method(name).schedule(1, 1, config.get_text_config().num_hidden_layers)[0].layer
