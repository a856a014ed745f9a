"""From per-question records to the rows of a table: metrics, averages, ours beside the papers'.

Records are those of `runner.evaluate`. All errors and intervals are over pictures: questions about
one picture are not independent, and stay together.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ..benchmarks.base import CELL, FULL, PAPER_BENCHMARKS, RUN, Suite, metrics
from ..benchmarks.scoring import SCORERS, Metrics, Scorer, error_of, pull_of, value_of
from . import schema as results
from .beside_paper import average_rows, beside_paper
from .failed_questions import counted, scored
from .schema import AVERAGE
from .statistics import cells

POINTS = ("points", "perception", "cognition")  # MME counts points, all else is in percent
#: The two halves of MME, where a table prints them apart.
HALVES = {"perception": "MME-P", "cognition": "MME-C"}
MME = ("mme", "mme_published")


def cells_in(records: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    return cells(records, naming(records))


def naming(records: pd.DataFrame) -> list[str]:
    """The columns of these records that name a cell."""
    return [name for name in CELL if name in records]


def budgets_of(records: pd.DataFrame) -> list[str]:
    """The columns that hold a cell's budget: a count or, where there are such, a share."""
    return [name for name in ("keep", "retention_pct") if name in records]


def key_of(labels: dict) -> tuple:
    return tuple(None if pd.isna(value) else value for value in labels.values())


def _of(suite: Suite, records: pd.DataFrame) -> Suite:
    """The suite's questions that were asked; all cells must have been asked the same ones."""
    return suite.only(records.loc[records["suite"] == suite.name, "sample"])


def _measured(records: pd.DataFrame, suites: Sequence[Suite]):
    """(cell, suite, its records, its metrics), one suite after the other."""
    asked = [_of(suite, records) for suite in suites]
    for labels, part in cells_in(records):
        for suite in asked:
            mine = part[part["suite"] == suite.name]
            yield labels, suite, mine, metrics(suite, mine)


@counted(rows=True)
def summary(
    records: pd.DataFrame, suites: Sequence[Suite], table: str = "tiny_llava", seed: int = 0
) -> pd.DataFrame:
    """Every metric of every suite and cell as long rows of the results schema, with its error.

    The headline of a suite comes first, and all suites have "accuracy". stderr is over pictures.
    Raises ValueError where a cell was not asked all the questions that another was asked.
    """
    rows, in_shares = [], _in_shares(records)
    for labels, suite, part, found in _measured(records, suites):
        head = _row(labels, part, table, seed, in_shares)
        for metric, ratios in found.items():
            unit = "points" if metric in POINTS else "1" if metric == "CIDEr" else "%"
            error = error_of(pull_of(ratios, part["picture"]))
            row = {"benchmark": suite.name, "metric": metric, "value": value_of(ratios)}
            rows.append(head | row | {"unit": unit, "stderr": error})
    return results.tidy(pd.DataFrame(rows))


def _in_shares(records: pd.DataFrame) -> bool:
    """Whether all budgets of these records are shares."""
    pruned = records[records["method"] != FULL]
    return len(pruned) > 0 and bool(pruned["keep"].isna().all())


def _row(labels: dict, part: pd.DataFrame, table: str, seed: int, in_shares: bool) -> dict:
    labels = {k: None if pd.isna(v) else v for k, v in labels.items()}
    run = {name: part[name].unique() if name in part else [usual] for name, usual in RUN.items()}
    several = {name: sorted(map(str, found)) for name, found in run.items() if len(found) > 1}
    if several:
        raise ValueError(f"records of several runs, {several}: summarise one at a time")
    if labels["method"] == FULL:  # budgets are counts or shares, as in the papers' tables
        all_of_it = {"keep": round(part["mean_tokens"].mean())}
        labels |= {"retention_pct": 100.0} if in_shares else all_of_it
    return (
        labels
        | {
            "table": table,
            "mean_tokens": round(part["mean_tokens"].mean(), 6),
            "n": len(part),
            "seed": seed,
            "source": "measured",
        }
        | {name: found[0] for name, found in run.items()}
    )


def headlines(suites: Sequence[Suite], halves: bool = False) -> list[tuple[str, str, str]]:
    """(suite, metric, benchmark) of each printed column; `halves`: MME's two sums apart."""
    names = {"accuracy": "accuracy", "pope": "f1", "mme": "points", "circular": "circular"}
    columns = []
    for suite in suites:
        if halves and suite.metric in MME:
            columns += [(suite.name, part, name) for part, name in HALVES.items()]
        else:
            rule = SCORERS[suite.metric]
            headline = rule.headline if isinstance(rule, Scorer) else names[suite.metric]
            columns.append((suite.name, headline, suite.stands_for))
    return columns


@counted(rows=True)
def normalised(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    *,
    halves: bool = False,
    table: str = "tiny_llava",
    seed: int = 0,
) -> pd.DataFrame:
    """The papers' Avg with its standard error: mean over suites of value / value unpruned, in %.

    One row per cell, as `average_rows` gives it. The error, to first order, knows that the
    unpruned model answers the same questions, and that suites share pictures.
    """
    rows, in_shares = [], _in_shares(records)
    for labels, part, value, pull in shares(records, suites, halves=halves):
        row = _row(labels, part, table, seed, in_shares)
        rows.append(row | {"benchmark": AVERAGE, "metric": "normalised", "unit": "%",
                           "value": value, "stderr": error_of(pull)})  # fmt: skip
    return results.tidy(pd.DataFrame(rows))


