"""Stored runs made anew, or kept where their answers are still the same.

A stored answer is refused once its question, picture, model or method is another (`tables.stored`).
Where that changed nothing, `rekey` keeps the run: it asks one in a hundred of the questions again
under all the run's cells, and writes the keys of today if the answers are the same. One in a
hundred of these may be another: sums round in another way on another machine.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...methods import METHODS, Method, method
from ...models.load import load
from ..benchmarks.base import FULL, Suite
from ..benchmarks.embedded import suite
from ..benchmarks.paper_profile import place
from ..run.cell import Cell
from ..run.evaluate import evaluate
from ..tables.schema import read
from ..tables.stored import MEASURED, PLAIN, suite_of, write_answers
from . import svd_prune, video_run

__all__ = ["MAKERS", "rekey", "runs_in"]

#: Name of `run --stored` -> what makes the run.
MAKERS = {"video": video_run.make, "svd_prune": svd_prune.make}
PART = 100  # one in so many questions is asked again
SAME = ["suite", "sample", "method", "variant", "budget", "layer", "rank"]


def runs_in(folder: Path = MEASURED) -> list[Path]:
    """The runs' files of answers in a folder and those below it."""
    found = sorted(folder.rglob("*_answers.parquet"))
    return [path for path in found if path.with_name(_name(path) + ".csv").exists()]


def rekey(path: Path) -> tuple[int, int, int]:
    """Ask one question in a hundred of a run again, and give the run today's keys; how many answers
    were the same, of how many asked again, of how many that the run has.

    ValueError, with the first difference, where more than one in a hundred of these is another:
    then the file stays as it is.
    """
    name = _name(path)
    told = pd.read_parquet(path)
    told = told.astype(dict.fromkeys(told.select_dtypes("category").columns, "object"))
    model_name = read(path.with_name(name + ".csv"))["model"].iloc[0]
    films = "share" in told
    methods = METHODS | video_run.more_methods() if films else METHODS
    model, processor = load(str(place(model_name) or model_name))
    family = model.config.model_type
    suites = [suite(each, family) if films else suite_of(each) for each in told["suite"].unique()]
    again = []
    for one in _part([one.only(_asked(told, one.name)) for one in suites]):
        cells = list(_cells(told[told["suite"] == one.name], methods))
        again.append(evaluate(model, processor, [one], cells))
    found = _budgeted(pd.concat(again, ignore_index=True))
    same = _compare(path.name, found, _budgeted(told))
    write_answers(told, suites, path.parent, name, model_name, methods)
    return same, len(found), len(told)


def _asked(records: pd.DataFrame, name: str) -> list[str]:
    return list(records.loc[records["suite"] == name, "sample"].unique())


def _part(suites: Sequence[Suite]) -> list[Suite]:
    """One in a hundred of all questions, drawn with their pairs and rotations; suites without one
    are left out."""
    rows = pd.concat([one.samples.assign(suite=one.name) for one in suites])
    group = rows["suite"] + rows["group"].where(rows["group"] != "", rows["id"])
    order = np.random.default_rng(0).permutation(group.unique())
    sizes = group.value_counts()[order].cumsum().to_numpy()
    chosen = order[: int(np.searchsorted(sizes, ceil(len(rows) / PART))) + 1]
    drawn = rows[group.isin(chosen)]
    ids = {name: part["id"].tolist() for name, part in drawn.groupby("suite")}
    return [one.only(ids[one.name]) for one in suites if one.name in ids]


def _name(path: Path) -> str:
    return path.name.removesuffix("_answers.parquet")


def _budgeted(records: pd.DataFrame) -> pd.DataFrame:
    """Records with one column for the budget, a share or a count, and no missing labels."""
    share = records.get("share", records.get("retention_pct"))
    counts = records["keep"].astype(float)
    budget = counts if share is None else share.where(share.lt(100), None).fillna(counts)
    made = records.assign(
        budget=budget.astype(float).round(6), variant=records["variant"].fillna("")
    )
    return made.fillna({"budget": -1, "layer": -1, "rank": -1}).astype(
        {"layer": float, "rank": float}
    )


def _compare(name: str, found: pd.DataFrame, told: pd.DataFrame) -> int:
    both = found[[*SAME, "prediction"]].merge(
        told[[*SAME, "prediction"]], on=SAME, suffixes=("", "_stored"), how="left"
    )
    other = both[both["prediction"] != both["prediction_stored"]]
    if len(other) > len(both) / PART:
        row = other.iloc[0]
        raise ValueError(
            f"{name}: {len(other)} of {len(both)} answers are others today, the first that of "
            f"{row['method']} {row['variant']} to {row['sample']}: {row['prediction']!r}, and "
            f"{row['prediction_stored']!r} is stored; make the run anew"
        )
    return len(both) - len(other)


def _cells(records: pd.DataFrame, methods: Mapping[str, Method]) -> Iterator[Cell]:
    """The cells of a run, by their rows' labels. Budgets that questions share cannot be asked of a
    few: they are left out, and so are the baselines, which no method has made."""
    share = next((c for c in ("share", "retention_pct") if c in records), None)
    columns = ["method", "variant", share or "keep", "layer", "rank"]
    for row in records[columns].drop_duplicates().itertuples():
        if row.method == FULL:
            yield Cell()
        elif row.method not in PLAIN and "budget shared" not in (row.variant or ""):
            yield _cell(row, {"share": getattr(row, share)} if share else {"keep": int(row.keep)},
                        methods)  # fmt: skip


def _cell(row: Any, budget: dict[str, Any], methods: Mapping[str, Method]) -> Cell:
    """The cell that is labelled so."""
    chosen = methods[row.method] if row.method in methods else method(row.method)
    params, lists, before = {}, "", ()
    for word in filter(None, (row.variant or "").split(", ")):
        name, given, text = word.partition("=")
        first = re.fullmatch(r"after (\w+) (\d+)", word)
        if first:  # with the options that `cell_lists.our_cells` gives it
            options = {"layer": 0} if first[1] == "stride" else {"positions": "original"}
            before = (first[1], int(first[2]), options)
        elif name == "lists":
            lists = text
        else:
            params[name] = _value(text) if given else True
    if not pd.isna(row.rank) and row.rank != chosen.params.get("rank"):
        params["rank"] = int(row.rank) if row.rank >= 1 else row.rank
    layer = None if pd.isna(row.layer) else int(row.layer)
    return Cell(chosen, layer=layer, params=params, lists=lists, before=before, **budget)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
