"""A run in more than one process: a few on this machine, or a Ray cluster of any size.

The store is the only thing that processes share, and the only truth: whoever dies, worker, node or
driver, the same command goes on where the records end. On several nodes its folder must be on a
file system that all of them see under one path, as must this package.
"""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from threading import current_thread, main_thread
from typing import Any

import pandas as pd
from tqdm import tqdm

from ...families import Unavailable
from ...models.load import config_of, load
from ...startup import start
from ..benchmarks import Suite, suite
from .cell import Cell
from .evaluate import evaluate, frame_of, tasks_of
from .key import model_parts
from .own_rules import take_in
from .store import Store

__all__ = ["CellsFailed", "Plan", "in_processes", "on_ray"]


class CellsFailed(RuntimeError):
    """Some cells could not be evaluated; the message counts them and has the first one's cause."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A run as plain data, which any process can do a part of.

    model, options: of `load`; suites: by name; cells, limit, seed, batch_size, shuffle, on_error:
    as of `evaluate`; store: the folder; own: files with rules of one's own that cells may name.
    """

    model: str
    suites: tuple[str, ...]
    cells: tuple[Cell, ...]
    store: str
    options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    batch_size: int = 32
    shuffle: bool = False
    on_error: str = "stop"
    own: tuple[str, ...] = ()

    @property
    def asked(self) -> list[Suite]:
        """The suites, as the model's family is asked them."""
        family = config_of(self.model, self.options.get("revision")).model_type
        return [suite(name, family) for name in self.suites]

    def run(self, **how: Any) -> dict[str, Any]:
        """Do what is free of it in this process; `how` goes to `evaluate`. Gives `model_parts`."""
        start(self.seed)
        for file in self.own:
            take_in(file)
        model, processor = load(self.model, **self.options)
        with Store(self.store) as store:
            evaluate(
                model, processor, self.asked, self.cells,
                limit=self.limit, seed=self.seed, batch_size=self.batch_size,
                shuffle=self.shuffle, store=store, on_error=self.on_error, **how,
            )  # fmt: skip
        return model_parts(model, processor)

    def identify(self) -> dict[str, Any]:
        """`model_parts` of the model, which the keys of the records start with."""
        return model_parts(*load(self.model, **self.options))

    def tasks(self, parts: dict[str, Any], store: Store) -> list:
        """`runner.tasks_of` this plan, without the model."""
        return tasks_of(store, parts, self.asked, self.cells,
                        limit=self.limit, seed=self.seed, batch_size=self.batch_size)  # fmt: skip

    def table(self, parts: dict[str, Any]) -> pd.DataFrame:
        """The frame of `evaluate` from what is in the store, without the model."""
        with Store(self.store) as store:
            return frame_of(self.tasks(parts, store), self.cells, self.on_error)


def in_processes(plan: Plan, workers: int = 1, **how: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The plan on this machine, by so many processes with a model each: the frame of `evaluate`,
    and `identity.model_parts`.

    Processes started by other commands on the same store share the work, too.
    """
    how = {"sharers": max(2, workers)} | how
    if workers == 1:
        parts = plan.run(**how)
        return plan.table(parts), parts
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        quiet = how | {"progress": False}
        with _without_interrupts():
            jobs = [pool.submit(_run, plan, quiet if place else how) for place in range(workers)]
        try:
            parts = [job.result() for job in jobs]
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):  # what they have answered is stored
                process.terminate()
            raise
    return plan.table(parts[0]), parts[0]


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started in the block leave Ctrl-C, which all of a terminal's get, to their
    parent: it ends them."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(plan: Plan, how: dict[str, Any]) -> dict[str, Any]:
    """A part of the plan in a process of its own; asked to end, it stops as at Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return plan.run(**how)
    finally:
        signal.signal(signal.SIGTERM, before)


def on_ray(
    plan: Plan,
    *,
    address: str | None = None,
    num_gpus: float = 1,
    num_cpus: float = 1,
    retries: int = 3,
    progress: bool | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The plan on a Ray cluster, one cell on one suite per task; gives what `in_processes` gives.

    address: of the cluster ("auto": the one that this machine is in); None: one on this machine,
    or the one that `ray.init` has joined already. num_gpus, num_cpus: of each task, which runs in a
    process of its own and loads the model; retries: of a task whose worker or node dies. A cell
    that is done is not sent out again, so that a killed driver's command can be given again.
    Unavailable without Ray; CellsFailed, when all the others are done, for tasks that failed.
    """
    ray = _ray()
    joined = ray.is_initialized()
    if not joined:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        # max_calls=1: a fresh process per cell, so that no cell sees what another left on a GPU
        fresh = ray.remote(num_gpus=num_gpus, num_cpus=num_cpus, max_calls=1, max_retries=retries)
        parts = ray.get(fresh(Plan.identify).remote(plan))
        one = fresh(_one)
        with Store(plan.store) as store:
            left = [t for t in plan.tasks(parts, store) if t.missing(plan.on_error)]
        names = {cell: place for place, cell in enumerate(plan.cells)}
        jobs = {one.remote(plan, names[t.cell], t.suite.name): _words(t) for t in left}
        _gather(ray, jobs, progress)
    finally:
        if not joined:
            ray.shutdown()
    return plan.table(parts), parts


def _one(plan: Plan, place: int, name: str) -> None:
    replace(plan, cells=(plan.cells[place],), suites=(name,)).run(sharers=1, progress=False)


def _words(task: Any) -> str:
    labels = {k: v for k, v in task.cell.labels.items() if v not in (None, "")}
    return f"{task.suite.name}, {labels}"


def _gather(ray: Any, jobs: dict[Any, str], progress: bool | None) -> None:
    """Wait for all; what failed is told at the end, when the others have their records."""
    failed, waiting = [], list(jobs)
    disable = None if progress is None else not progress
    with tqdm(total=len(waiting), desc="cells", unit=" cells", disable=disable) as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            for job in done:
                try:
                    ray.get(job)
                except Exception as wrapped:  # of whatever kind the task's was
                    cause = getattr(wrapped, "cause", None) or wrapped
                    notes = "; ".join(getattr(cause, "__notes__", []))  # the sample among them
                    told = f"{jobs[job]}: {type(cause).__name__}: {cause}"
                    failed.append(f"{told} ({notes})" if notes else told)
                bar.update()
    if failed:
        raise CellsFailed(
            f"{len(failed)} of {len(jobs)} cells failed, the others are stored; first {failed[0]}"
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError as cause:
        raise Unavailable(
            'Ray is not installed: pip install -c constraints.txt -e ".[ray]", or leave --ray out'
        ) from cause
    return ray
