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
<<<<<<< HEAD
from .budgets import modes, share_out
from .comparison import COMPARED, entries, keep_after, using
=======
from .benchmarks.stored import store, stored
>>>>>>> main
from .families import Unavailable, family_of
from .grid import layers_once
from .identity import code_version, data_hash, digest, key_of, libraries, model_parts, plain
from .methods import METHODS, Method, method
from .models import load
<<<<<<< HEAD
from .paths import DATA, PROFILES
from .pruning import observed, pictures_once, pruned
from .results import write
from .rules import RULES
from .schedules import Cut, Infeasible
from .startup import start
=======
from .paths import PROFILES
from .pruning import pictures_once, pruned
from .records import Log, Memory, Store
from .rules import RULES
from .work import ON_ERROR, Task, answer_all
>>>>>>> main

__all__ = [
    "Cell", "agreement", "averages", "averages_by_layer", "beside", "columns_side_by_side",
    "defaults", "differences", "evaluate", "every_method", "grid", "layer_cells", "normalised",
    "says_something", "score_maps", "scoring_cells", "setting", "store", "stored", "stored_cells",
    "summary", "verdicts",
]  # fmt: skip

# An embedded answer is one word and the end; whatever second word comes, it is a wrong answer.
NEW_TOKENS = 2
KEEPS = (48, 32, 16)  # of 144: the papers' 192, 128 and 64 of 576
<<<<<<< HEAD
# Methods at the door that renumber positions, and whose tokens have places of their own.
REPOSITIONED = ("svd_prune", "fastervlm", "vispruner", "divprune", "scope", "holov", "cdpruner")
# How many tokens a cut at the door leaves to QViD, and whose cut it is.
FIRST_CUTS = {72: ("divprune", "fastervlm", "svd_prune", "cdpruner", "stride"),
              36: ("divprune", "fastervlm")}  # fmt: skip
STORED = ("suite", "sample", "asked", *CELL, "prediction", "mean_tokens")
=======
COLUMNS = ("suite", "sample", "picture", "kind", "split", "group", "question", "answer", *CELL,
           "prediction", "score", "mean_tokens")  # fmt: skip
