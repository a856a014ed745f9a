"""The questions of a published benchmark, from its files; all that can be known of them is checked
here, before a picture is read and a model is asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..base import REQUIRED
from . import source
from . import valid_answers as gold
from .entries import Benchmark

#: Columns that say where pictures and videos are; a suite has these themselves.
PLACES = ["file", "row", "key", "shown", "part"]


def questions(entry: Benchmark, root: Path, post: str) -> pd.DataFrame:
    """All questions of a benchmark in a folder, without their pictures; `PLACES`: where these are.

    post: the sentence after a question. ValueError for a missing or broken file, column or part, a
    row of another form, an answer that is empty or that its question does not allow, half a pair.
    """
    files = source.split_files(entry, root)
    rows = [row for split, file in files for row in _of_file(entry, split, file, post)]
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise ValueError(f"{entry.name}: no question in {root}")
    frame["id"] = [f"{entry.name}/{each}" for each in frame["id"]]
    if frame["id"].duplicated().any() and frame["file"].nunique() > 1:
        # rows without a number of their own, over several files
        frame["id"] = [f"{entry.name}/{i}" for i in range(len(frame))]
    gold.check(entry.name, frame)
    gold.check_parts(entry.name, frame, entry.parts)
    if entry.metric == "mme_published":
        gold.check_pairs(entry.name, frame)
    empty = frame[frame["answer"].str.strip() == ""]
    if len(empty):
        raise ValueError(
            f"{entry.name}: the answer of {empty['id'].iloc[0]!r} is empty ({empty['file'].iloc[0]}"
            f", row {empty['row'].iloc[0]}); a split with hidden answers cannot be scored here"
        )
    frame = frame.assign(image=None).drop(columns=gold.COLUMNS)
    return frame[[*REQUIRED, *(c for c in frame if c not in REQUIRED)]]


def _of_file(entry: Benchmark, split: str, file: Path, post: str) -> list[dict[str, Any]]:
    whole = entry.released.get(file.name, {})
    there = source.columns_of(file)
    known = {entry.names.get(name, name) for name in there} | {*there, *whole}
    lacks = [column for column in entry.columns if column not in known]
    pictures = bool(entry.image) and split not in entry.beside
    alone = pictures and entry.image not in known  # in this file, or beside it
    if alone and not entry.join:
        lacks.append(entry.image)
    if lacks:
        raise ValueError(f"{entry.name}: {file} lacks the column(s) {lacks}; it has {there}")
    hidden = [c for c in there if c == entry.image or c.startswith("image_")]
    hidden = [] if entry.media == "video" else [c for c in hidden if c != "image_source"]
    rows = []
    for number, doc in enumerate(source.read_rows(file, hidden)):
        doc = {**whole, **{new: doc[old] for old, new in entry.names.items() if old in doc}, **doc}
        if entry.keep is not None and not entry.keep(doc):
            continue
        made = dict.fromkeys(("kind", "group", "picture"), "")
        made |= {"split": split} | dict.fromkeys(("shown", "part", *gold.COLUMNS))
        made |= {"id": number if len(entry.splits) == 1 else f"{split}/{number}"}
        made |= _row(entry, doc, post, file, number)
        if split in entry.beside:
            made["shown"] = []
        key = str(doc[entry.join[1]]) if alone and entry.join else ""
        rows.append(made | {"file": str(file), "row": number, "key": key})
    return rows


def _row(entry: Benchmark, doc: Mapping[str, Any], post: str, file: Path, number: int) -> dict:
    try:
        return entry.row(doc, post)
    except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as cause:
        raise ValueError(
            f"{entry.name}: row {number} of {file} is not as its benchmark writes it "
            f"({type(cause).__name__}: {cause})"
        ) from cause
