"""Cases (method, reading, keep) timed side by side on one model and one prompt."""

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import nn

from ...algebra.cuts import Infeasible
from ...families import family_of
from ...methods import Method, method
from ...prune import Trace, cutting, pruned
from ..benchmarks.base import FULL
from ..tables.schema import tidy
from .flops import Cost
from .of_methods import cost_of
from .rounds import Spread, clock_of, interleaved, paired, peak_bytes, spread
from .workloads import Prompt


@dataclass(frozen=True)
class Case:
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


def cases_of(methods: Iterable[str], keeps: Iterable[int]) -> list[Case]:
    """`full`, a method's name or `name:two_pass`, each at every keep.

    Raises ValueError for an unknown name or reading, as `method` does.
    """
    keeps, found = list(keeps), []
    for text in methods:
        name, _, reading = text.partition(":")
        if name == FULL:
            found.append(Case(FULL))
            continue
        chosen = method(name, **({"reading": reading} if reading else {}))
        found += [Case(name, chosen, keep) for keep in keeps]
    return found


def infeasible(model: nn.Module, cases: Iterable[Case], n_visual: int) -> dict[Case, str]:
    """Cells whose schedule cannot have that mean on this model, with the floor in words."""
    depth, found = len(family_of(model).part(model, "layers")), {}
    for case in cases:
        try:
            if case.method is not None:
                case.method.schedule(case.keep, n_visual, depth)
        except Infeasible as reason:
            found[case] = str(reason)
    return found


def _block(model: nn.Module, prompt: Prompt, case: Case):
    if case.method is None:
        return nullcontext(Trace())
    query = prompt.query if case.method.rule.query_aware else None
    return pruned(model, case.method, case.keep, query=query)


