"""Files of a store as the system has them: whole writes, locks that die with their process, and its
errors in one sentence."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OPEN", "StoreError", "locked", "plainly", "sync_folder", "write_all", "write_file"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreError(RuntimeError):
    """The store cannot go on; the message says what happened and what to do."""


def write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def write_file(path: Path, text: str, *, sync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(file, text.encode())
        if sync:
            os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """So that a new file's name survives a power cut, too; not every system can."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextlib.contextmanager
def plainly(folder: Path) -> Iterator[None]:
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


# --------------------------------------------------------------------------- locks

OPEN: set[int] = set()  # files of this process that hold a lock, or are written to


def locked(path: Path) -> int | None:
    """The file, locked; None where another has it. OSError where the file system has no locks."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(file)
        if cause.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return file


def _forked() -> None:
    """A forked process lets go of the locks of its parent, which would else outlive that."""
    for file in OPEN:
        with contextlib.suppress(OSError):
            os.close(file)
    OPEN.clear()


os.register_at_fork(after_in_child=_forked)
