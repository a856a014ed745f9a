"""Asks the model: what the cells of one batch share is made once."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ...algebra.cuts import Infeasible
from ...families import family_of
from ...families.calls import pictures_once
from ...methods.qvid_variants import modes, share_out
from ...prune import observed
from ..benchmarks import Suite
from ..benchmarks.prompts import prompts
from .batches import is_video
from .cell import Cell
from .content import digest, shown_hash
from .grid import Answer, Grid, visual_counts
from .queue import Task
from .shared_layers import layers_once

__all__ = ["NEW_TOKENS", "Asker", "prompts_of"]

# An embedded answer is one word and the end; whatever second word comes, it is a wrong answer.
NEW_TOKENS = 2


def prompts_of(model: nn.Module, processor: Any, rows: pd.DataFrame | Sequence[Any]) -> Any:
    """`prompts`; ValueError where a picture or video has left no visual token in its prompt."""
    if isinstance(rows, pd.DataFrame):
        rows = list(rows.itertuples())
    inputs = prompts(processor, rows, model.device)
    for row, count in zip(rows, visual_counts(model, inputs), strict=True):
        if not count and row.image != []:
            raise ValueError(
                f"sample {row.id!r}: its {'video' if is_video(row.image) else 'picture'} has no "
                f"visual token in the prompt; look whether the processor's chat template is one "
                f"for {family_of(model).name}"
            )
    return inputs


class Asker:
    """Asks the model; what the cells of one batch share is made once."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        suites: Sequence[Suite],
        others: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ):
        """others: suite -> sample -> another question, for the cells that are scored with it."""
        self.model, self.processor, self.others = model, processor, others
        by_name = {one.name: one for one in suites}
        self.rows = {name: _rows_of(one) for name, one in by_name.items()}
        self.shown: dict[int, str] = {}  # hashes of pictures that were shown before
        self.batches: dict[tuple[str, ...], Batch] = {}
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
        rows = [self.rows[task.suite.name][name] for name in ids]
        if tuple(ids) not in self.batches:
            together = [other.cell for other, them in self.coming if them == ids]
            inputs = prompts_of(self.model, self.processor, rows)
            hashes = _prompt_hashes(inputs, rows, self.shown)
            others = [self.others.get(task.suite.name, {}).get(name, "another?") for name in ids]
            self.batches[tuple(ids)] = Batch(
                self.model, inputs, hashes, together, task.suite, others
            )
        batch = self.batches[tuple(ids)]
        asked = self._cuts(task, ids, batch)
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
            for i, row in enumerate(rows)
        ]  # fmt: skip
        for record in records:
            if np.isnan(record["score"]):  # a caption has none of its own, and JSON has no NaN
                del record["score"]
        return records

    def _cuts(self, task: Task, ids: list[str], batch: "Batch") -> tuple | list[tuple] | None:
        """The cell as `Grid` takes it; of a shared budget each question has its part."""
        counts = batch.grid.counts
        if not task.cell.shared:
            return task.cell.asked(counts, batch.others)
        known = self.by_spectrum.setdefault(task.cell, {})
        if task.suite.name not in known:
            known[task.suite.name] = self._by_spectrum(task)
        *before, (chosen, _, place) = task.cell.stages(counts, batch.others)
        return [*before, (chosen, [known[task.suite.name][name] for name in ids], place)]

    def _by_spectrum(self, task: Task) -> dict[str, int]:
        """What each question of the suite keeps, in proportion to the modes of its interaction."""
        depth = len(family_of(self.model).part(self.model, "layers"))
        (cut,) = task.cell.chosen.schedule(1, 1, depth, task.cell.layer)
        place = task.suite.name, cut.layer
        if place not in self.sizes:
            self.sizes[place] = {}
            for ids in task.batches:
                rows = [self.rows[place[0]][name] for name in ids]
                made = prompts(self.processor, rows, self.model.device)
                with observed(self.model, "interaction", layer=cut.layer) as found:
                    self.model(**made)
                counts = [modes(one["interaction"]) for one in found]
                self.sizes[place] |= dict(zip(ids, counts, strict=True))
        sizes = {name: self.sizes[place][name] for name in task.suite.samples["id"]}
        most = self.model.config.image_seq_length
        parts = share_out(list(sizes.values()), task.cell.keep, most)
        return dict(zip(sizes, parts, strict=True))


class Batch:
    """One batch of prompts and the cells that are asked about it."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        hashes: list[str],
        cells: Sequence[Cell],
        one: Suite,
        others: Sequence[str],
    ):
        self.hashes, self.others = hashes, others
        self.grid = Grid(model, inputs, max_new_tokens=one.new_tokens or NEW_TOKENS)
        asked = [(cell, cell.asked(self.grid.counts, others)) for cell in cells]
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


def _prompt_hashes(inputs: Any, rows: Sequence[Any], shown: dict[int, str]) -> list[str]:
    """A hash of each prompt: its tokens without padding, and its picture by what it holds."""
    real = zip(inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool(), strict=True)
    tokens = [ids[mask].numpy() for ids, mask in real]
    return [
        digest([ids, shown_hash(row.image, shown)])[:16]
        for ids, row in zip(tokens, rows, strict=True)
    ]


def _rows_of(one: Suite) -> dict[str, Any]:
    return {row.id: row for row in one.samples.itertuples()}
