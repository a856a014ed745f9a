"""Drop visual tokens inside the language model: the one file that touches hooks.

    with pruned(model, "qvid", keep=16) as trace:
        model.generate(**inputs)

A rule scores the visual tokens standing at the door of a decoder layer; the best `keep` enter, the
others are gone for that layer and all later ones. Layer 0 is the door of the language model.

How it works. A pre-hook on the base model reads each call's ids and mask; pre-hooks on the decoder
layers shorten the stream where a cut is made and, from there on, hand every layer the mask and
the rotary pair that fit. `input_ids` stay as they are, and with them every position and length that
the library derives from them. Between calls one thing is remembered, for each cache: its `Ledger`.
"""

import functools
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from ..algebra.cuts import Cut
from ..algebra.selection import Kept
from ..families import Unavailable, family_of, query_tokens
from ..families.calls import (
    check_axes,
    check_continuation,
    check_not_compiled,
    check_outputs,
    check_prompt,
    has_pixels,
    in_chunks,
    instead,
    pictures_once,
    real_tokens,
)
from ..methods import Method
from ..methods import method as find_method
from ..methods.evidence import WORDS, Evidence, needing
from .entry import check_parts
from .plan import DEFAULT_KEEP, Stage, Step, check_numbers, stages_of, steps_of
from .scene import Scene
from .vision import Pictures

__all__ = ["CutRecord", "Trace", "block_of", "observed", "pictures_once", "pruned"]


@dataclass(frozen=True, eq=False)
class CutRecord:
    """One cut of one prompt. Visual tokens are numbered 0..N_v-1 as in the caller's prompt.

    call: which call with pictures, from 0; row: of the batch; layer: where it was scored; method:
    by name; scores (n_visual,) and `scored` (n_visual,): the score of each token that was still
    there, and its number (-1 for one that stands for no single token: an earlier method's class
    token or sum); kept (K,): the numbers of the places that survive, where a method merges not
    always the tokens that stand there; n_query: query tokens of the
    prompt (0 for a rule that reads none); seconds: host time of scoring and choosing.
    """

    call: int
    row: int
    layer: int
    method: str
    scores: Tensor
    scored: Tensor
    kept: Tensor
    n_visual: int
    n_query: int
    seconds: float


@dataclass(eq=False)
class Trace:
    """What happened inside a `pruned` block.

    cuts: every cut, in order; mean_tokens: for each row of the last call with pictures, visual
    tokens at a layer's input, mean over the layers (two_pass: the layers of the scoring pass are
    added); query: that call's query tokens, bool over its (rows, columns), of the first method
    that needs a question; None where none does.
    """

    cuts: list[CutRecord] = field(default_factory=list)
    mean_tokens: list[float] = field(default_factory=list)
    query: Tensor | None = None


@contextmanager
def pruned(
    model: nn.Module,
    method: str | Method | Sequence[tuple] = "qvid",
    keep: int | Sequence[int] = DEFAULT_KEEP,
    *,
    layer: int | None = None,
    query: str | Tensor | None = None,
    positions: str | None = None,
    reading: str | None = None,
    processor: Any = None,
    clip: Any = None,
    **params: Any,
) -> Iterator[Trace]:
    """Prune visual tokens inside the block; leave the model as it was found, also after an error.

    method: a name in METHODS, a rule's name, or a Method; keep (default 64): visual tokens per
    prompt, after the cut of a single-cut method, as the mean over layers of a staged one, or a list
    with such a number for each row of the batch; layer: where a single cut is made (0..L-1;
    default: the method's depth); query: "question", "content", "prompt", or a bool mask over the
    prompt's tokens; positions: "original" or "contiguous"; reading: "in_place", or "two_pass"
    (score at the layer, then start over without the losers); processor: whose chat template finds
    the question, where `load` did not already say; clip: folder or hub id of the CLIP pair, for
    methods that need its text tower (default: beside the model, else its family's); params: of the
    rule, e.g. rank=8, or of a selection that has options, e.g. official_counts=True.

    Methods compose: [("divprune", 72), ("qvid", 16, {"rank": 8})] cuts with each in turn, at its
    own layer and with its own options, and each sees what the ones before have left. `keep` of a
    staged method is then the mean that it would have alone. Where two cut at one layer, the order
    is yours, and positions are counted anew where one of the two does so.

    Every call with pictures is a new prompt, each row of a batch for itself. A cache pruned in the
    block must be continued in the block. Without a cache (use_cache=False) each step is scored
    anew, so rules that read the last token or the prompt number choose anew, too.
    ValueError, TypeError or Unavailable, with what is allowed, where something cannot be done.
    """
    options = {"layer": layer, "query": query, "positions": positions, "reading": reading, **params}
    stages = stages_of(model, method, keep, options)
    with _Engine(model, stages, processor, clip).attached() as trace:
        yield trace


