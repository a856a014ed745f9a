"""What a few methods keep for one question, how the model then answers, and at what cost; as data.

    asked = one_question.ask(model, processor, picture, "What color is the star?")
    look(asked, ["qvid", "random"], keep=16).costs

The explorer draws it; nothing here draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...algebra import spectrum
from ...algebra.cuts import At, Infeasible, tokens_per_layer
from ...families import Unavailable
from ...families.calls import pictures_once
from ...methods import Method, method
from ...prune import Trace, pruned
from ..cost.budgets import exchange
from .one_question import CONVENTION, Answer, Asked, answered
from .query_words import word_scores

LIKELY = 2  # first words that each side brings into the comparison


@dataclass(frozen=True, eq=False)
class Side:
    """What one method does with the question.

    settings: those of layer and rank that it takes; tokens: visual tokens at each layer's input;
    scores (N_v,) and kept (K,): of its first cut; placed: whether a kept token shows the place
    where it stands (not where a method merges tokens or changes the tower); same_cost: its `keep`
    for the operations of the first side, None where it cannot have that. problem: why the method
    cannot be had here, in a sentence; nothing else is there then.
    """

    method: Method
    settings: Mapping[str, Any]
    problem: str = ""
    tokens: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    scores: np.ndarray | None = None
    kept: tuple[int, ...] = ()
    placed: bool = True
    answer: Answer | None = None
    mean_tokens: float = float("nan")
    operations: float = float("nan")
    same_cost: int | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """A question seen by a few methods; every frame is what a panel of the explorer draws."""

    asked: Asked
    sides: tuple[Side, ...]
    keep: int
    rank: int | float

    @cached_property
    def spectrum(self) -> pd.DataFrame:
        """σ_k/σ_1 of M: mode (from 1), mean, lowest and highest over the heads."""
        sigma = spectrum.singular_values(self.asked.reading.interaction)
        relative = (sigma / sigma[:, :1]).numpy(force=True)
        modes = range(1, relative.shape[1] + 1)
        return pd.DataFrame({"mode": modes, "mean": relative.mean(0), "lowest": relative.min(0),
                             "highest": relative.max(0)})  # fmt: skip

    @cached_property
    def votes(self) -> float:
        """How many modes vote at `rank`, mean over the heads: never more than M has."""
        M = self.asked.reading.interaction
        if self.rank < 1:
            return float(spectrum.effective_rank(M, self.rank).double().mean())
        return float(spectrum.numerical_rank(M).clamp(max=self.rank).double().mean())

    @cached_property
    def words(self) -> pd.DataFrame:
        """Dominant and residual score of each query word; `observation.word_scores`."""
        return word_scores([self.asked.reading], self.rank)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """The likely first words and how likely each is to the full model and to every side:
        word, who (a label, "Full model" first), probability."""
        given = {"Full model": self.asked.answer}
        given |= {side.method.label: side.answer for side in self.sides if side.answer}
        likely = [i for a in given.values() for i in (-a.first).argsort(kind="stable")[:LIKELY]]
        likely = sorted(dict.fromkeys(likely), key=lambda i: -self.asked.answer.first[i])
        tokenizer = self.asked.processor.tokenizer
        spelt = {i: tokenizer.decode([i]).strip() or f"token {i}" for i in likely}
        return pd.DataFrame(
            [
                {"word": spelt[i], "who": who, "probability": float(answer.first[i])}
                for i in likely
                for who, answer in given.items()
            ]
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One line for the full model and for each side: label, keep, mean_tokens, operations,
        share (of the full model's), answer, probability, same_cost (see `Side`), problem."""
        asked = self.asked
        whole = asked.operations([asked.n_visual] * asked.depth)
        lines = [{"label": "Full model", "keep": asked.n_visual, "mean_tokens": asked.n_visual,
                  "operations": whole, "answer": asked.answer.text,
                  "probability": asked.answer.probability}]  # fmt: skip
        for side in self.sides:
            line = {"label": side.method.label, "keep": self.keep, "problem": side.problem}
            if side.answer:
                line |= {"mean_tokens": side.mean_tokens, "operations": side.operations,
                         "answer": side.answer.text, "probability": side.answer.probability,
                         "same_cost": side.same_cost}  # fmt: skip
            lines.append(line)
        columns = ["label", "keep", "mean_tokens", "operations", "share", "answer", "probability",
                   "same_cost", "problem"]  # fmt: skip
        frame = pd.DataFrame(lines, columns=columns).assign(share=lambda f: f["operations"] / whole)
        return frame.astype({"same_cost": "Int64"}).fillna({"problem": "", "answer": ""})

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """All that is drawn, long: panel, who (a label), name, place, value; for the CSV."""
        rows: list[tuple] = []
        for side in self.sides:
            if side.problem:
                rows.append(("problem", side.method.label, side.problem, 0, np.nan))
                continue
            kept = set(side.kept)
            rows += [
                ("score", side.method.label, "kept" if i in kept else "dropped", i, score)
                for i, score in enumerate(side.scores)
            ]
        for line in self.spectrum.itertuples():
            rows += [("spectrum", "", name, line.mode, getattr(line, name))
                     for name in ("mean", "lowest", "highest")]  # fmt: skip
        for name in ("dominant", "residual"):
            rows += [(name, "", w.word, w.place, getattr(w, name)) for w in self.words.itertuples()]
        rows += [("answer", a.who, a.word, 0, a.probability) for a in self.answers.itertuples()]
        for name in ("mean_tokens", "operations", "share", "probability"):
            rows += [(name, c.label, c.answer, 0, getattr(c, name))
                     for c in self.costs.itertuples()]  # fmt: skip
        return pd.DataFrame(rows, columns=["panel", "who", "name", "place", "value"])


