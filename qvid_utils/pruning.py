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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from .evidence import NEEDS_QUERY, NEEDS_SEQUENCE, Evidence, Scene
from .families import Unavailable, family_of, processor_of, query_tokens
from .families.calls import (
    check_axes,
    check_continuation,
    check_outputs,
    check_prompt,
    has_pixels,
    in_chunks,
    outputs_seen,
    pictures_once,
    real_tokens,
    sizes_seen,
)
from .methods import Method
from .methods import method as find_method
from .schedules import Cut, mean_tokens
from .selection import Kept
from .text_tower import clip_pair, patches_of
from .tower_site import TowerSite
from .vocabulary import WORDS

__all__ = ["CutRecord", "Trace", "observed", "pictures_once", "pruned"]


@dataclass(frozen=True, eq=False)
class CutRecord:
    """One cut of one prompt. Visual tokens are numbered 0..N_v-1 as in the caller's prompt.

    call: which call with pictures, from 0; row: of the batch; layer: where it was scored; scores
    (n_visual,) and `scored` (n_visual,): the score of each token that was still there, and its
    number; kept (K,): the survivors' numbers, rising; n_query: query tokens of the prompt (0 for a
    rule that reads none); seconds: host time of scoring and choosing.
    """

    call: int
    row: int
    layer: int
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
    added); query: that call's query tokens, bool over its (rows, columns), None for a rule that
    needs no question.
    """

    cuts: list[CutRecord] = field(default_factory=list)
    mean_tokens: list[float] = field(default_factory=list)
    query: Tensor | None = None


@contextmanager
def pruned(
    model: nn.Module,
    method: str | Method = "qvid",
    keep: int = 64,
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

    method: a name in METHODS, a rule's name, or a Method; keep: visual tokens per prompt, after the
    cut of a single-cut method, as the mean over layers of a staged one; layer: where a single cut
    is made (0..L-1; default: the method's depth); query: "question", "content", "prompt", or a
    bool mask over the prompt's tokens; positions: "original" or "contiguous"; reading: "in_place",
    or "two_pass" (score at the layer, then start over without the losers); processor: whose chat
    template finds the question, where `load` did not already say; clip: folder or hub id of the
    CLIP pair, for methods that need its text tower (default: beside the model, else its family's);
    params: of the rule, e.g. rank=8.

    Every call with pictures is a new prompt, each row of a batch for itself. A cache pruned in the
    block must be continued in the block. Without a cache (use_cache=False) each step is scored
    anew, so rules that read the last token or the prompt number choose anew, too.
    ValueError, TypeError or Unavailable, with what is allowed, where something cannot be done.
    """
    policies = {"query": query, "positions": positions, "reading": reading}
    policies = {name: value for name, value in policies.items() if value is not None}
    chosen = find_method(method, **policies, **params)
    n_layers = _check_numbers(model, keep, layer)
    rule, more = chosen.rule, tuple(inspect.signature(chosen.select).parameters)[2:]

    def choose(evidence: Evidence, count: int) -> tuple[Tensor, Kept]:
        scores = rule(*(getattr(evidence, word) for word in rule.sees), **chosen.params)
        if scores.shape != evidence.visual.shape:
            raise ValueError(
                f"rule {rule.name!r} gave scores of shape {tuple(scores.shape)} for "
                f"{len(evidence.visual)} visual tokens: return one number per token"
            )
        return scores, chosen.select(scores, count, **{w: getattr(evidence, w) for w in more})

    def plan(n_visual: int) -> tuple[Cut, ...]:
        return chosen.cuts(keep, n_visual, n_layers, layer)

    engine = _Engine(model, chosen, {*rule.sees, *more}, plan, choose, processor, clip)
    if chosen.encode is not None:
        engine.site = TowerSite(model, engine.family, chosen.encode, keep)
    with engine.attached() as trace:
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
    _check_numbers(model, 1, layer)
    unknown = sorted(set(words) - set(WORDS))
    if unknown:
        raise ValueError(f"no evidence is called {', '.join(unknown)}; known: {', '.join(WORDS)}")
    neutral = replace(find_method("qvid"), query=query, rope=rope)
    found: list[dict[str, Any]] = []

    def choose(evidence: Evidence, count: int) -> tuple[Tensor, Kept]:
        found.append({word: getattr(evidence, word) for word in words})
        every = torch.arange(count, device=evidence.visual.device)
        return torch.zeros(count, device=every.device), Kept(every)

    def plan(n_visual: int) -> tuple[Cut, ...]:
        return (Cut(layer, n_visual),)

    with _Engine(model, neutral, set(words), plan, choose, processor).attached():
        yield found


def _check_numbers(model: nn.Module, keep: int, layer: int | None) -> int:
    n_layers = len(family_of(model).part(model, "layers"))
    for name, value in (("keep", keep), ("layer", layer)):
        free = name == "layer" and value is None  # None is the method's own depth
        if not free and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"{name}={value!r}: give a whole number")
    if keep < 1:
        raise ValueError(f"keep={keep}: keep at least 1 visual token of each prompt")
    if layer is not None and not 0 <= layer < n_layers:
        raise ValueError(f"layer={layer}: the model has layers 0 to {n_layers - 1}")
    return n_layers


