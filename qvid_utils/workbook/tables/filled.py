"""A table of the papers with its measured column, where a stored run of the profile fills it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..benchmarks.base import FULL, PAPER_BENCHMARKS
from ..benchmarks.embedded import TINY
from ..benchmarks.published import BENCHMARKS
from . import schema as results
from .beside_paper import beside_paper
from .paper_audit import printed_only
from .paper_tables import printed_names
from .report import beside, columns_side_by_side
from .stored import is_stored, rows_of, stored, suite_of

__all__ = ["filled", "to_read"]

#: Tables with several metrics of a benchmark, and with captions, whose answers have no score of
#: their own: their measured column comes from the rows of results.
BY_METRIC = ("13", "14")
#: Columns of numbers that a filled table may have.
SIDES = ("paper", "measured", "difference", "paper_pct_of_full", "measured_pct_of_full")


def filled(
    profile: str, table: str, *, also: Sequence[str] = (), folder: Path | None = None
) -> pd.DataFrame:
    """The table beside the profile's stored run (`report.beside`, `beside_paper`): paper |
    measured | difference for the paper's own model and benchmarks, else both in % of the unpruned
    model. Where no run is stored, what is printed alone (`audit.printed_only`).

    also: methods that the table does not print, such as "random"; folder: of the stored runs
    (None: data/measured).
    """
    if not is_stored(profile, table, folder):
        return printed_only(table)
    if table in BY_METRIC:
        rows = printed_names(rows_of(profile, table, folder), table, also)
        kin = rows["benchmark"].map(lambda n: BENCHMARKS[n].stands_for if n in BENCHMARKS else n)
        printed = set(results.paper(table)["benchmark"])
        kin = kin.where(kin.map(lambda n: PAPER_BENCHMARKS.get(n, n)).isin(printed))
        both = beside_paper(rows.assign(benchmark=kin)[kin.notna()], table)
        named = dict(zip(kin, rows["benchmark"], strict=True))  # which of two ways of reading
        both["suite"] = [named.get(name, name) for name in both["suite"]]
        return both
    records = printed_names(stored(profile, folder, table=table), table, also)
    names = sorted(
        records["suite"].unique(), key=lambda n: TINY.index(n) if n in TINY else len(TINY)
    )
    return beside(records, [suite_of(name) for name in names], table)


def to_read(table: pd.DataFrame, errors: bool = False) -> pd.DataFrame:
    """A filled table with a line for each budget and method, benchmarks (and their metrics, where
    they have several) as columns; all numbers where there are two sides, else the printed ones.
    errors: as `report.columns_side_by_side` has it, where something is measured."""
    if errors and "budget_pct" in table:
        return columns_side_by_side(table)
    budget = "budget_pct" if "budget_pct" in table else "budget"
    sides = [c for c in SIDES if c in table and table[c].notna().any()]
    full = table[table["method"] == FULL]  # its metrics are the table's
    several = full.groupby("benchmark")["metric"].nunique().max() > 1
    columns = ["benchmark", "metric"] if several else "benchmark"
    values = sides[0] if len(sides) == 1 else sides
    digits = 1 if "paper_pct_of_full" in table else 3  # CIDEr is about 1
    return table.pivot_table(values, [budget, "method"], columns, sort=False).round(digits)