>>>>>>> main


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting to evaluate: a method at a budget and a layer, or the full model (`method=None`).

    params: overrides of the method (`rank=8`, `query="content"`, …). A name, word or value that
    the method does not know is an error here, and not in the middle of a run. lists: use of a
    staged method's published lists (`Staged.using`); before: a cut that comes first, as `pruned`
    takes it, e.g. ("divprune", 72, {"positions": "original"}); shared: `keep` is the mean over the
    questions of a suite, each gets its part by its interaction spectrum (`budgets`).
    """

    method: str | Method | None = None
    keep: int | None = None
    layer: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    lists: str = ""
    before: tuple = ()
    shared: bool = False

    def __post_init__(self) -> None:
        if (self.method is None) != (self.keep is None):
            raise ValueError(
                f"cell with method={self.method!r} and keep={self.keep!r}: give both to prune, "
                "neither for the full model"
            )
        if self.method is None and (self.params or self.layer is not None):
            raise ValueError("cell without a method: the full model has no layer and no parameters")
        if self.method is not None:
            self.chosen  # noqa: B018, finds what is wrong
            for name, _, *more in [self.before] if self.before else []:
                options = {k: v for k, v in (more[0] if more else {}).items() if k != "layer"}
                method(name, **options)

    @property
    def chosen(self) -> Method:
        """The method with its overrides."""
        found = method(self.method, **self.params)
        return using(found, self.lists) if self.lists else found

    @property
    def labels(self) -> dict[str, Any]:
        """What names the cell in a table; variant: its parameters but the rank, in words."""
        if self.method is None:
            return dict.fromkeys(CELL) | {"method": "full", "variant": ""}
        chosen = self.chosen
        named = [(name, value) for name, value in self.params.items() if name != "rank"]
        words = [name if value is True else f"{name}={value}" for name, value in named]
        words += [f"lists={self.lists}"] if self.lists else []
        words += [f"after {self.before[0]} {self.before[1]}"] if self.before else []
        words += ["budget shared by spectrum"] if self.shared else []
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


def comparison_cells(
    config: Any, budgets: Iterable[int], methods: Sequence[str] = COMPARED
) -> list[Cell]:
    """Methods at equal label and at equal mean; a cell that serves both stands once."""
    found = entries(config, budgets, methods)
    asked = dict.fromkeys((e.method, e.keep, e.lists) for e in found if e.keep is not None)
    return [Cell(name, keep, lists=lists) for name, keep, lists in asked]


def option_cells(keeps: Sequence[int]) -> list[Cell]:
    """QViD's ranks and spans, and the column norm's other name."""
    ranks = [cell for rank in (1, 2, 4, 8) for cell in grid(["qvid"], keeps, rank=rank)]
    spans = [cell for span in ("content", "prompt") for cell in grid(["qvid"], keeps, query=span)]
    return [*grid(["sigma_weighted"], keeps), *ranks, *spans]


def position_cells(keeps: Sequence[int]) -> list[Cell]:
    """At the door: methods that renumber with original positions, and chance under both."""
    free = [Cell(name, keep, 0) for name in ("random", "stride") for keep in keeps]
    floors = grid(["random", "stride"], keeps, [0], positions="contiguous")
    return [*grid(REPOSITIONED, keeps, positions="original"), *free, *floors]


def our_cells(config: Any, budgets: Sequence[int]) -> list[Cell]:
    """QViD behind a cut at the door, at equal means, and with a budget for each question."""
    n_layers = config.get_text_config().num_hidden_layers
    (cut,) = METHODS["qvid"].schedule(1, 1, n_layers)
    cells = []
    for first, name in [(n, name) for n in FIRST_CUTS for name in FIRST_CUTS[n]]:
        options = {"layer": 0} if name == "stride" else {"positions": "original"}
        for budget in (b for b in budgets if b < first):
            keep = keep_after([Cut(0, first)], budget, config, cut.layer)
            cells.append(Cell("qvid", keep, before=(name, first, options)))
    keeps = dict.fromkeys(e.keep for e in entries(config, budgets, ["qvid"]) if e.keep is not None)
    return [*cells, *(Cell("qvid", keep, shared=True) for keep in keeps)]


def scoring_cells(config: Any, keeps: Sequence[int] = KEEPS) -> list[Cell]:
    """Notebook 02: all methods at equal label and mean, options, positions, ours, adaptations."""
    adapted = [name for name in METHODS if name.endswith("_received")]
    return [
        Cell(), *comparison_cells(config, keeps), *option_cells(keeps), *position_cells(keeps),
        *our_cells(config, keeps), *grid(adapted, [min(keeps)]),
    ]  # fmt: skip


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
<<<<<<< HEAD
    turns = sorted(range(len(cells)), key=lambda i: cells[i].method is not None)
    rows: dict[int, list[dict]] = {i: [] for i in turns}
    suites = [suite.head(limit, seed) for suite in suites]
    total = sum(len(s.samples) for s in suites) * len(cells)
    # No bar where nobody watches: it would end up in a notebook's stored output.
    with tqdm(total=total, desc="answers", mininterval=1, disable=None) as bar:
        for one in suites:
            shares = _shares(model, processor, one, cells, batch_size)
            for batch in _batches(one.samples, batch_size):
                inputs = prompts(processor, batch, model.device)
                with pictures_once(model), layers_once(model):
                    for i in list(turns):
                        try:
                            with _Named(one, cells[i], batch):
                                keep = [shares[i][name] for name in batch["id"]] if i in shares else None
                                rows[i] += _answer(
                                    model, processor, one, batch, inputs, cells[i], keep
                                )
                        except Infeasible as floor:
                            turns.remove(i)
                            rows[i] = []
                            warnings.warn(f"{cells[i].labels} is left out: {floor}", stacklevel=2)
                        bar.update(len(batch))
    frame = pd.DataFrame([row for i in range(len(cells)) for row in rows[i]])
=======
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
>>>>>>> main
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
    with a seed the parts in an order drawn by it, else from short to long."""
    length = samples["question"].str.split().str.len()
    order = np.argsort(length.to_numpy(), kind="stable")
    parts = np.array_split(samples["id"].to_numpy()[order], -(-len(order) // size))
    turns = (
        range(len(parts)) if seed is None else np.random.default_rng(seed).permutation(len(parts))
    )
    return [parts[i].tolist() for i in turns]


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

<<<<<<< HEAD

def _shares(model, processor, suite: Suite, cells, batch_size) -> dict[int, dict[str, int]]:
    """For each cell with a shared budget: what each question of the suite may keep."""
    wanted = [i for i, cell in enumerate(cells) if cell.shared]
    sizes: dict[int, dict[str, float]] = {}
    depth, shares = model.config.get_text_config().num_hidden_layers, {}
    for i in wanted:
        (cut,) = cells[i].chosen.schedule(1, 1, depth, cells[i].layer)
        if cut.layer not in sizes:
            sizes[cut.layer] = {}
            for batch in _batches(suite.samples, batch_size):
                with observed(model, "interaction", layer=cut.layer) as found:
                    model(**prompts(processor, batch, model.device))
                counts = [modes(one["interaction"]) for one in found]
                sizes[cut.layer] |= dict(zip(batch["id"], counts, strict=True))
        names, most = list(sizes[cut.layer]), model.config.image_seq_length
        parts = share_out(list(sizes[cut.layer].values()), cells[i].keep, most)
        shares[i] = dict(zip(names, parts, strict=True))
    return shares


def _answer(model, processor, suite: Suite, batch, inputs, cell: Cell, keep=None) -> list[dict]:
    options = {"max_new_tokens": suite.new_tokens or NEW_TOKENS, "do_sample": False}
    labels = cell.labels
    if cell.method is None:
        ids = model.generate(**inputs, **options)
        tokens = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    else:
        with _cut(model, cell, keep) as trace:
=======
    def _said(self, suite: Suite, cell: Cell, inputs: Any) -> tuple[list, list, int | None, list]:
        model = self.model
        options = {"max_new_tokens": suite.new_tokens or NEW_TOKENS, "do_sample": False}
        kept: list[list] = [[] for _ in inputs["input_ids"]]
        if cell.method is None:
            ids = model.generate(**inputs, **options)
            tokens = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
            return _said(self.processor, inputs, ids), tokens, None, kept
        with pruned(model, cell.method, cell.keep, layer=cell.layer, **cell.params) as trace:
>>>>>>> main
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


def _cut(model: nn.Module, cell: Cell, keep: list[int] | None = None):
    """The block in which the model prunes as the cell says; keep: instead of the cell's own."""
    last = cell.chosen, keep or cell.keep
    if not cell.before:
        return pruned(model, *last, layer=cell.layer)
    return pruned(model, [cell.before, (*last, {"layer": cell.layer} if cell.layer else {})])


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
        with _cut(model, cell) as trace:
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


<<<<<<< HEAD
# ---------------------------------------------------------------- a run on all questions


def store(records: pd.DataFrame, suites: Sequence[Suite], folder: Path, name: str) -> list[Path]:
    """Write `<name>.csv` (results, the schema of data/README.md) and `<name>_answers.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = folder / f"{name}_answers.parquet"
    texts = {c: "category" for c in ("suite", "sample", "method", "variant", "prediction")}
    kept = records.assign(asked=_asked(records))[list(STORED)].astype(texts)
    kept.to_parquet(answers, index=False, compression="zstd")
    return [write(summary(records, suites), folder / f"{name}.csv"), answers]


def _asked(frame: pd.DataFrame) -> list[int]:
    """A number made from question and answer: tells whether an id still means the same."""
    pairs = zip(frame["question"], frame["answer"], strict=True)
    return [crc32(f"{question}\n{answer}".encode()) for question, answer in pairs]


def stored(profile: str, folder: Path = DATA / "measured") -> pd.DataFrame:
    """The records of the stored run on all questions, as `evaluate` gave them.

    Raises ValueError where there is no such run, or where it answered other questions.
    """
    path = folder / f"{profile}_llava_answers.parquet"
    if not path.exists():
        raise ValueError(f"no stored run {path.name}: python -m qvid_utils.runner makes it")
    answers = pd.read_parquet(path)
    texts = answers.select_dtypes("category").columns
    answers = answers.astype({column: "object" for column in texts})
    questions = pd.concat([suite(name).samples for name in answers["suite"].unique()])
    questions = questions.assign(asked=_asked(questions)).rename(columns={"id": "sample"})
    columns = ["sample", "asked", "picture", "kind", "split", "group", "question", "answer"]
    frame = answers.merge(questions[columns], on=["sample", "asked"], how="left")
    if frame["question"].isna().any():
        unknown = frame.loc[frame["question"].isna(), "sample"].iloc[0]
        raise ValueError(
            f"{path.name} answers another question than {unknown!r} of today: the suites have "
            "changed, so run python -m qvid_utils.runner again"
        )
    pairs = zip(frame["prediction"], frame["answer"], strict=True)
    return frame.drop(columns="asked").assign(score=[float(right(*pair)) for pair in pairs])


def stored_cells(config: Any) -> list[Cell]:
=======
def stored_cells(depth: int) -> list[Cell]:
>>>>>>> main
    """What `main` evaluates: notebook 02 whole; notebook 03 without column norm, to save time."""
    depth = config.get_text_config().num_hidden_layers
    (default,) = METHODS["qvid"].schedule(1, 1, depth)  # its layer is among the scoring cells
    others = [layer for layer in range(depth) if layer != default.layer]
    scoring = scoring_cells(config)
    known = {tuple(cell.labels.values()) for cell in scoring}
    layers = grid(["qvid", "random"], KEEPS, others)
    return [*scoring, *(c for c in layers if tuple(c.labels.values()) not in known)]


<<<<<<< HEAD
def _one_suite(profile: str, place: int, limit: int | None, seed: int) -> pd.DataFrame:
    """The stored cells on one suite, in a process of its own with one thread."""
    start(seed, threads=1)
    model, processor, suites = setting(profile)
    cells = stored_cells(model.config)
    return evaluate(model, processor, [suites[place]], cells, limit=limit, seed=seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: all questions, the cells of notebooks 02 and 03."""
    parser = argparse.ArgumentParser(
        prog="python -m qvid_utils.runner", description="Ask every question under every cell."
    )
    parser.add_argument("--profile", default="tiny", choices=PROFILES)
    parser.add_argument("--out", type=Path, default=DATA / "measured", metavar="FOLDER")
    parser.add_argument("--limit", type=int, metavar="N", help="questions per suite (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="draws the questions under --limit")
    parser.add_argument("--workers", type=int, default=2, help="suites at the same time")
    chosen = parser.parse_args(argv)
    began = perf_counter()
    start(chosen.seed)
    try:
        *_, suites = setting(chosen.profile)
    except Unavailable as missing:
        parser.error(str(missing))
    with ProcessPoolExecutor(chosen.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(_one_suite, chosen.profile, place, chosen.limit, chosen.seed)
            for place in range(len(suites))
        ]
        parts = [job.result() for job in tqdm(jobs, desc="suites", disable=None)]
    records = _interleaved(parts)
    for path in store(records, suites, chosen.out, f"{chosen.profile}_llava"):
        print(path)
    print(f"{len(records)} answers, {perf_counter() - began:.0f} s")
    return 0


def _interleaved(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames of single suites as one frame, cell by cell, as `evaluate` orders several suites."""
    pieces = [[rows for _, rows in p.groupby(CELL, dropna=False, sort=False)] for p in parts]
    return pd.concat([p for cell in zip(*pieces, strict=True) for p in cell], ignore_index=True)


if __name__ == "__main__":
    sys.exit(main())
=======
if __name__ == "__main__":  # the command line stands one level below
    sys.exit(import_module("qvid_utils.command").main())
>>>>>>> main
