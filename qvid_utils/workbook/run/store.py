"""Records of long runs: appended as they are made, there whatever happens to the process.

A store is a folder; a cell is what one key stands for. Each cell has there

    cells/<name>.jsonl   its records, one JSON object a line, only ever appended to
    cells/<name>.json    the manifest: everything that its key was made of, to be read
    locks/<name>.lease   who works on it (host, process, token); the file's time is the heartbeat
    locks/<name>.lock    held for a moment by whoever looks at the lease or appends

What holds. `append` returns when its lines are on the disk (fsync; without it, `sync=False`, they
survive a killed process and not a power cut). A line that a crash cut short is cut off when the
cell is claimed next. Only the holder of the lease appends: it looks, under the lock, before every
append, so that one that was taken for dead and was not is told so and writes nothing. A lease is
stale when its process is known to be gone (same machine), or its heartbeat is older than `stale`
seconds by the clock of the file system, which all machines share. A process that hangs without
dying keeps its lease. The folder may lie on a network file system that has locks (NFS 4, Lustre
with flock); object stores have none.
"""

import contextlib
import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

__all__ = ["Log", "Memory", "Store", "StoreError", "Taken"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
PATIENCE = 30.0  # seconds to wait for a lock that is held for milliseconds


class StoreError(RuntimeError):
    """The store cannot go on; the message says what happened and what to do."""


class Taken(StoreError):
    """Another process has taken this cell over: nothing was written."""


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

    stale: seconds without a heartbeat after which a lease may be taken over, the same for all
    processes of one store; heartbeats come every sixth of it. sync: fsync after every append.
    """

    def __init__(self, folder: str | Path, *, stale: float = 60.0, sync: bool = True):
        if not stale > 0:
            raise ValueError(f"stale={stale!r}: give the seconds after which a lease is stale")
        self.folder, self.stale, self.sync = Path(folder), float(stale), sync
        self.cells, self.locks = self.folder / "cells", self.folder / "locks"
        with _plainly(self.folder):
            self.cells.mkdir(parents=True, exist_ok=True)
            self.locks.mkdir(exist_ok=True)
        self._held: set[Log] = set()
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    def log(self, key: str, about: Mapping[str, Any], name: str = "") -> "Log":
        """The log of the cell with this key. about: what the manifest says; name: a word for
        people, in front of the file name."""
        word = re.sub(r"[^A-Za-z0-9_.=-]+", "-", name).strip("-.")[:80]
        return Log(self, key, dict(about), f"{word}-{key[:16]}" if word else key[:16])

    def manifests(self) -> list[dict[str, Any]]:
        """What every cell of the store is, by file name."""
        with _plainly(self.folder):
            files = sorted(self.cells.glob("*.json"))
            return [json.loads(path.read_text(encoding="utf-8")) for path in files]

    def close(self) -> None:
        """Give back every lease. A second call does nothing."""
        self._closed.set()
        for log in list(self._held):
            log.release()
        if self._heart is not None:
            self._heart.join()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _holds(self, log: "Log") -> None:
        self._held.add(log)
        if self._heart is None:
            self._heart = threading.Thread(target=self._beating, name="heartbeat", daemon=True)
            self._heart.start()

    def _beating(self) -> None:
        while not self._closed.wait(self.stale / 6):
            for log in list(self._held):
                log.beat()


class Log:
    """The records of one cell. Anybody may read; who has claimed it may append."""

    def __init__(self, store: Store, key: str, about: dict[str, Any], name: str):
        self.store, self.key, self.about, self.name = store, key, about, name
        self.path = store.cells / f"{name}.jsonl"
        self.manifest = store.cells / f"{name}.json"
        self.lease = store.locks / f"{name}.lease"
        self._file: int | None = None  # open while it is ours
        self._end = 0  # where the file ends
        self._owner = _myself()
        self._done: dict[str, bool] = {}

    # ------------------------------------------------------------------------- who works on it

    def claim(self) -> bool:
        """Take the lease; False where a living process has it. Cuts off a line cut short."""
        if self._file is not None:
            return True
        new = self.lease.with_suffix(f".{self._owner['token']}")
        with self._locked():
            try:
                _write(new, json.dumps(self._owner), sync=False)
                if not self._free(new.stat().st_mtime):
                    return False
                os.replace(new, self.lease)
            finally:
                with contextlib.suppress(OSError):
                    new.unlink(missing_ok=True)
            try:
                self._open()
            except BaseException:
                self._give_up()
                raise
        self.store._holds(self)
        return True

    def held(self) -> str | None:
        """Who has the lease, in words; None where nobody has. It says nothing of heartbeats."""
        owner = self._holder()
        return f"process {owner.get('pid')} on {owner.get('host')}" if owner else None

    def beat(self) -> None:
        """Renew the heartbeat, if the lease is still ours; never raises."""
        with contextlib.suppress(OSError):
            if (self._holder() or {}).get("token") == self._owner["token"]:
                os.utime(self.lease)

    def release(self) -> None:
        """Give the lease back, if it is ours."""
        if self._file is None:
            return
        with self._locked():
            self._give_up()

    def _give_up(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self.store._held.discard(self)
        if (self._holder() or {}).get("token") == self._owner["token"]:
            self.lease.unlink(missing_ok=True)

    def _holder(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.lease.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError):
            return {}  # cut short by a crash of the machine: only its age counts

    def _free(self, now: float) -> bool:
        holder = self._holder()
        if holder is None or _gone(holder):
            return True
        with contextlib.suppress(FileNotFoundError):
            return now - self.lease.stat().st_mtime > self.store.stale
        return True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.store.locks / f"{self.name}.lock"
        with _plainly(self.store.folder):
            try:
                lock = FileLock(path, timeout=PATIENCE).acquire(poll_interval=0.01)
            except Timeout:
                raise StoreError(
                    f"{path} has been locked for {PATIENCE:.0f} s: a process is stopped in the "
                    "middle of a write, or the file system has no locks"
                ) from None
            with lock:
                yield

    # ------------------------------------------------------------------------------ what it holds

    def done(self) -> dict[str, bool]:
        """Sample → whether it has an answer (False: it failed)."""
        if self._file is None:
            self._done = _done(self.records(), self.path)
        return self._done

    def records(self) -> list[dict[str, Any]]:
        """All records in the order they were made; of a sample that failed and was answered later,
        the answer. StoreError for a line that is none, or a sample answered twice."""
        records = [record for record, _ in _lines(self.path)]
        answered = {place["sample"] for place in records if "failed" not in place}
        _done(records, self.path)
        found = {}
        for record in records:
            if "failed" not in record or record["sample"] not in answered:
                found[record["sample"]] = record
        return list(found.values())

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records (each with its `sample`) in one write; they are stored when it returns.

        Taken where the lease is another's by now; StoreError where the disk is full or fails:
        then nothing of these records is in the file, and all that was there before still is.
        """
        if self._file is None:
            raise StoreError(f"{self.path.name}: claim the cell before you append to it")
        records = list(records)
        lines = "".join(
            json.dumps(r, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
            for r in records
        ).encode()
        with self._locked():
            if (self._holder() or {}).get("token") != self._owner["token"]:
                now = self.held() or "nobody any more"
                self._give_up()
                raise Taken(f"{self.path.name}: this process was silent too long, {now} has it")
            try:
                _all(self._file, lines)
                if self.store.sync:
                    os.fsync(self._file)
            except BaseException:
                os.ftruncate(self._file, self._end)  # half a batch is no batch
                raise
            self._end += len(lines)
        self._done.update(_done(records, self.path, self._done))

    def _open(self) -> None:
        """Manifest, file, and the place where its last whole line ends."""
        known = {"key": self.key, **self.about}
        if not self.manifest.exists():
            text = json.dumps(known, indent=2, ensure_ascii=False, default=str) + "\n"
            new = self.manifest.with_suffix(f".{self._owner['token']}")
            try:
                _write(new, text, sync=self.store.sync)
                os.replace(new, self.manifest)
            finally:
                new.unlink(missing_ok=True)
        there = json.loads(self.manifest.read_text(encoding="utf-8")).get("key")
        if there != self.key:
            raise StoreError(f"{self.manifest} is of another cell ({there}): move it away")
        found = list(_lines(self.path))
        self._done = _done([record for record, _ in found], self.path)
        self._end = found[-1][1] if found else 0
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if os.fstat(self._file).st_size > self._end:
            os.ftruncate(self._file, self._end)
        if self.store.sync:
            _sync_folder(self.store.cells)


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole lines of a log and where each ends; what comes after the last line end is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    end = 0
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        end += len(line) + 1
        try:
            record = json.loads(line)
            record["sample"]  # noqa: B018
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"{path}, line {number} is no record: move the file away to do its cell anew, or "
                "delete the line to do its sample anew"
            ) from None
        yield record, end


def _done(records: Iterable[Mapping], path: Path, before: Mapping = {}) -> dict[str, bool]:  # noqa: B006
    """Sample → answered; a failed sample may be answered later, an answered one not again."""
    found: dict[str, bool] = {}
    for record in records:
        sample = record["sample"]
        if found.get(sample, before.get(sample)):
            raise StoreError(f"{path}: sample {sample!r} is recorded twice; delete one line")
        found[sample] = "failed" not in record
    return found


def _all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _write(path: Path, text: str, *, sync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _all(file, text.encode())
        if sync:
            os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """So that a new file's name survives a power cut, too; not every system can."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextlib.contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    """Says in one sentence what the system says in a number."""
    try:
        yield
    except OSError as cause:
        if cause.errno in FULL:
            raise StoreError(
                f"{folder}: the disk is full; all records up to here are whole, so free some space "
                "and give the same command again"
            ) from cause
        raise StoreError(f"{folder}: the store cannot be written or read ({cause})") from cause


# --------------------------------------------------------------------------- processes


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    life = {"host": socket.gethostname(), "space": _space(), "pid": pid, "born": _born(pid)}
    return {**life, "since": since, "token": uuid4().hex}


def _space() -> str:
    """Where a process number means something: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _born(pid: int) -> str | None:
    """When a process began, in ticks; None for one that is gone (or where nobody can tell)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


def _gone(owner: Mapping[str, Any]) -> bool:
    """Whether the owner is known to be dead: only of this machine can that be known."""
    here = (socket.gethostname(), _space())
    if not here[1] or (owner.get("host"), owner.get("space")) != here:
        return False
    return _born(owner["pid"]) != owner["born"]
