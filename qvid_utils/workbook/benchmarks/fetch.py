"""Bringing checkpoints and benchmarks to a machine, for itself or for one without a network.

    python -m qvid_utils benchmarks fetch pope mme llava-hf/llava-1.5-7b-hf --to /data/hub

A name of the table is a benchmark; a name with a slash is a checkpoint on the hub. Without `--to`
files go into the hub's cache. A download that was cut off goes on where it stopped.
"""

import zipfile
import zlib
from pathlib import Path

from ...families import Unavailable
from .published import BENCHMARKS, Benchmark, benchmark
from .published.source import hub_error, patterns

#: What to do where this machine has no network: `fetch` itself was asked.
ELSEWHERE = "give it, with --to FOLDER, to a machine with a network, and bring FOLDER here"
# Weights in one form are enough: safetensors, not the copies of other libraries.
NOT_NEEDED = ["*.bin", "*.pth", "*.msgpack", "*.h5", "*.onnx", "original/*"]


def fetch(name: str, to: str | Path | None = None, revision: str | None = None) -> Path:
    """Download a benchmark or a checkpoint; returns its folder, for `published(folder=)` or `load`.

    to: a folder, which gets one of the name's own; None: the hub's cache. Raises ValueError for an
    unknown benchmark and a repository without the files; Unavailable for a gated or unknown
    repository, no network, and files that are missing when it is done.
    """
    entry = None if "/" in name else benchmark(name)
    repo, kind = (name, "model") if entry is None else (entry.hub, "dataset")
    only, never = (None, NOT_NEEDED) if entry is None else (patterns(entry), None)
    place = None if to is None else Path(to) / name.replace("/", "--")
    try:
        # asked first: offline, the hub's library calls a half-filled folder a success
        wanted = _wanted(repo, kind, revision, only, never)
        folder = _download(repo, kind, revision, only, never, place)
    except Exception as cause:
        error = hub_error(repo, cause, ELSEWHERE)
        raise error from (None if error is cause else cause)
    lost = [file for file in wanted if not (folder / file).is_file()]
    if lost:
        raise Unavailable(
            f"{name}: {len(lost)} of {len(wanted)} files are not there after the download, such as "
            f"{lost[0]}: run it again"
        )
    if entry is not None and entry.media == "video":
        _unpack(folder)
    return folder


def _wanted(repo, kind, revision, only, never) -> list[str]:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    files = HfApi().list_repo_files(repo, repo_type=kind, revision=revision)
    wanted = list(filter_repo_objects(files, allow_patterns=only, ignore_patterns=never))
    if not wanted:
        raise ValueError(f"{repo} has none of the files {only} that this version reads")
    return wanted


def _download(repo, kind, revision, only, never, place) -> Path:
    from huggingface_hub import snapshot_download

    where = {} if place is None else {"local_dir": place}
    found = snapshot_download(
        repo, repo_type=kind, revision=revision, allow_patterns=only, ignore_patterns=never, **where
    )
    return Path(found)


def _unpack(folder: Path) -> None:
    """Unpack a benchmark's archives of videos beside them, each once."""
    for archive in sorted(folder.rglob("*.zip")):
        done = archive.with_suffix(".unpacked")
        if not done.exists():
            try:
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(archive.parent)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as cause:
                raise ValueError(
                    f"{archive} cannot be unpacked ({cause}): delete it and fetch it again"
                ) from cause
            done.touch()


def listing() -> str:
    """The table of benchmarks, one line each: name, questions, tables, hub, what it needs."""
    lines = [_line(entry) for entry in BENCHMARKS.values()]
    return "\n".join([f"{'name':23s} {'size':>6s}  {'tables':29s}  hub", *lines])


def _line(entry: Benchmark) -> str:
    tables = ",".join(entry.tables) or "-"
    needs = [f"judge {entry.judge}"] if entry.judge else []
    needs += ["extra caption, Java"] if entry.needs == "caption" else []
    needs += ["extra video"] if entry.media == "video" else []
    ends = f" ({'; '.join(needs)})" if needs else ""
    return f"{entry.name:23s} {entry.size:6d}  {tables:29s}  {entry.hub}{ends}"
