"""What a table leaves out, computed from the papers' numbers: whose rows, which budget, what error.

Every function reads data/paper and returns a plain frame; `leads` alone takes records of ours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..benchmarks.base import CELL, FULL, Suite
from ..benchmarks.published import BENCHMARKS
from ..benchmarks.scoring import error_of
from . import schema as results
from .beside_paper import average_rows
from .failed_questions import counted
from .report import budgets_of, key_of, shares, summary
from .schema import AVERAGE, PARTS
from .statistics import EDGE, paired, plain_error

__all__ = [
    "errors", "leads", "mean_tokens", "origins", "own_errors", "printed_only", "ranking",
    "stand_ins",
]  # fmt: skip

SIZES = {entry.stands_for: entry.size for entry in BENCHMARKS.values()}
#: POPE asks three splits; what our copy of a table calls a part of MME is counted with MME.
WHOLE = {"MME-P": "MME", "MME-C": "MME"}
OWN, QUOTED, UNSAID = "its authors' run", "quoted from {}", "origin not said"


def stand_ins(tables: Sequence[str], suites: Sequence[Suite]) -> pd.DataFrame:
    """Which benchmark of which tables an embedded suite stands for; "" where none does.

    Columns: benchmark, tables, questions (of the published set), suite, asked (of the suite).
    """
    ours = {suite.stands_for: suite for suite in suites}
    found: dict[str, list[str]] = {}
    for table in tables:
        for name in dict.fromkeys(results.paper(table)["benchmark"].replace(WHOLE)):
            if name not in (AVERAGE, *PARTS):
                found.setdefault(name, []).append(table)
    rows = [
        {"benchmark": name, "tables": ", ".join(where), "questions": SIZES[name],
         "suite": ours[name].name if name in ours else "",
         "asked": len(ours[name].samples) if name in ours else None}
        for name, where in found.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"asked": "Int64"})


def origins(table: str) -> pd.DataFrame:
    """Whose numbers the rows of a table are: method, rows, numbers, whose."""
    rows = results.paper(table)
    budget = rows["keep"].astype("float64").fillna(rows["retention_pct"])
    rows = rows.assign(budget=budget, whose=rows["quoted_from"].map(_whose))
    return rows.groupby(["method", "whose"], sort=False).agg(
        rows=("budget", "nunique"), numbers=("value", "size")
    ).reset_index()[["method", "rows", "numbers", "whose"]]  # fmt: skip


def _whose(quoted: str) -> str:
    return OWN if quoted == "" else UNSAID if quoted == "not said" else QUOTED.format(quoted)


def ranking(without: Sequence[str] = ("TextVQA",)) -> pd.DataFrame:
    """QViD's Table 1 with VisionZip's own rows in it, averages recomputed from the cells.

    Columns: keep, method, whose, printed (Avg; empty for VisionZip), six (recomputed over all six
    benchmarks), place (by six), five and place_five: over those that are not in `without`.
    """
    table = results.paper(1)
    own = results.peers()
    own = own[(own["table"] == "peers_visionzip") & (own["model"] == table["model"].iloc[0])]
    own = own.assign(table=table["table"].iloc[0], source="paper", quoted_from="VisionZip's paper")
    cells = pd.concat([table, own])
    printed = table[table["benchmark"] == AVERAGE].set_index(["method", "keep"])["value"]
    cells = cells[cells["benchmark"] != AVERAGE]
    left = [name for name in dict.fromkeys(cells["benchmark"]) if name not in without]
    six, five = average_rows(cells), average_rows(cells, left)
    frame = six[["keep", "method"]].assign(
        whose=six["quoted_from"].map(lambda x: "its authors' own paper" if "'" in x else _whose(x)),
        printed=[printed.get(pair) for pair in zip(six["method"], six["keep"], strict=True)],
        six=six["value"], five=five["value"],
    )  # fmt: skip
    frame = frame[frame["method"] != FULL].astype({"printed": "float64"})
    by = frame.groupby("keep")
    frame.insert(5, "place", by["six"].rank(ascending=False).astype(int))
    frame["place_five"] = by["five"].rank(ascending=False).astype(int)
    return frame.sort_values(["keep", "six"], ascending=False, ignore_index=True)


def mean_tokens(keeps: Sequence[int], layer: int, layers: int, whole: int) -> pd.DataFrame:
    """What one cut to `keep` tokens costs in place: keep, mean_tokens over layers, times keep."""
    rows = [(keep, (layer * whole + (layers - layer) * keep) / layers) for keep in keeps]
    frame = pd.DataFrame(rows, columns=["keep", "mean_tokens"])
    return frame.assign(times=frame["mean_tokens"] / frame["keep"])


def errors() -> pd.DataFrame:
    """QViD's Table 15 with what its errors are, and whether its leads exceed them.

    One row per budget and benchmark: qvid and v2drop with their printed errors; plain, √(p(1-p)/n)
    of QViD's value in %; lead and its error if the two were independent; ratio, lead over error.
    Scores in points (MME) have neither plain error nor ratio: the printed error is not in points.
    """
    rows = results.paper(15).set_index(["keep", "benchmark", "method"])
    found = []
    for keep, name in dict.fromkeys(index[:2] for index in rows.index):
        ours, theirs = (rows.loc[(keep, name, method)] for method in ("qvid", "v2drop"))
        share, scaled = ours["value"] / 100, ours["unit"] == "%"
        error = float(np.hypot(ours["stderr"], theirs["stderr"]))
        found.append({
            "keep": keep, "benchmark": name, "n": SIZES[name], "qvid": ours["value"],
            "qvid_stderr": ours["stderr"], "v2drop": theirs["value"],
            "v2drop_stderr": theirs["stderr"],
            "plain": 100 * (share * (1 - share) / SIZES[name]) ** 0.5 if scaled else None,
            "lead": ours["value"] - theirs["value"], "lead_stderr": error if scaled else None,
            "ratio": (ours["value"] - theirs["value"]) / error if scaled else None,
        })  # fmt: skip
    return pd.DataFrame(found)


def printed_only(table: str) -> pd.DataFrame:
    """A table whose benchmarks have no counterpart here, in the form of those that do: method,
    budget (tokens or %), benchmark, metric, unit, paper, and measured, which is empty."""
    rows = results.paper(table)
    budget = rows["keep"].astype("float64").fillna(rows["retention_pct"])
    frame = rows.assign(budget=budget, paper=rows["value"], measured=np.nan)
    return frame[["method", "budget", "benchmark", "metric", "unit", "paper", "measured"]]


def own_errors(records: pd.DataFrame, suites: Sequence[Suite]) -> pd.DataFrame:
    """Accuracy of each cell with both errors: plain, over questions, and over pictures.

    Columns: keep (and retention_pct where records have budgets as shares), benchmark (the suite),
    method, n, pictures, accuracy (%), plain and over_pictures (points). Questions about one picture
    are not independent: the second is the one to use.
    """
    rows, names = [], budgets_of(records)
    for row in summary(records, suites).query("metric == 'accuracy'").itertuples():
        mine = records[(records["suite"] == row.benchmark) & (records["method"] == row.method)]
        for name in names if row.method != FULL else ():
            value = getattr(row, name)
            mine = mine[mine[name].isna() if pd.isna(value) else mine[name].eq(value).fillna(False)]
        rows.append({
            **{name: getattr(row, name) for name in names},
            "benchmark": row.benchmark, "method": row.method, "n": row.n,
            "pictures": mine["picture"].nunique(), "accuracy": row.value,
            "plain": plain_error(mine["score"]), "over_pictures": row.stderr,
        })  # fmt: skip
    return pd.DataFrame(rows)


@counted()
def leads(records: pd.DataFrame, suites: Sequence[Suite], method: str = "qvid") -> pd.DataFrame:
    """Avg of `method` minus Avg of every other cell of its budget, in % of the unpruned model.

    records: of cells that budget and method name. keep (and retention_pct where records have
    budgets as shares), method, lead, stderr (over pictures, of the difference: both answered the
    same questions), low and high (95 %), n. ValueError where a budget has no cell of the method.
    """
    names = [name for name in CELL if name in records]
    averages = {key_of(labels): rest for labels, _, *rest in shares(records, suites)}
    order = list(averages)

    def lead(ours: pd.DataFrame, theirs: pd.DataFrame, seed: int) -> dict[str, float]:
        keys = [key_of(side.iloc[0][names].to_dict()) for side in (ours, theirs)]
        mine, its = (averages[key] for key in keys)
        gap, error = mine[0] - its[0], error_of(mine[1].sub(its[1], fill_value=0.0))
        interval = {"low": gap - EDGE * error, "high": gap + EDGE * error}
        found = {"lead": gap, "stderr": error, **interval, "n": len(theirs)}
        return found | {"order": order.index(keys[1])}

    pruned, own = records[records["method"] != FULL], {"method": method}
    frame = paired(pruned, own, by=budgets_of(records), cell=["method"], measure=lead)
    frame = frame.sort_values("order", ignore_index=True).drop(columns="order")
    return frame.astype({"keep": "Int64"}) if "retention_pct" in frame else frame
