"""Averages in % of the unpruned model, and the papers' tables with ours, row beside row.

Frames are long, of the columns of `schema`.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from ..benchmarks.base import FULL, PAPER_BENCHMARKS
from .schema import AVERAGE, COLUMNS, KEY, PAPER_MODELS, PARTS, paper, tidy

#: Visual tokens of a paper's model whose unpruned row is absent from some of its tables.
PAPER_TOKENS: Mapping[str, int] = MappingProxyType({"LLaVA-1.5-7B": 576})
#: Metrics that compare with the unpruned model already.
RELATIVE = ("normalised", "reduction", "speedup", "token_ratio", "latency_ratio",
            "throughput_ratio", "kernel_time_ratio")  # fmt: skip
_MISSING = -1.0  # stands for "empty" in keys: no budget, layer or rank is negative


def _budgets(frame: pd.DataFrame) -> pd.Series:
    """Share of visual tokens kept in %, to one decimal as the papers print it.

    `retention_pct` where given, else keep over the keep of the full row of the same model.
    """
    full = frame[(frame.method == FULL) & frame.keep.notna()]
    whole = frame.model.map({**PAPER_TOKENS, **full.groupby("model").keep.max()})
    share = frame.retention_pct.where(frame.retention_pct.notna() | (frame.method != FULL), 100.0)
    counted = 100 * frame.keep.astype("float64") / whole.astype("float64")
    share = share.fillna(counted).round(1)
    if share.isna().any():
        row = frame[share.isna()].iloc[0]
        if row.keep is pd.NA:
            raise ValueError(f"no budget for {row.method}: give keep or retention_pct")
        raise ValueError(
            f"keep={row.keep} of how many? add a row of method '{FULL}' with keep for "
            f"{row.model}, or give retention_pct"
        )
    return share


def average_rows(frame: pd.DataFrame, over: Iterable[str] | None = None) -> pd.DataFrame:
    """The papers' Avg: mean over benchmarks of value / value of the full model, in %.

    over: benchmarks to average (all but Avg and `PARTS` if None), one metric each. Returns one
    row per cell, benchmark "Avg", metric "normalised", unit "%", in order of appearance. Raises
    ValueError for an unknown benchmark, two metrics of one benchmark, a cell that lacks one, and a
    full model that is missing or scores zero. Source: QViD, captions of Tables 4, 6 and 10.
    """
    frame = tidy(frame)
    present = list(dict.fromkeys(b for b in frame.benchmark if b != AVERAGE and b not in PARTS))
    names = present if over is None else list(dict.fromkeys(over))
    unknown = [b for b in names if b not in set(frame.benchmark)]
    if unknown or not names:
        raise ValueError(f"no benchmark {unknown or names} in the frame; it has {present}")
    rows = frame[frame.benchmark.isin(names)]
    for name, metrics in rows.groupby("benchmark").metric.unique().items():
        if len(metrics) > 1:
            raise ValueError(f"{name} has the metrics {sorted(metrics)}; keep one of them")
    on = ["table", "model", "seed", "device", "dtype", "source", "benchmark"]
    full = rows.loc[rows.method == FULL, [*on, "value"]]
    if full.duplicated(on).any():
        raise ValueError(f"two rows of method '{FULL}' of one benchmark; keep one of them")
    rows = rows.merge(full.rename(columns={"value": "whole"}), on=on, how="left")
    for wrong, why in ((rows.whole.isna(), "no row of method '{}' for {} of {} to normalise by"),
                       (rows.whole == 0, "the {} model scores 0 on {} of {}")):  # fmt: skip
        if wrong.any():
            row = rows[wrong].iloc[0]
            raise ValueError(why.format(FULL, row.benchmark, row.model))
    out = []
    for _, group in rows.groupby([k for k in KEY if k not in ("benchmark", "metric")],
                                 sort=False, dropna=False):  # fmt: skip
        first, each = group.iloc[0][list(COLUMNS)], group.set_index("benchmark")
        lacks = [b for b in names if b not in each.index]
        if lacks:
            raise ValueError(f"{first.method} (keep={first.keep}) has no value for {lacks}")
        share = float(np.mean((100 * each.value / each.whole)[names].tolist()))
        out.append({**first, **AVERAGED, "value": share, "n": None, "stderr": None, "printed": ""})
    return tidy(pd.DataFrame(out, columns=COLUMNS))


#: What names a row of averages.
AVERAGED = {"benchmark": AVERAGE, "metric": "normalised", "unit": "%"}


# ---------------------------------------------------------------- ours beside theirs


def beside_paper(
    measured: pd.DataFrame,
    table: int | str | pd.DataFrame,
    *,
    metrics: Mapping[str, str] | None = None,
    by: str = "share",
) -> pd.DataFrame:
    """The paper's table and ours, row beside row: paper | measured | difference.

    Rows meet on method, budget, rank, layer and benchmark (an embedded suite meets the benchmark
    that it stands for). Where model and every benchmark are the paper's own, the columns are
    `paper`, `measured`, `difference` (measured - paper, in `unit`); else nothing is subtracted, and
    beside the two raw numbers stand `paper_pct_of_full` and `measured_pct_of_full`, each side in %
    of its own unpruned model. `stderr` is that of the last measured column, `n` its number of
    samples. Rows of one side only stay, with the other side empty. Avg is taken over the benchmarks
    that both sides have; where these are not all of the paper's, its row is "Avg over common" on
    both sides.

    measured: results of one model and setting, with its unpruned rows (method "full") where it
    is not the paper's model. table: a name as in `paper`, or its frame. metrics: benchmark ->
    metric of ours that stands for the paper's number, needed where ours has several. by: "share"
    meets budgets by the share of tokens kept, "order" by their order (Table 2b's printed ratios
    are not certain). A table's layers and ranks are joined as numbers: rename ours first where a
    layer stands for another depth.
    """
    theirs = tidy(table) if isinstance(table, pd.DataFrame) else paper(table)
    ours = tidy(measured).assign(own_metric=lambda f: f.metric)
    if ours.empty:
        raise ValueError("no measured rows: nothing to put beside the paper")
    for column in ("model", "device", "dtype", "seed"):
        several = ours[column].dropna().unique()
        if len(several) > 1:
            raise ValueError(f"measured holds {column} = {sorted(several)}; pass one at a time")
    theirs, ours = _sides(theirs, ours, dict(metrics or {}), by)
    same = PAPER_MODELS.get(ours.model.iloc[0], ours.model.iloc[0]) == theirs.model.iloc[0]
    same = same and not ours.suite.isin(list(PAPER_BENCHMARKS)).any()
    theirs, ours = (side.assign(raw=side["value"]) for side in (theirs, ours))
    if not same:
        theirs, ours = _percent_of_full(theirs, printed=True), _percent_of_full(ours)
    both = _in_order(_joined(theirs, ours), theirs, ours)
    both["metric"] = both.pop("own_metric").fillna(both.metric)
    both["layer"], both["rank"] = (both[k].replace(_MISSING, np.nan) for k in ("layer", "rank"))
    both["layer"] = both["layer"].astype("Int64")
    both["suite"] = both["suite"].fillna("")
    shown = ["paper", "measured", "paper_pct_of_full", "measured_pct_of_full"]
    if same:
        both["difference"] = both.measured - both.paper
        shown = ["paper", "measured", "difference"]
    return both[[*HEAD, *shown, "stderr", "n"]]


#: Columns of a joined table that name a number.
HEAD = ("method", "budget_pct", "keep_paper", "keep_measured", "layer", "rank", "benchmark",
        "suite", "metric", "unit")  # fmt: skip


def _joined(theirs, ours):
    """Both sides on what names a number; ValueError where their units differ."""
    keys = ["method", "budget_pct", "layer", "rank", "benchmark", "metric"]
    left = theirs[[*keys, "keep", "unit", "value", "raw"]].rename(
        columns={"keep": "keep_paper", "value": "paper_pct_of_full", "raw": "paper"}
    )
    own = ["keep", "unit", "suite", "own_metric", "value", "raw", "stderr", "n"]
    right = ours[[*keys, *own]].rename(
        columns={"keep": "keep_measured", "value": "measured_pct_of_full", "raw": "measured",
                 "unit": "unit_measured"}
    )  # fmt: skip
    both = left.merge(right, on=keys, how="outer", validate="one_to_one")
    odd = both[both.unit.notna() & both.unit_measured.notna() & (both.unit != both.unit_measured)]
    if len(odd):
        at = odd.iloc[0]
        raise ValueError(
            f"{at.benchmark} ({at.metric}) is in {at.unit!r} in the paper and in "
            f"{at.unit_measured!r} in measured; convert measured first"
        )
    both["unit"] = both["unit"].fillna(both.pop("unit_measured"))
    return both


def _sides(theirs, ours, metrics, by):
    """Both sides with `budget_pct`, `suite`, one metric per number, an Avg of what is common."""
    if by not in ("share", "order"):
        raise ValueError(f"by={by!r}; it is 'share' or 'order'")
    ours = ours.assign(suite=ours.benchmark, benchmark=ours.benchmark.replace(PAPER_BENCHMARKS))
    ours = _one_metric(theirs, ours, metrics)
    theirs = theirs.assign(suite="", own_metric=theirs.metric)
    theirs["budget_pct"], ours["budget_pct"] = _budgets(theirs), _budgets(ours)
    if by == "order":
        ours = _by_order(theirs, ours)
    for frame in (theirs, ours):
        for key in ("layer", "rank"):
            frame[key] = frame[key].astype("float64").fillna(_MISSING)
    for key in ("layer", "rank"):  # a column that the table leaves empty does not tell rows apart
        if (theirs[key] == _MISSING).all():
            ours[key] = _MISSING
        else:  # the unpruned model and other rules have no rank of their own in the table
            plain = set(theirs.method) - set(theirs.loc[theirs[key] != _MISSING, "method"])
            ours.loc[ours.method.isin(plain), key] = _MISSING
    keys = ["method", "budget_pct", "layer", "rank", "benchmark", "metric"]
    twice = ours.duplicated(keys, keep=False)
    if twice.any():
        at = ours[twice].iloc[0]
        differ = [c for c in ("table", "variant", "keep", "source") if ours[twice][c].nunique() > 1]
        raise ValueError(
            f"several measured rows for {at.method} at {at.budget_pct} % on {at.benchmark}; they "
            f"may differ in {differ or ['layer', 'rank']}: filter measured to one of them"
        )
    return _with_average(theirs, ours)


def _one_metric(theirs, ours, metrics):
    """Keep of ours one metric per number of the paper's, under the paper's name for it."""
    rows = []
    for name, group in ours.groupby("benchmark", sort=False):
        mine = list(group.metric.unique())
        yours = list(theirs.loc[theirs.benchmark == name, "metric"].unique())
        if len(yours) > 1 or (len(yours) == 1 and yours[0] in mine):
            rows.append(group[group.metric.isin(yours)] if yours else group)
            continue
        wanted = metrics.get(name, metrics.get(group.suite.iloc[0]))
        if wanted is None and len(mine) > 1:
            raise ValueError(
                f"{name} was measured as {sorted(mine)}; say which stands beside the paper's "
                f"number, such as metrics={{{name!r}: {mine[0]!r}}}"
            )
        if wanted is not None and wanted not in mine:
            raise ValueError(f"metrics: {name} has no {wanted!r}; measured are {sorted(mine)}")
        group = group[group.metric == (wanted or mine[0])]
        rows.append(group.assign(metric=yours[0] if yours else group.metric))
    return pd.concat(rows).sort_index()


def _by_order(theirs, ours):
    """Give our budgets the paper's shares, largest to largest, the unpruned model apart."""
    a = sorted(set(theirs.loc[theirs.method != FULL, "budget_pct"]), reverse=True)
    b = sorted(set(ours.loc[ours.method != FULL, "budget_pct"]), reverse=True)
    if len(a) != len(b):
        raise ValueError(f"by='order' needs as many budgets on both sides: paper {a}, measured {b}")
    named = dict(zip(b, a, strict=True))
    pruned = ours.method != FULL
    ours.loc[pruned, "budget_pct"] = ours.loc[pruned, "budget_pct"].map(named)
    return ours


