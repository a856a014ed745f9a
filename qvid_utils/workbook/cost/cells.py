"""Cells (method, reading, keep) timed side by side on one model and one prompt."""

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import process_time
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import nn

from ...algebra.cuts import Infeasible, tokens_per_layer
from ...families import family_of
from ...methods import Method, method
from ...prune import Trace, pruned
from ...prune import hooks as hook_file
from ..tables.schema import tidy
from . import flops
from .rounds import clock_of, interleaved, paired, peak_bytes, spread
from .workloads import Prompt

__all__ = [
    "FULL",
    "Cell",
    "Run",
    "cells_of",
    "compute",
    "infeasible",
    "measure",
    "run",
    "setting",
    "where_run",
]

FULL = "full"


@dataclass(frozen=True)
class Cell:
    """One line of a comparison; method None is the unpruned model."""

    name: str
    method: Method | None = None
    keep: int | None = None

    @property
    def variant(self) -> str:
        return "two_pass" if self.method is not None and self.method.reading == "two_pass" else ""

    @property
    def key(self) -> str:
        return " ".join(str(x) for x in (self.name, self.variant, self.keep or "") if x)


@dataclass(frozen=True)
class Run:
    """Seconds of one run. first: pictures to first token; prefill: the language model's part of it
    (both passes of two_pass, scoring included); score: scoring and choosing; steps: the time of
    each further token."""

    first: float
    prefill: float
    score: float
    steps: tuple[float, ...]

    def until(self, tokens: int) -> float:
        """Seconds until the answer has that many tokens."""
        return self.first + sum(self.steps[: tokens - 1])


def cells_of(methods: Iterable[str], keeps: Iterable[int]) -> list[Cell]:
    """`full`, a method's name or `name:two_pass`, each at every keep.

    Raises ValueError for an unknown name or reading, as `method` does.
    """
    keeps, found = list(keeps), []
    for text in methods:
        name, _, reading = text.partition(":")
        if name == FULL:
            found.append(Cell(FULL))
            continue
        chosen = method(name, **({"reading": reading} if reading else {}))
        found += [Cell(name, chosen, keep) for keep in keeps]
    return found


def infeasible(model: nn.Module, cells: Iterable[Cell], n_visual: int) -> dict[Cell, str]:
    """Cells whose schedule cannot have that mean on this model, with the floor in words."""
    depth, found = len(family_of(model).part(model, "layers")), {}
    for cell in cells:
        try:
            if cell.method is not None:
                cell.method.schedule(cell.keep, n_visual, depth)
        except Infeasible as reason:
            found[cell] = str(reason)
    return found


def _block(model: nn.Module, prompt: Prompt, cell: Cell):
    if cell.method is None:
        return nullcontext(Trace())
    query = prompt.query if cell.method.rule.query_aware else None
    return pruned(model, cell.method, cell.keep, query=query)


