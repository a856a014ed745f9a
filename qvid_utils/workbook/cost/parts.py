"""Where an answer's time goes: vision, layers below the cut, scoring, layers above, decoding."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import nn

from ...families import family_of
from ..tables.schema import tidy
from .cells import Cell, run, setting
from .rounds import clock_of, interleaved, spread
from .workloads import Prompt

__all__ = ["PARTS", "parts"]

PARTS = ("vision", "below", "scoring", "above", "decode")


def parts(
    model: nn.Module,
    prompt: Prompt,
    cells: Sequence[Cell],
    *,
    name: str,
    tokens: int = 16,
    rounds: int = 3,
    clock: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Milliseconds of the parts of an answer of `tokens` tokens, medians over rounds, as results.

    Cells with one cut at most. vision: until the language model begins, projector included; below:
    its layers before the cut (of the unpruned model: none); scoring; above: the others with norm
    and head, until the first token; decode: all further tokens. ValueError for several cuts.
    """
    device, depth = next(model.parameters()).device, len(family_of(model).part(model, "layers"))
    clock, doors = clock or clock_of(device), {}
    for cell in cells:
        cuts = (
            () if cell.method is None else cell.method.schedule(cell.keep, prompt.n_visual, depth)
        )
        if len(cuts) > 1 or (cell.method is not None and cell.method.reading != "in_place"):
            raise ValueError(f"{cell.key}: parts are told for methods that cut once, in place")
        doors[cell.key] = cuts[0].layer if cuts else 0

    def task(cell: Cell) -> Callable[[], list[float]]:
        return lambda: _one(model, prompt, cell, doors[cell.key], tokens, clock)

    found = interleaved({cell.key: task(cell) for cell in cells}, rounds)
    about, rows = setting(model, len(prompt.inputs["input_ids"]), clock), []
    for cell in cells:
        for part, took in zip(PARTS, zip(*found[cell.key], strict=True), strict=True):
            s = spread(took)
            for end, value in (("", s.median), ("_q1", s.low), ("_q3", s.high)):
                rows.append({
                    "method": cell.name, "keep": cell.keep or prompt.n_visual,
                    "layer": doors[cell.key] if cell.method else None,
                    "metric": f"{part}{end}", "value": 1e3 * value, "n": s.n,
                })  # fmt: skip
    return tidy(pd.DataFrame(rows).assign(
        table="parts", model=name, variant=f"{tokens} tokens", benchmark="efficiency", unit="ms",
        seed=0, device=about["device"], dtype=str(model.dtype).removeprefix("torch."),
        source=about["source"],
    ))  # fmt: skip


def _one(
    model: nn.Module, prompt: Prompt, cell: Cell, door: int, tokens: int, clock: Callable
) -> list[float]:
    """Seconds of PARTS of one run."""
    marks: list[float] = []
    family = family_of(model)

    def mark(*_: Any) -> None:
        if len(marks) < 2:  # decoding passes here, too
            marks.append(clock())

    places = family.part(model, "language"), family.part(model, "layers")[door]
    hooks = [module.register_forward_pre_hook(mark) for module in places]
    start = clock()
    try:
        took = run(model, prompt, cell, tokens, clock=clock, exact_score=True)
    finally:
        for hook in hooks:
            hook.remove()
    begin, there = marks
    vision, below = begin - start, there - begin
    above = took.first - vision - below - took.score
    return [vision, below, took.score, above, sum(took.steps)]
