"""Where a published benchmark's files lie, and how their rows and pictures are read.

A folder is laid out as on the hub (`<config>/<split>-*.parquet`, `data/<split>-*.parquet`), or
simply holds `<split>.parquet`, `.json` or `.jsonl`; pictures stand in the rows, or as file names
below the folder. Only pandas, pyarrow and PIL are needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ....families import Unavailable
from .entries import Benchmark

#: Where a download fails for want of a network: what each way of asking takes instead.
ELSEWHERE = (
    "run `python -m qvid_utils benchmarks fetch {name} --to FOLDER` where there is a network, "
    "bring FOLDER here, and set QVID_FILES=FOLDER in the environment of the command (ten_minutes "
    "also takes `--data FOLDER/{name}`; in Python, `published('{name}', 'FOLDER/{name}')`)"
)
FORMATS = ("parquet", "json", "jsonl")


def patterns(entry: Benchmark) -> list[str]:
    """The files of a benchmark in its repository on the hub, as patterns."""
    found = []
    for config in filter(None, [entry.config or "data", entry.join and entry.join[0]]):
        found += [f"{config}/{split}{end}" for split in entry.splits for end in ("-*", ".*")]
    return found + (["*.zip", "video/*.zip", "*.tar*"] if entry.media == "video" else [])


def hub_folder(entry: Benchmark, revision: str | None = None) -> Path:
    """The benchmark's files in the hub's cache, downloaded where they are not; see `hub_error`."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            entry.hub, repo_type="dataset", revision=revision, allow_patterns=patterns(entry)
        )
    except Exception as cause:
        raise hub_error(entry.hub, cause, ELSEWHERE.format(name=entry.name)) from cause
    return Path(found)


def hub_error(repo: str, cause: Exception, advice: str) -> Exception:
    """What a failed download means, as one sentence: `Unavailable`, or the cause itself.

    advice: what to do where there is no network.
    """
    from huggingface_hub import errors

    if isinstance(cause, errors.GatedRepoError):
        says = (
            f"{repo} is gated: accept its terms on its page on the hub, log in with "
            "`hf auth login`, and try again"
        )
    elif isinstance(cause, errors.RevisionNotFoundError):
        says = f"{repo} has no such revision on the hub: check revision="
    elif isinstance(cause, errors.RepositoryNotFoundError):
        says = f"{repo} is not on the hub under this name, or is private: check the name, or log in"
    elif isinstance(cause, errors.HfHubHTTPError):
        says = f"{repo} was refused by the hub: {str(cause).splitlines()[0]}"
    elif isinstance(cause, (errors.HTTPError, ConnectionError, TimeoutError)) or (
        isinstance(cause, OSError) and cause.filename is None and cause.errno is None
    ):
        # no connection, or told to do without; an error of the disk has a number
        says = f"{repo} is not in the cache, and the hub cannot be reached from here: {advice}"
    else:
        return cause
    return Unavailable(says)


# ---------------------------------------------------------------- rows


def split_files(entry: Benchmark, root: Path, config: str = "") -> list[tuple[str, Path]]:
    """(split, file) of a benchmark below a folder. ValueError where a split has no file."""
    config, found = config or entry.config, []
    for split in entry.splits:
        shapes = [f"{place}{split}-*.parquet" for place in (f"{config}/" * bool(config), "data/")]
        for place in ([f"{config}/"] if config else []) + ["data/", ""]:
            shapes += [f"{place}{split}-*.parquet", *(f"{place}{split}.{x}" for x in FORMATS)]
        files = next((hits for shape in shapes if (hits := sorted(root.glob(shape)))), [])
        if not files:
            there = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))[:6]
            raise ValueError(
                f"{entry.name}: no file of the split {split!r} in {root} (looked for "
                f"{', '.join(dict.fromkeys(shapes))}); there are {there or 'no files'}"
            )
        found += [(split, file) for file in files]
    return found


def read_rows(file: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file as dicts, without some columns. ValueError for a broken file."""
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as parquet

            names = parquet.read_schema(file).names
            table = parquet.read_table(file, columns=[c for c in names if c not in without])
            return table.to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        rows = json.loads(text)
    except (ValueError, OSError) as cause:
        raise ValueError(f"{file} cannot be read ({str(cause).splitlines()[0]})") from cause
    if not isinstance(rows, list):
        raise ValueError(f"{file} holds a {type(rows).__name__}; needed is a list of rows")
    return rows


def columns_of(file: Path) -> list[str]:
    """The names of a file's columns; of a JSON file those of its first row."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        try:
            return parquet.read_schema(file).names
        except (ValueError, OSError) as cause:
            raise ValueError(f"{file} cannot be read ({str(cause).splitlines()[0]})") from cause
    rows = read_rows(file)
    return list(rows[0]) if rows else []


def read_cells(
    file: Path, wanted: Mapping[int, Sequence[str]], root: Path
) -> Iterator[tuple[int, list[dict]]]:
    """(row, its pictures) of the wanted rows; wanted: row -> the columns of its pictures.

    A picture is {"bytes", "path"}: of a parquet cell, or of a file whose name stands in the cell.
    """
    names = sorted({name for columns in wanted.values() for name in columns})
    if file.suffix != ".parquet":
        rows = ((i, row) for i, row in enumerate(read_rows(file)))
    else:
        import pyarrow.parquet as parquet

        batches = parquet.ParquetFile(file).iter_batches(batch_size=64, columns=names)
        rows = enumerate(row for batch in batches for row in batch.to_pylist())
    for number, row in rows:
        if number in wanted:
            cells = [row[name] for name in wanted[number]]
            yield number, [one for cell in cells for one in _cells(cell, file, root)]


def _cells(cell: Any, file: Path, root: Path) -> list[dict]:
    if isinstance(cell, list):
        return [one for part in cell for one in _cells(part, file, root)]
    if isinstance(cell, Mapping) and cell.get("bytes"):
        return [{"bytes": cell["bytes"], "path": str(cell.get("path") or "")}]
    name = cell.get("path") if isinstance(cell, Mapping) else cell
    if not name:
        return []
    near = [folder / str(name) for folder in (root, file.parent, root / "images")]
    return [{"bytes": None, "path": str(next((p for p in near if p.is_file()), near[0]))}]
