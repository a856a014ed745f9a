"""The work of `python -m qvid_utils run`: which cells, where to, and the run itself."""

import argparse
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from ...families import Unavailable
from ...models.load import EMBEDDED, LoadError, config_of, load
from ...paths import DATA, RUNS
from ...startup import start
from ..benchmarks import BENCHMARKS, TINY, suite
from ..benchmarks.paper_profile import CHECKPOINT, SUITES, lacking_told, named, place
from ..run.cell import KEEPS, Cell, grid, keeps_of
from ..run.checks import check_names, check_run
from ..run.key import model_parts
from ..run.own_rules import take_in
from ..run.store import Store, StoreError
from ..run.workers import Plan, in_processes, on_ray
from ..studies.cell_lists import stored_cells, table_cells
from ..tables.paper_tables import ANSWERS, cells_of
from ..tables.stored import store, table_run
from .options import report

#: Options after which the table is not one that the notebooks read.
OWN = ("model", "methods", "keeps", "shares", "layers", "ranks", "suites", "store", "no_full",
       "name", "control", "own")  # fmt: skip


def work(chosen: argparse.Namespace) -> int:
    """Evaluate, write the table, say where; 1 for a run that stopped. Errors of the arguments are
    raised before anything is asked."""
    if chosen.stored or chosen.rekey is not None:
        return _stored(chosen)
    began = perf_counter()
    plan, out, name = _plan(chosen)
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
        report("run", stop, notes)
        return 1
    if not len(records):
        print("no cell is whole yet: no table")
        return 0
    about = {"model": named(plan.model), "device": parts["device"], "dtype": parts["dtype"]}
    for path in store(records, plan.asked, out, name, **about):
        print(path)
    _print_means(records)
    print(f"{len(records)} answers, {perf_counter() - began:.0f} s")
    return 0


def _stored(chosen: argparse.Namespace) -> int:
    """Make a stored run of its own, or give stored runs the keys of today; 1 where one is another's
    answers by now."""
    from ..studies.stored_runs import MAKERS, rekey, runs_in

    if chosen.stored:
        table = {"table": chosen.table or "2b"} if chosen.stored == "video" else {}
        made = MAKERS[chosen.stored](
            chosen.profile or "tiny", limit=chosen.limit, seed=chosen.seed, folder=chosen.store,
            out=chosen.out, **table,
        )  # fmt: skip
        print(*made, sep="\n")
        return 0
    code = 0
    for path in chosen.rekey or runs_in(chosen.out or DATA / "measured"):
        try:
            print("{}: {} of {} answers asked again are the same, of {}".format(path, *rekey(path)))
        except ValueError as other:
            report("run", other, getattr(other, "__notes__", []))
            code = 1
    return code


def _print_means(records: pd.DataFrame) -> None:
    """Right answers in %, cell by suite, where they fit a screen; all else is in the table."""
    lines = [c for c in ("method", "variant", "keep", "retention_pct", "layer") if c in records]
    means = records.pivot_table("score", lines, "suite", sort=False, dropna=False) * 100
    means = means.dropna(how="all")
    if len(means) <= 40:
        print(means.round(1).to_string(na_rep=""))


def _plan(chosen: argparse.Namespace) -> tuple[Plan, Path, str]:
    """What to run, and where its table goes: to data/measured only as the defaults are, or a
    table of the papers."""
    start(chosen.seed)
    _check_options(chosen)
    for file in chosen.own or ():
        take_in(file)
    if chosen.table and chosen.table not in ANSWERS:
        raise ValueError(f"--table {chosen.table}: the tables of answers are {', '.join(ANSWERS)}")
    profile = chosen.profile or ("paper" if chosen.table else "tiny")
    checkpoint, suites = _asked(chosen, profile)
    ours = profile == "paper" and not chosen.model
    model = chosen.model or (str(place(checkpoint) or checkpoint) if ours else "tiny/llava")
    with lacking_told(checkpoint, suites) if ours else nullcontext():
        config = config_of(model, chosen.revision)
        cells = _cells(chosen, config)
        check_names([suite(name, config.model_type) for name in suites], cells)
    options = {k: getattr(chosen, k) for k in ("dtype", "device", "attention", "revision")}
    folder = (chosen.store or RUNS / profile / "records").resolve()
    plan = Plan(
        model, suites, tuple(cells), str(folder),
        {k: v for k, v in options.items() if v is not None}, chosen.limit, chosen.seed,
        chosen.batch_size, chosen.shuffle, chosen.on_error, tuple(map(str, chosen.own or ())),
    )  # fmt: skip
    if chosen.table:
        out = chosen.out or (folder if chosen.model else DATA / "measured")
        return plan, out, chosen.name or f"{profile}_{table_run(profile, chosen.table)}"
    if any(getattr(chosen, option) for option in OWN):
        return plan, chosen.out or folder, chosen.name or "table"
    return plan, chosen.out or DATA / "measured", f"{profile}_llava"