def shares(
    records: pd.DataFrame, suites: Sequence[Suite], *, halves: bool = False
) -> Iterator[tuple[dict, pd.DataFrame, float, pd.Series]]:
    """(cell, its records, its Avg, what each picture adds to the error of this Avg), cell by cell.

    The last is to first order, and knows the unpruned model's own error: the error of Avg, or of
    the difference of two of them, is `error_of` it, or of their difference.
    """
    columns = headlines(suites, halves)
    by_cell: dict[tuple, tuple[dict, list, dict[str, Metrics]]] = {}
    for labels, suite, part, found in _measured(records, suites):
        _, parts, mine = by_cell.setdefault(key_of(labels), (labels, [], {}))
        parts.append(part)
        mine[suite.name] = {m: (value_of(r), pull_of(r, part["picture"])) for m, r in found.items()}
    full = next((mine for labels, _, mine in by_cell.values() if labels["method"] == FULL), None)
    if full is None:
        raise ValueError(f"no records of method '{FULL}': nothing to take a share of")
    for labels, parts, mine in by_cell.values():
        found, pull = [], pd.Series(dtype=float)
        for name, metric, benchmark in columns:
            if metric not in mine[name]:
                raise ValueError(f"no question of {benchmark} was asked: ask more of {name}")
            (value, own), (whole, its) = mine[name][metric], full[name][metric]
            if whole <= 0:
                raise ValueError(f"the full model scores 0 on {benchmark}: nothing to normalise by")
            found.append(100 * value / whole)
            change = 100 / whole * (own - value / whole * its) / len(columns)
            pull = pull.add(change, fill_value=0.0)
        yield labels, pd.concat(parts), float(np.mean(found)), pull


@counted()
def beside(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    table: int | str | pd.DataFrame,
    live: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """`beside_paper` over the benchmarks that both sides have, Avg with its error.

    The paper's Avg is the printed one where it has one and we have all of its benchmarks, else it
    is taken anew over the common ones ("Avg over common"), beside the printed one ("Avg printed").
    table: its name, or such a frame. live: records of a run on fewer questions; its values follow
    in columns of their own, named live. Records may hold several variants only where the table
    tells them apart (rank, layer): filter before. Where some answers are not read by a published
    rule, `unread` is their share in %; `lmms_eval` is POPE's F1 as that harness reads them.
    """
    theirs = table if isinstance(table, pd.DataFrame) else results.paper(table)
    printed = [b for b in dict.fromkeys(theirs["benchmark"]) if b != AVERAGE]
    halves = HALVES["perception"] in printed
    wanted = [suite for suite in suites if _prints(suite, printed)]
    common = [benchmark for *_, benchmark in headlines(wanted, halves)]
    rows = theirs[theirs["benchmark"].isin(common)]
    label = AVERAGE if len(common) == len(printed) else f"{AVERAGE} over common"
    average = theirs[theirs["benchmark"] == AVERAGE]
    if label != AVERAGE or average.empty:  # what is printed stands beside what is common to both
        average = average.assign(benchmark=f"{AVERAGE} printed")
        average = pd.concat([average, average_rows(rows).assign(benchmark=label)])
    rows = pd.concat([rows, average])
    sides = [
        beside_paper(_printed(each, wanted, halves, label), rows)
        for each in (records, live if live is None else scored(live))
        if each is not None
    ]
    sides[0] = _read_otherwise(sides[0], records, wanted)
    if live is None:
        return sides[0]
    keys = ["method", "budget_pct", "layer", "rank", "benchmark"]
    new = {c: f"live{c.removeprefix('measured')}" for c in sides[1] if c.startswith("measured")}
    new |= {"stderr": "live_stderr", "n": "live_n"}
    return sides[0].merge(sides[1][[*keys, *new]].rename(columns=new), on=keys, how="left")


#: A metric of the answers' own -> its column beside the headline.
OTHERWISE = {"unread": "unread", "f1_lmms": "lmms_eval"}


def _read_otherwise(
    table: pd.DataFrame, records: pd.DataFrame, suites: Sequence[Suite]
) -> pd.DataFrame:
    """The table with a column for each of OTHERWISE that some of its suites have."""
    names = {name: PAPER_BENCHMARKS.get(name, shown) for name, _, shown in headlines(suites)}
    rows = summary(records, suites).rename(columns={"keep": "keep_measured"})
    rows["benchmark"] = rows["benchmark"].map(names)
    told = [column for column in ("layer", "rank") if table[column].notna().any()]
    keys = ["benchmark", "method", "keep_measured", *told]
    for metric, column in OTHERWISE.items():
        found = rows.loc[rows["metric"] == metric, [*keys, "value"]]
        if len(found):
            found = found.astype(table[keys].dtypes).rename(columns={"value": column})
            table = table.merge(found.drop_duplicates(keys), on=keys, how="left")
    return table


def _prints(suite: Suite, printed: list[str]) -> bool:
    return suite.stands_for in printed or (suite.metric in MME and HALVES["perception"] in printed)


def _printed(
    records: pd.DataFrame, suites: Sequence[Suite], halves: bool, label: str
) -> pd.DataFrame:
    """The headline rows and Avg, under the names that the paper's table gives its columns."""
    long = summary(records, suites)
    parts = []
    for name, metric, benchmark in headlines(suites, halves):
        rows = long[(long["benchmark"] == name) & (long["metric"] == metric)]
        if metric in HALVES or name not in PAPER_BENCHMARKS:
            rows = rows.replace({"benchmark": {name: benchmark}})
        parts.append(rows)
    average = normalised(records, suites, halves=halves).assign(benchmark=label)
    return pd.concat([*parts, average], ignore_index=True)
