"""Where an answer's time goes: vision, layers below the cut, scoring, layers above, decoding."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import nn

from ...families import family_of
from .cases import Case, as_results, quartiles, run, where_measured
from .rounds import clock_of, interleaved, spread
from .workloads import Prompt

PARTS = ("vision", "below", "scoring", "above", "decode")


def parts(
    model: nn.Module,
    prompt: Prompt,
    cases: Sequence[Case],
    *,
    name: str,
    tokens: int = 16,
    rounds: int = 3,
    clock: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Milliseconds of the parts of an answer of `tokens` tokens, medians over rounds, as results.

    Cases with one cut at most. vision: until the language model begins, projector included; below:
    its layers before the cut (of the unpruned model: none); scoring; above: the others with norm
    and head, until the first token; decode: all further tokens. ValueError for several cuts.
    """
    device, depth = next(model.parameters()).device, len(family_of(model).part(model, "layers"))
    clock, layers = clock or clock_of(device), {}
    for case in cases:
        cuts = (
            () if case.method is None else case.method.schedule(case.keep, prompt.n_visual, depth)
        )
        if len(cuts) > 1 or (case.method is not None and case.method.reading != "in_place"):
            raise ValueError(f"{case.key}: parts are told for methods that cut once, in place")
        layers[case.key] = cuts[0].layer if cuts else 0

    def task(case: Case) -> Callable[[], list[float]]:
        return lambda: _one(model, prompt, case, layers[case.key], tokens, clock)

    found = interleaved({case.key: task(case) for case in cases}, rounds)
    rows = []
    for case in cases:
        about = {"method": case.name, "keep": case.keep or prompt.n_visual,
                 "layer": layers[case.key] if case.method else None,
                 "variant": f"{tokens} tokens"}  # fmt: skip
        for part, took in zip(PARTS, zip(*found[case.key], strict=True), strict=True):
            own = spread([1e3 * seconds for seconds in took])
            rows += [about | row for row in quartiles(part, "ms", own)]
    about = where_measured(model, len(prompt.inputs["input_ids"]), clock)
    return as_results(rows, "parts", model, name, about)


def _one(
    model: nn.Module, prompt: Prompt, case: Case, layer: int, tokens: int, clock: Callable
) -> list[float]:
    """Seconds of PARTS of one run."""
    marks: list[float] = []
    family = family_of(model)

    def mark(*_: Any) -> None:
        if len(marks) < 2:  # decoding passes here, too
            marks.append(clock())

    places = family.part(model, "language"), family.part(model, "layers")[layer]
    hooks = [module.register_forward_pre_hook(mark) for module in places]
    start = clock()
    try:
        took = run(model, prompt, case, tokens, clock=clock, exact_score=True)
    finally:
        for hook in hooks:
            hook.remove()
    begin, there = marks
    vision, below = begin - start, there - begin
    above = took.first - vision - below - took.score
    return [vision, below, took.score, above, sum(took.steps)]
