"""From cells to per-question records: every cell answers the same questions.

    python -m qvid_utils.runner --profile tiny --out data/measured

asks the embedded model every question of its suites under every cell of notebooks 02 and 03, and
stores the answers and the long table of results that the notebooks set beside their own runs.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .benchmarks import TINY, Suite, suite
from .benchmarks.base import right
from .benchmarks.observation import prompts
from .benchmarks.report import (
    CELL,
    agreement,
    averages,
    averages_by_layer,
    beside,
    columns_side_by_side,
    defaults,
    differences,
    normalised,
    says_something,
    summary,
    verdicts,
)
from .benchmarks.stored import store, stored
from .families import Unavailable, family_of
from .grid import layers_once
from .identity import code_version, data_hash, digest, key_of, libraries, model_parts, plain
from .methods import METHODS, Method, method
from .models import load
from .paths import PROFILES
from .pruning import pictures_once, pruned
from .records import Log, Memory, Store
from .rules import RULES
from .work import ON_ERROR, Task, answer_all

__all__ = [
    "Cell", "agreement", "averages", "averages_by_layer", "beside", "columns_side_by_side",
    "defaults", "differences", "evaluate", "every_method", "grid", "layer_cells", "normalised",
    "says_something", "score_maps", "scoring_cells", "setting", "store", "stored", "stored_cells",
    "summary", "verdicts",
]  # fmt: skip

# An embedded answer is one word and the end; whatever second word comes, it is a wrong answer.
NEW_TOKENS = 2
KEEPS = (48, 32, 16)  # of 144: the papers' 192, 128 and 64 of 576
COLUMNS = ("suite", "sample", "picture", "kind", "split", "group", "question", "answer", *CELL,
           "prediction", "score", "mean_tokens")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting to evaluate: a method at a budget and a layer, or the full model (`method=None`).

    params: overrides of the method (`rank=8`, `query="content"`, …). A name, word or value that
    the method does not know is an error here, and not in the middle of a run.
    """

    method: str | Method | None = None
    keep: int | None = None
    layer: int | None = None
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.method is None) != (self.keep is None):
            raise ValueError(
                f"cell with method={self.method!r} and keep={self.keep!r}: give both to prune, "
                "neither for the full model"
            )
        if self.method is None and (self.params or self.layer is not None):
            raise ValueError("cell without a method: the full model has no layer and no parameters")
        if self.method is not None:
            method(self.method, **self.params)

    @property
    def labels(self) -> dict[str, Any]:
        """What names the cell in a table; variant: its parameters but the rank, in words."""
        if self.method is None:
            return dict.fromkeys(CELL) | {"method": "full", "variant": ""}
        chosen = method(self.method, **self.params)
        named = [(name, value) for name, value in self.params.items() if name != "rank"]
        words = [name if value is True else f"{name}={value}" for name, value in named]
        return {
            "method": chosen.name,
            "variant": ", ".join(words),
            "keep": self.keep,
            "layer": self.layer,
            "rank": chosen.params.get("rank"),
        }

    @property
    def parts(self) -> dict[str, Any]:
        """What the cell brings into the key of its records (`identity`)."""
        chosen = None if self.method is None else plain(method(self.method, **self.params))
        return {"method": chosen, "keep": self.keep, "layer": self.layer}


def grid(
    methods: Iterable[str | Method],
    keeps: Iterable[int],
    layers: Iterable[int | None] = (None,),
    **params: Any,
) -> list[Cell]:
    """Every method at every budget and layer, with the same parameters."""
    keeps, layers = list(keeps), list(layers)
    return [Cell(m, keep, layer, params) for m in methods for keep in keeps for layer in layers]


def every_method() -> list[str]:
    """The methods of the table, then every rule that none of them uses: a new rule is in."""
    used = {entry.rule.name for entry in METHODS.values()}
    return [*METHODS, *(name for name in RULES if name not in used)]


def scoring_cells(keeps: Sequence[int] = KEEPS) -> list[Cell]:
    """Notebook 02: all methods, QViD's ranks (counts and a share of the energy) and its spans."""
    ranks = [cell for rank in (1, 2, 4, 8, 0.9) for cell in grid(["qvid"], keeps, rank=rank)]
    spans = [cell for span in ("content", "prompt") for cell in grid(["qvid"], keeps, query=span)]
    return [Cell(), *grid(every_method(), keeps), *ranks, *spans]


def layer_cells(layers: Iterable[int], keeps: Sequence[int] = KEEPS) -> list[Cell]:
    """Notebook 03: where to cut, for QViD, its raw energy and chance."""
    return [Cell(), *grid(["qvid", "column_norm", "random"], keeps, list(layers))]