def _check_options(chosen: argparse.Namespace) -> None:
    """ValueError for options that need another, or that a table leaves no room for."""
    for option in (*OWN[1:6], "control", "no_full", "model"):
        if not getattr(chosen, option):
            continue
        word = f"--{option.replace('_', '-')}"
        if chosen.table and option != "model":
            raise ValueError(f"{word} does not go with --table, which says what is asked")
        if not (chosen.methods or chosen.table):
            raise ValueError(f"{word} goes with --methods: name some")
    if chosen.table and chosen.profile == "tiny":
        raise ValueError("--table asks the papers' checkpoints: leave --profile tiny out")
    for name in ("store", "out"):
        place = getattr(chosen, name)
        if place is not None and place.exists() and not place.is_dir():
            raise ValueError(f"--{name} {place}: that is a file, give a folder")
    if chosen.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", chosen.name):
        raise ValueError(
            f"--name {chosen.name}: a name of files is letters, digits and _ . - alone; --out says "
            "in which folder they are"
        )


def _asked(chosen: argparse.Namespace, profile: str) -> tuple[str, tuple[str, ...]]:
    """The profile's or the table's checkpoint, and the names of the suites."""
    if not chosen.table:
        usual = SUITES if profile == "paper" else TINY
        return CHECKPOINT, tuple(chosen.suites or usual)
    frame = cells_of(chosen.table)
    suites = tuple(chosen.suites or dict.fromkeys(frame["benchmark"]))
    judged = [n for n in suites if n in BENCHMARKS and BENCHMARKS[n].judge.startswith("needed")]
    if judged:
        without = [f"{n}_yes_no" if n in judged else n for n in suites]
        without = [n for n in without if n in BENCHMARKS]
        raise ValueError(
            f"{', '.join(judged)} is read by a judge, which a command has not: --suites "
            f"{' '.join(without)} asks the others, and reads it by the word yes (another metric)"
        )
    return frame["checkpoint"].iloc[0], suites


def _cells(chosen: argparse.Namespace, config: Any) -> list[Cell]:
    if chosen.table:
        return table_cells(chosen.table, config)
    if not chosen.methods:
        return stored_cells(config)
    shares, layers = chosen.shares or (), chosen.layers or (None,)
    keeps = chosen.keeps or (() if shares else _usual_keeps(chosen, config))
    ranks = [{"rank": rank} for rank in chosen.ranks or ()] or [{}]
    more = [{"shares": shares, **rank} for rank in ranks]
    pruned = [cell for one in more for cell in grid(chosen.methods, keeps, layers, **one)]
    pruned += [
        replace(cell, control=control) for control in chosen.control or () for cell in pruned
    ]
    return pruned if chosen.no_full else [Cell(), *pruned]


def _usual_keeps(chosen: argparse.Namespace, config: Any) -> Sequence[int]:
    """All embedded models were made for pictures of 144 tokens; of others the same shares."""
    embedded = (chosen.model or "").startswith(EMBEDDED)
    return KEEPS if embedded else keeps_of(config)


def _dry_run(plan: Plan) -> int:
    """Each cell on each suite with the samples that it has and lacks; what the run would be refused
    for is told here."""
    model, processor = load(plan.model, **plan.options)
    drawn = [one.head(plan.limit, plan.seed) for one in plan.asked]
    check_run(model, processor, drawn, plan.cells, plan.on_error)
    with Store(plan.store) as opened:
        tasks = plan.tasks(model_parts(model, processor), opened)
        for task in tasks:
            missing = len(task.missing(plan.on_error))
            total = sum(map(len, task.batches))
            held = f", {task.log.held()} has it" if task.log.held() else ""
            name = " ".join([task.suite.name, *task.cell.words])
            print(f"{name}: {total - missing} of {total}{held}")
    return 0
