"""The command line of the runner: `python -m qvid_utils.runner`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from .benchmarks import TINY, suite
from .benchmarks.paper_profile import CHECKPOINT, SUITES, named, place
from .benchmarks.stored import store
from .distributed import Plan, in_processes, on_ray
from .families import Unavailable
from .models import LoadError
from .paths import DATA, PROFILES, RUNS
from .records import Store, StoreError
from .runner import KEEPS, Cell, grid, setting, stored_cells
from .startup import start
from .work import ON_ERROR

DESCRIPTION = """\
Ask every question under every cell and write the table. What is answered is stored at once: the
same command goes on after whatever stopped it, and several of them share one store.
"""
EXAMPLE = """\
example: python -m qvid_utils.runner --store runs/first --methods qvid fastv --keeps 48 16
             --suites tiny_gqa tiny_pope --limit 50
Without options: the cells of notebooks 02 and 03 on the embedded model, into data/measured.
"""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    new = argparse.ArgumentParser("python -m qvid_utils.runner", None, DESCRIPTION, EXAMPLE,
                                  formatter_class=raw)  # fmt: skip
    add = new.add_argument_group("which cells").add_argument
    add("--profile", default="tiny", choices=PROFILES)
    add("--model", metavar="NAME", help="embedded, a folder or a hub id (default: the profile's)")
    add("--revision", help="of a hub id")
    add("--methods", nargs="+", metavar="NAME", help="default: the cells of notebooks 02 and 03")
    add("--keeps", nargs="+", type=int, metavar="K", help="visual tokens kept (default: 48 32 16)")
    add("--shares", nargs="+", type=float, metavar="PCT",
        help="budgets in %% of each prompt's visual tokens, with --keeps or not")  # fmt: skip
    add("--layers", nargs="+", type=int, metavar="L", help="where to cut (default: the method's)")
    add("--ranks", nargs="+", type=_rank, metavar="R", help="a count, or an energy share below 1")
    add("--no-full", action="store_true", help="without the model as it is")
    add("--suites", nargs="+", metavar="NAME", help="embedded or published; default: the profile's")
    add("--limit", type=int, metavar="N", help="questions per suite (default: all)")
    add("--seed", type=int, default=0, help="draws the questions under --limit")
    add = new.add_argument_group("where to").add_argument
    add("--store", type=Path, metavar="FOLDER", help="of the records (default: runs/PROFILE)")
    add("--out", type=Path, metavar="FOLDER", help="of the table (default: the store's)")
    add("--name", metavar="NAME", help="of the table and its files (default: table)")
    add("--dry-run", action="store_true", help="list the cells and what is missing, ask nothing")
    add = new.add_argument_group("how").add_argument
    add("--dtype")
    add("--device")
    add("--attention")
    add("--batch-size", type=int, default=32, metavar="N")
    add("--shuffle", action="store_true", help="ask the batches in an order drawn by the seed")
    add("--on-error", default="stop", choices=ON_ERROR, help="at a sample that fails")
    add("--workers", type=int, metavar="N", help="processes (default: 2 embedded, else 1)")
    add("--sharers", type=int, metavar="N", help="processes on the store, other commands' included")
    add("--no-wait", action="store_true", help="leave when others have all that is left")
    add("--stale", type=float, default=60.0, metavar="S", help="seconds of silence of the dead")
    add = new.add_argument_group("on a Ray cluster (extra `ray`)").add_argument
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="default: one on this machine")
    add("--gpus", type=float, default=1, metavar="N", help="of each cell (default: 1)")
    add("--retries", type=int, default=3, metavar="N", help="of a cell whose worker dies")
    return new


def _rank(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, write the table, say where; 2 for a bad argument, 1 for a run that stopped."""
    new = parser()
    chosen = new.parse_args(argv)
    began = perf_counter()
    try:
        plan, out, name = _plan(chosen)
    except (ValueError, TypeError, Unavailable, LoadError) as wrong:
        new.error(str(wrong))
    how: dict[str, Any] = {"progress": True, "wait": not chosen.no_wait}
    if chosen.sharers:
        how["sharers"] = chosen.sharers
    try:
        if chosen.dry_run:
            return _dry_run(plan)
        if chosen.ray is not None:
            records, parts = on_ray(plan, address=chosen.ray or None, num_gpus=chosen.gpus,
                             retries=chosen.retries, progress=True)  # fmt: skip
        else:
            workers = chosen.workers or (2 if plan.model.startswith("tiny/") else 1)
            records, parts = in_processes(plan, workers, **how)
    except (StoreError, LoadError, Unavailable, ValueError, RuntimeError) as stop:
        notes = getattr(stop, "__notes__", [])  # and the sample
        if type(stop) is RuntimeError and not notes:
            raise  # a fault of ours: not the device's in a sample, nor of cells or processes
        told = "\n".join([str(stop), *notes])
        new.exit(1, f"{new.prog}: {told}\n")
    if not len(records):
        print("no cell is whole yet: no table")
        return 0
    told = {"model": named(plan.model), "device": parts["device"], "dtype": parts["dtype"]}
    for path in store(records, [suite(s) for s in plan.suites], out, name, **told):
        print(path)
    _print_means(records)
    print(f"{len(records)} answers, {perf_counter() - began:.0f} s")
    return 0