@torch.inference_mode()
def look(
    asked: Asked,
    methods: Sequence[str | Method] = ("qvid", "random"),
    keep: int = 16,
    *,
    layer: int | None = None,
    rank: int | float = 16,
) -> Look:
    """The question under each method at one budget.

    layer, rank: for the methods that let one choose (a single cut inside the language model; a
    number of modes); the others go by their own. A method that this model or budget refuses says so
    in its `Side.problem`. ValueError for a rank or a keep that no method could take.
    """
    spectrum.check_rank(rank)
    if not 1 <= keep <= asked.n_visual:
        raise ValueError(
            f"keep={keep}: the picture has {asked.n_visual} visual tokens, keep 1 to all of them"
        )
    sides: list[Side] = []
    with pictures_once(asked.model):
        for name in methods:
            first = next((s for s in sides if s.answer), None)
            sides.append(_side(asked, method(name), keep, layer, rank, first))
    return Look(asked, tuple(sides), keep, rank)


def _settings(chosen: Method, layer: int | None, rank: int | float) -> dict[str, Any]:
    """What of layer and rank a method lets one choose."""
    own, found = chosen.params.get("rank"), {}
    if isinstance(chosen.schedule, At) and chosen.schedule.depth and layer is not None:
        found["layer"] = layer
    if isinstance(own, int):  # a share of the energy, or all modes, is what a method is made of
        found["rank"] = rank
    return found


def _side(
    asked: Asked, chosen: Method, keep: int, layer: int | None, rank: int | float,
    first: Side | None,
) -> Side:  # fmt: skip
    settings = _settings(chosen, layer, rank)
    try:
        with pruned(asked.model, chosen, keep, processor=asked.processor, **settings) as trace:
            answer = answered(asked.model, asked.processor, asked.inputs)
    except (ValueError, TypeError, Unavailable) as cause:
        return Side(chosen, settings, problem=f"{cause}")
    tokens = _tokens(trace, asked)
    cut = trace.cuts[0]
    scores = np.full(asked.n_visual, np.nan)
    scores[cut.scored.numpy(force=True)] = cut.scores.double().numpy(force=True)
    operations = asked.operations(tokens)
    return Side(
        chosen, settings,
        tokens=tuple(tokens),
        layers=tuple(c.layer for c in trace.cuts),
        scores=scores,
        kept=tuple(cut.kept.tolist()),
        placed=not chosen.merges and chosen.encode is None,
        answer=answer,
        mean_tokens=trace.mean_tokens[0],
        operations=operations,
        same_cost=keep if first is None else _same_cost(asked, chosen, settings, first.operations),
    )  # fmt: skip


def _tokens(trace: Trace, asked: Asked) -> list[int]:
    """Visual tokens at the input of each layer, as the cuts were made."""
    tokens = [asked.n_visual] * asked.depth
    for cut in trace.cuts:
        tokens[cut.layer :] = [len(cut.kept)] * (asked.depth - cut.layer)
    return tokens


def _same_cost(
    asked: Asked, chosen: Method, settings: Mapping[str, Any], operations: float
) -> int | None:
    n, depth = asked.n_visual, asked.depth

    def tokens_of(keep: int) -> list[int]:
        """Of the next budget that the schedule can have: a staged one has a fewest mean."""
        for count in range(keep, n):
            with suppress(Infeasible):
                return planned(count)
        return planned(n)

    def planned(keep: int) -> list[int]:
        return tokens_per_layer(chosen.schedule(keep, n, depth, settings.get("layer")), n, depth)

    try:
        found = exchange(
            asked.model.config, n, asked.n_text, operations=operations, tokens_of=tokens_of,
            convention=CONVENTION,
        )  # fmt: skip
    except ValueError:  # dearer even with its fewest tokens
        return None
    return found.keep
