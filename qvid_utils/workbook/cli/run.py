"""Ask every question under every cell and write the table.

What is answered is stored at once: the same command goes on after whatever stopped it, and several
of them share one store. Without options: the cells of notebooks 02 and 03 on the embedded model,
into data/measured.

    python -m qvid_utils run --methods qvid fastv --keeps 48 16 --suites tiny_gqa --limit 50
    python -m qvid_utils run --table 1
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from ...paths import PROFILES
from .options import add_machine, add_questions, whole

ON_ERROR = ("stop", "skip")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of `run`, in groups."""
    cells = parser.add_argument_group("which cells").add_argument
    _add_cells(cells)
    _add_own(cells)
    _add_stored(parser.add_argument_group("stored runs").add_argument)
    add_questions(parser)
    _add_places(parser.add_argument_group("where to").add_argument)
    add_machine(parser, batch=32)
    _add_processes(parser.add_argument_group("how").add_argument)
    _add_cluster(parser.add_argument_group("on a Ray cluster (extra `ray`)").add_argument)


def _add_cells(add: Callable) -> None:
    add("--profile", choices=PROFILES, help="default: tiny, with --table paper")
    add(
        "--table",
        metavar="T",
        help="all cells of a table of the papers (1, 2a ... svd_1): its "
        "checkpoint, methods, budgets, layers, ranks and benchmarks, into data/measured",
    )
    add("--model", metavar="NAME", help="embedded, a folder or a hub id (default: the profile's)")
    add("--revision", help="of a hub id")
    add("--methods", nargs="+", metavar="NAME", help="default: the cells of notebooks 02 and 03")
    add(
        "--keeps",
        nargs="+",
        type=whole(1),
        metavar="K",
        help="visual tokens kept (default: 48 32 16 of 144, of other models the same shares)",
    )
    add(
        "--shares",
        nargs="+",
        type=float,
        metavar="PCT",
        help="budgets in %% of each prompt's visual tokens, with --keeps or not",
    )
    add(
        "--layers",
        nargs="+",
        type=whole(0),
        metavar="L",
        help="where to cut (default: the method's)",
    )
    add("--ranks", nargs="+", type=_rank, metavar="R", help="a count, or an energy share below 1")
    add("--no-full", action="store_true", help="without the model as it is")
    add("--suites", nargs="+", metavar="NAME", help="embedded or published; default: the profile's")


def _add_own(add: Callable) -> None:
    add(
        "--control",
        nargs="+",
        choices=("another-question", "noise", "keys"),
        help="each method once more, scored without its question: does the question matter?",
    )
    add(
        "--import",
        dest="own",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Python files whose rules and methods --methods may name",
    )


def _add_stored(add: Callable) -> None:
    add(
        "--stored",
        choices=("video", "svd_prune", "question"),
        help="make a stored run of its own, with --profile, --table (of video), --limit, --seed, "
        "--store and --out alone",
    )
    add(
        "--rekey",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="keep stored runs that are refused (default: all in --out or data/measured): one "
        "question in a hundred is asked again; if the answers are the same, the keys are today's",
    )


def _add_places(add: Callable) -> None:
    add("--store", type=Path, metavar="FOLDER", help="of the records (default: runs/PROFILE)")
    add("--out", type=Path, metavar="FOLDER", help="of the table (default: the store's)")
    add("--name", metavar="NAME", help="of the table and its files (default: table)")
    add("--dry-run", action="store_true", help="list the cells and what is missing, ask nothing")


def _add_processes(add: Callable) -> None:
    add("--shuffle", action="store_true", help="ask the batches in an order drawn by the seed")
    add("--on-error", default="stop", choices=ON_ERROR, help="at a sample that fails")
    add("--workers", type=whole(1), metavar="N", help="processes (default: 2 embedded, else 1)")
    add(
        "--sharers",
        type=whole(1),
        metavar="N",
        help="processes on the store, other commands' included",
    )
    add("--no-wait", action="store_true", help="leave when others have all that is left")


def _add_cluster(add: Callable) -> None:
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="default: one on this machine")
    add("--gpus", type=float, default=1, metavar="N", help="of each cell (default: 1)")
    add("--retries", type=whole(0), default=3, metavar="N", help="of a cell whose worker dies")


def _rank(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def work(chosen: argparse.Namespace) -> int:
    """Plan, ask, store, write the table; or make a notebook's stored run."""
    if chosen.stored == "question":
        from ..studies.question_run import main

        given = [(f"--{name}", getattr(chosen, name)) for name in ("limit", "store", "out")]
        return main([str(x) for pair in given if pair[1] is not None for x in pair])
    from .ask import work as ask

    return ask(chosen)
