"""A table of the papers with its measured column, where a stored run of the profile fills it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..benchmarks.base import PAPER_BENCHMARKS
from ..benchmarks.embedded import TINY
from ..benchmarks.published import BENCHMARKS
from . import schema as results
from .beside_paper import beside_paper
from .paper_audit import printed_only
from .paper_tables import printed_names
from .report import beside
from .stored import is_stored, rows_of, stored, suite_of

#: Tables with several metrics of a benchmark, and with captions, whose answers have no score of
#: their own: their measured column comes from the rows of results.
BY_METRIC = ("13", "14")


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
