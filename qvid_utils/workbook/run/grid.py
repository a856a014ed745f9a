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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...algebra.selection import Kept
from ...families import family_of
from ...families.attached import Attached
from ...families.calls import pictures_once, wrap_encoders
from ...methods import Method, method
from ...methods.evidence import Evidence, needing
from ...prune import CutRecord, block_of, pruned
from ...prune.plan import Given, Looking, Stage, kept_of, scores_of

__all__ = ["Answer", "Grid", "answers", "layers_once", "up_to", "visual_counts"]

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
        if not _is_on(model):
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


@dataclass(eq=False)
class _Cell:
    """One cell on a batch: its one cut, and for each prompt what it chose, once that is known."""

    number: int
    method: Method
    layer: int
    keeps: list[int]
    chosen: list[tuple[Tensor, Kept]] = field(default_factory=list)
    cuts: list[CutRecord] = field(default_factory=list)

    @property
    def place(self) -> tuple:
        """Cells of one place read the same evidence."""
        query = self.method.query
        return self.layer, id(query) if isinstance(query, Tensor) else query, self.method.rope

    @property
    def scores(self) -> tuple:
        """Cells of one place that are equal in this have the same scores."""
        return id(self.method.rule), repr(sorted(self.method.params.items()))

    @property
    def length(self) -> tuple:
        """Cells that are equal in this can be one batch."""
        kept = tuple(len(kept.index) for _, kept in self.chosen)
        return self.layer, self.method.positions, kept

    def twin(self, other: "_Cell") -> bool:
        """Whether two cells of one length leave the same stream: then one runs for both."""
        pairs = [(a, b) for (_, a), (_, b) in zip(self.chosen, other.chosen, strict=True)]
        plain = all(k.merged is k.patches is k.stands is None for pair in pairs for k in pair)
        return plain and all(torch.equal(a.index, b.index) for a, b in pairs)


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
        if not _is_on(model):
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

    def _cell(self, number: int, cell: tuple | list) -> _Cell | None:
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
        return _Cell(number, chosen, cuts[0][0].layer, [one[0].keep for one in cuts])

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
        groups: dict[tuple, list[_Cell]] = {}
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
            _Cell(n, chosen, layer, [len(one) for one in sets], [(one, Kept(one)) for one in sets])
            for n, sets in enumerate(kept)
        ]
        yield from self._continued(cells)

    # ----------------------------------------------------------------- once, on the whole prompts

    def _scored(self, cells: Sequence[_Cell], to_the_end: bool) -> Tensor | None:
        """Every rule scores the passing prompts; ids of the unpruned model, if to the end."""
        places: dict[tuple, list[_Cell]] = {}
        for cell in cells:
            places.setdefault(cell.place, []).append(cell)
        stages = [_looking(str(k), group) for k, group in enumerate(places.values())]
        with ExitStack() as left:
            if stages:
                trace = left.enter_context(block_of(self.model, stages))
            if not to_the_end and not stages:
                return None
            if not to_the_end:
                left.enter_context(_stopping(self.layers[max(cell.layer for cell in cells)]))
            try:
                ids = self._generate()
            except _Enough:
                ids = None
        for k, group in enumerate(places.values()):
            seen = [cut for cut in trace.cuts if cut.method == str(k)]
            for cell in group:
                cell.cuts = [_record(cut, cell, len(group)) for cut in seen]
        return ids

    # ------------------------------------------------------------------- the rest, after the cuts

    def _continued(self, group: list[_Cell]) -> Iterator[tuple[int, Answer]]:
        """Cells of one length, as one batch or a few."""
        leaders: list[_Cell] = []
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

    def _batch(self, cells: Sequence[_Cell]) -> Iterator[tuple[Tensor, list[float]]]:
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
            name: value if name.startswith(pixels) else _copied(value, count)
            for name, value in self.inputs.items()
        }

        def copying(name: str, encode: Callable) -> Callable:
            names = tuple(inspect.signature(encode).parameters)

            @functools.wraps(encode)  # generate reads the signature to know what to hand over
            def encoded(*args: Any, **kwargs: Any) -> Any:
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                out = encode(**{name: self.inputs.get(name, v) for name, v in given.items()})
                out = copy.copy(out)
                out.pooler_output = _copied(out.pooler_output, count)
                if (added := getattr(out, "deepstack_features", None)) is not None:
                    out.deepstack_features = [_copied(layer, count) for layer in added]
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