@torch.no_grad()
def run(
    model: nn.Module,
    prompt: Prompt,
    case: Case,
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

    ours = mock.patch.object(cutting, "perf_counter", clock) if exact_score else nullcontext()
    # before `pruned`, whose own hook on the language model runs the first of two passes
    hooks = [text.register_forward_pre_hook(begin), text.register_forward_hook(end)]
    try:
        with ours, _block(model, prompt, case) as trace:
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
def _held(model: nn.Module, prompt: Prompt, case: Case) -> tuple[int | None, int, float]:
    # (bytes at the peak above what was held, bytes of the cache, mean tokens)
    kept: dict[str, Any] = {}

    def prefill() -> None:
        kept.clear()
        with _block(model, prompt, case) as trace:
            cache = model(**prompt.inputs, use_cache=True, logits_to_keep=1).past_key_values
        kept["cache"] = sum(part.keys.nbytes + part.values.nbytes for part in cache.layers)
        kept["mean"] = trace.mean_tokens[0] if trace.mean_tokens else float(prompt.n_visual)

    peak = peak_bytes(prefill, next(model.parameters()).device)
    if not kept:
        prefill()
    return peak, kept["cache"], kept["mean"]


def measure(
    model: nn.Module,
    prompt: Prompt,
    cases: Sequence[Case],
    *,
    name: str,
    lengths: Sequence[int] = (1, 16),
    rounds: int = 5,
    warm_up: int = 1,
    memory: bool = True,
    clock: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Results in the schema, case by case; `full` is added where it is missing, for the ratios.

    Metrics (median; with `_q1` and `_q3`, the quartiles, over the rounds): first_token, prefill,
    decode (per token), scoring, latency_N for each length N, all in ms; throughput_N in img/s;
    speedup_first_token and speedup_N, paired within a round, x. Once: peak_memory above what was
    held and kv_cache in GB, mean_tokens in the column of that name, and compute in TFLOPs per
    prompt by `cost_of`. Raises ValueError for two equal cases, no length, or one below 1.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths={list(lengths)}: give output lengths of 1 token or more")
    cases = list(cases)
    if all(case.method is not None for case in cases):
        cases = [Case(FULL), *cases]
    if len({case.key for case in cases}) < len(cases):
        raise ValueError(f"cases: {', '.join(c.key for c in cases)}: give each of them once")
    device, batch = next(model.parameters()).device, len(prompt.inputs["input_ids"])
    clock, longest = clock or clock_of(device), max(lengths)

    exact = clock is process_time  # the engine's seconds are the wall's
    once = partial(run, model, prompt, clock=clock)
    tasks = {c.key: partial(once, c, longest, exact_score=exact) for c in cases}
    scores = runs = interleaved(tasks, rounds, warm_up)
    if device.type == "cuda":  # elsewhere the score's own seconds are those of the work
        scores = interleaved({c.key: partial(once, c, exact_score=True) for c in cases}, rounds, 0)
    whole = runs[next(case.key for case in cases if case.method is None)]
    rows = []
    for case in cases:
        score = [r.score for r in scores[case.key]]
        values = _values(runs[case.key], whole, score, lengths, batch)
        counted, mean = _counted(model, prompt, case, memory)
        about = {"method": case.name, "variant": case.variant, "mean_tokens": mean,
                 "keep": case.keep or prompt.n_visual}  # fmt: skip
        if case.method is not None and isinstance(case.method.params.get("rank"), int):
            about["rank"] = case.method.params["rank"]
        rows += [about | row for found in values for row in quartiles(*found)]
        rows += [about | {"metric": metric, "value": value, "unit": unit, "n": 1}
                 for metric, (value, unit) in counted.items()]  # fmt: skip
    return as_results(rows, "efficiency", model, name, where_measured(model, batch, clock))


def _counted(
    model: nn.Module, prompt: Prompt, case: Case, memory: bool
) -> tuple[dict[str, tuple[float, str]], float | None]:
    """What is the same in every round: metric -> (value, unit); and the mean tokens of a layer."""
    found = {"compute": (operations(model.config, prompt, case).total / 1e12, "TFLOPs")}
    if not memory:
        return found, None
    peak, cache, mean = _held(model, prompt, case)
    found["kv_cache"] = (cache / 1e9, "GB")
    if peak is not None:
        found["peak_memory"] = (peak / 1e9, "GB")
    return found, mean


def _values(
    own: list[Run], whole: list[Run], score: list[float], lengths: Sequence[int], batch: int
) -> list[tuple[str, str, Spread]]:
    """(metric, unit, spread over the rounds) of one case; whole: the runs of the full model."""
    times = {"first_token": [r.first for r in own], "prefill": [r.prefill for r in own]}
    times |= {f"latency_{n}": [r.until(n) for r in own] for n in lengths}
    if max(lengths) > 1:
        times["decode"] = [s for r in own for s in r.steps]
    if own is not whole:
        times["scoring"] = score
    found = [(metric, "ms", spread([1e3 * s for s in took])) for metric, took in times.items()]
    found += [(f"throughput_{n}", "img/s", spread([batch / r.until(n) for r in own]))
              for n in lengths]  # fmt: skip
    first = paired([r.first for r in whole], [r.first for r in own])
    return [*found, ("speedup_first_token", "x", first),
            *((f"speedup_{n}", "x", paired([r.until(n) for r in whole], [r.until(n) for r in own]))
              for n in lengths)]  # fmt: skip


def operations(config: Any, prompt: Prompt, case: Case) -> Cost:
    """FLOPs of one prompt's prefill, by part."""
    return cost_of(
        config, case.method or FULL, case.keep, prompt.n_visual, prompt.n_text,
        int(prompt.query.sum()), blocks=prompt.blocks,
    )  # fmt: skip


def quartiles(metric: str, unit: str, s: Spread) -> list[dict]:
    """A metric's median, and its quartiles as `_q1` and `_q3`, as rows of the results schema."""
    ends = {"": s.median, "_q1": s.low, "_q3": s.high}
    return [{"metric": metric + end, "value": value, "unit": unit, "n": s.n}
            for end, value in ends.items()]  # fmt: skip


def as_results(
    rows: list[dict], table: str, model: nn.Module, name: str, about: Mapping[str, str]
) -> pd.DataFrame:
    """Rows of one measurement of a model in the schema; about: `where_measured`."""
    return tidy(pd.DataFrame(rows).assign(
        table=table, model=name, benchmark="efficiency", seed=0, **about,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
    ))  # fmt: skip


def where_measured(model: nn.Module, batch: int = 1, clock: Any = None) -> dict[str, str]:
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
