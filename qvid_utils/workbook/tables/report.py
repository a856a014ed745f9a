"""From per-question records to what a table or a figure shows: metrics, averages, differences.

Records are those of `runner.evaluate`. All errors and intervals are over pictures: questions about
one picture are not independent, and stay together.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from ...methods import method as find_method
from ..benchmarks.base import CELL, FULL, PAPER_BENCHMARKS, RUN, Suite, metrics
from ..benchmarks.scoring import SCORERS, Metrics, Scorer, error_of, pull_of, value_of
from . import schema as results
from .failed_questions import counted, scored
from .schema import AVERAGE
from .statistics import cells, paired

__all__ = [
    "agreement", "averages", "averages_by_layer", "beside", "columns_side_by_side",
    "defaults", "differences", "normalised", "says_something", "summary",
    "verdicts",
]  # fmt: skip

POINTS = ("points", "perception", "cognition")  # MME counts points, all else is in percent
#: The two halves of MME, where a table prints them apart.
HALVES = {"perception": "MME-P", "cognition": "MME-C"}
MME = ("mme", "mme_published")
SAYS = 15.0  # accuracy points that chance must cost at a ninth of the tokens, or a suite is mute
NINTH = 9


def _cells(records: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    return cells(records, _naming(records))


def _naming(records: pd.DataFrame) -> list[str]:
    """The columns of these records that name a cell."""
    return [name for name in CELL if name in records]


def _of(suite: Suite, records: pd.DataFrame) -> Suite:
    """The suite's questions that were asked; all cells must have been asked the same ones."""
    return suite.only(records.loc[records["suite"] == suite.name, "sample"])


def _measured(records: pd.DataFrame, suites: Sequence[Suite]):
    """(cell, suite, its records, its metrics), one suite after the other."""
    asked = [_of(suite, records) for suite in suites]
    for labels, part in _cells(records):
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

    One row per cell, as `results.normalised` gives it. The error, to first order, knows that the
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
    """`results.beside_paper` over the benchmarks that both sides have, Avg with its error.

    The paper's Avg is the printed one where it has one and we have all of its benchmarks, else it
    is taken anew over the common ones. table: its name, or such a frame. live: records of a run on
    fewer questions; its values follow in columns of their own, named live. Records may hold several
    variants only where the table tells them apart (rank, layer): filter before.
    """
    theirs = table if isinstance(table, pd.DataFrame) else results.paper(table)
    printed = [b for b in dict.fromkeys(theirs["benchmark"]) if b != AVERAGE]
    halves = HALVES["perception"] in printed
    wanted = [suite for suite in suites if _prints(suite, printed)]
    common = [benchmark for *_, benchmark in headlines(wanted, halves)]
    rows = theirs[theirs["benchmark"].isin(common)]
    label = AVERAGE if len(common) == len(printed) else f"{AVERAGE} over common"
    average = theirs[theirs["benchmark"] == AVERAGE] if label == AVERAGE else None
    average = results.normalised(rows) if average is None or average.empty else average
    rows = pd.concat([rows, average.assign(benchmark=label)])
    sides = [
        results.beside_paper(_printed(each, wanted, halves, label), rows)
        for each in (records, live if live is None else scored(live))
        if each is not None
    ]
    if live is None:
        return sides[0]
    keys = ["method", "budget_pct", "layer", "rank", "benchmark"]
    new = {c: f"live{c.removeprefix('measured')}" for c in sides[1] if c.startswith("measured")}
    new |= {"stderr": "live_stderr", "n": "live_n"}
    return sides[0].merge(sides[1][[*keys, *new]].rename(columns=new), on=keys, how="left")


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


# ---------------------------------------------------------------- what may be concluded


