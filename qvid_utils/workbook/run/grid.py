"""Many (method, keep, layer) cells in one pass over shared work.

    found = answers(model, inputs, [("qvid", 64), ("qvid", 32), ("fastv", 64)], max_new_tokens=16)

Cells that prune the same prompts have their pictures in common and the layers below their cuts,
cells of one rule their scores, and cells that keep equally many tokens at one layer can be one
batch. So the prompts pass once, up to the highest cut, and every rule scores once as they do; then
the rest runs, cells of one length together. Nothing is shared on trust: what a layer has done is
used again only for a prompt that comes in equal to the last bit.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...algebra.selection import Kept
from ...families import family_of
from ...families.attached import Attached
from ...families.calls import pictures_once, wrap_encoders
from ...methods import method
from ...prune import CutRecord, block_of, pruned
from ...prune.stages import Given
from .grid_cell import GridCell, looking, record_of
from .shared_layers import Enough, copied, is_on, layers_once, stopping

__all__ = ["Answer", "Grid", "answers", "visual_counts"]

ROWS = 64  # of one batch at most, unless the caller's own has more
CONTROLS = ("score_question", "control", "control_seed")  # options of cells that run alone
GREEDY = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}


@dataclass(frozen=True, eq=False)
class Answer:
    """What one cell answers. ids (B, n): the new tokens, padding after an end; cuts: as in a Trace;
    mean_tokens: for each prompt, visual tokens at a layer's input, mean over the layers."""

    ids: Tensor
    cuts: list[CutRecord]
    mean_tokens: list[float]


def answers(
    model: nn.Module,
    inputs: Mapping[str, Any],
    cells: Sequence[tuple | list | None],
    **options: Any,
) -> list[Answer]:
    """The greedy answer of every cell to the same batch of prompts, in the order of the cells.

    cells: (method, keep) or (method, keep, {"layer": 5, "rank": 8, …}) as `pruned` takes them, keep
    one number or one for each prompt, a list of such cuts one after the other, None for the
    unpruned model; options: of `model.generate`, e.g. max_new_tokens. Each answer is that of
    `pruned` and `generate` alone: the same tokens are kept, and logits agree up to the rounding
    that another batch size brings. Cells that cut more than once, inside the vision tower or in two
    passes run alone; they share pictures and lower layers.
    Raises ValueError for options that draw or search, and what `pruned` raises.
    """
    with ExitStack() as left:
        if not is_on(model):
            left.enter_context(pictures_once(model))
            left.enter_context(layers_once(model))
        grid = Grid(model, inputs, **options)
        shared = [(n, cell) for n, cell in enumerate(cells) if grid.shares(cell)]
        numbers, together = zip(*shared, strict=True) if shared else ((), ())
        found = {numbers[n]: answer for n, answer in grid.together(together)}
        found |= {n: grid.alone(cell) for n, cell in enumerate(cells) if n not in found}
    return [found[n] for n in range(len(cells))]


def visual_counts(model: nn.Module, inputs: Mapping[str, Any]) -> list[int]:
    """N_v of each prompt: how many visual tokens it has, padding apart."""
    ids = inputs["input_ids"]
    visual = torch.isin(ids, ids.new_tensor(family_of(model).visual_tokens(model.config)))
    if inputs.get("attention_mask") is not None:
        visual = visual & inputs["attention_mask"].bool()
    return visual.sum(1).tolist()


