"""Hashes of contents: of values, of files, and of what a question shows, wherever it lies."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

__all__ = ["data_hash", "digest", "shown_hash", "weights_hash"]


def digest(value: Any) -> str:
    """Hash of a value's content: bytes, text, numbers, arrays, tensors, pictures, files, folders,
    frames, and lists and dicts of these; 64 hexadecimal digits. TypeError for anything else."""
    running = hashlib.sha256()
    _feed(running, value)
    return running.hexdigest()


def _feed(running: Any, value: Any) -> None:
    def begin(kind: str, size: Any) -> None:
        running.update(f"{kind}:{size};".encode())

    if isinstance(value, bytes | bytearray | memoryview):
        begin("bytes", len(value))
        running.update(value)
    elif isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        begin("tensor", (value.dtype, tuple(value.shape)))
        running.update(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        begin("array", (value.dtype.str, value.shape))
        running.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, Mapping):
        begin("dict", len(value))
        for name in sorted(value, key=str):
            _feed(running, name)
            _feed(running, value[name])
    elif isinstance(value, list | tuple | np.ndarray):
        begin("list", len(value))
        for part in value:
            _feed(running, part)
    elif isinstance(value, pd.DataFrame):
        _feed(running, {column: value[column].tolist() for column in value.columns})
    elif isinstance(value, Path):
        _feed_path(running, value)
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL picture
        begin("picture", (value.mode, value.size))
        running.update(value.tobytes())
    elif (
        value is None or isinstance(value, bool | int | float | str | np.generic) or pd.isna(value)
    ):
        begin(type(value).__name__, repr(value))
    else:
        raise TypeError(
            f"{type(value).__name__} cannot be part of a key: what it does is not known from its "
            "content; use a dataclass or a function"
        )


def _feed_path(running: Any, path: Path) -> None:
    """A file's bytes; of a folder the names within and the bytes of each. Its own place is free."""
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        running.update(f"folder:{len(inside)};".encode())
        for file in inside:
            _feed(running, file.relative_to(path).as_posix())
            _feed_path(running, file)
        return
    running.update(f"file:{path.stat().st_size};".encode())
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            running.update(part)


# --------------------------------------------------------------------------- what a question shows

_SEEN: WeakKeyDictionary = WeakKeyDictionary()  # model or suite -> what was seen, and its hash
MOMENT = 2_000_000_000  # nanoseconds


def data_hash(suite: Any) -> str:
    """Hash of all samples of a suite, whatever their order, pictures and films by their bytes:
    files count by what they hold, not by where they lie. Read anew where a file has changed."""
    samples = suite.samples
    files = sorted({path for image in samples["image"] for path in _files(image)})
    seen = [part for path in files for part in _states(Path(path))]
    if suite in _SEEN and _SEEN[suite][0] is samples and _SEEN[suite][1] == seen:
        return _SEEN[suite][2]
    known: dict[int, str] = {}  # questions share pictures as objects
    shown = [shown_hash(image, known) for image in samples["image"]]
    found = digest(samples.assign(image=shown).sort_values("id"))
    # a file written a moment ago may be written again within one tick of the clock
    if all(state is None or state[1] < time.time_ns() - MOMENT for _, state in seen):
        _SEEN[suite] = samples, seen, found
    return found


def shown_hash(image: Any, known: dict[int, str] | None = None) -> str:
    """Hash of what a question shows, an image cell {"bytes", "path"}, {"video", ...}, or a list of
    them, by its bytes; known: hashes of cells by their number, to be filled."""
    cells = image if isinstance(image, list) else [image]
    return digest([_cell(cell, {} if known is None else known) for cell in cells])[:32]


def _cell(cell: Any, known: dict[int, str]) -> Any:
    if not isinstance(cell, Mapping):
        return cell
    if id(cell) not in known:
        held = cell.get("video", cell)
        inside = isinstance(held, Mapping)
        value = held.get("bytes") if inside else None
        if value is None:
            place = held.get("path") if inside else held
            value = Path(place) if place and Path(place).exists() else str(place)
        rest = {k: v for k, v in cell.items() if k not in ("bytes", "path", "video")}
        known[id(cell)] = digest([value, rest])
    return known[id(cell)]


def _files(image: Any) -> list[str]:
    """The files and folders that an image cell names."""
    found = []
    for cell in image if isinstance(image, list) else [image]:
        held = cell.get("video", cell) if isinstance(cell, Mapping) else None
        if isinstance(held, Mapping):
            held = None if held.get("bytes") is not None else held.get("path")
        found += [str(held)] if held else []
    return found


def _states(path: Path) -> list[tuple[str, tuple | None]]:
    """(file, its size and when it was written and changed) of a file or of those in a folder."""
    if path.is_dir():
        return [state for p in sorted(path.rglob("*")) if p.is_file() for state in _states(p)]
    if not path.exists():
        return [(str(path), None)]
    told = path.stat()
    return [(str(path), (told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino))]


def weights_hash(model: nn.Module) -> str:
    """Hash of every parameter and buffer as it is in memory: about a second for 2 GB, once."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    seen = [(name, t.data_ptr(), None if t.is_inference() else t._version)
            for name, t in state.items()]  # fmt: skip
    if model not in _SEEN or _SEEN[model][0] != seen:
        _SEEN[model] = seen, digest(state)
    return _SEEN[model][1]
