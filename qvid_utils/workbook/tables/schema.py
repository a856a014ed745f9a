"""Numbers as long tables: one schema, the papers' tables, averages, ours beside theirs, intervals.

A result is one row of `COLUMNS`; `data/README.md` is the dictionary of these columns. The papers'
tables lie in `data/paper/` and are read with `paper`, never written. Every function takes and
returns plain pandas frames.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from ...paths import DATA, figures_dir
from ..benchmarks.base import FULL, PAPER_BENCHMARKS

#: Column of a result row -> kind ("text", "int", "float", "rank").
SCHEMA: Mapping[str, str] = MappingProxyType({
    "table": "text", "model": "text", "method": "text", "variant": "text",
    "keep": "int", "retention_pct": "float", "mean_tokens": "float", "layer": "int",
    "rank": "rank", "benchmark": "text", "metric": "text", "value": "float", "unit": "text",
    "n": "int", "stderr": "float", "seed": "int", "device": "text", "dtype": "text",
    "source": "text", "quoted_from": "text", "printed": "text",
})  # fmt: skip
COLUMNS = tuple(SCHEMA)
#: Columns that no row may leave empty.
REQUIRED = ("table", "model", "method", "benchmark", "metric", "value", "unit", "source")
#: Two rows that agree in all of these are the same measurement twice, which is refused.
KEY = ("table", "model", "method", "variant", "keep", "retention_pct", "layer", "rank",
       "benchmark", "metric", "seed", "device", "dtype", "source")  # fmt: skip

#: Checkpoint on the hub -> the name that the papers' tables give the model.
PAPER_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "llava-hf/llava-1.5-7b-hf": "LLaVA-1.5-7B",
        "Qwen/Qwen2-VL-7B-Instruct": "Qwen2-VL-7B",
        "LanguageBind/Video-LLaVA-7B-hf": "Video-LLaVA-7B",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": "LLaVA-OneVision-7B",
    }
)
#: Visual tokens of a paper's model whose unpruned row is absent from some of its tables.
PAPER_TOKENS: Mapping[str, int] = MappingProxyType({"LLaVA-1.5-7B": 576})
#: Parts of a benchmark that stand beside its total in a table and are not averaged again.
PARTS = ("VideoMME-Short", "VideoMME-Medium", "VideoMME-Long")
AVERAGE = "Avg"

#: Metrics that compare with the unpruned model already.
RELATIVE = ("normalised", "reduction", "speedup", "token_ratio", "latency_ratio",
            "throughput_ratio", "kernel_time_ratio")  # fmt: skip

_SOURCE = re.compile(r"(paper|measured)\b")
_MISSING = -1.0  # stands for "empty" in keys: no budget, layer or rank is negative


# ---------------------------------------------------------------- the schema


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with exactly `COLUMNS`, in that order, with the schema's types.

    Optional columns that are absent come back empty: "" for text, missing for numbers. Raises
    ValueError for an unknown or missing column, a number that is none or lies outside its range,
    an empty required cell, a source that is neither paper nor measured, and a duplicate key.
    """
    unknown = [str(c) for c in frame.columns if c not in SCHEMA]
    if unknown:
        raise ValueError(f"unknown column(s) {unknown}; the schema has {list(COLUMNS)}")
    if not frame.columns.is_unique:
        twice = [str(c) for c in frame.columns[frame.columns.duplicated()]]
        raise ValueError(f"column(s) {twice} come twice; name each column once")
    absent = [c for c in REQUIRED if c not in frame.columns]
    if absent:
        raise ValueError(f"missing column(s) {absent}; every result needs {list(REQUIRED)}")
    out = pd.DataFrame(index=range(len(frame)))
    for name, kind in SCHEMA.items():
        cells = frame[name].tolist() if name in frame.columns else [None] * len(frame)
        out[name] = _typed(name, kind, cells)
    _check(out)
    return out


def _empty(cell) -> bool:
    return cell is None or cell is pd.NA or cell == "" or (isinstance(cell, float) and cell != cell)


