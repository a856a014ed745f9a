"""Notebook 05's stored run.

    python -m qvid_utils run --stored video --table 2b

asks the embedded video model every question under every method at the shares of a table of the
papers, and stores the answers and the table of results in data/measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...methods import Method
from ...paths import RUNS
from ..benchmarks import Suite, suite
from ..benchmarks.paper_profile import name_of
from ..tables import schema as results
from ..tables.stored import MEASURED, read_back, write_answers
from .video import (
    CHECKPOINTS,
    COMPARED,
    EMBEDDED,
    NAMES,
    SHARES,
    evaluate_shares,
    in_frames,
    per_frame,
    rows,
    setting,
)

__all__ = ["make", "more_methods", "store", "stored"]

RUN = {"2b": "_video", "12": "_video_llava"}  # how a profile's stored run of a table is called


def more_methods() -> dict[str, Method]:
    """The run's methods beyond METHODS, by name: budgets for each frame, places alone."""
    made = [*map(per_frame, ("qvid", "random")), in_frames("qvid")]
    return {one.name: one for one in made}


def store(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    folder: Path,
    name: str,
    checkpoint: str = EMBEDDED,
    **about: Any,
) -> list[Path]:
    """Write `<name>.csv`, the rows of results, and `<name>_answers.parquet`; their paths.
    checkpoint: whose files' hash the answers carry; about: as in `video.rows`."""
    path = write_answers(records, suites, folder, name, checkpoint, more_methods())
    return [results.write(rows(records, suites, **about), folder / f"{name}.csv"), path]


def stored(profile: str, folder: Path = MEASURED, *, table: str = "2b") -> pd.DataFrame:
    """The records of the stored run of a table's model, as `evaluate_shares` gave them.

    Raises ValueError as `tables.stored.stored`.
    """
    family = CHECKPOINTS[table][1]
    command = f"python -m qvid_utils run --stored video --profile {profile} --table {table}"
    return read_back(
        folder, f"{profile}{RUN[table]}", command,
        suite_named=lambda name: suite(name, family), methods=more_methods(),
    )  # fmt: skip


def make(
    profile: str = "tiny",
    table: str = "2b",
    *,
    limit: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
    out: Path | None = None,
) -> list[Path]:
    """The stored run of a table's model: all methods and per-frame budgets at its shares. limit:
    questions of each suite and length; folder: the store to go on from; out: where it is written.
    """
    model, processor, suites = setting(profile, table)
    how = {"limit": limit, "seed": seed, "store": folder or RUNS / profile / "video"}
    methods = [*COMPARED, *more_methods().values()]
    records = evaluate_shares(
        model, processor, suites, methods, SHARES[table], sharers=1, progress=True, **how
    )
    about = {"model": NAMES[profile, table], "device": model.device.type,
             "dtype": str(model.dtype).removeprefix("torch.")}  # fmt: skip
    name = f"{profile}{RUN[table]}"
    return store(records, suites, out or MEASURED, name, name_of(model), **about)