def _print_means(records: pd.DataFrame) -> None:
    """Right answers in %, cell by suite, where they fit a screen; all else is in the table."""
    lines = [c for c in ("method", "variant", "keep", "retention_pct", "layer") if c in records]
    means = records.pivot_table("score", lines, "suite", sort=False, dropna=False) * 100
    means = means.dropna(how="all")
    if len(means) <= 40:
        print(means.round(1).to_string(na_rep=""))


def _plan(chosen: argparse.Namespace) -> tuple[Plan, Path, str]:
    """What to run, and where its table goes: to data/measured only as the defaults are."""
    start(chosen.seed)
    own = ("model", "methods", "keeps", "shares", "layers", "ranks", "suites", "store", "no_full",
           "name")  # fmt: skip
    changed = any(getattr(chosen, option) for option in own)
    if changed:
        _methods_first(chosen)
    if chosen.methods:
        cells = _cells(chosen)
    else:
        model, *_ = setting(chosen.profile)
        cells = stored_cells(model.config)
    paper = chosen.profile == "paper"
    suites = tuple(chosen.suites or (SUITES if paper else TINY))
    for name in suites:
        suite(name)  # an unknown one is told here
    options = {k: getattr(chosen, k) for k in ("dtype", "device", "attention", "revision")}
    folder = (chosen.store or RUNS / chosen.profile / "records").resolve()
    plan = Plan(
        chosen.model or (str(place(CHECKPOINT) or CHECKPOINT) if paper else "tiny/llava"),
        suites, tuple(cells), str(folder),
        {k: v for k, v in options.items() if v is not None}, chosen.limit, chosen.seed,
        chosen.batch_size, chosen.shuffle, chosen.on_error, chosen.stale,
    )  # fmt: skip
    if changed:
        return plan, chosen.out or folder, chosen.name or "table"
    return plan, chosen.out or DATA / "measured", f"{chosen.profile}_llava"


def _methods_first(chosen: argparse.Namespace) -> None:
    for option in ("keeps", "shares", "layers", "ranks", "no_full", "model"):
        if getattr(chosen, option) and not chosen.methods:
            raise ValueError(f"--{option.replace('_', '-')} goes with --methods: name some")
    if chosen.profile == "paper" and not chosen.model:
        setting(chosen.profile)


def _cells(chosen: argparse.Namespace) -> list[Cell]:
    shares, layers = chosen.shares or (), chosen.layers or (None,)
    keeps = chosen.keeps or (() if shares else KEEPS)
    ranks = [{"rank": rank} for rank in chosen.ranks or ()] or [{}]
    more = [{"shares": shares, **rank} for rank in ranks]
    pruned = [cell for one in more for cell in grid(chosen.methods, keeps, layers, **one)]
    return pruned if chosen.no_full else [Cell(), *pruned]


def _dry_run(plan: Plan) -> int:
    """Each cell on each suite with the samples that it has and lacks."""
    with Store(plan.store, stale=plan.stale) as opened:
        tasks = plan.tasks(plan.identify(), opened)
        for task in tasks:
            missing = len(task.missing(plan.on_error))
            total = sum(map(len, task.batches))
            held = f", {task.log.held()} has it" if task.log.held() else ""
            name = " ".join([task.suite.name, *task.cell.words])
            print(f"{name}: {total - missing} of {total}{held}")
    return 0