@contextmanager
def observed(
    model: nn.Module,
    *words: str,
    layer: int,
    query: str | Tensor = "question",
    rope: bool = False,
    processor: Any = None,
) -> Iterator[list[dict[str, Any]]]:
    """Collect evidence where a layer begins and change nothing: one dict for each prompt with
    pictures, e.g. `observed(model, "interaction", layer=3)`, with the words as keys."""
    check_numbers(model, 1, layer)
    unknown = sorted(set(words) - set(WORDS))
    if unknown:
        raise ValueError(f"no evidence is called {', '.join(unknown)}; known: {', '.join(WORDS)}")
    neutral = replace(find_method("qvid"), query=query, rope=rope)
    found: list[dict[str, Any]] = []

    def choose(evidence: Evidence, count: int) -> tuple[Tensor, Kept]:
        found.append({word: getattr(evidence, word) for word in words})
        every = torch.arange(count, device=evidence.visual.device)
        return torch.zeros(count, device=every.device), Kept(every)

    def plan(keep: int, n_visual: int) -> tuple[Cut, ...]:
        return (Cut(layer, n_visual),)

    with _Engine(model, [Stage(neutral, set(words), plan, choose)], processor).attached():
        yield found


@contextmanager
def block_of(model: nn.Module, stages: Sequence[Stage], processor: Any = None) -> Iterator[Trace]:
    """The block of `pruned` for stages that were made elsewhere (`grid`)."""
    with _Engine(model, stages, processor).attached() as trace:
        yield trace


@dataclass(eq=False)
class Ledger:
    """What is remembered of a sequence whose cache is alive.

    seen: for each layer with a cut, which of the tokens cached from there on are real, bool
    (rows, cached), or None where all are; renumbered: those of these layers that count positions
    anew; lost: columns of the caller's that layer 0's cache lacks; pads (rows,): the caller's
    padding; place, mark (rows, d_h): the place of the prompt's last token in the last layer's cache
    and a key that stands there, by which a row is known again.
    """

    seen: dict[int, Tensor | None] = field(default_factory=dict)
    renumbered: set[int] = field(default_factory=set)
    lost: int = 0
    pads: Tensor | int = 0
    place: int = 0
    mark: Tensor | None = None


@dataclass(eq=False)
class _Call:
    """One forward call; tensors are (B, S), the tokens at the door of the layer about to run."""

    sites: set[int]  # layers where the sequence is, or was once, shortened
    real: Tensor | None  # (B, past + S) the caller's tokens that are no padding; None: all
    valid: Tensor | None  # of this call: no padding, not dropped; None: all
    short: bool = False  # past the first site: from here on layers get our mask and rotary pair
    mask: Any = None
    rotary: tuple[Tensor, Tensor] | None = None
    scene: Scene | None = None  # only where the call has pictures, like the rest
    plan: list[list[Step]] = field(default_factory=list)  # per row, in the order of the cuts
    words: list[Tensor | None] = field(default_factory=list)  # per stage: (B, S) its query tokens
    look: int | None = None  # two_pass: where to score before starting over ...
    verdict: Tensor | None = None  # ... and who survived
    made: Counter = field(default_factory=Counter)  # how often each (row, stage, layer) was cut
    ran: int = 0  # layers that were entered with this call's own stream


class _Scored(Exception):
    """Carries the survivors out of a scoring pass."""


_ACTIVE: WeakSet = WeakSet()  # base models inside a block
_CUT: WeakSet = WeakSet()  # caches that hold a pruned prompt, whichever block pruned it