def _with_average(theirs, ours):
    averaged = [b for b in dict.fromkeys(theirs.benchmark) if b not in (AVERAGE, *PARTS)]
    common = [b for b in averaged if b in set(ours.benchmark)]
    if AVERAGE not in set(theirs.benchmark) or AVERAGE in set(ours.benchmark) or not common:
        return theirs, ours
    if FULL not in set(ours.method):
        return theirs, ours
    label = AVERAGE if common == averaged else f"{AVERAGE} over common"
    ours = pd.concat([ours, _average(ours, common, label)], ignore_index=True)
    if label != AVERAGE:
        theirs = pd.concat([theirs, _average(theirs, common, label)], ignore_index=True)
    return theirs, ours


def _average(side, names, label):
    """Avg rows of one side of the join, whose layer and rank are already filled."""
    full = side[side.method == FULL].set_index("benchmark").value
    rows = []
    for _, group in side.groupby(["method", "budget_pct", "layer", "rank"], sort=False):
        values = group.set_index("benchmark").value
        if all(b in values.index and b in full.index for b in names):
            share = float(np.mean([100 * values[b] / full[b] for b in names]))
            rows.append({**group.iloc[0], **AVERAGED, "benchmark": label, "suite": "",
                         "own_metric": "normalised", "value": share, "stderr": np.nan,
                         "n": pd.NA})  # fmt: skip
    return pd.DataFrame(rows, columns=side.columns).astype(side.dtypes.to_dict())


