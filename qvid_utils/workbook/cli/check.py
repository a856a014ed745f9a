"""A first look at a new machine or checkpoint.

python -m qvid_utils check --device cuda --out DIR    # eight minutes: all that wants a GPU
python -m qvid_utils check pope                       # ten minutes: 200 questions beside the paper

Without `pope` nothing is fetched: models have random weights or are embedded. What is measured is
written to DIR step by step, and the same command goes on where it stopped. --divide makes the
models small enough for a CPU.
"""

import argparse
from pathlib import Path

from .options import add_machine, whole

PARTS = ("oracles", "score", "models", "notebooks", "grid")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is checked of a device; `pope`."""
    add = parser.add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    add("--out", type=Path, metavar="DIR", help="of the results (default: runs/check_device)")
    add(
        "--parts",
        type=_parts,
        default=list(PARTS),
        metavar="A,B",
        help=f"of {', '.join(PARTS)} (default: all)",
    )
    add("--rounds", type=whole(1), default=3, help="of which the median counts (default: 3)")
    small = parser.add_argument_group("to be small").add_argument
    small(
        "--divide", type=whole(1), default=1, metavar="N", help="width, heads, FFN by this number"
    )
    small("--layers", type=whole(1), metavar="N", help="of the language models")
    small("--limit", type=whole(1), metavar="N", help="steps of a part, budgets, questions")
    what = parser.add_subparsers(dest="what", metavar="pope")
    pope = what.add_parser(
        "pope",
        help="200 POPE questions, full and QViD at 64 tokens, beside "
        "the range to expect from the paper",
    )
    add = pope.add_argument
    add("--model", metavar="NAME", help="a folder or hub id (default: LLaVA-1.5-7B)")
    add("--data", type=Path, metavar="FOLDER", help="of POPE's files (default: the hub's)")
    add("--questions", type=whole(2), default=200, metavar="N", help="default: 200")
    add("--keep", type=whole(1), metavar="K", help="visual tokens kept (default: 64 of 576)")
    add("--seed", type=whole(0), default=0, help="draws the questions (default: 0)")
    add(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="of the answers; the same command goes on there (default: runs/check)",
    )
    add_machine(pope, batch=8)


def _parts(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name}: choose of {', '.join(PARTS)}")
    return names


def work(chosen: argparse.Namespace) -> int:
    """Returns 1 where a figure is outside its range, or a step failed."""
    if chosen.what == "pope":
        from .pope import work as pope

        return pope(chosen)
    from .check_device import work as device

    return device(chosen)
