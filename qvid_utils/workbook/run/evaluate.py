"""From cells to per-question records: every cell answers the same questions."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ...algebra.fast_leverage import kernel
from ...models.load import load
from ...paths import PROFILES
from ..benchmarks import TINY, Suite, suite
from ..benchmarks.other_questions import other_questions
from ..benchmarks.paper_profile import described, paper_setting
from .asker import NEW_TOKENS, Asker
from .batches import batches_of
from .cell import CONTROLS, Cell
from .checks import check_names, check_run
from .content import data_hash
from .frame import frame_of, warn_unread
from .key import code_version, libraries, model_parts, record_key
from .queue import ON_ERROR, Task, answer_all
from .store import Log, Memory, Store


def setting(profile: str) -> tuple[nn.Module, Any, list[Suite]]:
    """Model, processor and suites of a profile. Unavailable names what is not on this machine."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    if profile == "paper":
        return paper_setting()
    return *load("tiny/llava"), [suite(name) for name in TINY]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    processor: Any,
    suites: Sequence[Suite],
    cells: Sequence[Cell],
    *,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    shuffle: bool = False,
    store: Store | str | Path | None = None,
    on_error: str = "stop",
    sharers: int = 2,
    wait: bool = True,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Per-question records of every cell on every suite, greedy answers.

    One row per cell and question, cells in the order given: suite, sample, picture, kind, split,
    group, question, answer, the cell (`CELL`; layer is where a single cut was made; retention_pct
    only where the budget of a cell is a share of each prompt's visual tokens), prediction, score (1
    for the right word, else 0), mean_tokens. `limit` draws that many questions of each suite by
    `seed`, pairs whole, the same ones for every cell; `shuffle` asks the batches in an order drawn
    by `seed` (what is left then takes as long as what is done), and changes no row. Work that cells
    share is done once per batch (`grid`): pictures, the layers below their cuts, scores; cells that
    keep equally many tokens go on as one batch. A cell that cannot meet its budget is left out with
    a warning that names the floor.

    store: a `records.Store` or its folder. Answers are stored as they are made, and those that are
    there, by this or another process, are not asked again. sharers: how many processes work on the
    store at once; each takes a fair part of the cells that are free. wait: until the others are
    done; else cells that they still work on are left out, with a warning.
    on_error: a failing sample stops the run with its id, suite and cell ("stop"), or is recorded
    ("record"): its score is missing, a last column `failed` has the cause, tables count it.
    progress: samples per second and time left; None: where somebody watches.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error={on_error!r}: it must be one of {', '.join(ON_ERROR)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: give 1 or more samples at a time")
    kernel()  # another name in QVID_KERNEL is an error now, not at the first score
    check_run(model, processor, [one.head(limit, seed) for one in suites], cells, on_error)
    with ExitStack() as left:
        if isinstance(store, str | Path):
            store = left.enter_context(Store(store))
        parts = model_parts(model, processor) if store else {}
        tasks = tasks_of(store, parts, suites, cells, limit=limit, seed=seed,
                         batch_size=batch_size, shuffle=shuffle)  # fmt: skip
        controlled = any(cell.control == CONTROLS[0] for cell in cells)
        others = {one.name: other_questions(one) for one in suites if controlled}
        asker = Asker(model, processor, [task.suite for task in tasks], others)
        answer_all(tasks, asker.ask, asker.shared, on_error=on_error, wait=wait,
                   sharers=sharers if store else 1, progress=progress)  # fmt: skip
        warn_unread(found := frame_of(tasks, cells, on_error), [task.suite for task in tasks])
        return described(found, model)


def tasks_of(
    store: Store | None,
    parts: Mapping[str, Any],
    suites: Sequence[Suite],
    cells: Sequence[Cell],
    *,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    shuffle: bool = False,
) -> list[Task]:
    """A task for each cell and suite; parts: `identity.model_parts`, what the logs' keys start
    with. No model is needed. ValueError for two suites or two cells of one name."""
    check_names(suites, cells)
    common = dict(parts) | {"libraries": libraries(), "code": code_version()} if store else {}
    # The unpruned prompt comes first, so that its layers are what the others find done.
    turns = sorted(cells, key=lambda cell: cell.method is not None)
    tasks, logs = [], {}
    for one in suites:
        drawn = one.head(limit, seed)
        data = data_hash(one) if store else ""
        order = batches_of(drawn.samples, batch_size, seed if shuffle else None)
        for cell in turns:
            log = _log(store, common, one, drawn, data, cell) if store else Memory()
            # cells that differ in name alone have one log
            log = logs.setdefault(log.key, log) if store else log
            tasks.append(Task(cell, drawn, log, order))
    return tasks


def _log(
    store: Store, common: Mapping[str, Any], one: Suite, drawn: Suite, data: str, cell: Cell
) -> Log:
    """The log of a cell on a suite: its key is a hash of everything that changes a record; data:
    `data_hash` of the suite."""
    own = {"suite": one.name, "metric": one.metric, "data": data}
    if cell.shared:  # what a question gets depends on all that share the budget with it
        own["among"] = data_hash(drawn)
    parts = {**common, **cell.parts, **own, "new_tokens": one.new_tokens or NEW_TOKENS}
    return store.log(record_key(parts), parts, "_".join([one.name, *cell.words]))