class Grid:
    """The cells of one batch of prompts; `pictures_once` and `layers_once` must be on.

    Raises RuntimeError where they are not, ValueError for options that draw or search.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any], **options: Any):
        default = options.get("generation_config") or model.generation_config
        for name, value in GREEDY.items():
            given = options.get(name, getattr(default, name, None))
            if given not in (None, value):
                raise ValueError(f"{name}={given!r}: a grid answers greedily, give {value!r}")
        if not is_on(model):
            raise RuntimeError("open pictures_once and layers_once first, or use `answers`")
        self.model, self.inputs, self.options = model, inputs, {**options, "do_sample": False}
        ids, self.family = inputs["input_ids"], family_of(model)
        self.counts, self.rows = visual_counts(model, inputs), len(ids)
        self.layers = self.family.part(model, "layers")
        ends = options.get("eos_token_id", getattr(default, "eos_token_id", None))
        self.ends = ids.new_tensor([] if ends is None else ends).flatten()

    def shares(self, cell: tuple | list | None) -> bool:
        """Whether a cell can run with others: it cuts every prompt once, at one layer."""
        return cell is None or self._cell(0, cell) is not None

    def _cell(self, number: int, cell: tuple | list) -> GridCell | None:
        if isinstance(cell, list):
            return None
        name, keep, options = (*cell, {})[:3]
        options = {key: value for key, value in options.items() if value is not None}
        keeps = list(keep) if isinstance(keep, list | tuple) else [keep] * self.rows
        whole = len(keeps) == self.rows and all(type(one) is int for one in keeps)
        if not whole or {"processor", "clip", "share", *CONTROLS} & set(options):
            return None
        layer = options.pop("layer", None)
        chosen = method(name, **options)
        if chosen.encode is not None or chosen.reading != "in_place" or not all(self.counts):
            return None
        try:
            pairs = zip(keeps, self.counts, strict=True)
            cuts = [chosen.schedule(one, n, len(self.layers), layer) for one, n in pairs]
        except ValueError:  # by itself it says why
            return None
        if any(len(one) > 1 or one[0].layer != cuts[0][0].layer for one in cuts):
            return None
        return GridCell(number, chosen, cuts[0][0].layer, [one[0].keep for one in cuts])

    @torch.inference_mode()
    def alone(self, cell: tuple | list | None) -> Answer:
        """The answer of a cell by itself; where no prompt has a picture, that of the full model."""
        if cell is None or not any(self.counts):
            return Answer(self._new(self._generate()), [], [float(n) for n in self.counts])
        name, keep, options = (cell, None, {}) if isinstance(cell, list) else (*cell, {})[:3]
        budget = {} if keep is None else {"keep": keep}
        with pruned(self.model, name, **budget, **options) as trace:
            ids = self._generate()
        return Answer(self._new(ids), trace.cuts, trace.mean_tokens)

    @torch.inference_mode()
    def together(self, cells: Sequence[tuple | None]) -> Iterator[tuple[int, Answer]]:
        """Answers of cells that share, as they are made, each with the number of its cell."""
        full = [number for number, cell in enumerate(cells) if cell is None]
        mine = [self._cell(n, cell) for n, cell in enumerate(cells) if cell is not None]
        if None in mine:
            raise ValueError("a cell that cuts more than once or in the vision tower runs `alone`")
        ids = self._scored(mine, to_the_end=bool(full))
        means = [float(n) for n in self.counts]
        yield from ((number, Answer(self._new(ids), [], means)) for number in full)
        groups: dict[tuple, list[GridCell]] = {}
        for cell in mine:
            groups.setdefault(cell.length, []).append(cell)
        for group in groups.values():
            yield from self._continued(group)

    @torch.inference_mode()
    def given(self, layer: int, kept: Sequence[Sequence[Tensor]]) -> Iterator[tuple[int, Answer]]:
        """Answers where what is kept was chosen before: kept[c][b] (K,) ascending are the visual
        tokens that enter `layer` of prompt b in choice c, equally many in all."""
        chosen = method("random")
        cells = [
            GridCell(
                n, chosen, layer, [len(one) for one in sets], [(one, Kept(one)) for one in sets]
            )
            for n, sets in enumerate(kept)
        ]
        yield from self._continued(cells)

    # ----------------------------------------------------------------- once, on the whole prompts

    def _scored(self, cells: Sequence[GridCell], to_the_end: bool) -> Tensor | None:
        """Every rule scores the passing prompts; ids of the unpruned model, if to the end."""
        places: dict[tuple, list[GridCell]] = {}
        for cell in cells:
            places.setdefault(cell.place, []).append(cell)
        stages = [looking(str(k), group) for k, group in enumerate(places.values())]
        with ExitStack() as left:
            if stages:
                trace = left.enter_context(block_of(self.model, stages))
            if not to_the_end and not stages:
                return None
            if not to_the_end:
                left.enter_context(stopping(self.layers[max(cell.layer for cell in cells)]))
            try:
                ids = self._generate()
            except Enough:
                ids = None
        for k, group in enumerate(places.values()):
            seen = [cut for cut in trace.cuts if cut.method == str(k)]
            for cell in group:
                cell.cuts = [record_of(cut, cell, len(group)) for cut in seen]
        return ids

    # ------------------------------------------------------------------- the rest, after the cuts

    def _continued(self, group: list[GridCell]) -> Iterator[tuple[int, Answer]]:
        """Cells of one length, as one batch or a few."""
        leaders: list[GridCell] = []
        twins = {}
        for cell in group:
            same = next((one for one in leaders if one.twin(cell)), cell)
            twins[cell.number] = same.number
            leaders += [cell] if same is cell else []
        most = max(1, ROWS // self.rows)
        for start in range(0, len(leaders), most):
            batch = leaders[start : start + most]
            found = dict(zip([c.number for c in batch], self._batch(batch), strict=True))
            for cell in group:
                if twins[cell.number] in found:
                    ids, means = found[twins[cell.number]]
                    yield cell.number, Answer(ids, cell.cuts, means)

    def _batch(self, cells: Sequence[GridCell]) -> Iterator[tuple[Tensor, list[float]]]:
        """New ids and mean tokens of each cell; row c·B + b is prompt b under cell c."""
        rows = self.rows
        stage = Given(
            method=cells[0].method,
            sees=set(),
            layer=cells[0].layer,
            keeps=tuple(keep for cell in cells for keep in cell.keeps),
            choices=[choice for cell in cells for choice in cell.chosen],
        )
        with self._copies(len(cells)) as inputs, block_of(self.model, [stage]) as trace:
            ids = self._generate(inputs)
        for start in range(0, len(ids), rows):
            part = slice(start, start + rows)
            yield self._new(ids[part]), trace.mean_tokens[part]

    @contextmanager
    def _copies(self, count: int) -> Iterator[Mapping[str, Any]]:
        """The batch so many times over; its pictures are encoded as they came, and then copied."""
        if count == 1:
            yield self.inputs
            return
        pixels = "pixel_values"
        inputs = {
            name: value if name.startswith(pixels) else copied(value, count)
            for name, value in self.inputs.items()
        }

        def copying(name: str, encode: Callable) -> Callable:
            names = tuple(inspect.signature(encode).parameters)

            @functools.wraps(encode)  # generate reads the signature to know what to hand over
            def encoded(*args: Any, **kwargs: Any) -> Any:
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                out = encode(**{name: self.inputs.get(name, v) for name, v in given.items()})
                out = copy.copy(out)
                out.pooler_output = copied(out.pooler_output, count)
                if (added := getattr(out, "deepstack_features", None)) is not None:
                    out.deepstack_features = [copied(layer, count) for layer in added]
                return out

            return encoded

        with Attached() as hung:
            wrap_encoders(hung, self.model, copying)
            yield inputs

    def _generate(self, inputs: Mapping[str, Any] | None = None) -> Tensor:
        return self.model.generate(**(self.inputs if inputs is None else inputs), **self.options)

    def _new(self, ids: Tensor) -> Tensor:
        """The new tokens, as long as the longest of these answers."""
        new = ids[:, self.inputs["input_ids"].shape[1] :]
        goes_on = ~torch.isin(new, self.ends).cumsum(1).bool()
        return new[:, : min(new.shape[1], int(goes_on.sum(1).max()) + 1)]
