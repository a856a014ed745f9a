"""The table of a run: one row for each cell and question, from the tasks' logs."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from ..benchmarks import Suite
from ..benchmarks.base import CELL
from .batches import batches_of
from .cell import Cell
from .queue import Task

__all__ = ["COLUMNS", "frame_of", "warn_unread"]

UNREAD = 0.05  # of a cell's answers on a suite: above it the runner warns

COLUMNS = ("suite", "sample", "picture", "kind", "split", "group", "question", "answer", *CELL,
           "prediction", "score", "mean_tokens")  # fmt: skip


def frame_of(tasks: Sequence[Task], cells: Sequence[Cell], on_error: str = "stop") -> pd.DataFrame:
    """What `evaluate` gives, from the tasks' logs; cells that are not done are left out."""
    rows = []
    for cell in cells:
        mine = [task for task in tasks if task.cell is cell]
        if _whole(cell, mine, on_error):
            rows += [row for task in mine for row in _rows(task)]
    frame = pd.DataFrame(rows, columns=None if rows else [*COLUMNS, "failed"])
    if on_error == "stop":
        frame = frame.drop(columns="failed")
    if all(cell.share is None for cell in cells):
        frame = frame.drop(columns="retention_pct")
    kinds = {"keep": "Int64", "retention_pct": "float64", "layer": "Int64", "rank": "float64"}
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame})


def _whole(cell: Cell, tasks: Sequence[Task], on_error: str) -> bool:
    """Whether all suites were asked; a warning where another process is not done."""
    if any(task.left_out for task in tasks):
        return False
    missing = sum(len(task.missing(on_error)) for task in tasks)
    if missing:
        warnings.warn(
            f"{cell.labels} is left out: {missing} of its answers are not there; others still "
            "work on them, unless it was said above that its budget cannot be met",
            stacklevel=3,
        )
    return not missing


def _rows(task: Task) -> Iterator[dict]:
    """The rows of `evaluate`, questions in the order of their length."""
    samples = task.suite.samples.set_index("id", drop=False)
    found = {record["sample"]: record for record in task.log.records()}
    # a failed question, and one without a picture, stands under the layer of the cell's others
    cut = next((r["layer"] for r in found.values() if r.get("kept")), task.cell.layer)
    for row in samples.loc[[s for b in batches_of(samples, len(samples)) for s in b]].itertuples():
        record = found[row.id]
        labels = task.cell.labels
        if task.cell.method is not None:
            labels["layer"] = record["layer"] if record.get("kept") else cut
        yield {
            "suite": task.suite.name,
            "sample": row.id,
            "picture": row.picture,
            "kind": row.kind,
            "split": row.split,
            "group": row.group,
            "question": row.question,
            "answer": row.answer,
            **labels,
            "prediction": record.get("prediction"),
            "score": record.get("score", np.nan),
            "mean_tokens": record.get("mean_tokens", np.nan),
            "failed": record.get("failed", ""),
        }


def warn_unread(records: pd.DataFrame, suites: Iterable[Suite]) -> None:
    """A warning for each cell and suite where nothing is read in more than 5 % of the answers."""
    cell = [name for name in CELL if name in records]
    said = records[records["prediction"].notna()]
    for one in {suite.name: suite for suite in suites}.values():
        rows = {row.id: row for row in one.samples.itertuples()}
        for label, part in said[said["suite"] == one.name].groupby(cell, dropna=False, sort=False):
            pairs = zip(part["prediction"], part["sample"], strict=True)
            lost = [text for text, sample in pairs if not one.reads(text, rows[sample])]
            if len(lost) > UNREAD * len(part):
                words = " ".join(str(v) for v in label if not pd.isna(v) and v != "")
                warnings.warn(
                    f"{one.name}, {words}: {100 * len(lost) / len(part):.0f} % of the answers are "
                    f"not read, such as {lost[0][:60]!r}; they count as {one.metric!r} has it",
                    stacklevel=3,
                )
