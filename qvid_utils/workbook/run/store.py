"""Records of long runs: appended as they are made, there whatever happens to the process.

A store is a folder; a cell is what one key stands for. Each cell has there

    cells/<name>.<writer>.jsonl   records of one writer, a JSON object a line, only ever appended to
    cells/<name>.json             the manifest: everything that its key was made of, to be read
    locks/<name>.lock             locked by whoever works on the cell; says who that is

What holds. When `append` returns, its lines survive their process, however that ends; a power cut
may take those of the last second (fsync comes at most once a second, and when a cell is given
back; `sync=False`: never). A file has one writer, so that nobody writes over
another, and a line that a crash cut short stays the last of its file and counts for nothing. What a
cell holds is the union of its files. The lock (`flock`) is the operating system's: it goes when its
process does, however that ends; a process that hangs keeps it. On a network file system with locks
(NFS 4, Lustre with flock) the server lets go of the locks of a lost machine. Where the same sample
was answered by two writers all the same, the first one's answer counts.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from .disk import OPEN, StoreError, locked, plainly, sync_folder, write_all, write_file

__all__ = ["Log", "Memory", "Store", "StoreError"]


EVERY = 1.0  # seconds between two fsyncs of a file


class Memory:
    """A log that is not stored: the same interface, for a run whose records nobody keeps."""

    def __init__(self) -> None:
        self._records: list[dict] = []

    def claim(self) -> bool:
        return True

    def done(self) -> dict[str, bool]:
        """Sample → whether it has an answer (False: it failed)."""
        return {record["sample"]: "failed" not in record for record in self._records}

    def append(self, records: Iterable[dict]) -> None:
        self._records += records

    def records(self) -> list[dict]:
        return self._records

    def release(self) -> None:
        pass


class Store:
    """A folder of logs, see the head of this file. Close it, or use it in a `with` block.

    sync: fsync, at most once in `EVERY` seconds.
    """

    def __init__(self, folder: str | Path, *, sync: bool = True):
        self.folder, self.sync = Path(folder), sync
        self.cells, self.locks = self.folder / "cells", self.folder / "locks"
        # by its start, so that files stand in the order in which their writers came
        self.writer = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid4().hex[:8]}"
        with plainly(self.folder):
            self.cells.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(exist_ok=True)
        self.held: set[Log] = set()

    def log(self, key: str, about: Mapping[str, Any], name: str = "") -> "Log":
        """The log of the cell with this key. about: what the manifest says; name: a word for
        people, in front of the file name."""
        word = re.sub(r"[^A-Za-z0-9_.=-]+", "-", name).strip("-.")[:80]
        return Log(self, key, dict(about), f"{word}-{key[:16]}" if word else key[:16])

    def manifests(self) -> list[dict[str, Any]]:
        """What every cell of the store is, by file name."""
        with plainly(self.folder):
            files = sorted(self.cells.glob("*.json"))
            return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    def close(self) -> None:
        """Give every cell back. A second call does nothing."""
        for log in list(self.held):
            log.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Log:
    """The records of one cell. Anybody may read; who has claimed it may append."""

    def __init__(self, store: Store, key: str, about: dict[str, Any], name: str):
        self.store, self.key, self.about, self.name = store, key, about, name
        self.path = store.cells / f"{name}.{store.writer}.jsonl"
        self.manifest = store.cells / f"{name}.json"
        self._lock: int | None = None  # held while the cell is ours
        self._file: int | None = None  # open from the first append on
        self._end = 0  # where our file ends
        self._synced = float("-inf")  # when it was last
        self._done: dict[str, bool] = {}

    # ------------------------------------------------------------------------- who works on it

    def claim(self) -> bool:
        """Lock the cell; False where a living process has it."""
        if self._lock is not None:
            return True
        with plainly(self.store.folder):
            self._lock = locked(self._lock_file)
            if self._lock is None:
                return False
            OPEN.add(self._lock)
            try:
                os.ftruncate(self._lock, 0)
                write_all(self._lock, json.dumps(_myself()).encode())
                self._describe()
                self._done = _done(self.records())
            except BaseException:
                self.release()
                raise
        self.store.held.add(self)
        return True

    def held(self) -> str | None:
        """Who works on the cell, in words; None where nobody does."""
        if not self._lock_file.exists():
            return None
        with plainly(self.store.folder):
            lock = locked(self._lock_file)
        if lock is not None:
            os.close(lock)
            return None
        try:
            holder = json.loads(self._lock_file.read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError, OSError):  # it is just being written
            return "another process"

    def release(self) -> None:
        """Give the cell back, if it is ours."""
        if self._file in OPEN and self.store.sync:
            with plainly(self.store.folder):
                os.fsync(self._file)
        for file in (self._file, self._lock):
            if file in OPEN:  # in a forked process they are not ours
                OPEN.discard(file)
                os.close(file)
        self._file = self._lock = None
        self.store.held.discard(self)

    @property
    def _lock_file(self) -> Path:
        return self.store.locks / f"{self.name}.lock"

    def _describe(self) -> None:
        """The manifest, where there is none yet. StoreError where it is another cell's."""
        if not self.manifest.exists():
            known = {"key": self.key, **self.about}
            text = json.dumps(known, indent=2, ensure_ascii=False, default=str) + "\n"
            new = self.manifest.with_suffix(f".{self.store.writer}")
            try:
                write_file(new, text, sync=self.store.sync)
                os.replace(new, self.manifest)
            finally:
                new.unlink(missing_ok=True)
        there = json.loads(self.manifest.read_text(encoding="utf-8")).get("key")
        if there != self.key:
            raise StoreError(f"{self.manifest} is of another cell ({there}): move it away")

    # ------------------------------------------------------------------------------ what it holds

    def done(self) -> dict[str, bool]:
        """Sample → whether it has an answer (False: it failed)."""
        if self._lock is None:
            self._done = _done(self.records())
        return self._done

    def records(self) -> list[dict[str, Any]]:
        """All records, one for each sample, in the order in which they were made; of a sample that
        failed and was answered later, the answer. StoreError for a line that is none."""
        found: dict[str, dict] = {}
        with plainly(self.store.folder):
            files = sorted(self.store.cells.glob(f"{self.name}.*.jsonl"))
            every = [record for path in files for record in _lines(path)]
        for record in every:
            known = found.get(record["sample"])
            if known is None or ("failed" in known and "failed" not in record):
                found.pop(record["sample"], None)
                found[record["sample"]] = record
        return list(found.values())

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records (each with its `sample`) in one write; they are stored when it returns.

        StoreError where the disk is full or fails: then nothing of these records is in the file,
        and all that was there before still is. ValueError for a number that JSON has not (NaN).
        """
        if self._lock is None:
            raise StoreError(f"{self.path.name}: claim the cell before you append to it")
        records = list(records)
        lines = "".join(
            json.dumps(r, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
            for r in records
        ).encode()
        with plainly(self.store.folder):
            if self._file is None:
                self._open()
            try:
                write_all(self._file, lines)
                if self.store.sync and monotonic() > self._synced + EVERY:
                    os.fsync(self._file)
                    self._synced = monotonic()
            except BaseException:
                os.ftruncate(self._file, self._end)  # half a batch is no batch
                raise
        self._end += len(lines)
        for sample, answered in _done(records).items():
            self._done[sample] = answered or self._done.get(sample, False)

    def _open(self) -> None:
        """Our file, and where its last whole line ends."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        OPEN.add(self._file)
        self._end = os.fstat(self._file).st_size
        if self.store.sync:
            sync_folder(self.store.cells)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a file; what comes after the last line end is none."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            record["sample"]  # noqa: B018
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"{path}, line {number} is no record: move the file away to do its cell anew, or "
                "delete the line to do its sample anew"
            ) from None
        yield record


def _done(records: Iterable[Mapping]) -> dict[str, bool]:
    return {record["sample"]: "failed" not in record for record in records}


def _myself() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
