"""The papers' tables: each cell, what is done, what is missing here, and the GPU hours to go.

python -m qvid_utils dry-run --rate 120
"""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """--rate."""
    parser.add_argument(
        "--rate",
        metavar="TFLOP/s",
        help="of the machine, or a file that `measure --out` wrote: then hours are printed, too",
    )


def work(chosen: argparse.Namespace) -> int:
    """Print the list; nothing is asked."""
    from ..studies.dry_run import rate_of, report

    print(report(None if chosen.rate is None else rate_of(chosen.rate)))
    return 0
