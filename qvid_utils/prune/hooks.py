"""The hooks of one block: where layers begin, tokens are scored, taken out, and masks follow.

A pre-hook on the base model reads each call's ids and mask; pre-hooks on the decoder layers shorten
the stream where a cut is made and, from there on, hand every layer the mask and the rotary pair
that fit. `input_ids` stay as they are, and with them every position and length that the library
derives from them. Between calls one thing is remembered, for each cache: its `Ledger`.

Some cuts are chosen before: with two_pass, or with another question than the prompt's own, a
scoring pass runs the first layers, and the call itself makes the cuts that were chosen there.

At the end of every call each planned cut has been made once, with its number of tokens, or the call
raises.
"""

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..families import family_of
from ..families.attached import Attached, Hook
from ..families.base import unwrapped
from ..families.calls import check_continuation, check_outputs, has_pixels, real_tokens
from ..families.deepstack import added_behind_cuts
from .caches import Ledgers
from .call import Call, Planner
from .cutting import Cutter
from .entry import Turnstile, check_parts, check_positions, check_uncompiled
from .generation import Generation
from .other_question import asked_instead
from .scene import Scene
from .stages import Stage
from .trace import Trace
from .vision import Pictures

__all__ = ["Engine"]


class _Chosen(Exception):
    """Ends a scoring pass."""