@dataclass(eq=False)
class Ledger:
    """What is remembered of a sequence whose cache is alive.

    seen: for each layer with a cut, which of the tokens cached from there on are real, bool
    (rows, cached), or None where all are; lost: columns of the caller's that layer 0's cache lacks;
    pads (rows,): the caller's padding.
    """

    seen: dict[int, Tensor | None] = field(default_factory=dict)
    lost: int = 0
    pads: Tensor | int = 0


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
    plan: list[dict[int, int]] = field(default_factory=list)  # per row: layer -> tokens to keep
    look: int | None = None  # two_pass: where to score before starting over ...
    verdict: Tensor | None = None  # ... and who survived


class _Scored(Exception):
    """Carries the survivors out of a scoring pass."""


_ACTIVE: WeakSet = WeakSet()  # base models inside a block
_CUT: WeakSet = WeakSet()  # caches that hold a pruned prompt, whichever block pruned it


class _Engine:
    """The hooks of one block and what they remember."""

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        sees: set[str],
        plan: Callable[[int], tuple[Cut, ...]],
        choose: Callable[[Evidence, int], tuple[Tensor, Kept]],
        processor: Any,
        clip: Any = None,
    ):
        self.model, self.family, self.base = model, family_of(model), model.base_model
        self.text = self.family.part(model, "language")
        self.layers = self.family.part(model, "layers")
        self.config = self.text.config
        self.method, self.sees, self.plan, self.choose = method, sees, plan, choose
        self.processor, self.site, self.encoded = processor, None, {}
        self.clip = clip_pair(model, clip) if sees & {"clip_image", "clip_text"} else None
        self.trace, self.calls, self.now, self.arguments = Trace(), 0, None, {}
        self.sizes: dict[str, Any] = {}  # of the pictures, for rules that see the grid
        self.ledger, self.ledgers = Ledger(), WeakKeyDictionary()  # cache -> Ledger
        kinds = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(self.config, "sliding_window", None):
            # a window over shortened columns would mean another distance
            raise Unavailable("pruning needs full attention in all layers; this model has windows")
        if method.positions == "contiguous" and not self.family.one_axis:
            raise Unavailable(
                f"positions='contiguous': {self.family.name} counts positions along several axes, "
                "which cannot be renumbered; use 'original'"
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
            if self.site is not None:
                left.enter_context(self.site.inside())
            if self.sees & {"patches", "clip_image"}:
                self.encoded = left.enter_context(outputs_seen(self.model))
            if "grid" in self.sees:
                self.sizes = left.enter_context(sizes_seen(self.model))
            yield self.trace

    def forget(self) -> None:
        _ACTIVE.discard(self.base)
        self.now, self.arguments, self.ledgers = None, {}, WeakKeyDictionary()

    def _entering(self, i: int) -> Callable:
        return lambda layer, args, kwargs: self.enter(i, args, kwargs)

    # ---------------------------------------------------------------------------- a call begins

    def refuse(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        """What only the outermost forward is told."""
        if has_pixels(kwargs):
            check_outputs(kwargs)

    def begin(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        self.now = None
        if torch.compiler.is_compiling():
            raise ValueError("pruning keeps state between calls: pass disable_compile=True")
        if args:
            kwargs = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
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
        if pictures and self.site is not None:
            self.site.told(ids, kwargs.get("mm_encoder_outputs"))
        if pictures:
            self.now = self._prompt(_Call(set(self.ledger.seen), real, valid), ids, past, kwargs)
        else:
            valid = None if valid is None or bool(valid.all()) else valid
            self.now = _Call(set(self.ledger.seen), real, valid)

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
        return self.ledgers[cache]

    def _prompt(self, now: _Call, ids: Tensor, past: int, kwargs: dict) -> _Call:
        """Find the visual tokens and the question, and decide where to cut."""
        given = torch.ones_like(ids, dtype=torch.bool) if now.valid is None else now.valid
        scene = Scene(ids, given, self._visual(ids) & given)
        now.scene, self.arguments = scene, kwargs
        two_pass = self.method.reading == "two_pass"
        whole = sorted(self.sees & NEEDS_SEQUENCE) or ["two_pass"] * two_pass
        check_prompt(given, scene.visual, past, whole)
        if past and not self.family.one_axis:
            check_axes(kwargs.get("position_ids"))
        cuts = [self.plan(n) if n else () for n in scene.counts]
        now.plan = [{cut.layer: cut.keep for cut in row} for row in cuts]
        depth, doors = len(self.layers), {cut.layer for row in cuts for cut in row}
        means = [mean_tokens(row, n, depth) for row, n in zip(cuts, scene.counts, strict=True)]
        if two_pass and doors != {0}:
            if len(doors) > 1:
                raise ValueError(
                    f"reading='two_pass' scores at one layer, and method {self.method.name!r} cuts "
                    f"at layers {', '.join(map(str, sorted(doors)))}; use 'in_place'"
                )
            (now.look,), doors = doors, {0}
            first = [n * now.look / depth for n in scene.counts]  # the scoring pass
            means = [sum(row.values()) + n for row, n in zip(now.plan, first, strict=True)]
        if NEEDS_QUERY & self.sees:
            scene.words = query_tokens(
                self.model, self.method.query, ids, given, scene.visual,
                processor=self.processor, may_grow=self.calls > 0,
            )  # fmt: skip
        self.trace.query, self.trace.mean_tokens = scene.words, means
        now.sites |= doors
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
        if now.scene is not None:
            now.scene.enter(i, hidden, kwargs["position_embeddings"], self.sees)
            if now.look is not None and now.verdict is None:
                if i == now.look:
                    raise _Scored(self.survivors(i))
                return None
            if i in now.sites:
                self.cut(i)
                hidden = now.scene.hidden
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
        now, scene = self.now, self.now.scene
        survivors = self.survivors(i) if now.verdict is None else now.verdict
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

    def survivors(self, i: int) -> Tensor:
        """Score every prompt that has a cut here, and say who stays: (B, S) bool."""
        now, scene = self.now, self.now.scene
        broken = (scene.valid & ~torch.isfinite(scene.hidden).all(-1)).any(1)
        if bool(broken.any()):
            raise ValueError(
                f"row {int(broken.nonzero()[0])}: NaN or infinite hidden states enter layer {i}; "
                "look for broken pictures or weights, or an overflow of float16"
            )
        survivors = scene.valid.clone()
        for row, cuts in enumerate(now.plan):
            if i not in cuts:
                continue
            started, places = perf_counter(), scene.places(row)
            about = {"rope": self.method.rope, "grid_of": functools.partial(self._grid, row)}
            about |= {"tower": functools.partial(self._tower, row), "clip": self.clip}
            about |= {"text_of": functools.partial(self._text, row)}
            evidence = scene.evidence(i, row, self.layers, **about)
            scores, kept = self.choose(evidence, cuts[i])
            survivors[row, places] = False
            survivors[row, places[kept.index]] = True
            if kept.patches is not None:
                kept = replace(kept, merged=self._projected(kept.patches))
            if kept.merged is not None:
                if now.look is not None:
                    raise ValueError("reading='two_pass' cannot merge tokens; use 'in_place'")
                scene.hidden = scene.hidden.clone()  # others may hold on to the stream as it was
                scene.hidden[row, places[kept.index]] = kept.merged.to(scene.hidden.dtype)
            numbers = scene.number[row, places]
            self.trace.cuts.append(
                CutRecord(
                    call=self.calls - 1,
                    row=row,
                    layer=i,
                    scores=scores.detach(),
                    scored=numbers,
                    kept=numbers[kept.index],
                    n_visual=len(places),
                    n_query=0 if scene.words is None else int(scene.words[row].sum()),
                    seconds=perf_counter() - started,
                )
            )
        return survivors

    def _tower(self, row: int, word: str) -> Tensor:
        """A word of the vision tower for the visual tokens of a row that are still there."""
        scene = self.now.scene
        numbers = scene.number[row, scene.places(row)]
        if word == "filled":
            every = torch.ones(scene.counts[row], dtype=torch.bool)
            every = every if self.site is None else self.site.filled(row)
        else:
            outputs = self.arguments.get("mm_encoder_outputs") or self.encoded
            every = patches_of(self.model, outputs, scene.counts, row)
        return every.to(numbers.device)[numbers]

    def _text(self, row: int) -> str:
        """The query of a row as text."""
        words = processor_of(self.model, self.processor)
        ids = self.now.scene.ids[row, self.now.scene.words[row]]
        return getattr(words, "tokenizer", words).decode(ids, skip_special_tokens=True).strip()

    def _projected(self, patches: Tensor) -> Tensor:
        projector = self.family.part(self.model, "projector")
        return projector(patches.to(next(projector.parameters()).dtype))

    def _grid(self, row: int) -> tuple[int, int, int]:
        counts, call, copies = self.now.scene.counts, self.arguments, 1
        if call.get("mm_encoder_outputs"):  # generate has encoded each prompt once, for all beams
            encoded = [f"get_{kind}_features" for kind in call["mm_encoder_outputs"]]
            copies = sum(counts) // sum(self.sizes["encoded"][name] for name in encoded)
        call = {**self.sizes, **{name: v for name, v in call.items() if v is not None}}
        call["input_ids"] = call["input_ids"][::copies]
        return self.family.grid(self.model.config, counts[row], call, row // copies)

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
        if self.method.positions == "contiguous":
            places = torch.arange(past + new, device=hidden.device)[None]
            places = places if seen is None else (seen.cumsum(1) - 1).clamp(min=0)
            now.rotary = self.text.rotary_emb(hidden, position_ids=places[:, past:])
            if now.scene is not None:
                now.scene.rotary = now.rotary
