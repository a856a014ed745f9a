"""Where a published benchmark's files lie, and how their rows and pictures are read.

A folder is laid out as on the hub (`<config>/<split>-*.parquet`, `data/<split>-*.parquet`), or
simply holds `<split>.parquet`, `.json` or `.jsonl`; pictures stand in the rows, or as file names
below the folder. Only pandas, pyarrow and PIL are needed.
"""

import json
import re
from collections.abc import Sequence
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
    """(split, file) of a benchmark below a folder, as on the hub or as it was released. ValueError
    where a split has no file, or one of the parts that its files' names count is missing."""
    found = [] if config else _released(entry, root)
    if found:
        return found
    config = config or entry.config
    for split in entry.splits:
        shapes = [f"{place}{split}-*.parquet" for place in (f"{config}/" * bool(config), "data/")]
        for place in ([f"{config}/"] if config else []) + ["data/", ""]:
            shapes += [f"{place}{split}-*.parquet", *(f"{place}{split}.{x}" for x in FORMATS)]
        files = next((hits for shape in shapes if (hits := sorted(root.glob(shape)))), [])
        _check_whole(entry.name, split, files)
        if not files:
            there = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))[:6]
            raise ValueError(
                f"{entry.name}: no file of the split {split!r} in {root} (looked for "
                f"{', '.join(dict.fromkeys(shapes))}); there are {there or 'no files'}"
            )
        found += [(split, file) for file in files]
    more = [(split, sorted(root.glob(f"**/{split}-*.parquet"))) for split in entry.beside]
    for split, files in more:
        _check_whole(entry.name, split, files)
    return found + [(split, file) for split, files in more for file in files]


def _released(entry: Benchmark, root: Path) -> list[tuple[str, Path]]:
    """The files of a benchmark's first release, those that are there."""
    files = [file for name in entry.released for file in sorted(root.rglob(name))[:1]]
    return [(file.stem, file) for file in files]


def _check_whole(name: str, split: str, files: Sequence[Path]) -> None:
    """ValueError where files numbered 00001-of-00002 are not all there, or of two countings."""
    numbers = [re.search(r"-(\d+)-of-(\d+)\.", file.name) for file in files]
    counted = {int(n[2]): {int(m[1]) for m in numbers if m and m[2] == n[2]} for n in numbers if n}
    for count, there in counted.items():
        lost = sorted(set(range(count)) - there)
        if lost or len(counted) > 1 or None in numbers:
            what = f"part {lost[0]:05d} of {count:05d}" if lost else "files of one counting alone"
            raise ValueError(
                f"{name}: the split {split!r} is not whole in {files[0].parent}: there are "
                f"{', '.join(file.name for file in files[:6])}, needed is {what}; fetch it again"
            )


def read_rows(file: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a file as dicts, without some columns. ValueError for a broken file."""
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as parquet

            names = parquet.read_schema(file).names
            table = parquet.read_table(file, columns=[c for c in names if c not in without])
            return table.to_pylist()
        text = file.read_text(encoding="utf-8-sig")
        rows = _lines(text) if file.suffix == ".jsonl" else _json(text)
    except (ValueError, OSError, RecursionError) as cause:
        raise ValueError(f"{file} cannot be read ({str(cause).splitlines()[0]})") from cause
    odd = rows if not isinstance(rows, list) else next(
        (row for row in rows if not isinstance(row, dict)), None)  # fmt: skip
    if odd is not None:
        raise ValueError(f"{file} holds a {type(odd).__name__}; needed is a list of rows")
    return rows


def _lines(text: str) -> list[Any]:
    """A row each line; a line ends at a line feed alone: a text may hold U+2028 or U+0085."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _json(text: str) -> Any:
    """A JSON file, or one that has a row each line and is called .json, too (POPE's)."""
    try:
        return json.loads(text)
    except ValueError:
        lines = text.strip().split("\n")
        if len(lines) < 2 or not all(line.strip().startswith("{") for line in lines[:2]):
            raise
        return _lines(text)


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