class Engine:
    """The hooks of one block and what they remember."""

    def __init__(
        self, model: nn.Module, stages: Sequence[Stage], processor: Any = None, clip: Any = None
    ):
        self.model = model = unwrapped(model)
        self.family, self.base = family_of(model), model.base_model
        check_parts(model, self.family, stages)
        self.text = self.family.part(model, "language")
        self.layers = self.family.part(model, "layers")
        self.config, self.stages, self.processor = self.text.config, stages, processor
        self.pictures = Pictures(model, stages, processor, clip)
        self.sees = self.pictures.sees
        check_positions(self.family, self.config, stages)
        self.prompts, self.now = 0, None
        self.asked = False  # whether a call with pictures has come, be it refused
        self.ledgers, self.generation = Ledgers(len(self.layers)), Generation(model)
        self.cutter = Cutter(self.text, self.layers, stages, self.pictures, self.ledgers)
        self.trace = self.cutter.trace
        self.planner = Planner(model, stages, processor, len(self.layers))
        self.turnstile = Turnstile()

    @contextmanager
    def attached(self) -> Iterator[Trace]:
        with self.turnstile.open(self.base), Attached() as hung:
            try:
                self.hang(hung)
                yield self.trace
                self.generation.leave()
            finally:
                self.forget()
        if not self.asked:
            warnings.warn(
                "no call with pictures has reached the model inside this block, so nothing was "
                "pruned: ask the very model that the block was given",
                stacklevel=5,
            )

    def hang(self, hung: Attached) -> None:
        if self.model is not self.base:
            hung.hook(self.model, Hook(self.refuse))
        hung.hook(self.base, Hook(self.begin))
        hung.hook(self.base, Hook(self.end), after=True)
        hung.hook(self.text, Hook(self.score_first))
        for i, layer in enumerate(self.layers):
            hung.hook(layer, Hook(self.enter, i))
        added = added_behind_cuts(self.text, Hook(self.scene))
        if added is not None:
            hung.instead(self.text, "_deepstack_process", added)
        self.pictures.hang(hung)
        self.generation.hang(hung)

    def forget(self) -> None:
        self.generation.left, self.now = True, None
        self.ledgers.forget()
        self.pictures.forget()

    def scene(self) -> Scene | None:
        """That of the pass that runs, if its call has pictures."""
        return None if self.now is None else self.now.scene

    # ---------------------------------------------------------------------------- a call begins

    def refuse(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        """What only the outermost forward is given."""
        if has_pixels(kwargs):
            check_outputs(kwargs)

    def begin(self, base: nn.Module, args: tuple, kwargs: dict) -> None:
        self.turnstile.enter()
        self.now = None
        if args:
            kwargs = {**inspect.signature(base.forward).bind_partial(*args).arguments, **kwargs}
        pictures = has_pixels(kwargs)
        self.asked |= pictures
        check_uncompiled(self.model, base, self.text)
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if ids is None:
            raise ValueError(
                "pruning finds the visual tokens in input_ids: call the model with input_ids, "
                "not with inputs_embeds"
            )
        past = 0 if cache is None else int(cache.get_seq_length())
        ledger = self.ledgers.of(cache, past)
        if not pictures and not ledger.seen:
            return  # text only, and nothing was pruned before
        if ledger.lost:
            expected = past + ledger.lost - ledger.pads
            check_continuation(ids, kwargs.get("position_ids"), expected)
        mask = kwargs.get("attention_mask")
        real = real_tokens(mask, past + ids.shape[1], aligned=not ledger.lost)
        valid = None if real is None else real[:, -ids.shape[1] :]
        if not pictures:
            valid = None if valid is None or bool(valid.all()) else valid
        now = Call(ledger, real, valid, sites=set(ledger.seen))
        if pictures:
            self.plan(now, ids, past, kwargs)
        self.now = now

    def plan(self, now: Call, ids: Tensor, past: int, kwargs: dict) -> None:
        """A call with pictures: find what it shows, and decide where to cut."""
        now.number = self.prompts
        drafted = self.generation.drafted(ids.shape[1], past)
        self.planner.look(now, ids, past, drafted, kwargs.get("position_ids"))
        self.pictures.begin(now.scene, kwargs)
        self.trace.mean_tokens = self.planner.plan(now, grown=self.prompts > 0)
        self.trace.query = next((words for words in now.words if words is not None), None)
        self.trace.layout = self.pictures.layout()
        self.prompts += 1

    def end(self, base: nn.Module, args: tuple, output: Any) -> None:
        if not self.turnstile.leave():
            return
        now, self.now = self.now, None
        if now is not None and output is not None:
            self.check_made(now)
            if now.scene is not None:
                self.ledgers.remember(getattr(output, "past_key_values", None), now.ledger)

    def check_made(self, now: Call) -> None:
        """RuntimeError unless every planned cut of a call was made, and once."""
        depth, as_it_was = len(self.layers), (
            "give the model as it was before any part of it was compiled or replaced"
        )  # fmt: skip
        if now.ran != depth:
            raise RuntimeError(
                f"{now.ran} of {depth} decoder layers were entered through their hooks in this "
                f"call, so it was not pruned as planned: {as_it_was}"
            )
        for row, steps in enumerate(now.steps):
            for n, step in enumerate(steps):
                if now.made[row, n] != 1:
                    raise RuntimeError(
                        f"row {row}: the cut of method {self.stages[step.stage].method.name!r} at "
                        f"layer {step.layer} was made {now.made[row, n]} times in this call, not "
                        f"once: {as_it_was}"
                    )

    def score_first(self, text: nn.Module, args: tuple, kwargs: dict) -> None:
        """Run the first layers for the sake of the scores alone, where cuts are chosen before."""
        now = self.now
        if now is None or now.scoring is None:
            return
        scoring = now.scoring
        alone = {"past_key_values": None, "use_cache": False, "cache_position": None}
        alone |= {"output_hidden_states": False, "output_attentions": False}
        if (other := self.planner.other) is not None:
            scoring.scene, fed = asked_instead(self.model, self.processor, other, now.scene, kwargs)
            scoring.words = self.planner.words(scoring.scene)
            scoring.real = scoring.valid = scoring.scene.given
            alone |= fed
        alone = {name: v for name, v in alone.items() if name in kwargs or v is not None}
        alone["attention_mask"] = scoring.scene.valid
        self.now = scoring
        try:
            text.forward(*args, **{**kwargs, **alone})
        except _Chosen:
            pass
        finally:
            self.now, now.scoring, now.chosen = now, None, scoring.chosen

    # ----------------------------------------------------------------------- a layer is entered

    def enter(self, i: int, layer: nn.Module, args: tuple, kwargs: dict) -> tuple | None:
        now = self.now
        if now is None:
            return None
        now.ran += 1
        hidden = args[0]
        if now.scene is not None:
            now.scene.enter(i, hidden, kwargs["position_embeddings"], self.sees)
            for stage in self.stages_at(i):
                self.cutter.cut(now, i, stage)
            hidden = now.scene.hidden
            if i == now.stop:
                raise _Chosen
        if i in now.sites:
            self.cutter.remask(now, i, hidden, kwargs.get("past_key_values"))
        if not now.short:
            return None
        # without position_ids no kernel takes positions with holes for packed sequences
        ours = {"attention_mask": now.mask, "position_ids": None}
        if now.rotary is not None:
            ours["position_embeddings"] = now.rotary
        return (hidden, *args[1:]), {**kwargs, **ours}

    def stages_at(self, i: int) -> list[int]:
        """The stages that some row has at layer i: first those that cut, then those that look."""
        here = {step.stage for steps in self.now.steps for step in steps if step.layer == i}
        return sorted(here, key=lambda k: (not self.stages[k].drops, k))