def _percent_of_full(side, printed=False):
    """Values and their errors in % of the unpruned model; what is `RELATIVE` already stays.

    A number whose unpruned value the paper does not print becomes empty; ours must have one. The
    errors are those of the pruned value alone, the unpruned one taken as known; its own share is
    100 without an error. `statistics.paired` gives the interval of a difference.
    """
    on = ["benchmark", "metric"]
    full = side[side.method == FULL].drop_duplicates(on, keep="last").set_index(on).value
    whole = pd.Series(full.reindex(pd.MultiIndex.from_frame(side[on])).to_numpy(), side.index)
    relative = side.metric.isin(RELATIVE)
    lacks = ~relative & ~(whole > 0)
    if lacks.any() and not (printed and len(full)):
        row = side[lacks].iloc[0]
        raise ValueError(
            f"{'the paper' if printed else 'measured'} has no row of method '{FULL}' above 0 "
            f"for {row.benchmark} ({row.metric}), so nothing to take a share of"
        )
    scale = (100 / whole.where(whole > 0)).mask(relative, 1.0)
    errors = (side.stderr * scale).where((side.method != FULL) | relative)
    unit = side.unit.where(relative, "% of full")
    return side.assign(value=side.value * scale, stderr=errors, unit=unit)


def _in_order(both, theirs, ours):
    """Rows as the paper prints them: budgets, then methods, then columns; ours alone come last."""
    ranked = both.assign(full=both.method != FULL)
    for key in ("budget_pct", "method", "benchmark", "metric"):
        seen = list(dict.fromkeys([*theirs[key], *ours[key]]))
        ranked[f"{key}_place"] = ranked[key].map({v: i for i, v in enumerate(seen)})
    places = ["full", "budget_pct_place", "method_place", "layer", "rank", "benchmark_place",
              "metric_place"]  # fmt: skip
    order = ranked.sort_values(places, kind="stable").index
    return both.loc[order].reset_index(drop=True)
