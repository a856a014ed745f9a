"""From cells to per-question records: every cell answers the same questions."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...algebra.cuts import Infeasible
from ...algebra.fast_leverage import kernel
from ...families import family_of, takes_videos
from ...families.calls import pictures_once
from ...methods.qvid_variants import modes, share_out
from ...models.load import load
from ...paths import PROFILES
from ...prune import observed, pruned
from ...prune.plan import DEFAULT_KEEP, stages_of, steps_of
from ..benchmarks import TINY, Suite, suite
from ..benchmarks.base import CELL
from ..benchmarks.paper_profile import described, paper_setting
from ..benchmarks.prompts import prompt_lengths, prompts
from ..benchmarks.scoring import right
from .cell import Cell
from .content import data_hash, digest, shown_hash
from .grid import Answer, Grid, layers_once, visual_counts
from .key import code_version, libraries, model_parts, record_key
from .queue import ON_ERROR, Task, answer_all
from .store import Log, Memory, Store

# An embedded answer is one word and the end; whatever second word comes, it is a wrong answer.
NEW_TOKENS = 2
COLUMNS = ("suite", "sample", "picture", "kind", "split", "group", "question", "answer", *CELL,
           "prediction", "score", "mean_tokens")  # fmt: skip


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
    for cell in cells:
        _check(model, cell)
    _check_media(model, suites)
    with ExitStack() as left:
        if isinstance(store, str | Path):
            store = left.enter_context(Store(store))
        parts = model_parts(model, processor) if store else {}
        tasks = tasks_of(store, parts, suites, cells, limit=limit, seed=seed,
                         batch_size=batch_size, shuffle=shuffle)  # fmt: skip
        asker = _Asker(model, processor, [task.suite for task in tasks])
        answer_all(tasks, asker.ask, asker.shared, on_error=on_error, wait=wait,
                   sharers=sharers if store else 1, progress=progress)  # fmt: skip
        return described(frame_of(tasks, cells, on_error), model)


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
        data = data_hash(one) if store else ""
        order = _batches(drawn.samples, batch_size, seed if shuffle else None)
        for cell in turns:
            log = _log(store, common, one, drawn, data, cell) if store else Memory()
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
    if all(cell.share is None for cell in cells):
        frame = frame.drop(columns="retention_pct")
    kinds = {"keep": "Int64", "retention_pct": "float64", "layer": "Int64", "rank": "float64"}
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame})


def _check(model: nn.Module, cell: Cell) -> None:
    """What a cell would be refused for in the middle of a run is an error before it."""
    if cell.method is None:
        return
    stages = cell.stages([100])  # of a share, any count will do to try the rest
    try:
        with pruned(model, stages):
            layers = len(family_of(model).part(model, "layers"))
        for chosen, keep, place in stages:
            chosen.schedule(keep, keep, layers, place.get("layer"))
        if cell.before:
            _check_order(model, cell, layers)
    except Exception as cause:
        cause.add_note(f"cell {cell.labels}")
        raise


def _check_media(model: nn.Module, suites: Sequence[Suite]) -> None:
    """ValueError for a suite of videos and a model of a family that takes none."""
    for one in suites:
        if one.media == "video" or any(_is_video(image) for image in one.samples["image"]):
            try:
                takes_videos(model)
            except ValueError as cause:
                cause.add_note(f"suite {one.name}")
                raise


def _check_order(model: nn.Module, cell: Cell, layers: int) -> None:
    """ValueError where the cut before a cell's own leaves it too few tokens of any prompt.

    The fewest tokens that a prompt can have: those that the counts ask for, and LLaVA's of a
    picture; of the other families pictures differ, and a share of fewer may be few enough.
    """
    fewest = [keep for keep in (cell.keep, cell.first[0][1]) if keep is not None]
    if family_of(model).model_type == "llava":
        fewest.append(model.config.image_seq_length)
    counts = [max(fewest)]
    planned = stages_of(model, cell.stages(counts), DEFAULT_KEEP, {})
    try:
        steps_of(planned, 0, counts, layers)
    except Infeasible:
        pass  # such a cell is left out, with a warning
    except ValueError as cause:
        if cell.share is not None:
            cause.add_note(f"share={cell.share:g} is of all {counts[0]} tokens of the prompt")
        raise


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


def _batches(samples: pd.DataFrame, size: int, seed: int | None = None) -> list[list[str]]:
    """Ids in equal parts of at most `size`, questions of like length together: little padding;
    videos of one number of frames together: they are one tensor. With a seed the parts in an order
    drawn by it, else from short to long."""
    length, parts = prompt_lengths(samples), []
    frames = np.array([_frames(image) for image in samples["image"]])
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
    return image["frames"] if _is_video(image) else 0


def _is_video(image: Any) -> bool:
    return isinstance(image, dict) and "video" in image


def _prompts(model: nn.Module, processor: Any, rows: pd.DataFrame) -> Any:
    """`prompts`; ValueError where a picture or video has left no visual token in its prompt."""
    inputs = prompts(processor, rows, model.device)
    for row, count in zip(rows.itertuples(), visual_counts(model, inputs), strict=True):
        if not count and row.image != []:
            raise ValueError(
                f"sample {row.id!r}: its {'video' if _is_video(row.image) else 'picture'} has no "
                f"visual token in the prompt; look whether the processor's chat template is one "
                f"for {family_of(model).name}"
            )
    return inputs


class _Asker:
    """Asks the model; what the cells of one batch share is made once."""

    def __init__(self, model: nn.Module, processor: Any, suites: Sequence[Suite]):
        self.model, self.processor = model, processor
        self.samples = {s.name: s.samples.set_index("id", drop=False) for s in suites}
        self.batches: dict[tuple[str, ...], _Batch] = {}
        self.coming: list[tuple[Task, list[str]]] = []
        self.sizes: dict[tuple[str, int], dict[str, float]] = {}
        self.by_spectrum: dict[Cell, dict[str, dict[str, int]]] = {}

    @contextmanager
    def shared(self, suite: Suite, coming: list[tuple[Task, list[str]]]) -> Iterator[None]:
        with pictures_once(self.model), layers_once(self.model):
            self.coming = coming
            try:
                yield
            finally:
                self.batches.clear()

    def ask(self, task: Task, ids: list[str]) -> list[dict]:
        """One record per sample: what was asked, said, right, kept, and how long it took (its
        share of the batch)."""
        rows = self.samples[task.suite.name].loc[ids]
        if tuple(ids) not in self.batches:
            together = [other.cell for other, them in self.coming if them == ids]
            inputs = _prompts(self.model, self.processor, rows)
            self.batches[tuple(ids)] = _Batch(self.model, inputs, rows, together, task.suite)
        batch = self.batches[tuple(ids)]
        asked = self._asked(task, ids, batch.grid.counts)
        try:
            answer, seconds = batch.answer(task.cell, asked)
        except Infeasible as floor:
            if task.cell.share is None:
                raise
            share = f"share={task.cell.share:g} (% of a prompt's visual tokens)"
            raise Infeasible(f"{share}: {floor}") from floor
        said = self.processor.batch_decode(answer.ids, skip_special_tokens=True)
        kept: list[list] = [[] for _ in ids]
        for cut in answer.cuts:
            kept[cut.row].append([cut.layer, cut.kept.tolist()])
        layers = {cut.layer for cut in answer.cuts}
        layer = layers.pop() if len(layers) == 1 else None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        records = [
            {
                "sample": row.id, "prompt": batch.hashes[i], "prediction": said[i].strip(),
                "answer": row.answer, "score": task.suite.hit(said[i].strip(), row),
                "mean_tokens": float(answer.mean_tokens[i]), "layer": layer, "kept": kept[i],
                "seconds": round(seconds / len(ids), 6), "at": at,
            }
            for i, row in enumerate(rows.itertuples())
        ]  # fmt: skip
        for record in records:
            if np.isnan(record["score"]):  # a caption has none of its own, and JSON has no NaN
                del record["score"]
        return records

    def _asked(
        self, task: Task, ids: list[str], counts: Sequence[int]
    ) -> tuple | list[tuple] | None:
        """The cell as `Grid` takes it; of a shared budget each question has its part.

        counts: visual tokens of each question.
        """
        if not task.cell.shared:
            return task.cell.asked(counts)
        known = self.by_spectrum.setdefault(task.cell, {})
        if task.suite.name not in known:
            known[task.suite.name] = self._by_spectrum(task)
        *before, (chosen, _, place) = task.cell.stages(counts)
        return [*before, (chosen, [known[task.suite.name][name] for name in ids], place)]

    def _by_spectrum(self, task: Task) -> dict[str, int]:
        """What each question of the suite keeps, in proportion to the modes of its interaction."""
        depth = len(family_of(self.model).part(self.model, "layers"))
        (cut,) = task.cell.chosen.schedule(1, 1, depth, task.cell.layer)
        place = task.suite.name, cut.layer
        if place not in self.sizes:
            self.sizes[place] = {}
            for ids in task.batches:
                made = prompts(self.processor, self.samples[place[0]].loc[ids], self.model.device)
                with observed(self.model, "interaction", layer=cut.layer) as found:
                    self.model(**made)
                counts = [modes(one["interaction"]) for one in found]
                self.sizes[place] |= dict(zip(ids, counts, strict=True))
        sizes = {name: self.sizes[place][name] for name in task.suite.samples["id"]}
        most = self.model.config.image_seq_length
        parts = share_out(list(sizes.values()), task.cell.keep, most)
        return dict(zip(sizes, parts, strict=True))


class _Batch:
    """One batch of prompts and the cells that are asked about it."""

    def __init__(
        self, model: nn.Module, inputs: Any, rows: pd.DataFrame, cells: Sequence[Cell], one: Suite
    ):
        self.hashes = _prompt_hashes(inputs, rows)
        self.grid = Grid(model, inputs, max_new_tokens=one.new_tokens or NEW_TOKENS)
        asked = [(cell, cell.asked(self.grid.counts)) for cell in cells]
        shared = [(cell, cuts) for cell, cuts in asked if self.grid.shares(cuts)]
        self.cells = [cell for cell, _ in shared]
        self.turns = self.grid.together([cuts for _, cuts in shared])
        self.made: dict[int, tuple[Answer, float]] = {}  # by number of the cell

    def answer(self, cell: Cell, asked: Any) -> tuple[Answer, float]:
        """A cell's answer and its seconds; the cells that share run as far as it takes.

        asked: the cell as `Grid` takes it, of a shared budget each prompt's part.
        """
        number = next((n for n, one in enumerate(self.cells) if one is cell), None)
        began, new = perf_counter(), []
        while number is not None and number not in self.made:
            try:
                new.append(next(self.turns))
            except Exception as cause:  # which cell's it is shows when they run alone
                self.cells, number = [], None
                warnings.warn(f"the cells of a batch run one by one: {cause!r}", stacklevel=4)
            else:
                share = (perf_counter() - began) / len(new)
                self.made |= {n: (one, share) for n, one in new}
        if number is not None:
            return self.made.pop(number)
        return self.grid.alone(asked), perf_counter() - began


def _prompt_hashes(inputs: Any, batch: pd.DataFrame) -> list[str]:
    """A hash of each prompt: its tokens without padding, and its picture by what it holds."""
    real = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    tokens = [ids[mask].tolist() for ids, mask in real]
    return [digest(both)[:16] for both in zip(tokens, map(shown_hash, batch["image"]), strict=True)]


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
    inputs = _prompts(model, processor, samples)
    counts = visual_counts(model, inputs)
    for cell in cells:
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        with pruned(model, cell.stages(counts)) as trace:
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