class _Engine:
    """The hooks of one block and what they remember."""

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        processor: Any,
        clip: Any = None,
    ):
        self.model, self.family, self.base = model, family_of(model), model.base_model
        self.text = self.family.part(model, "language")
        self.layers = self.family.part(model, "layers")
        self.config = self.text.config
        self.stages, self.processor = stages, processor
        check_parts(model, self.family, any(s.sees & needing("tower") or s.site for s in stages))
        self.pictures = Pictures(model, stages, processor, clip)
        self.sees = self.pictures.sees
        self.trace, self.calls, self.now = Trace(), 0, None
        self.asked = False  # whether a call with pictures has come, be it refused
        self.ledger, self.ledgers = Ledger(), WeakKeyDictionary()  # cache -> Ledger
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(self.config, "sliding_window", None):
            # a window over shortened columns would mean another distance
            raise Unavailable("pruning needs full attention in all layers; this model has windows")
        renumbers = any(stage.method.positions == "contiguous" for stage in stages)
        if renumbers and not self.family.one_axis:
            raise Unavailable(
                f"positions='contiguous': {self.family.name} counts positions along several axes, "
                "which cannot be renumbered; use 'original'"
            )
        moved = [s.method.name for s in stages if getattr(s.method.select, "reorders", False)]
        if moved and not self.family.one_axis:
            raise Unavailable(
                f"method {moved[0]!r} puts tokens in an order of its own, and {self.family.name} "
                "counts positions along several axes, which cannot be renumbered"
            )

    @contextmanager
    def attached(self) -> Iterator[Trace]:
        if self.base in _ACTIVE:
            raise RuntimeError(
                "this model is already inside a pruned block: leave it first, blocks do not nest"
            )
        wanted = [(self.model, self.refuse)] if self.model is not self.base else []
        wanted += [(self.base, self.begin), (self.text, self.score_first)]
        wanted += [(layer, self._entering(i)) for i, layer in enumerate(self.layers)]
        _ACTIVE.add(self.base)
        with ExitStack() as left:
            left.callback(self.forget)
            for module, hook in wanted:
                left.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            left.callback(self.base.register_forward_hook(self.end).remove)
            left.enter_context(self.pictures.watched())
            left.enter_context(self.generating())
            yield self.trace
            if not self.asked:
                warnings.warn(
                    "no call with pictures has reached the model inside this block, so nothing was "
                    "pruned: ask the very model that the block was given",
                    stacklevel=5,
                )

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Inside the block `generate` is known to run, and no thread goes on with it afterwards."""
        if not hasattr(self.model, "generate"):
            yield
            return
        running, closed = Counter(), threading.Event()

        def check_open(*_: Any) -> None:
            if closed.is_set() and running[threading.get_ident()]:
                raise RuntimeError(
                    "the pruned block was left while generate was running in this thread: join the "
                    "thread before the block ends"
                )

        def generate(plain: Callable, *args: Any, **kwargs: Any) -> Any:
            hook = self.base.register_forward_pre_hook(check_open)
            running[threading.get_ident()] += 1
            try:
                return plain(*args, **kwargs)
            finally:
                running[threading.get_ident()] -= 1
                hook.remove()

        plain = self.model.generate
        with instead(
            self.model, "generate", functools.wraps(plain)(functools.partial(generate, plain))
        ):
            try:
                yield
            finally:
                closed.set()
        if running.total():
            raise RuntimeError(
                "a pruned block was left while generate was running in another thread: join the "
                "thread before the block ends"
            )

    def forget(self) -> None:
        _ACTIVE.discard(self.base)
        self.now, self.ledgers = None, WeakKeyDictionary()

    def _entering(self, i: int) -> Callable:
        return lambda layer, args, kwargs: self.enter(i, args, kwargs)

    # ---------------------------------------------------------------------------- a call begins

    def refuse(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        """What only the outermost forward is told."""
        if has_pixels(kwargs):
            check_outputs(kwargs)

    def begin(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        self.now = None
        if args:
            kwargs = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
        self.asked |= has_pixels(kwargs)
        check_not_compiled()
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if ids is None:
            raise ValueError(
                "pruning finds the visual tokens in input_ids: call the model with input_ids, "
                "not with inputs_embeds"
            )
        past = 0 if cache is None else int(cache.get_seq_length())
        self.ledger = self._ledger_of(cache, past)
        pictures = has_pixels(kwargs)
        if ids.shape[1] > 1 and in_chunks() and bool(self._visual(ids).any()):
            raise ValueError(
                "prefill_chunk_size: a prompt with pictures can only be pruned whole; generate "
                "without it"
            )
        if not pictures and not self.ledger.seen:
            return  # text only, and nothing was pruned before
        if self.ledger.lost:
            expected = past + self.ledger.lost - self.ledger.pads
            check_continuation(ids, kwargs.get("position_ids"), expected)
        mask = kwargs.get("attention_mask")
        real = real_tokens(mask, past + ids.shape[1], aligned=not self.ledger.lost)
        valid = None if real is None else real[:, -ids.shape[1] :]
        if pictures:
            self.now = self._prompt(_Call(set(self.ledger.seen), real, valid), ids, past, kwargs)
        else:
            valid = None if valid is None or bool(valid.all()) else valid
            self.now = _Call(set(self.ledger.seen), real, valid)

    def end(self, base: nn.Module, args: tuple, output: Any) -> None:
        """Remember a key of each row's, where rows differ in what of them is padding or filler."""
        cache = getattr(output, "past_key_values", None)
        if self.now is None:
            return
        self.check_made()
        if self.now.scene is None or cache is None:
            return
        if any(seen is not None for seen in self.ledger.seen.values()):
            self.ledger.place = int(cache.get_seq_length(len(self.layers) - 1)) - 1
            self.ledger.mark = self._mark(cache, self.ledger.place)

    def check_made(self) -> None:
        """RuntimeError unless every planned cut of this call was made, and once."""
        now, depth = self.now, len(self.layers)
        if now.ran != depth:
            raise RuntimeError(
                f"{now.ran} of {depth} decoder layers were entered through their hooks in this "
                "call, so it was not pruned as planned: give the model as it was before any part "
                "of it was compiled or replaced"
            )
        for row, steps in enumerate(now.plan):
            for step in steps:
                layer = step.layer if now.look is None else now.look
                if (times := now.made[row, step.stage, layer]) != 1:
                    raise RuntimeError(
                        f"row {row}: the cut of method {self.stages[step.stage].method.name!r} at "
                        f"layer {layer} was made {times} times in this call, not once: give the "
                        "model as it was before any part of it was compiled or replaced"
                    )

    def _mark(self, cache: Any, place: int) -> Tensor | None:
        keys = getattr(cache.layers[len(self.layers) - 1], "keys", None)
        return None if keys is None else keys[:, 0, place].clone()

    def _visual(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, ids.new_tensor(self.family.visual_tokens(self.model.config)))

    def _ledger_of(self, cache: Any, past: int) -> Ledger:
        if cache is None:
            return Ledger()
        if past == 0:
            self.ledgers[cache] = Ledger()
            _CUT.discard(cache)
        elif cache not in self.ledgers:
            # Filled outside the block: fine, unless another block has pruned it. Unequal lengths
            # give a copy of a pruned cache away; after a cut at layer 0 all lengths are equal.
            lengths = {int(cache.get_seq_length(i)) for i in range(len(self.layers))}
            if cache in _CUT or len(lengths) > 1:
                raise ValueError(
                    "this cache was pruned in another block: continue it there, or start the "
                    "conversation afresh"
                )
            self.ledgers[cache] = Ledger()
        ledger = self.ledgers[cache]
        if ledger.mark is not None:
            now, then = self._mark(cache, ledger.place), ledger.mark
            # beams of one prompt may change places: their rows are equal up to rounding
            near = 4 * torch.finfo(then.dtype).eps ** 0.75 * then.norm(dim=1)
            if now.shape != then.shape or bool(((now - then).norm(dim=1) > near).any()):
                raise ValueError(
                    "the rows of this cache have been exchanged or taken out since the prompt, and "
                    "they differ in their padding: start the conversations afresh"
                )
        return ledger

    def _prompt(self, now: _Call, ids: Tensor, past: int, kwargs: dict) -> _Call:
        """Find the visual tokens and the question, and decide where to cut."""
        given = torch.ones_like(ids, dtype=torch.bool) if now.valid is None else now.valid
        scene = Scene(ids, given, self._visual(ids) & given)
        now.scene = scene
        self.pictures.begin(scene, kwargs)
        two_pass = self.stages[0].method.reading == "two_pass"
        whole = sorted(self.sees & needing("sequence")) or ["two_pass"] * two_pass
        check_prompt(given, scene.visual, past, whole)
        if past and not self.family.one_axis:
            check_axes(kwargs.get("position_ids"))
        depth = len(self.layers)
        for stage in self.stages:
            stage.check_rows(ids)
        rows = [steps_of(self.stages, row, scene.counts, depth) for row in range(len(ids))]
        now.plan, means = zip(*rows, strict=True)
        looks = {k for k, stage in enumerate(self.stages) if stage.looks}
        doors = {s.layer for row in now.plan for s in row if s.stage not in looks}
        if two_pass and doors != {0}:
            if len(doors) > 1:
                raise ValueError(
                    "reading='two_pass' scores at one layer, and method "
                    f"{self.stages[0].method.name!r} cuts at layers "
                    f"{', '.join(map(str, sorted(doors)))}; use 'in_place'"
                )
            (now.look,), doors = doors, {0}
            first = [n * now.look / depth for n in scene.counts]  # the scoring pass
            left = [sum(step.keep for step in row) for row in now.plan]
            means = [n + m for n, m in zip(left, first, strict=True)]
        for stage in self.stages:
            if not needing("query") & stage.sees:
                now.words.append(None)
                continue
            now.words.append(
                query_tokens(
                    self.model, stage.method.query, ids, given, scene.visual,
                    processor=self.processor, may_grow=self.calls > 0,
                )
            )  # fmt: skip
        self.trace.query = next((words for words in now.words if words is not None), None)
        self.trace.mean_tokens = list(means)
        now.sites |= doors
        anew = {
            step.layer if now.look is None else 0
            for row in now.plan
            for step in row
            if step.stage not in looks and self.family.one_axis
            if self.stages[step.stage].method.positions != "original"
        }
        # one cut that renumbers does so for all cuts at its layer
        self.ledger.renumbered = self.ledger.renumbered - doors | anew
        self.calls += 1
        return now

    def score_first(self, text: nn.Module, args: tuple, kwargs: dict) -> None:
        """two_pass: run the first layers on everything for the sake of the scores alone."""
        now = self.now
        if now is None or now.look is None:
            return
        alone = {"past_key_values": None, "use_cache": False, "attention_mask": now.scene.valid}
        quiet = {"output_hidden_states": False, "output_attentions": False}
        try:
            text.forward(*args, **{**kwargs, **alone, **quiet})
        except _Scored as found:
            now.verdict = found.args[0]
        now.scene.hidden = now.scene.before = now.scene.rotary = None

    # ----------------------------------------------------------------------- a layer is entered

    def enter(self, i: int, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        now = self.now
        if now is None:
            return None
        hidden = args[0]
        now.ran += now.look is None or now.verdict is not None
        if now.scene is not None:
            now.scene.enter(i, hidden, kwargs["position_embeddings"], self.sees)
            if now.look is not None and now.verdict is None:
                if i == now.look:
                    raise _Scored(self.survivors(i))
                return None
            if i in now.sites:
                self.cut(i)
                hidden = now.scene.hidden
            for stage in self.stages_at(i, looks=True):
                self.survivors(i, stage)
        if i in now.sites:
            self.remask(i, hidden, kwargs.get("past_key_values"))
        if not now.short:
            return None
        # without position_ids no kernel takes positions with holes for packed sequences
        ours = {"attention_mask": now.mask, "position_ids": None}
        if now.rotary is not None:
            ours["position_embeddings"] = now.rotary
        return (hidden, *args[1:]), {**kwargs, **ours}

    def cut(self, i: int) -> None:
        """Make the cuts of layer i, one method after the other."""
        now = self.now
        if now.verdict is not None:
            return self.drop(i, now.verdict)
        for stage in self.stages_at(i):
            self.drop(i, self.survivors(i, stage))

    def stages_at(self, i: int, looks: bool = False) -> list[int]:
        """The stages that some row has at layer i: those that cut, or those that only look."""
        here = {step.stage for row in self.now.plan for step in row if step.layer == i}
        return sorted(k for k in here if self.stages[k].looks == looks)

    def drop(self, i: int, survivors: Tensor) -> None:
        now, scene = self.now, self.now.scene
        dropped = bool((scene.valid & ~survivors).any())
        # where nobody goes even padding stays, so that keeping everything changes no bit
        length = int(survivors.sum(1).max()) if dropped else survivors.shape[1]
        if i == 0:
            self.ledger.lost += survivors.shape[1] - length
            self.ledger.pads = 0 if now.real is None else (~now.real).sum(1)
        scene.visual = scene.visual & survivors  # a loser may stay as filler: nobody's candidate
        scene.valid = survivors
        # survivors in order at the right edge; shorter rows are filled up on the left
        scene.take(survivors.long().argsort(dim=1, stable=True)[:, -length:])
        now.valid, now.rotary = scene.valid, scene.rotary
        if i == 0:
            scene.close_door()

    def survivors(self, i: int, k: int = 0) -> Tensor:
        """Score every prompt where method k has a cut here, and say who stays: (B, S) bool."""
        now, scene, stage = self.now, self.now.scene, self.stages[k]
        broken = (scene.valid & ~torch.isfinite(scene.hidden).all(-1)).any(1)
        if bool(broken.any()):
            raise ValueError(
                f"row {int(broken.nonzero()[0])}: NaN or infinite hidden states enter layer {i}; "
                "look for broken pictures or weights, or an overflow of float16"
            )
        survivors, words = scene.valid.clone(), now.words[k]
        for row, steps in enumerate(now.plan):
            keep = next((s.keep for s in steps if (s.layer, s.stage) == (i, k)), None)
            if keep is None:
                continue
            started, places = perf_counter(), scene.places(row)
            numbers = scene.number[row, places]
            if stage.given is None:
                about = {"rope": stage.method.rope, "last_norm": self.text.norm}
                about |= self.pictures.about(row, numbers, words)
                evidence = scene.evidence(i, row, self.layers, words, **about)
                scores, kept = stage.choose(evidence, keep)
            else:
                scores, kept = stage.given[row]
            now.made[row, k, i] += 1
            stage.check_kept(kept, keep, len(places))
            depth, door = len(self.layers), i if now.look is None else 0
            until = next((s.layer for s in steps if (s.layer, s.stage) > (i, k)), depth)
            more = len(kept.index) - keep  # a selection may have counts of its own
            self.trace.mean_tokens[row] += more * (until - door) / depth
            survivors[row, places] = False
            survivors[row, places[kept.index]] = True
            merged = self.pictures.projected(i, stage.method.name, kept)
            if merged is not None:
                if now.look is not None:
                    raise ValueError("reading='two_pass' cannot merge tokens; use 'in_place'")
                scene.hidden = scene.hidden.clone()  # others may hold on to the stream as it was
                scene.hidden[row, places[kept.index]] = merged.to(scene.hidden.dtype)
            self.trace.cuts.append(
                CutRecord(
                    call=self.calls - 1,
                    row=row,
                    layer=i,
                    method=stage.method.name,
                    scores=scores.detach(),
                    scored=numbers,
                    kept=numbers[kept.index],
                    n_visual=len(places),
                    n_query=0 if words is None else int(words[row].sum()),
                    seconds=perf_counter() - started,
                )
            )
            if kept.stands is not None:
                known = kept.stands >= 0
                sources = places[kept.stands.clamp(min=0)]
                scene.relabel(row, places[kept.index], sources, known)
        return survivors

    def remask(self, i: int, hidden: Tensor, cache: Any) -> None:
        """The mask, and the rotary pair if renumbered, of layer i and the ones that follow."""
        now, (rows, new) = self.now, hidden.shape[:2]
        past = 0 if cache is None else int(cache.get_seq_length(i))
        above = max((site for site in self.ledger.seen if site <= i), default=None)
        seen = now.real if above is None else self.ledger.seen[above]
        if seen is not None or now.valid is not None:
            every = hidden.new_ones(rows, past + new, dtype=torch.bool)
            old = every[:, :past] if seen is None else seen[:, :past]  # it may have been cropped
            seen = torch.cat([old, every[:, past:] if now.valid is None else now.valid], 1)
            if now.scene is not None and bool(seen.all()):
                seen = None
        self.ledger.seen[i] = seen
        if cache is not None:
            self.ledgers[cache] = self.ledger
            _CUT.add(cache)
        now.mask = create_causal_mask(self.config, hidden, seen, cache, layer_idx=i)
        now.short = True
        if i in self.ledger.renumbered:
            places = torch.arange(past + new, device=hidden.device)[None]
            places = places if seen is None else (seen.cumsum(1) - 1).clamp(min=0)
            now.rotary = self.text.rotary_emb(hidden, position_ids=places[:, past:])
            if now.scene is not None:
                now.scene.rotary = now.rotary
