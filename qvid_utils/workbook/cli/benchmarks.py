"""The published benchmarks and checkpoints: list them, fetch them, and tasks for lmms-eval.

python -m qvid_utils benchmarks list
python -m qvid_utils benchmarks fetch pope mme llava-hf/llava-1.5-7b-hf --to /data/hub
python -m qvid_utils benchmarks tasks pope mme --data /data/hub --to tasks
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """`list`, `fetch` and `tasks`."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    what.add_parser("list", help="the table of benchmarks")
    fetch = what.add_parser("fetch", help="download benchmarks and checkpoints")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a benchmark, or a hub id with /")
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="default: the hub's cache")
    fetch.add_argument("--revision", help="of every name; default: the newest")
    tasks = what.add_parser("tasks", help="lmms-eval's tasks on files that are here")
    tasks.add_argument("names", nargs="+", metavar="NAME", help="of lmms-eval's tasks")
    tasks.add_argument("--data", type=Path, required=True, metavar="FOLDER",
                       help="what `fetch --to` filled: a folder for each benchmark")  # fmt: skip
    tasks.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="of the YAMLs")


def work(chosen: argparse.Namespace) -> int:
    """Returns 1 where a name could not be fetched or written; the others are."""
    if chosen.what == "list":
        from ..benchmarks.fetch import listing

        print(listing())
        return 0
    if chosen.what == "fetch":
        from ..benchmarks.fetch import fetch

        return _each(chosen.names, lambda name: fetch(name, chosen.to, chosen.revision), "fetched")
    from ..harness.local_tasks import write_task

    return _each(chosen.names, lambda name: write_task(name, chosen.data, chosen.to), "written")


def _each(names: list[str], do: Callable[[str], Path], done: str) -> int:
    from ...families import Unavailable

    failed = 0
    for name in names:
        try:
            print(f"{name}: {do(name)}", flush=True)
        except (ValueError, Unavailable, OSError) as error:
            failed = 1
            print(f"{name}: not {done}. {error}", file=sys.stderr)
    return failed