def _typed(name: str, kind: str, cells: list) -> pd.Series:
    if kind == "text":
        return pd.Series(["" if _empty(c) else str(c) for c in cells], dtype="object")
    numbers = [None if _empty(c) else _number(name, kind, c, i) for i, c in enumerate(cells)]
    if kind == "int":
        return pd.Series(numbers, dtype="Int64")
    return pd.Series([np.nan if x is None else x for x in numbers], dtype="float64")


def _number(name: str, kind: str, cell, row: int):
    """One cell as a number; refuses what is not finite, not whole (int) or below zero."""
    try:
        x = float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={cell!r} in row {row} is not a number") from None
    if not np.isfinite(x):
        raise ValueError(f"{name}={cell!r} in row {row} is not finite")
    if kind == "int" and x != int(x):
        raise ValueError(f"{name}={cell!r} in row {row} is not a whole number")
    if kind == "rank" and not (0 < x < 1 or (x >= 1 and x == int(x))):
        raise ValueError(f"rank={cell!r} in row {row}: a whole number >= 1 or a share in (0, 1)")
    if name != "value" and x < 0:
        raise ValueError(f"{name}={cell!r} in row {row} is negative")
    if name == "retention_pct" and not 0 < x <= 100:
        raise ValueError(f"retention_pct={cell!r} in row {row} is outside (0, 100]")
    return int(x) if kind == "int" else x


def _check(frame: pd.DataFrame) -> None:
    for name in REQUIRED:
        blank = frame[name].isna() | (frame[name].astype(str) == "")
        if blank.any():
            raise ValueError(f"{name} is empty in row {int(blank.idxmax())}; it is required")
    wrong = ~frame["source"].map(lambda s: bool(_SOURCE.match(s))).astype(bool)
    if wrong.any():
        came = frame.loc[wrong, "source"].iloc[0]
        raise ValueError(f"source={came!r}; it begins with 'paper' or 'measured'")
    twice = frame.duplicated(list(KEY))
    if twice.any():
        row = frame.loc[twice.idxmax(), list(KEY)]
        shown = ", ".join(f"{k}={row[k]}" for k in KEY if not _empty(row[k]))
        raise ValueError(f"duplicate key: {shown}; a measurement stands in one row only")


