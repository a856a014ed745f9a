"""A benchmark's own answers: which of them can be right at all, checked before a model is asked.

A question whose answer no reply can match would count as wrong for every method, in silence.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd

from .reading import LETTERS

__all__ = [
    "COLUMNS",
    "YES_NO",
    "among",
    "check",
    "choice",
    "check_pairs",
    "check_parts",
    "number",
    "numbers",
]

#: Columns that a row may have for `check`; a suite is without them.
COLUMNS = ["given", "allowed", "odd"]
YES_NO = ("yes", "no")


def among(given: str, allowed: Sequence[str]) -> dict[str, Any]:
    """What `check` compares: an answer as its scorer reads it, and all that a question allows."""
    return {"given": given, "allowed": list(allowed)}


def choice(given: str, names: Sequence[str]) -> dict[str, Any]:
    """A choice that a file gives by one of `names`, its number or text, as its letter; "" for a
    name that is none of them."""
    answer = LETTERS[list(names).index(given)] if given in names else ""
    return among(given, names) | {"answer": answer}


def number(cell: str) -> str:
    """A whole number as a file has it, also where a column with gaps made it 1.0."""
    return cell.strip().removesuffix(".0")


def numbers(options: Sequence[str]) -> list[str]:
    """The names of options that are counted from 0."""
    return [str(place) for place in range(len(options))]


def check(name: str, frame: pd.DataFrame) -> None:
    """ValueError for the first answer that its question does not allow; empty ones are not looked
    at. A warning for a row that its benchmark is known to have wrong: it scores 0. frame: `id`, and
    `COLUMNS`; allowed: None where any text may be right; odd: what is wrong with the row, or None.
    """
    for row in frame.itertuples():
        if isinstance(row.odd, str):
            warnings.warn(f"{name}: {row.id!r} scores 0 whatever is said: {row.odd}", stacklevel=4)
        if row.allowed is None or row.given == "" or row.given in row.allowed:
            continue
        held = f"allowed are {', '.join(map(repr, row.allowed))}"
        raise ValueError(
            f"{name}: the answer of {row.id!r} is {row.given!r}, and "
            f"{held if row.allowed else 'it has no options to choose from'} ({row.file}, row "
            f"{row.row})"
        )


def check_parts(name: str, frame: pd.DataFrame, parts: Sequence[str]) -> None:
    """A warning where a part over which the metric is a mean or a sum has no question."""
    there = set(frame["split"])
    missing = [part for part in parts if part not in there]
    if missing:
        warnings.warn(
            f"{name} is not whole: no question of {', '.join(missing)}, so its score is over "
            f"{', '.join(sorted(there))} alone, and no number for the papers' tables",
            stacklevel=4,
        )


def check_pairs(name: str, frame: pd.DataFrame) -> None:
    """ValueError where a picture of a category has not its two questions: MME counts pairs."""
    count = frame.groupby("group")["id"].transform("size")
    if (count != 2).any():
        row = frame[count != 2].iloc[0]
        raise ValueError(
            f"{name}: the picture of {row['id']!r} has {count[row.name]} question(s) in its "
            f"category, and the metric counts pairs: each has 2 ({row['file']}, row {row['row']})"
        )
