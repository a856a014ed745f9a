"""Tables as the papers print them: a line for each budget and method, benchmarks as columns."""

import pandas as pd

from ...methods import METHODS
from ..benchmarks.base import FULL
from .paper_tables import method_name
from .schema import AVERAGE
from .statistics import EDGE

#: What may name a line, and its title.
HEAD = {"budget_pct": "kept, %", "budget": "budget", "method": "method", "layer": "layer",
        "our_layer": "our layer", "rank": "rank", "paper_from": "from",
        "failed": "failed"}  # fmt: skip
#: Sides of a number: column of the joined table -> its title.
RAW = {"paper": "paper", "measured": "ours", "difference": "difference"}
PERCENT = {"paper_pct_of_full": "paper", "measured_pct_of_full": "ours"}
MISSING = "–"


def wide_table(joined: pd.DataFrame, percent: bool = False) -> pd.DataFrame:
    """What `report.beside`, `beside_paper` or `filled` gives, to be read and to be pasted.

    Under each benchmark (and metric, where it has several) stand the paper's number and ours, as
    they are, or with `percent` each in % of its own full model; Avg comes first, and of ours its
    95 % half-width (±). Text, with a dash for what is not there. ValueError for another frame.
    """
    sides = {c: t for c, t in (PERCENT if percent else RAW).items()
             if c in joined and joined[c].notna().any()}  # fmt: skip
    if not sides or "benchmark" not in joined:
        raise ValueError("wide_table takes what beside, beside_paper or filled return")
    head = [c for c in HEAD if c in joined and joined[c].notna().any()]
    head = [c for c in head if c not in ("failed", "paper_from") or joined[c].any()]
    several = joined.duplicated([*head, "benchmark"]).any()
    lines: dict[tuple, dict] = {}
    for row in joined.to_dict("records"):
        line = lines.setdefault(tuple(_head(name, row[name]) for name in head), {})
        title = f"{row['benchmark']} {row['metric']}" if several else row["benchmark"]
        for column, side in sides.items():
            line[title, side] = row[column]
        if title.startswith(AVERAGE) and not pd.isna(row.get("stderr")):
            line[title, "±"] = EDGE * row["stderr"]
    keys = dict.fromkeys(key for line in lines.values() for key in line)
    keys = sorted(keys, key=lambda key: not key[0].startswith(AVERAGE))  # stable: Avg comes first
    numbers = pd.DataFrame(list(lines.values()), columns=pd.MultiIndex.from_tuples(keys))
    names = pd.MultiIndex.from_tuples(list(lines), names=[HEAD[name] for name in head])
    numbers.index = names
    return numbers.apply(_text)


def _head(name: str, value) -> str:
    """What names a line, as text: a method by its label."""
    if pd.isna(value):
        return ""
    if name != "method":
        return f"{value:g}" if isinstance(value, float) else f"{value}"
    if value == FULL:
        return "full model"
    own = method_name(value, "")
    return METHODS[own].label if own in METHODS else value


def _text(column: pd.Series) -> pd.Series:
    """Numbers of one column as text, with as many decimals as their size asks for."""
    values = column.astype("float64")
    most = values.abs().max()
    digits = 0 if most >= 1000 else 1 if most >= 10 or column.name[1] in ("±", "difference") else 3
    return pd.Series(
        [MISSING if pd.isna(x) else f"{x:.{digits}f}" for x in values], column.index, dtype="object"
    )
