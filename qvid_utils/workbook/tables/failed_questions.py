"""Questions that failed (`evaluate(on_error="record")`): never scored, counted in every table.

A question that failed under one cell is left out of all cells, and its pair or rotations with it,
so that cells are compared on the same questions and paired metrics keep whole pairs.
"""

from collections import Counter
from collections.abc import Callable
from functools import wraps

import pandas as pd

from ..benchmarks.base import FULL

__all__ = ["counted", "scored"]

COUNT = "failed"
NAMES = ("method", "variant", "keep", "retention_pct", "layer", "rank")


def scored(records: pd.DataFrame) -> pd.DataFrame:
    """The records without the questions that failed anywhere, their pairs and their rotations.

    ValueError where no question is left, with the cell that failed most.
    """
    if not _any(records):
        return records
    unit = records["group"].where(records["group"].fillna("") != "", records["sample"])
    unit = records["suite"] + "\n" + unit
    kept = records[~unit.isin(unit[records[COUNT] != ""])]
    if kept.empty:
        names = [name for name in ("method", "keep", "retention_pct") if name in records]
        worst = records[records[COUNT] != ""].groupby(names, dropna=False).size()
        raise ValueError(
            f"no question was answered under every cell; {worst.idxmax()} failed {worst.max()} "
            "times: leave that cell out of the table"
        )
    return kept.drop(columns=COUNT).reset_index(drop=True)


def _any(records: pd.DataFrame) -> bool:
    return COUNT in records and bool((records[COUNT] != "").any())


def counted(rows: bool = False) -> Callable:
    """For a function from records to a table: it scores what `scored` leaves, and its table says
    how many failed, in a column `failed`, or with `rows` in rows of that metric (long tables)."""

    def for_table(table: Callable) -> Callable:
        @wraps(table)
        def counting(records: pd.DataFrame, *args, **kwargs) -> pd.DataFrame:
            if not _any(records):
                return table(records, *args, **kwargs)
            frame = table(scored(records), *args, **kwargs)
            return (_rows if rows else _column)(frame, records)

        return counting

    return for_table


def _column(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """How many answers of the line's cell failed: on its suite, or on all where it has none (Avg).
    A table that does not tell layers or ranks apart has these columns empty."""
    told = frame.rename(columns={"keep_measured": "keep"})
    if "budget_pct" in told:  # beside a paper: what has no count was asked for as a share
        told["retention_pct"] = told["budget_pct"].where(told["keep"].isna())
    names = [name for name in NAMES if name in told and name in records]
    names = [n for n in names if n not in ("layer", "rank") or told[n].notna().any()]
    counts: Counter = Counter()
    for line in records[records[COUNT] != ""].to_dict("records"):
        counts[_key(names, line), line["suite"]] += 1
        counts[_key(names, line), ""] += 1
    known = set(records["suite"])

    def count(line: dict) -> int:
        suite = line.get("suite")
        return counts[_key(names, line), suite if suite in known else ""]

    return frame.assign(**{COUNT: [count(line) for line in told.to_dict("records")]})


def _key(names: list[str], line: dict) -> tuple:
    cell = {name: "" if pd.isna(line[name]) else line[name] for name in names}
    if cell.get("method") == FULL:  # whose budget is the number of its tokens in some tables
        cell.pop("keep", None)
        cell.pop("retention_pct", None)
    elif cell.get("retention_pct"):
        cell["retention_pct"] = round(cell["retention_pct"], 1)  # as tables give it
    return tuple(cell.items())


def _rows(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """One more row per cell and benchmark with failures: metric `failed`, of so many asked."""
    by_suite = frame["benchmark"].isin(records["suite"].unique())
    out = [frame]
    for part in (frame[by_suite], frame[~by_suite]):
        of_suite = part.assign(suite=part["benchmark"]) if len(part) and by_suite.any() else part
        counts = _column(of_suite.drop_duplicates([*NAMES, "benchmark"]), records)
        new = counts[counts[COUNT] > 0]
        asked = records.groupby(["suite", "method"])["sample"].nunique()
        suites = new["suite"] if "suite" in new else [None] * len(new)
        n = [
            asked[s, m] if s else asked[:, m].sum()
            for s, m in zip(suites, new["method"], strict=True)
        ]
        new = new.assign(
            metric=COUNT, value=new[COUNT].astype(float), unit="1", stderr=float("nan")
        )
        out.append(new.assign(n=n)[list(frame.columns)])
    return pd.concat(out, ignore_index=True).astype(frame.dtypes.to_dict())