@torch.no_grad()
def run(
    model: nn.Module,
    prompt: Prompt,
    cell: Cell,
    tokens: int = 1,
    *,
    clock: Callable[[], float],
    exact_score: bool = False,
) -> Run:
    """One answer of `tokens` tokens, greedily, with a cache; `clock` gives synchronised seconds.

    exact_score: synchronise around each score, too, which slows the run down elsewhere.
    """
    text, marks = family_of(model).part(model, "language"), {}

    def begin(*_: Any) -> None:
        marks["begin"] = clock()

    def end(*_: Any) -> None:
        marks["end"] = clock()

    ours = mock.patch.object(hook_file, "perf_counter", clock) if exact_score else nullcontext()
    # before `pruned`, whose own hook on the language model runs the first of two passes
    hooks = [text.register_forward_pre_hook(begin), text.register_forward_hook(end)]
    try:
        with ours, _block(model, prompt, cell) as trace:
            start = clock()
            out = model(**prompt.inputs, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            first, cache, steps = clock(), out.past_key_values, []
            for hook in hooks:
                hook.remove()
            place, ones = prompt.inputs["input_ids"].shape[1], torch.ones_like(token)
            last = first
            for step in range(tokens - 1):
                where = ones * (place + step)
                out = model(input_ids=token, past_key_values=cache, position_ids=where)
                token = out.logits[:, -1:].argmax(-1)
                steps.append(-last + (last := clock()))
    finally:
        for hook in hooks:
            hook.remove()
    score = sum(cut.seconds for cut in trace.cuts)
    return Run(first - start, marks["end"] - marks["begin"], score, tuple(steps))


@torch.no_grad()
def _held(model: nn.Module, prompt: Prompt, cell: Cell) -> tuple[int | None, int, float]:
    # (bytes at the peak above what was held, bytes of the cache, mean tokens)
    kept: dict[str, Any] = {}

    def prefill() -> None:
        kept.clear()
        with _block(model, prompt, cell) as trace:
            cache = model(**prompt.inputs, use_cache=True, logits_to_keep=1).past_key_values
        kept["cache"] = sum(part.keys.nbytes + part.values.nbytes for part in cache.layers)
        kept["mean"] = trace.mean_tokens[0] if trace.mean_tokens else float(prompt.n_visual)

    peak = peak_bytes(prefill, next(model.parameters()).device)
    if not kept:
        prefill()
    return peak, kept["cache"], kept["mean"]


def compute(config: Any, prompt: Prompt, cell: Cell) -> flops.Cost:
    """FLOPs of one prompt's prefill under a cell's schedule, its scores included where known."""
    depth, n = flops.decoder_of(config).layers, prompt.n_visual
    visual, scored = [n] * depth, []
    if cell.method is not None:
        cuts = cell.method.schedule(cell.keep, n, depth)
        visual = tokens_per_layer(cuts, n, depth)
        if cell.method.reading == "two_pass" and cuts[0].layer:
            visual = flops.two_pass(n, cuts[0].keep, cuts[0].layer, depth)
        known = cell.method.rule.cost
        counts = [n, *(cut.keep for cut in cuts)][: len(cuts)]
        about = (int(prompt.query.sum()), cell.method.params.get("rank", 16))
        if known and isinstance(about[1], int):
            scored = [sum(flops.scoring(config, known, c, *about).values()) for c in counts]
    return flops.prefill(config, visual, prompt.n_text, blocks=prompt.blocks, scored=scored)


def measure(
    model: nn.Module,
    prompt: Prompt,
    cells: Sequence[Cell],
    *,
    name: str,
    lengths: Sequence[int] = (1, 16),
    rounds: int = 5,
    warm_up: int = 1,
    memory: bool = True,
    clock: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Results in the schema, cell by cell; `full` is added where it is missing, for the ratios.

    Metrics (median; with `_q1` and `_q3`, the quartiles, over the rounds): first_token, prefill,
    decode (per token), scoring, latency_N for each length N, all in ms; throughput_N in img/s;
    speedup_first_token and speedup_N, paired within a round, x. Once: peak_memory above what was
    held and kv_cache in GB, mean_tokens in the column of that name, and compute in TFLOPs per
    prompt by `flops`. Raises ValueError for two equal cells, no length, or one below 1.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths={list(lengths)}: give output lengths of 1 token or more")
    cells = list(cells)
    if all(cell.method is not None for cell in cells):
        cells = [Cell(FULL), *cells]
    if len({cell.key for cell in cells}) < len(cells):
        raise ValueError(f"cells: {', '.join(c.key for c in cells)}: give each of them once")
    device, batch = next(model.parameters()).device, len(prompt.inputs["input_ids"])
    clock, longest = clock or clock_of(device), max(lengths)

    exact = clock is process_time  # the engine's seconds are the wall's

    def task(cell: Cell) -> Callable[[], Run]:
        return lambda: run(model, prompt, cell, longest, clock=clock, exact_score=exact)

    runs = interleaved({cell.key: task(cell) for cell in cells}, rounds, warm_up)
    if device.type == "cuda":  # elsewhere the score's own seconds are those of the work
        again = {
            c.key: lambda c=c: run(model, prompt, c, clock=clock, exact_score=True) for c in cells
        }
        scores = interleaved(again, rounds, 0)
    else:
        scores = runs
    rows, whole = [], runs[next(cell.key for cell in cells if cell.method is None)]
    for cell in cells:
        own = runs[cell.key]
        times = {"first_token": [r.first for r in own], "prefill": [r.prefill for r in own]}
        times |= {f"latency_{n}": [r.until(n) for r in own] for n in lengths}
        if longest > 1:
            times["decode"] = [s for r in own for s in r.steps]
        if cell.method is not None:
            times["scoring"] = [r.score for r in scores[cell.key]]
        found = [(metric, "ms", [1e3 * s for s in took]) for metric, took in times.items()]
        for n in lengths:
            rate = [batch / r.until(n) for r in own]
            found.append((f"throughput_{n}", "img/s", rate))
        values = [(metric, unit, spread(v)) for metric, unit, v in found]
        first = paired([r.first for r in whole], [r.first for r in own])
        values.append(("speedup_first_token", "x", first))
        for n in lengths:
            ratio = paired([r.until(n) for r in whole], [r.until(n) for r in own])
            values.append((f"speedup_{n}", "x", ratio))
        once = {"compute": (compute(model.config, prompt, cell).total / 1e12, "TFLOPs")}
        mean = None
        if memory:
            peak, cache, mean = _held(model, prompt, cell)
            once["kv_cache"] = (cache / 1e9, "GB")
            if peak is not None:
                once["peak_memory"] = (peak / 1e9, "GB")
        rows += _rows(cell, values, once, mean, prompt.n_visual)
    about = setting(model, batch, clock)
    weight = next(model.parameters()).dtype
    return tidy(pd.DataFrame(rows).assign(
        table="efficiency", model=name, benchmark="efficiency", seed=0, device=about["device"],
        dtype=str(weight).removeprefix("torch."), source=about["source"],
    ))  # fmt: skip


def _rows(cell: Cell, values: list, once: dict, mean: float | None, n_visual: int) -> list[dict]:
    about = {
        "method": cell.name, "variant": cell.variant, "keep": cell.keep or n_visual,
        "mean_tokens": mean,
    }  # fmt: skip
    if cell.method is not None and isinstance(cell.method.params.get("rank"), int):
        about["rank"] = cell.method.params["rank"]
    rows = []
    for metric, unit, s in values:
        for end, value in (("", s.median), ("_q1", s.low), ("_q3", s.high)):
            rows.append({**about, "metric": metric + end, "value": value, "unit": unit, "n": s.n})
    rows += [{**about, "metric": m, "value": v, "unit": u, "n": 1} for m, (v, u) in once.items()]
    return rows


def setting(model: nn.Module, batch: int = 1, clock: Any = None) -> dict[str, str]:
    """Where and by which clock a model was measured: the columns device and source."""
    import transformers

    kernel = getattr(model.config, "_attn_implementation", "?")
    more = [f"transformers {transformers.__version__}", kernel, f"batch {batch}"]
    return where_run(next(model.parameters()).device, clock, more)


def where_run(device: torch.device, clock: Any = None, more: Sequence[str] = ()) -> dict[str, str]:
    """The same for a measurement without a model."""
    threads = torch.get_num_threads()
    name, about = "cpu", [f"{threads} thread{'s' * (threads > 1)} of {os.cpu_count()}"]
    if device.type == "cuda":
        name, about = torch.cuda.get_device_name(device), [f"CUDA {torch.version.cuda}"]
    else:
        about.append(platform.machine())
    if hasattr(os, "getloadavg"):
        about.append(f"load {os.getloadavg()[0]:.1f}")
    told = ["processor seconds"] * (clock is process_time)
    parts = [f"torch {torch.__version__}", *more, *about, *told]
    source = f"measured ({', '.join([*parts, datetime.date.today().isoformat()])})"
    return {"device": name, "source": source}
