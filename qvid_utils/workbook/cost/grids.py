"""A grid of cells in one pass beside its single runs: seconds, and operations in closed form."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from ...methods import method
from ...prune import pruned
from ..run.grid import answers
from . import flops
from .cases import as_results, quartiles, where_measured
from .rounds import clock_of, interleaved, paired, spread
from .workloads import Prompt


def beside_single_runs(
    model: nn.Module,
    prompt: Prompt,
    methods: Sequence[str],
    keeps: Sequence[int],
    layers: Sequence[int],
    *,
    name: str,
    tokens: int = 2,
    rounds: int = 3,
    clock: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """For each layer all methods × keeps, in one pass and one by one, in the schema.

    Metrics: single and grid in ms, the sum over the cells and the pass, medians; grid_cost, the
    pass over the sum within a round, with quartiles; least_cost, the same in operations of the
    prefill: what no pass that runs every cell's own layers can be below. The answers of the two are
    compared, and RuntimeError says which cell differs.
    """
    clock = clock or clock_of(next(model.parameters()).device)
    rows = []
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    for layer in layers:
        cells = [_cell(prompt, name_, keep, layer) for name_ in methods for keep in keeps]
        tasks = {
            "single": lambda cells=cells: _timed(clock, _singly, model, prompt, cells, options),
            "grid": lambda cells=cells: _timed(clock, _gridded, model, prompt, cells, options),
        }
        found = interleaved(tasks, rounds)
        for one, other, cell in zip(*(found[n][0][1] for n in tasks), cells, strict=True):
            if not torch.equal(one, other):
                raise RuntimeError(f"{cell}: the grid answers {other.tolist()}, {one.tolist()} "
                                   "is the answer alone")  # fmt: skip
        took = {n: [seconds for seconds, _ in values] for n, values in found.items()}
        about = {"method": f"{len(methods)} rules", "layer": layer,
                 "variant": f"keep {', '.join(map(str, keeps))}; {tokens} tokens"}  # fmt: skip
        values = [{"metric": n, "unit": "ms", "value": 1e3 * spread(s).median, "n": rounds}
                  for n, s in took.items()]  # fmt: skip
        values += quartiles("grid_cost", "x", paired(took["grid"], took["single"]))
        fewest = least(model.config, prompt, layer, keeps, len(methods))
        values.append({"metric": "least_cost", "unit": "x", "value": fewest, "n": rounds})
        rows += [about | row for row in values]
    about = where_measured(model, len(prompt.inputs["input_ids"]), clock)
    return as_results(rows, "grid", model, name, about)


def least(config: Any, prompt: Prompt, layer: int, keeps: Sequence[int], rules: int) -> float:
    """Operations of the shared part once and of every cell's own layers, over those of the single
    runs; scores and decoding left out."""
    depth, n, text = flops.decoder_of(config).layers, prompt.n_visual, prompt.n_text
    own = [flops.prefill(config, [k] * (depth - layer), text).total for k in keeps]
    full = flops.prefill(config, [n] * depth, text, blocks=prompt.blocks)
    shared = full.vision + full.projector + full.layers * layer / depth
    return (shared + rules * sum(own)) / (rules * sum(shared + one for one in own))


def _cell(prompt: Prompt, name: str, keep: int, layer: int) -> tuple:
    query = {"query": prompt.query} if method(name).rule.query_aware else {}
    return name, keep, {"layer": layer, **query}


def _timed(clock: Callable[[], float], task: Callable, *given: Any) -> tuple[float, Any]:
    start = clock()
    found = task(*given)
    return clock() - start, found


@torch.inference_mode()
def _singly(model: nn.Module, prompt: Prompt, cells: Sequence[tuple], options: dict) -> list:
    found, start = [], prompt.inputs["input_ids"].shape[1]
    for name, keep, more in cells:
        with pruned(model, name, keep, **more):
            found.append(model.generate(**prompt.inputs, **options)[:, start:])
    return found


def _gridded(model: nn.Module, prompt: Prompt, cells: Sequence[tuple], options: dict) -> list:
    return [one.ids for one in answers(model, prompt.inputs, cells, **options)]