def setting(profile: str) -> tuple[nn.Module, Any, list[Suite]]:
    """Model, processor and suites of a profile. Unavailable where this version has them not."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    if profile == "paper":
        raise Unavailable(
            "profile='paper' asks LLaVA-1.5-7B the questions of GQA, SQA, TextVQA, POPE, MME and "
            "MMBench, and this version reads none of these six benchmarks yet: use profile='tiny'"
        )
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
    group, question, answer, the cell (`CELL`; layer is where a single cut was made), prediction,
    score (1 for the right word, else 0), mean_tokens. `limit` draws that many questions of each
    suite by `seed`, pairs whole, the same ones for every cell; `shuffle` asks the batches in an
    order drawn by `seed` (what is left then takes as long as what is done), and changes no row.
    Work that cells share is done once per batch: pictures, and the layers below their cuts. A cell
    whose schedule cannot meet its budget is left out with a warning that names the floor.

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
    for cell in cells:
        _check(model, cell)
    with ExitStack() as left:
        if isinstance(store, str | Path):
            store = left.enter_context(Store(store))
        parts = model_parts(model, processor) if store else {}
        tasks = tasks_of(store, parts, suites, cells, limit=limit, seed=seed,
                         batch_size=batch_size, shuffle=shuffle)  # fmt: skip
        asker = _Asker(model, processor, [task.suite for task in tasks])
        answer_all(tasks, asker.ask, asker.shared, on_error=on_error, wait=wait,
                   sharers=sharers if store else 1, progress=progress)  # fmt: skip
        return frame_of(tasks, cells, on_error)


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
    with. No model is needed. ValueError for two cells of one name."""
    names = [tuple(cell.labels.values()) for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two cells are called {dict(zip(CELL, twice, strict=True))}: drop one")
    common = dict(parts) | {"libraries": libraries(), "code": code_version()} if store else {}
    # The unpruned prompt comes first, so that its layers are what the others find done.
    turns = sorted(cells, key=lambda cell: cell.method is not None)
    tasks, logs = [], {}
    for one in suites:
        drawn = one.head(limit, seed)
        order = _batches(drawn.samples, batch_size, seed if shuffle else None)
        for cell in turns:
            log = _log(store, common, one, cell) if store else Memory()
            # cells that differ in name alone have one log
            log = logs.setdefault(log.key, log) if store else log
            tasks.append(Task(cell, drawn, log, order))
    return tasks


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
    return frame.astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})


def _check(model: nn.Module, cell: Cell) -> None:
    """What a cell would be refused for in the middle of a run is an error before it."""
    if cell.method is None:
        return
    try:
        with pruned(model, cell.method, cell.keep, layer=cell.layer, **cell.params):
            layers = len(family_of(model).part(model, "layers"))
        chosen = method(cell.method, **cell.params)
        chosen.schedule(cell.keep, cell.keep, layers, cell.layer)
    except Exception as cause:
        cause.add_note(f"cell {cell.labels}")
        raise


def _log(store: Store, common: Mapping[str, Any], one: Suite, cell: Cell) -> Log:
    """The log of a cell on a suite: its key is a hash of everything that changes a record."""
    own = {"suite": one.name, "metric": one.metric, "data": data_hash(one)}
    parts = {**common, **cell.parts, **own, "new_tokens": one.new_tokens or NEW_TOKENS}
    words = [one.name, *(str(v) for v in cell.labels.values() if v not in (None, ""))]
    return store.log(key_of(parts), parts, "_".join(words))