def read(path: str | Path) -> pd.DataFrame:
    """A result file as a frame with the schema's types; the header must be `COLUMNS`.

    Raises ValueError, naming the file, for another header or a cell outside the schema.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    if tuple(head) != COLUMNS:
        odd = sorted(set(head) ^ set(COLUMNS)) or "the order"
        raise ValueError(f"{path.name}: the header differs from the schema in {odd}")
    for number, line in enumerate(lines):
        if len(line) != len(COLUMNS):
            raise ValueError(
                f"{path.name}: row {number} has {len(line)} cells; the schema has {len(COLUMNS)}"
            )
    try:
        return tidy(pd.DataFrame(lines, columns=list(COLUMNS), dtype="object"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def write(frame: pd.DataFrame, path: str | Path, *, order: str = "key") -> Path:
    """Write results as CSV, the same bytes for the same rows; returns the path.

    order: "key" sorts by the key columns, "given" leaves the rows as they come. Lines end in LF,
    floats have their shortest round-trip form, whole ranks no decimal point. ValueError as `tidy`.
    """
    if order not in ("key", "given"):
        raise ValueError(f"order={order!r}; it is 'key' or 'given'")
    out = tidy(frame)
    if order == "key":
        out = out.sort_values(list(KEY), kind="stable", na_position="first", ignore_index=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_csv(out, path)
    return path


def _cell(x, whole: bool = False) -> str:
    """One value as text: empty for missing, shortest round-trip form for a float."""
    if _empty(x):
        return ""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    if isinstance(x, (float, np.floating)):
        x = float(x)
        return str(int(x)) if whole and x == int(x) else repr(x)
    return str(x)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([str(c) for c in frame.columns])
        whole = [c == "rank" for c in frame.columns]
        columns = [[_cell(x, w) for x in frame.iloc[:, i]] for i, w in enumerate(whole)]
        rows.writerows(zip(*columns, strict=True))


# ---------------------------------------------------------------- the papers' tables


def paper(table: int | str) -> pd.DataFrame:
    """One table of the papers in long form: `paper(1)`, `paper("2a")`, `paper("svd_1")`.

    Names of files work too ("table02a", "svd_table01"). Raises ValueError for another name, and
    lists the known ones.
    """
    known = {path.stem: path for path in sorted((DATA / "paper").glob("*table*.csv"))}
    m = re.fullmatch(r"(svd)?[ _-]*(?:table)?[ _]*0*(\d+)([a-z]?)", str(table).strip().lower())
    stem = f"{'svd_' if m[1] else ''}table{int(m[2]):02d}{m[3]}" if m else ""
    if stem not in known:
        raise ValueError(f"no table {table!r}; known are {', '.join(known)}")
    return read(known[stem])


def peers() -> pd.DataFrame:
    """What the compared methods print of themselves: all of data/paper/peers_*.csv, long form."""
    files = sorted((DATA / "paper").glob("peers_*.csv"))
    return pd.concat([read(path) for path in files], ignore_index=True)


def _budgets(frame: pd.DataFrame) -> pd.Series:
    """Share of visual tokens kept in %, to one decimal as the papers print it.

    `retention_pct` where given, else keep over the keep of the full row of the same model.
    """
    full = frame[(frame.method == FULL) & frame.keep.notna()]
    whole = {**PAPER_TOKENS, **full.groupby("model").keep.max().to_dict()}
    shares = []
    for row in frame.itertuples():
        if not np.isnan(row.retention_pct):
            shares.append(round(row.retention_pct, 1))
        elif row.method == FULL:
            shares.append(100.0)
        elif row.keep is pd.NA:
            raise ValueError(f"no budget for {row.method}: give keep or retention_pct")
        elif row.model not in whole:
            raise ValueError(
                f"keep={row.keep} of how many? add a row of method '{FULL}' with keep for "
                f"{row.model}, or give retention_pct"
            )
        else:
            shares.append(round(100 * row.keep / whole[row.model], 1))
    return pd.Series(shares, index=frame.index, dtype="float64")


def normalised(frame: pd.DataFrame, over: Iterable[str] | None = None) -> pd.DataFrame:
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
    setting = ["table", "model", "seed", "device", "dtype", "source"]
    full = _full_values(rows, setting)
    cell = [k for k in KEY if k not in ("benchmark", "metric")]
    out = []
    for _, group in rows.groupby(cell, sort=False, dropna=False):
        values = dict(zip(group.benchmark, group.value, strict=True))
        first = group.iloc[0]
        lacks = [b for b in names if b not in values]
        if lacks:
            raise ValueError(f"{first.method} (keep={first.keep}) has no value for {lacks}")
        at = tuple(_key(first[k]) for k in setting)
        shares = [100 * values[b] / _of_full(full, at, b) for b in names]
        out.append({**first.to_dict(), "benchmark": AVERAGE, "metric": "normalised",
                    "value": float(np.mean(shares)), "unit": "%", "n": None, "stderr": None,
                    "printed": ""})  # fmt: skip
    return tidy(pd.DataFrame(out, columns=COLUMNS))


def _key(x):
    return _MISSING if _empty(x) else x


def _full_values(rows: pd.DataFrame, setting: list[str]) -> dict[tuple, float]:
    found: dict[tuple, float] = {}
    for row in rows[rows.method == FULL].itertuples():
        key = (*(_key(getattr(row, k)) for k in setting), row.benchmark)
        if key in found:
            raise ValueError(f"two rows of method '{FULL}' for {row.benchmark}; keep one of them")
        found[key] = row.value
    return found


def _of_full(full: Mapping[tuple, float], at: tuple, benchmark: str) -> float:
    value = full.get((*at, benchmark))
    if value is None:
        raise ValueError(f"no row of method '{FULL}' for {benchmark} of {at[1]} to normalise by")
    if value == 0:
        raise ValueError(f"the full model scores 0 on {benchmark}: nothing to normalise by")
    return value


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
    `paper`, `measured`, `difference` (measured - paper, in `unit`); else nothing is subtracted and
    the columns are `paper_pct_of_full`, `measured_pct_of_full`, each side in % of its own
    unpruned model. `stderr` follows the measured column, `n` is its number of samples. Rows of one
    side only stay, with the other side empty. Avg is taken over the benchmarks that both sides
    have; where these are not all of the paper's, its row is "Avg over common" on both sides.

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
    if not same:
        theirs, ours = _percent_of_full(theirs, printed=True), _percent_of_full(ours)
    keys = ["method", "budget_pct", "layer", "rank", "benchmark", "metric"]
    left = theirs[[*keys, "keep", "unit", "value"]].rename(
        columns={"keep": "keep_paper", "value": "paper"}
    )
    right = ours[[*keys, "keep", "unit", "suite", "own_metric", "value", "stderr", "n"]].rename(
        columns={"keep": "keep_measured", "value": "measured", "unit": "unit_measured"}
    )
    both = left.merge(right, on=keys, how="outer", validate="one_to_one")
    odd = both[both.unit.notna() & both.unit_measured.notna() & (both.unit != both.unit_measured)]
    if len(odd):
        at = odd.iloc[0]
        raise ValueError(
            f"{at.benchmark} ({at.metric}) is in {at.unit!r} in the paper and in "
            f"{at.unit_measured!r} in measured; convert measured first"
        )
    both["unit"] = both["unit"].fillna(both.pop("unit_measured"))
    both = _in_order(both, theirs, ours)
    both["metric"] = both.pop("own_metric").fillna(both.metric)
    both["layer"], both["rank"] = (both[k].replace(_MISSING, np.nan) for k in ("layer", "rank"))
    both["layer"] = both["layer"].astype("Int64")
    both["suite"] = both["suite"].fillna("")
    if same:
        both["difference"] = both.measured - both.paper
    shown = ["paper", "measured", "difference"] if same else ["paper", "measured"]
    head = ["method", "budget_pct", "keep_paper", "keep_measured", "layer", "rank", "benchmark",
            "suite", "metric", "unit"]  # fmt: skip
    both = both[[*head, *shown, "stderr", "n"]]
    return both if same else both.rename(columns={k: f"{k}_pct_of_full" for k in shown})


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
            rows.append({**group.iloc[0].to_dict(), "benchmark": label, "suite": "",
                         "metric": "normalised", "own_metric": "normalised", "unit": "%",
                         "value": share,
                         "stderr": np.nan, "n": pd.NA})  # fmt: skip
    return pd.DataFrame(rows, columns=side.columns).astype(side.dtypes.to_dict())


def _percent_of_full(side, printed=False):
    """Values and their errors in % of the unpruned model; what is `RELATIVE` already stays.

    A number whose unpruned value the paper does not print becomes empty; ours must have one. The
    errors are those of the pruned value alone, the unpruned one taken as known; its own share is
    100 without an error. `statistics.paired` gives the interval of a difference.
    """
    full = side[side.method == FULL].set_index(["benchmark", "metric"]).value.to_dict()
    scale = []
    for row in side.itertuples():
        whole = full.get((row.benchmark, row.metric), 0.0)
        if row.metric in RELATIVE:
            scale.append(1.0)
        elif whole > 0:
            scale.append(100 / whole)
        elif printed and full:
            scale.append(np.nan)
        else:
            raise ValueError(
                f"{'the paper' if printed else 'measured'} has no row of method '{FULL}' above 0 "
                f"for {row.benchmark} ({row.metric}), so nothing to take a share of"
            )
    unit = side.unit.where(side.metric.isin(RELATIVE), "% of full")
    errors = (side.stderr * scale).where((side.method != FULL) | side.metric.isin(RELATIVE))
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


def wide(beside: pd.DataFrame) -> pd.DataFrame:
    """What `beside_paper` gives, in the shape of a printed table: one line per method and budget.

    Columns are method, budget_pct, layer and rank where used, then "GQA paper", "GQA measured",
    "GQA difference" (or "GQA paper, % of full" …) for each benchmark, in the paper's order.
    """
    shown = [c for c in beside.columns if c.split("_pct_of_full")[0] in
             ("paper", "measured", "difference")]  # fmt: skip
    if not shown:
        raise ValueError("wide takes the frame that beside_paper returns")
    keys = ["method", "budget_pct"]
    keys += [k for k in ("layer", "rank") if beside[k].notna().any()]
    several = beside.duplicated([*keys, "benchmark"]).any()
    lines: dict[tuple, dict] = {}
    names: dict[str, None] = {}
    for row in beside.to_dict("records"):
        line = lines.setdefault(tuple(_key(row[k]) for k in keys), {k: row[k] for k in keys})
        title = f"{row['benchmark']} {row['metric']}" if several else row["benchmark"]
        for column in shown:
            name = f"{title} {column.replace('_pct_of_full', ', % of full')}"
            names[name], line[name] = None, row[column]
    return pd.DataFrame(list(lines.values()), columns=[*keys, *names])


# ---------------------------------------------------------------- tables for readers


def save_table(
    frame: pd.DataFrame, name: str, profile: str = "tiny", caption: str = ""
) -> pd.DataFrame:
    """Write a frame to figures/<profile>/<name>.csv, .md and .tex, and give it back.

    The CSV holds the numbers in full; the other two show at most three decimals, as many for each
    column as its numbers need, and a dash for what is missing. The same frame gives the same bytes.
    An index with names becomes columns. Raises ValueError for a name that is no file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name={name!r}; use letters, digits, '-', '_' and '.' only")
    plain = frame.reset_index() if any(n is not None for n in frame.index.names) else frame
    plain = plain.set_axis([_flat(c) for c in plain.columns], axis=1)
    folder = Path(figures_dir(profile))
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(plain, folder / f"{name}.csv")
    cells = [_shown(plain.iloc[:, i]) for i in range(plain.shape[1])]
    lines = [list(line) for line in zip(*cells, strict=True)]
    right = [pd.api.types.is_numeric_dtype(plain.iloc[:, i]) for i in range(plain.shape[1])]
    for suffix, render in (("md", _markdown), ("tex", _latex)):
        text = render(list(plain.columns), lines, right, caption, name)
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8", newline="\n")
    return frame