@counted()
def says_something(records: pd.DataFrame, least: float = SAYS) -> pd.DataFrame:
    """Whether a suite can tell rules apart at a layer: does chance at 1/9 cost at least 15 points?

    Where it costs less, the model has read the picture before the cut, and every rule looks good.
    One row per layer and suite: n, full and random (accuracy in %, the score of single questions),
    loss in points with its stderr over pictures, `speaks`. Raises ValueError without records of the
    full model and of `random` at a ninth of its tokens.
    """
    full = records[records["method"] == FULL].set_index("sample")
    ninth = round(full["mean_tokens"].mean() / NINTH) if len(full) else 0
    random = records[records["method"] == "random"]
    chance = random[random["keep"] == ninth]
    if chance.empty and "retention_pct" in random:
        chance = random[random["retention_pct"].round(1) == round(100 / NINTH, 1)]
    if chance.empty:
        raise ValueError(
            f"says_something compares the full model with random at 1/{NINTH} of its tokens: "
            f"records of 'full' and of 'random' at keep={ninth or '?'} (or at a share of "
            f"{100 / NINTH:.1f} %) are needed"
        )
    rows = []
    for (layer, suite), part in chance.groupby(["layer", "suite"], sort=False):
        own = full.loc[part["sample"]]
        lost = 100 * (own["score"].to_numpy() - part["score"].to_numpy())
        pull = pd.Series((lost - lost.mean()) / len(lost)).groupby(own["picture"].to_numpy()).sum()
        rows.append({
            "layer": layer, "suite": suite, "n": len(part), "full": 100 * own["score"].mean(),
            "random": 100 * part["score"].mean(), "loss": lost.mean(), "stderr": error_of(pull),
            "speaks": bool(lost.mean() >= least),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("layer", kind="stable", ignore_index=True)


@counted()
def averages(
    records: pd.DataFrame, suites: Sequence[Suite], speaking: Iterable[str]
) -> pd.DataFrame:
    """Avg of every cell over all suites, and over the speaking ones alone, in % of the full model.

    Columns: the cell, mean_tokens, all, all_stderr, speaking, speaking_stderr, n (questions of all
    suites). Without a speaking suite these two are empty: nothing is concluded there.
    """
    names = set(speaking)
    kept = ["value", "stderr"]
    every = normalised(records, suites)
    frame = every[[*_naming(records), "mean_tokens", *kept, "n"]]
    frame = frame.rename(columns={"value": "all", "stderr": "all_stderr"})
    loud = [suite for suite in suites if suite.name in names]
    part = normalised(records, loud)[kept] if loud else pd.DataFrame(np.nan, every.index, kept)
    frame.insert(frame.columns.get_loc("n"), "speaking", part["value"])
    frame.insert(frame.columns.get_loc("n"), "speaking_stderr", part["stderr"])
    return frame


def averages_by_layer(records: pd.DataFrame, suites: Sequence[Suite]) -> pd.DataFrame:
    """`averages` for every layer of a cut, with the suites that say something at that layer.

    A column more: `loud`, how many suites say something there. The full model is left out.
    """
    says, frames = says_something(records), []
    for layer, part in says.groupby("layer"):
        loud = part.loc[part["speaks"], "suite"]
        mine = records[(records["layer"] == layer) | (records["method"] == FULL)]
        found = averages(mine, suites, loud)
        frames.append(found[found["method"] != FULL].assign(loud=len(loud)))
    frame = pd.concat(frames, ignore_index=True)
    return frame.fillna({"failed": 0}) if "failed" in frame else frame


def columns_side_by_side(joined: pd.DataFrame) -> pd.DataFrame:
    """What `beside` gives, as a table to read: a line per budget and cell, columns by benchmark.

    Under each benchmark paper and measured (of all questions); under Avg, which comes first for
    pages that show no more, also its standard error and, where there is one, the live run.
    """
    head = ["budget_pct", "method", *(k for k in ("layer", "rank") if joined[k].notna().any())]
    head += [k for k in ("failed",) if k in joined]
    lines: dict[tuple, dict] = {}
    for row in joined.to_dict("records"):
        key = tuple(None if pd.isna(row[k]) else row[k] for k in head)
        line = lines.setdefault(key, {(k, ""): v for k, v in zip(head, key, strict=True)})
        average = row["benchmark"].startswith(AVERAGE)
        for column, title in SHOWN.items():
            found = next((c for c in (column, f"{column}_pct_of_full") if c in row), None)
            if found and (average or title in ("paper", "measured", "difference")):
                line[(row["benchmark"], title)] = row[found]
    frame = pd.DataFrame(list(lines.values()))
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    first = [c for c in frame if c[0] in head or c[0].startswith(AVERAGE)]
    return frame[[*first, *(c for c in frame if c not in first)]]


#: Columns of `beside` in a table to read, with their titles.
SHOWN = {
    "paper": "paper", "measured": "measured", "difference": "difference", "stderr": "±", "n": "n",
    "live": "live", "live_stderr": "live ±", "live_n": "live n",
}  # fmt: skip


def defaults(records: pd.DataFrame) -> pd.DataFrame:
    """The records of the full model and of every method as it is by default, at any layer."""
    return records[_default(records)]


def _default(records: pd.DataFrame) -> pd.Series:
    names = [name for name in records["method"].unique() if name != FULL]
    ranks = {name: find_method(name).params.get("rank") for name in names}
    usual = records["method"].map(ranks).astype("float64")
    same = (records["rank"] == usual) | (records["rank"].isna() & usual.isna())
    return (records["variant"] == "") & same


@counted()
def differences(
    records: pd.DataFrame, suites: Sequence[str], method: str = "qvid", seed: int = 0
) -> pd.DataFrame:
    """`method`, as it is by default, minus every other cell of the same budget, in accuracy points.

    records: at one layer; suites: names. As `statistics.paired` has it: the other cell, then the
    numbers; ValueError where a budget has no cell of the method with its defaults, or two.
    """
    asked = records[records["suite"].isin(list(suites)) & (records["method"] != FULL)]
    own = {"method": method, "variant": "", "rank": find_method(method).params.get("rank")}
    return paired(asked, own, by=_budgets(asked), seed=seed)


def _budgets(records: pd.DataFrame) -> list[str]:
    """The columns that hold a cell's budget: a count or, where there are such, a share."""
    return [name for name in ("keep", "retention_pct") if name in records]


def verdicts(joined: pd.DataFrame, pairs: pd.DataFrame, method: str = "qvid") -> pd.DataFrame:
    """Does `method` lead where the paper says so?  One row per other cell that the paper prints.

    joined: `beside` frames; pairs: `differences` of the same cells. paper and measured: its Avg
    minus the other's, in % of the full model; points, low, high: the paired difference; here: "same
    way", "other way", or "no difference" where the interval holds zero.
    """
    keys = ["method", "rank", "budget_pct"]
    lines = joined[joined["benchmark"].str.startswith(AVERAGE) & (joined["method"] != FULL)]
    lines = lines.rename(columns=lambda name: name.replace("_pct_of_full", ""))
    lines = lines.dropna(subset=["paper", "measured"]).drop_duplicates(keys)
    usual = find_method(method).params.get("rank")
    # In a table without ranks the method stands with its default one, unsaid.
    lead = (lines["method"] == method) & (lines["rank"].isna() | (lines["rank"] == usual))
    own = lines[lead].drop_duplicates("budget_pct").set_index("budget_pct")
    rows = lines[~lead].rename(columns={"keep_measured": "keep"})
    for side in ("paper", "measured"):
        rows = rows.assign(**{side: own[side].loc[rows["budget_pct"]].to_numpy() - rows[side]})
    ranks = rows["method"].map(lambda name: find_method(name).params.get("rank"))
    rows["rank"] = rows["rank"].fillna(ranks.astype("float64"))
    plain = pairs[pairs["variant"] == ""].rename(columns={"difference": "points"})
    plain = plain.astype({"rank": "float64", "keep": "Int64"})
    on = ["method", "rank", "keep"]
    if "retention_pct" in plain:  # of a row without a count; the tables' budgets have one decimal
        on.append("retention_pct")
        rows["retention_pct"] = rows["budget_pct"].where(rows["keep"].isna())
        plain["retention_pct"] = plain["retention_pct"].round(1)
    found = rows.merge(plain[[*on, "points", "low", "high"]], on=on)
    clear = (found["low"] > 0) | (found["high"] < 0)
    way = np.where(found["paper"] * found["points"] > 0, "same way", "other way")
    found["here"] = np.where(clear, way, "no difference")
    shown = [*on, "paper", "measured", "points", "low", "high", "here"]
    shown += [name for name in ("failed",) if name in found]
    return found[shown]


def agreement(live: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Whether a run on some questions agrees with the stored one on all of them, cell by cell.

    live, stored: accuracy in %, each on its own questions; bound: four standard errors over
    pictures of so few questions, as the stored run scatters, at least the weight of one question
    (some sixty cells are looked at, so two would be too few); within: |live - stored| <= bound;
    same: share of equal answers, in %, on the questions that both were asked. Cells that were not
    stored are left out.
    """
    live, stored = scored(live), scored(stored)
    names = [name for name in CELL if name in live or name in stored]
    live, stored = (
        frame.assign(**{name: np.nan for name in names if name not in frame})
        for frame in (live, stored)
    )
    keys = ["sample", *names]
    both = live.merge(stored[[*keys, "prediction"]], on=keys, suffixes=("", "_stored"))
    both["same"] = 100.0 * (both["prediction"] == both["prediction_stored"])
    known = {key_of(labels): part for labels, part in _cells(stored)}
    rows = []
    for labels, part in _cells(both):
        score = 100 * known[key_of(labels)]["score"]
        pictures = known[key_of(labels)]["picture"].to_numpy()
        error = error_of(((score - score.mean()) / len(score)).groupby(pictures).sum())
        value, n = 100 * part["score"].mean(), len(part)
        bound = max(4 * error * (len(score) / n) ** 0.5, 100 / n)
        rows.append(labels | {"n": n, "live": value, "stored": score.mean(), "bound": bound,
                              "same": part["same"].mean()})  # fmt: skip
    frame = pd.DataFrame(rows, columns=[*names, "n", "live", "stored", "bound", "same"])
    frame["within"] = (frame["live"] - frame["stored"]).abs() <= frame["bound"]
    return frame.astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})


def key_of(labels: dict) -> tuple:
    return tuple(None if pd.isna(value) else value for value in labels.values())
