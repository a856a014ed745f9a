"""Run the notebooks and write their figures and tables.

tiny: the embedded models, in place; paper: real checkpoints, executed copies in runs/paper.

    python -m qvid_utils figures --only 02 --set keep=32
"""

import argparse
import os
import sys
from pathlib import Path

from ...paths import NOTEBOOKS, PROFILES
from .options import whole


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which notebooks, with which parameters, how many at a time."""
    add = parser.add_argument
    add("--profile", default="tiny", choices=PROFILES, help="default: tiny")
    add(
        "--only",
        action="append",
        default=[],
        metavar="NN",
        help="only notebooks whose name begins so; may be repeated",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="another value for the parameters cell; may be repeated; the copy goes to runs/",
    )
    add(
        "--notebooks",
        type=Path,
        default=NOTEBOOKS,
        metavar="FOLDER",
        help="folder of the notebooks (default: this project's)",
    )
    add(
        "--jobs",
        type=whole(1),
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="notebooks at a time (default: 2 where there are two cores)",
    )


def work(chosen: argparse.Namespace) -> int:
    """Returns 1 where a notebook failed; a wrong option is told before any runs."""
    from .notebooks import parse_settings, regenerate, summary

    values = parse_settings(chosen.settings)
    outcomes = regenerate(chosen.profile, chosen.only, values, chosen.notebooks, chosen.jobs)
    for outcome in outcomes:
        if outcome.error:
            print(f"\n{outcome.name} failed: {outcome.error}\n", file=sys.stderr)
    print(summary(outcomes, Path(chosen.notebooks).resolve().parent))
    return 1 if any(outcome.error for outcome in outcomes) else 0