def _looking(name: str, cells: Sequence[_Cell]) -> Stage:
    """A stage that scores for all cells of one place and cuts nothing."""
    first = cells[0]

    def look(evidence: Evidence) -> None:
        row, scores = len(first.chosen), {}
        for cell in cells:
            if cell.scores not in scores:
                scores[cell.scores] = scores_of(cell.method, evidence)
            found = scores[cell.scores]
            kept = kept_of(cell.method, evidence, found, cell.keeps[row])
            cell.chosen.append((found, kept))

    words = set().union(*(cell.method.sees for cell in cells))
    return Looking(replace(first.method, name=name), words, layer=first.layer, look=look)


def _record(cut: CutRecord, cell: _Cell, shared_by: int) -> CutRecord:
    """What the cell chose for a prompt that was looked at; the seconds are its part."""
    scores, kept = cell.chosen[cut.row]
    return replace(
        cut,
        method=cell.method.name,
        scores=scores.detach(),
        kept=cut.scored[kept.index],
        n_query=cut.n_query if needing("query") & cell.method.sees else 0,
        seconds=cut.seconds / shared_by,
    )


class _Enough(Exception):
    """Ends a pass whose scores have been taken."""


@contextmanager
def up_to(model: nn.Module, layer: int) -> Iterator[None]:
    """A block that ends where a decoder layer would run: what is observed there has been seen."""
    with suppress(_Enough), _stopping(family_of(model).part(model, "layers")[layer]):
        yield


@contextmanager
def _stopping(layer: nn.Module) -> Iterator[None]:
    """A pass ends where this layer would run; its door is still passed."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _Enough

    with Attached() as hung:
        hung.instead(layer, "forward", stop)
        yield


def _copied(value: Any, count: int) -> Any:
    """A batch so many times over, one copy after the other."""
    if isinstance(value, Tensor):
        return value.repeat(count, *[1] * (value.dim() - 1))
    return value * count if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------------- layers below a cut


def _is_on(model: nn.Module) -> bool:
    return any("forward" in vars(layer) for layer in family_of(model).part(model, "layers"))


@contextmanager
def layers_once(model: nn.Module) -> Iterator[None]:
    """Inside the block a decoder layer computes the same prompt once, however many calls bring it.

    Only the first prompts that a layer sees are remembered: let them be the unpruned ones, and use
    a block for each batch. The same batch several times over is known again, too. Decoding steps
    and everything with gradients run as always. Answers are those without the block, bit for bit.
    Raises RuntimeError for a block within a block.
    """
    if _is_on(model):
        raise RuntimeError("layers_once is already on for this model: blocks do not nest")
    with Attached() as hung:
        for number, layer in enumerate(family_of(model).part(model, "layers")):
            hung.instead(layer, "forward", _remembering(layer.forward, number))
        yield


def _remembering(forward: Callable, number: int) -> Callable:
    memory: list[tuple[Tensor, dict, Tensor, Tensor, Tensor]] = []  # at most one batch

    def once(hidden: Tensor, **given: Any) -> Tensor:
        cache = given.get("past_key_values")
        if torch.is_grad_enabled() or cache is None or cache.get_seq_length(number):
            return forward(hidden, **given)
        told = {k: v for k, v in given.items() if k not in ("past_key_values", "position_ids")}
        if not memory:
            out = forward(hidden, **given)
            kept = cache.layers[number]
            memory.append((hidden, told, out, kept.keys, kept.values))
            return out
        before, known, out, keys, values = memory[0]
        count = len(hidden) // len(before)
        if not count or not (_equal(hidden, before, count) and _equal(told, known, count)):
            return forward(hidden, **given)
        if count > 1:
            out, keys, values = (_copied(t, count) for t in (out, keys, values))
        cache.update(keys, values, number)
        return out

    return once


def _equal(a: Any, b: Any, count: int = 1) -> bool:
    """Whether an argument of a layer equals another, or so many copies of it, to the last bit."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape == b.shape:
            return torch.equal(a, b)
        copies = (count, *b.shape)
        return a.shape == (count * len(b), *b.shape[1:]) and torch.equal(
            a.unflatten(0, copies[:2]), b.expand(copies)
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k], count) for k in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y, count) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b