def _flat(column) -> str:
    return " ".join(str(c) for c in column if str(c)) if isinstance(column, tuple) else str(column)


def _shown(column: pd.Series) -> list[str]:
    if not pd.api.types.is_float_dtype(column):
        return ["–" if _empty(x) else _cell(x) for x in column]
    texts = [f"{float(x):.3f}" for x in column if not _empty(x)]
    places = max((len(t.rstrip("0").split(".")[1]) for t in texts), default=0)
    shown = ["–" if _empty(x) else f"{float(x):.{places}f}" for x in column]
    return [t.lstrip("-") if not t.strip("-0.") else t for t in shown]  # no "-0.00"


def _markdown(head, lines, right, caption, name) -> str:
    def row(cells):
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    rule = "|" + "|".join("---:" if r else ":---" for r in right) + "|"
    start = [caption, ""] if caption else []
    return "\n".join([*start, row(head), rule, *map(row, lines)]) + "\n"


_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "±": r"$\pm$",
        "×": r"$\times$", "²": r"\textsuperscript{2}", "σ": r"$\sigma$", "ℓ": r"$\ell$",
        "↓": r"$\downarrow$", "\n": " "}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def _latex(head, lines, right, caption, name) -> str:
    def row(cells):
        return "    " + " & ".join(_tex(c) for c in cells) + r" \\"

    body = [r"  \begin{tabular}{" + "".join("r" if r else "l" for r in right) + "}",
            r"    \toprule", row(head), r"    \midrule", *map(row, lines),
            r"    \bottomrule", r"  \end{tabular}"]  # fmt: skip
    title = [r"  \caption{" + _tex(caption) + "}"] if caption else []
    label = [r"  \label{tab:" + name + "}"]
    return "\n".join([r"\begin{table}", r"  \centering", *title, *label, *body,
                      r"\end{table}"]) + "\n"  # fmt: skip