def _batches(samples: pd.DataFrame, size: int, seed: int | None = None) -> list[list[str]]:
    """Ids in equal parts of at most `size`, questions of like length together: little padding;
    videos of one number of frames together: they are one tensor. With a seed the parts in an order
    drawn by it, else from short to long."""
    length = samples["question"].str.split().str.len().to_numpy()
    frames = np.array([_frames(image) for image in samples["image"]])
    parts = []
    for number in np.unique(frames):
        these = np.flatnonzero(frames == number)
        order = these[np.argsort(length[these], kind="stable")]
        parts += np.array_split(samples["id"].to_numpy()[order], -(-len(order) // size))
    turns = (
        range(len(parts)) if seed is None else np.random.default_rng(seed).permutation(len(parts))
    )
    return [parts[i].tolist() for i in turns]


def _frames(image: Any) -> int:
    """How many frames of its video a question is shown; 0 for pictures."""
    return image.get("frames", 0) if isinstance(image, dict) else 0


class _Asker:
    """Asks the model; what the cells of one batch share is made once."""

    def __init__(self, model: nn.Module, processor: Any, suites: Sequence[Suite]):
        self.model, self.processor = model, processor
        self.samples = {s.name: s.samples.set_index("id", drop=False) for s in suites}
        self.inputs: dict[tuple[str, ...], Any] = {}

    @contextmanager
    def shared(self, suite: Suite) -> Iterator[None]:
        with pictures_once(self.model), layers_once(self.model):
            try:
                yield
            finally:
                self.inputs.clear()

    def ask(self, task: Task, ids: list[str]) -> list[dict]:
        """One record per sample: what was asked, said, right, kept, and how long it took (its
        share of the batch)."""
        batch = self.samples[task.suite.name].loc[ids]
        if tuple(ids) not in self.inputs:
            made = prompts(self.processor, batch, self.model.device)
            self.inputs[tuple(ids)] = made, _prompt_hashes(made, batch)
        inputs, hashes = self.inputs[tuple(ids)]
        began = perf_counter()
        said, tokens, layer, kept = self._said(task.suite, task.cell, inputs)
        seconds = (perf_counter() - began) / len(ids)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            {
                "sample": row.id, "prompt": hashes[i], "prediction": said[i], "answer": row.answer,
                "score": task.suite.hit(said[i], row), "mean_tokens": float(tokens[i]),
                "layer": layer, "kept": kept[i], "seconds": round(seconds, 6), "at": at,
            }
            for i, row in enumerate(batch.itertuples())
        ]  # fmt: skip

    def _said(self, suite: Suite, cell: Cell, inputs: Any) -> tuple[list, list, int | None, list]:
        model = self.model
        options = {"max_new_tokens": suite.new_tokens or NEW_TOKENS, "do_sample": False}
        kept: list[list] = [[] for _ in inputs["input_ids"]]
        if cell.method is None:
            ids = model.generate(**inputs, **options)
            known = torch.tensor(family_of(model).visual_tokens(model.config))
            tokens = torch.isin(inputs["input_ids"], known.to(ids.device)).sum(1).tolist()
            return _said(self.processor, inputs, ids), tokens, None, kept
        with pruned(model, cell.method, cell.keep, layer=cell.layer, **cell.params) as trace:
            ids = model.generate(**inputs, **options)
        for cut in trace.cuts:
            kept[cut.row].append([cut.layer, cut.kept.tolist()])
        layers = {cut.layer for cut in trace.cuts}
        layer = layers.pop() if len(layers) == 1 else None
        return _said(self.processor, inputs, ids), trace.mean_tokens, layer, kept


def _prompt_hashes(inputs: Any, batch: pd.DataFrame) -> list[str]:
    """A hash of each prompt: its tokens without padding, and its picture as the suite has it."""
    real = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    tokens = [ids[mask].tolist() for ids, mask in real]
    return [digest(both)[:16] for both in zip(tokens, batch["image"], strict=True)]


def _whole(cell: Cell, tasks: Sequence[Task], on_error: str) -> bool:
    """Whether all suites were asked; a warning where another process is not done."""
    if any(task.left_out for task in tasks):
        return False
    missing = sum(len(task.missing(on_error)) for task in tasks)
    if missing:
        warnings.warn(
            f"{cell.labels} is left out: others still work on {missing} of its answers",
            stacklevel=3,
        )
    return not missing


def _rows(task: Task) -> Iterator[dict]:
    """The rows of `evaluate`, questions in the order of their length."""
    samples = task.suite.samples.set_index("id", drop=False)
    found = {record["sample"]: record for record in task.log.records()}
    # a failed question stands under the layer that the cell's answers have
    cut = next((r["layer"] for r in found.values() if "failed" not in r), task.cell.layer)
    for row in samples.loc[[s for b in _batches(samples, len(samples)) for s in b]].itertuples():
        record = found[row.id]
        labels = task.cell.labels
        if task.cell.method is not None:
            labels["layer"] = record.get("layer", cut)
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


@torch.inference_mode()
def score_maps(
    model: nn.Module, processor: Any, samples: pd.DataFrame, cells: Sequence[Cell]
) -> pd.DataFrame:
    """What the first cut of each cell scores and keeps: one row per question, cell and token.

    samples: rows of a suite. Columns: sample, question, answer, method, layer, prediction, right,
    token, row and column (of the visual tokens' grid), score, kept.
    """
    frames = []
    inputs = prompts(processor, samples, model.device)
    for cell in cells:
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        with pruned(model, cell.method, cell.keep, layer=cell.layer, **cell.params) as trace:
            ids = model.generate(**inputs, **options)
        said = _said(processor, inputs, ids)
        for i, row in enumerate(samples.itertuples()):
            cut = next(cut for cut in trace.cuts if cut.row == i)
            token = cut.scored.numpy(force=True)
            _, _, columns = family_of(model).grid(model.config, cut.n_visual, inputs)
            frames.append(pd.DataFrame({
                "sample": row.id, "question": row.question, "answer": row.answer,
                "method": cell.labels["method"], "layer": cut.layer, "prediction": said[i],
                "right": right(said[i], row.answer), "token": token, "row": token // columns,
                "column": token % columns, "score": cut.scores.double().numpy(force=True),
                "kept": np.isin(token, cut.kept.numpy(force=True)),
            }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def _said(processor: Any, inputs: dict, ids: torch.Tensor) -> list[str]:
    """The new words of each answer."""
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [words.strip() for words in processor.batch_decode(new, skip_special_tokens=True)]


def stored_cells(depth: int) -> list[Cell]:
    """What `main` evaluates: notebook 02 whole; notebook 03 without column norm, to save time."""
    (default,) = METHODS["qvid"].schedule(1, 1, depth)  # its layer is among the scoring cells
    others = [layer for layer in range(depth) if layer != default.layer]
    return scoring_cells() + grid(["qvid", "random"], KEEPS, others)


if __name__ == "__main__":  # the command line stands one level below
    sys.exit(import_module("qvid_utils.command").main())
