"""The published benchmarks as suites: `published("pope")`, from the hub or from a local folder.

`BENCHMARKS` is their table. Everything that can be known before inference is checked here: name,
family, files, columns, every picture's header, answers that are empty or that no reply can match,
the judge, Java.
"""

import difflib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ....families import FAMILIES
from ..base import REQUIRED, Suite
from ..scoring import Judge
from . import source
from . import valid_answers as gold
from .entries import BENCHMARKS, IMAGE_FAMILIES, Benchmark
from .scorers import PUBLISHED_SCORERS, caption_tools
from .video import video_cell

#: Columns that say where pictures and videos are; a suite has these themselves.
PLACES = ["file", "row", "key", "shown", "part"]

__all__ = ["BENCHMARKS", "PUBLISHED_SCORERS", "Benchmark", "benchmark", "published"]


def benchmark(name: str) -> Benchmark:
    """An entry of the table; ValueError for an unknown name tells the nearest ones."""
    if name not in BENCHMARKS:
        near = [known for known in BENCHMARKS if name.lower() in known]
        near = near or difflib.get_close_matches(name.lower(), BENCHMARKS, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown benchmark {name!r}{hint} Known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def published(
    name: str,
    folder: str | Path | None = None,
    *,
    family: str = "llava",
    limit: int | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    revision: str | None = None,
) -> Suite:
    """A published benchmark as a suite, its questions in the words that a family is asked in.

    folder: its files (see `source`); None: the hub, through its cache. limit, seed: draw that many
    questions before any picture is read. judge: a language model, prompt -> reply, for benchmarks
    that have one. Pictures are held in memory. Raises ValueError for an unknown benchmark or
    family, a family that takes no video, a missing file or column, a picture that is missing or
    broken, an answer that is empty or that its question does not allow, half a pair, a missing
    judge; Unavailable for a missing extra, Java, the network and a gated repository.
    """
    entry = benchmark(name)
    _may_ask(entry, family)
    if entry.needs == "caption":
        caption_tools()
    if entry.judge.startswith("needed") and judge is None:
        raise ValueError(
            f"{name} is read by a judge ({entry.judge}), and none is given: ask {name}_yes_no, "
            f"which is read without one, or in Python pass one, published({name!r}, judge=...), a "
            "function from a prompt to a language model's reply"
        )
    root = source.hub_folder(entry, revision) if folder is None else Path(folder)
    if not root.is_dir():
        raise ValueError(f"{name}: there is no folder {root}")
    frame = _questions(entry, root, entry.words_after(family))
    made = Suite(
        name, entry.stands_for, entry.metric, frame, entry.new_tokens, entry.media, judge
    ).head(limit, seed)
    if entry.media == "video":
        cells = [video_cell(entry, root, row, family) for row in made.samples.itertuples()]
    else:
        cells = _pictures(entry, root, made.samples)
    samples = made.samples.assign(image=cells).drop(columns=PLACES)
    if entry.media == "image":
        unnamed = samples["picture"] == ""
        samples.loc[unnamed, "picture"] = [_name(cell) for cell in samples["image"][unnamed]]
    return made._with(samples)


def _may_ask(entry: Benchmark, family: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    if family not in entry.families and family in IMAGE_FAMILIES:
        raise ValueError(
            f"{entry.name} asks about videos, which {FAMILIES[family].name} does not take: use "
            f"one of {', '.join(entry.families)}"
        )


def _questions(entry: Benchmark, root: Path, post: str) -> pd.DataFrame:
    """All questions, without their pictures; `file`, `row`, `key`: where these are."""
    rows: list[dict[str, Any]] = []
    for split, file in source.split_files(entry, root):
        there = source.columns_of(file)
        lacks = [c for c in entry.columns if c not in there]
        alone = entry.image and entry.image not in there  # pictures: in this file, or beside it
        if alone and not entry.join:
            lacks.append(entry.image)
        if lacks:
            raise ValueError(f"{entry.name}: {file} lacks the column(s) {lacks}; it has {there}")
        pictures = [c for c in there if c == entry.image or c.startswith("image_")]
        hidden = [] if entry.media == "video" else [c for c in pictures if c != "image_source"]
        for number, doc in enumerate(source.read_rows(file, hidden)):
            if entry.keep is None or entry.keep(doc):
                made = dict.fromkeys(("kind", "group", "picture"), "")
                made |= {"split": split} | dict.fromkeys(("shown", "part", *gold.COLUMNS))
                made |= {"id": number if len(entry.splits) == 1 else f"{split}/{number}"}
                made |= _row(entry, doc, post, file, number)
                key = str(doc[entry.join[1]]) if alone and entry.join else ""
                rows.append(made | {"file": str(file), "row": number, "key": key})
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise ValueError(f"{entry.name}: no question in {root}")
    frame["id"] = [f"{entry.name}/{each}" for each in frame["id"]]
    if frame["id"].duplicated().any() and len({row["file"] for row in rows}) > 1:
        # rows without a number of their own, over several files
        frame["id"] = [f"{entry.name}/{i}" for i in range(len(frame))]
    gold.check(entry.name, frame)
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


def _row(entry: Benchmark, doc: dict, post: str, file: Path, number: int) -> dict:
    try:
        return entry.row(doc, post)
    except (KeyError, ValueError, TypeError, IndexError, SyntaxError) as cause:
        raise ValueError(
            f"{entry.name}: row {number} of {file} is not as its benchmark writes it "
            f"({type(cause).__name__}: {cause})"
        ) from cause


def _pictures(entry: Benchmark, root: Path, frame: pd.DataFrame) -> list[list[dict]]:
    """The pictures of each question, read and looked at; questions share what they share."""
    if entry.join and (frame["key"] != "").any():
        config, _, key = entry.join
        known = {}
        for _, file in source.split_files(entry, root, config):
            keys = {i: str(row[key]) for i, row in enumerate(source.read_rows(file, [entry.image]))}
            wanted = {i: [entry.image] for i, k in keys.items() if k in set(frame["key"])}
            known |= {keys[i]: cells for i, cells in source.read_cells(file, wanted, root)}
        found = {place: known.get(key, []) for place, key in frame["key"].items()}
    else:
        found = {}
        for file, part in frame.groupby("file"):
            shown = [_columns(entry, part["shown"][i]) for i in part.index]
            wanted = dict(zip(part["row"], shown, strict=True))
            place = dict(zip(part["row"], part.index, strict=True))
            for row, cells in source.read_cells(Path(file), wanted, root):
                found[place[row]] = cells
    same: dict[str, dict] = {}
    for place, sample, shown in zip(frame.index, frame["id"], frame["shown"], strict=True):
        cells = found.get(place, [])
        if len(cells) < len(_columns(entry, shown)):
            raise ValueError(f"sample {sample!r}: a picture is missing ({frame['file'][place]})")
        found[place] = [same.setdefault(_name([cell]), cell) for cell in cells]
        for cell in cells:
            _look(cell, sample)
    return [found[place] for place in frame.index]


def _columns(entry: Benchmark, shown: list[str] | None) -> list[str]:
    """The columns of a question's pictures: those that it names, else the benchmark's own."""
    return [entry.image] if shown is None else shown


def _name(cells: list[dict]) -> str:
    """A name of pictures by what they hold, so that questions about the same ones share it."""
    parts = [cell["bytes"] or _held(cell["path"]) for cell in cells]
    return hashlib.sha1(b"\n".join(parts), usedforsecurity=False).hexdigest()[:12]


def _held(path: str) -> bytes:
    """A hash of a picture file's content; its path where there is none, which is told later."""
    if not os.path.isfile(path):
        return path.encode()
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha1").digest()


def _look(cell: dict, sample: str) -> None:
    """Read a picture's header: a missing or foreign file is found before inference."""
    path = cell["path"]
    if cell["bytes"] is None and not os.path.isfile(path):
        raise ValueError(f"sample {sample!r}: its picture {path} is missing")
    try:
        with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else path) as seen:
            seen.verify()
    except (OSError, SyntaxError, ValueError) as cause:
        where = path or "in its row"
        raise ValueError(f"sample {sample!r}: its picture ({where}) is broken: {cause}") from cause
