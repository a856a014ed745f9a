"""The pictures of a benchmark's questions: read once each, however many questions show them."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ....models.pictures import header
from . import source
from .entries import Benchmark

__all__ = ["Pictures", "pictures_of"]

ROWS = 16  # of a parquet file that are held at a time


class Pictures:
    """Pictures by what they hold: equal ones are one object, and one copy in memory.

    A picture is {"bytes", "path"}: of a parquet cell, or of a file whose name stands in the cell.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, dict] = {}  # by hash of the content
        self._files: dict[str, dict] = {}  # by path, so that a file is read once
        self._names: dict[int, str] = {}

    def of(self, cell: Any, file: Path) -> list[dict]:
        """The pictures of a cell: a parquet scalar or what JSON gives, one of them or a list."""
        if hasattr(cell, "as_py"):
            held = _bytes_of(cell)
            if held is not None:
                return [self._kept(held, lambda: _struct(cell))]
            cell = cell.as_py()
        if isinstance(cell, list):
            return [one for part in cell for one in self.of(part, file)]
        if isinstance(cell, Mapping) and cell.get("bytes"):
            path = str(cell.get("path") or "")
            return [self._kept(cell["bytes"], lambda: {"bytes": cell["bytes"], "path": path})]
        name = cell.get("path") if isinstance(cell, Mapping) else cell
        return [self._file(str(name), file)] if name else []

    def _file(self, name: str, file: Path) -> dict:
        folders = (self.root, file.parent, self.root / "images", self.root / "val2014")
        near = [folder / name for folder in folders]
        path = str(next((p for p in near if p.is_file()), near[0]))
        if path not in self._files:
            held = Path(path).read_bytes() if os.path.isfile(path) else path.encode()
            self._files[path] = self._kept(held, lambda: {"bytes": None, "path": path})
        return self._files[path]

    def _kept(self, held: Any, made: Any) -> dict:
        name = hashlib.sha1(held, usedforsecurity=False).hexdigest()
        if name not in self._known:
            cell = self._known[name] = made()
            self._names[id(cell)] = name
        return self._known[name]

    def name(self, cells: Sequence[dict]) -> str:
        """A name of pictures by what they hold, so that questions about the same ones share it."""
        names = [self._names[id(cell)] for cell in cells]
        if len(names) != 1:
            return hashlib.sha1("".join(names).encode(), usedforsecurity=False).hexdigest()[:12]
        return names[0][:12]

    def read(
        self, file: Path, wanted: Mapping[int, Sequence[str]]
    ) -> Iterator[tuple[int, list[dict]]]:
        """(row, its pictures) of the wanted rows; wanted: row -> the columns of its pictures."""
        names = sorted({name for columns in wanted.values() for name in columns})
        if file.suffix != ".parquet":
            rows = enumerate(source.read_rows(file))
        elif names:
            rows = enumerate(_scalars(file, names))
        else:
            rows = iter(())
        for number, row in rows:
            if number in wanted:
                cells = [row.get(name) for name in wanted[number]]
                yield number, [one for cell in cells for one in self.of(cell, file)]


def _scalars(file: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, as scalars that copy nothing yet."""
    import pyarrow.parquet as parquet

    for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS, columns=list(names)):
        there = {name: batch.column(name) for name in batch.schema.names}
        for place in range(batch.num_rows):
            yield {name: column[place] for name, column in there.items()}


def _bytes_of(scalar: Any) -> Any:
    """The bytes of a picture's cell as they lie in the file's buffer; None for another cell."""
    import pyarrow as arrow

    if not arrow.types.is_struct(scalar.type) or not scalar.is_valid:
        return None
    held = scalar.get("bytes", None)
    if held is None or not held.is_valid or not len(held.as_buffer()):
        return None
    return held.as_buffer()


def _struct(scalar: Any) -> dict:
    path = scalar["path"].as_py() if "path" in scalar else ""
    return {"bytes": scalar["bytes"].as_py(), "path": str(path or "")}


def pictures_of(entry: Benchmark, root: Path, frame: pd.DataFrame) -> tuple[list, list[str]]:
    """The pictures of each question, read and looked at, and a name of them by what they hold.

    frame: the questions, with `file`, `row`, `key` and `shown`. ValueError, with the question's id,
    for a picture that is missing or broken; a question that is meant to have none (`without`) has
    none.
    """
    pictures = Pictures(root)
    found = (_joined if entry.join and (frame["key"] != "").any() else _beside)(
        entry, root, frame, pictures
    )
    seen: set[int] = set()
    for place, row in zip(frame.index, frame.itertuples(), strict=True):
        cells = found.setdefault(place, [])
        if len(cells) < len(_columns(entry, row.shown)) and not getattr(row, "without", False):
            raise ValueError(f"sample {row.id!r}: a picture is missing ({row.file})")
        for cell in cells:
            if id(cell) not in seen:
                seen.add(id(cell))
                _look(cell, row.id)
    names = [pictures.name(found[place]) if found[place] else "" for place in frame.index]
    return [found[place] for place in frame.index], names


def _joined(entry: Benchmark, root: Path, frame: pd.DataFrame, pictures: Pictures) -> dict:
    """Pictures of another configuration, by their key there."""
    config, _, key = entry.join
    known, asked = {}, set(frame["key"])
    for _, file in source.split_files(entry, root, config):
        keys = {i: str(row[key]) for i, row in enumerate(source.read_rows(file, [entry.image]))}
        wanted = {i: [entry.image] for i, one in keys.items() if one in asked}
        known |= {keys[i]: cells for i, cells in pictures.read(file, wanted)}
    return {place: known.get(key, []) for place, key in frame["key"].items()}


def _beside(entry: Benchmark, root: Path, frame: pd.DataFrame, pictures: Pictures) -> dict:
    """Pictures in the questions' own rows, or in files that these name."""
    found, back = {}, {new: old for old, new in entry.names.items()}
    for file, part in frame.groupby("file"):
        there = source.columns_of(Path(file))
        shown = [_columns(entry, columns) for columns in part["shown"]]
        shown = [[c if c in there else back.get(c, c) for c in columns] for columns in shown]
        wanted = dict(zip(part["row"], shown, strict=True))
        place = dict(zip(part["row"], part.index, strict=True))
        wanted = {row: [c for c in columns if c in there] for row, columns in wanted.items()}
        for row, cells in pictures.read(Path(file), wanted):
            found[place[row]] = cells
    return found


def _columns(entry: Benchmark, shown: list[str] | None) -> list[str]:
    """The columns of a question's pictures: those that it names, else the benchmark's own."""
    return [entry.image] if shown is None else shown


def _look(cell: dict, sample: str) -> None:
    """Read a picture's header: a missing or foreign file is known before inference."""
    path = cell["path"]
    if cell["bytes"] is None and not os.path.isfile(path):
        raise ValueError(f"sample {sample!r}: its picture {path} is missing")
    try:
        header(path if cell["bytes"] is None else cell["bytes"])
    except ValueError as cause:
        where = path or "in its row"
        raise ValueError(f"sample {sample!r}: its picture ({where}) is broken: {cause}") from cause
