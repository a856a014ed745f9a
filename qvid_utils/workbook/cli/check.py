"""A first look at a new machine or checkpoint.

python -m qvid_utils check pope      # ten minutes on a GPU: 200 questions beside the paper
"""

import argparse
from pathlib import Path

from .options import add_machine, whole


def add_options(parser: argparse.ArgumentParser) -> None:
    """`pope`."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
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


def work(chosen: argparse.Namespace) -> int:
    """Returns 1 where a figure is outside its range."""
    from .pope import work as pope

    return pope(chosen)
