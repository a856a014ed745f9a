"""The loop of a run: which process asks which samples under which cell, and what a failure does.

It knows nothing of models: a task is a cell on a suite with a log of its records (`records`), and
`ask(task, ids)` answers some samples. Several processes may run the same loop on one store.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ...algebra.cuts import Infeasible
from .store import Log, Memory

__all__ = ["ON_ERROR", "Ask", "Task", "answer_all"]

ON_ERROR = ("stop", "record")
POLL = 1.0  # seconds between two looks at cells that others work on
LINE = 30.0  # seconds between two lines of progress where there is no terminal


@dataclass(eq=False)
class Task:
    """One cell on one suite. batches: ids of the suite's samples, in the order to ask them;
    left_out: why the cell cannot be evaluated, once that is known."""

    cell: Any
    suite: Any
    log: Log | Memory
    batches: list[list[str]]
    left_out: str = ""

    def missing(self, on_error: str = "record") -> set[str]:
        """Samples without a record; where errors stop the run, failed ones are asked again."""
        done = self.log.done()
        wanted = {sample for batch in self.batches for sample in batch}
        return {s for s in wanted if s not in done or (on_error == "stop" and not done[s])}


Ask = Callable[[Task, list[str]], list[dict]]
Shared = Callable[[Any, list[tuple[Task, list[str]]]], AbstractContextManager]


def answer_all(
    tasks: Sequence[Task],
    ask: Ask,
    shared: Shared,
    *,
    on_error: str = "stop",
    sharers: int = 1,
    wait: bool = True,
    progress: bool | None = None,
) -> None:
    """Fill the logs of all tasks; a task that another process works on is that one's.

    ask: records of some samples of a task, in their order; shared(suite, coming): entered around
    all that is asked about one batch, coming: what that is to be, task by task; on_error, sharers,
    wait, progress: see `runner.evaluate`.
    Raises what `ask` raised for a sample, with a note that names sample, suite and cell.
    """
    with _bar(tasks, progress) as bar:
        while True:
            out = {id(task.cell): task.left_out for task in tasks if task.left_out}
            for task in tasks:  # a cell that is left out is so on every suite
                task.left_out = out.get(id(task.cell), "")
            left = [t for t in tasks if not t.left_out and t.missing(on_error)]
            gone = sum(len(t.missing(on_error)) for t in left)
            bar.update(bar.total - gone - bar.n)
            if not left:
                return
            mine = _claimed(left, sharers, on_error)
            if mine:
                try:
                    _one_suite(mine, ask, shared, on_error, bar)
                finally:
                    for task in mine:
                        task.log.release()
            elif wait:
                time.sleep(POLL)
            else:
                return


def _claimed(left: Sequence[Task], sharers: int, on_error: str) -> list[Task]:
    """Free tasks of one suite, a fair part of all samples that are left: the fewer, the smaller."""
    want = sum(len(task.missing(on_error)) for task in left) / sharers
    suites: dict[str, list[Task]] = {}
    for task in left:
        suites.setdefault(task.suite.name, []).append(task)
    for tasks in sorted(suites.values(), key=len, reverse=True):
        mine: list[Task] = []
        for task in tasks:
            if want > 0 and task.log.claim():
                if missing := task.missing(on_error):
                    want -= len(missing)
                    mine.append(task)
                else:  # another process has ended it meanwhile
                    task.log.release()
        if mine:
            return mine
    return []


def _one_suite(mine: list[Task], ask: Ask, shared: Shared, on_error: str, bar: tqdm) -> None:
    suite = mine[0].suite
    left = {task.log: task.missing(on_error) for task in mine}  # two tasks may have one log
    for batch in mine[0].batches:
        turns = [task for task in mine if not task.left_out]
        coming = [(task, _of(batch, left[task.log])) for task in turns]
        if not any(ids for _, ids in coming):
            continue
        with shared(suite, coming):
            for task in turns:
                ids = _of(batch, left[task.log])
                try:
                    for records in _asked(task, ids, ask, on_error) if ids else ():
                        task.log.append(records)
                        left[task.log] -= {record["sample"] for record in records}
                        bar.update(len(records))
                except Infeasible as floor:
                    task.left_out = str(floor)
                    warnings.warn(f"{_name(task)} is left out: {floor}", stacklevel=4)


def _of(batch: Sequence[str], missing: set[str]) -> list[str]:
    return [sample for sample in batch if sample in missing]


def _asked(task: Task, ids: list[str], ask: Ask, on_error: str) -> Iterator[list[dict]]:
    """Records of some samples; after a failure one by one, so that the sample is known."""
    try:
        records = ask(task, ids)
    except (Infeasible, getattr(torch, "AcceleratorError", Infeasible)) as cause:
        # A device that reports an error of its own has lost all that it held: nothing goes on.
        if not isinstance(cause, Infeasible):
            cause.add_note(_where(task, ids))
        raise
    except Exception as cause:
        if len(ids) == 1 and on_error == "record":
            yield [{"sample": ids[0], "failed": f"{type(cause).__name__}: {cause}"}]
            return
        if len(ids) == 1:
            cause.add_note(_where(task, ids))
            raise
        failure = cause
    else:
        yield records
        return
    went = 0
    for sample in ids:
        try:
            for records in _asked(task, [sample], ask, on_error):
                went += "failed" not in records[0]
                yield records
        except Exception as cause:
            cause.__notes__ = [f"{_where(task, [sample])}; its batch: {', '.join(ids)}"]
            raise
    if went == len(ids):
        warnings.warn(
            f"{_where(task, ids)}: {type(failure).__name__} ({failure}) as a batch of {len(ids)}, "
            "and no failure one by one: a smaller batch_size may be faster",
            stacklevel=2,
        )


def _where(task: Task, ids: Sequence[str]) -> str:
    samples = "sample" if len(ids) == 1 else "samples"
    return f"suite {task.suite.name}, cell {_name(task)}, {samples} {', '.join(ids)}"


def _name(task: Task) -> Any:
    return getattr(task.cell, "labels", task.cell)


def _bar(tasks: Sequence[Task], progress: bool | None) -> tqdm:
    """Samples per second and time left: a bar on a terminal, now and then a line elsewhere."""
    total = sum(len(batch) for task in tasks for batch in task.batches)
    there = total - sum(len(task.missing()) for task in tasks)
    told: dict[str, Any] = {"total": total, "initial": there, "desc": "answers", "unit": " answers"}
    if progress and not sys.stderr.isatty():
        line = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left\n"
        return tqdm(**told, mininterval=LINE, maxinterval=2 * LINE, bar_format=line)
    # No bar where nobody watches: it would end up in a notebook's stored output.
    disable = None if progress is None else not progress
    return tqdm(**told, mininterval=1, disable=disable)
