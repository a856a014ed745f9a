"""The work of `python -m qvid_utils measure`."""

import argparse

import pandas as pd
import torch

from ...algebra.fast_leverage import kernel
from ...algebra.ridge import check_alpha
from ...models.load import device_of, load
from ..cost.cases import cases_of, infeasible, measure, where_run
from ..cost.flops import prefill
from ..cost.grids import beside_single_runs
from ..cost.parts import PARTS, parts
from ..cost.rounds import clock_of
from ..cost.scores import as_results, compare
from ..cost.true_size import advance_notice, time_methods, weights_on_disk
from ..cost.workloads import NAMES, config_of, make, prompt_for
from ..tables.schema import write

SHOWN = ("first_token", "prefill", "decode", "scoring", "speedup_first_token")


def work(chosen: argparse.Namespace) -> int:
    """Measure what was chosen, print the table, store it where asked."""
    tasks = {"models": _models, "scores": _scores, "parts": _parts, "grid": _grid}
    tasks["true-size"] = _true_size
    return tasks[chosen.what](chosen)


def _check(chosen: argparse.Namespace) -> None:
    """ValueError for what no measurement can begin with; sets torch's threads."""
    chosen.device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device_of(chosen.device)
    kernel()
    torch.set_num_threads(chosen.threads)


def _ready(chosen: argparse.Namespace):
    _check(chosen)
    name, model = _model(chosen)
    prompt = prompt_for(model, chosen.words, chosen.questions, chosen.batch)
    return name, model, prompt, clock_of(chosen.device, chosen.cpu_time)


def _stored(found: pd.DataFrame, chosen: argparse.Namespace) -> int:
    if chosen.out is not None:
        print(write(found, chosen.out))
    return 0


def _parts(chosen: argparse.Namespace) -> int:
    cases = cases_of(chosen.methods.split(","), chosen.keep)
    name, model, prompt, clock = _ready(chosen)
    more = {"tokens": chosen.tokens, "rounds": chosen.rounds, "clock": clock}
    found = parts(model, prompt, cases, name=name, **more)
    print(found.source.iloc[0])
    shown = found[found.metric.isin(PARTS)]
    table = shown.pivot(index=["method", "keep"], columns="metric", values="value")
    print(table[list(PARTS)].round(2).to_string())
    return _stored(found, chosen)


def _grid(chosen: argparse.Namespace) -> int:
    name, model, prompt, clock = _ready(chosen)
    more = {"tokens": chosen.tokens, "rounds": chosen.rounds, "clock": clock}
    methods = chosen.methods.split(",")
    found = beside_single_runs(model, prompt, methods, chosen.keep, chosen.cut, name=name, **more)
    print(found.source.iloc[0])
    table = found.pivot(index=["variant", "layer"], columns="metric", values="value")
    print(table.round(3).to_string())
    return _stored(found, chosen)


def _models(chosen: argparse.Namespace) -> int:
    cases = cases_of(chosen.methods.split(","), chosen.keep)
    name, model, prompt, clock = _ready(chosen)
    floors = infeasible(model, cases, prompt.n_visual)
    for case, reason in floors.items():
        print(f"infeasible: {case.key}: {reason}")
    left = [case for case in cases if case not in floors]
    more = {"lengths": chosen.lengths, "rounds": chosen.rounds, "clock": clock}
    found = measure(model, prompt, left, name=name, **more)
    print(found.source.iloc[0])
    shown = found[found.metric.isin([*SHOWN, "kv_cache", "peak_memory", "compute"])]
    columns = ["method", "variant", "keep"]
    table = shown.pivot(index=columns, columns="metric", values="value")
    print(table.sort_index(level="keep", ascending=False).round(3).to_string())
    return _stored(found, chosen)


def _true_size(chosen: argparse.Namespace) -> int:
    _check(chosen)
    if chosen.model not in NAMES or chosen.out is None or chosen.device != "cpu":
        raise ValueError(
            f"true-size: give --model {' or '.join(NAMES)}, --device cpu and --out FILE.csv"
        )
    config = config_of(NAMES[chosen.model], chosen.layers, divide=chosen.divide)
    dtype, methods = getattr(torch, chosen.dtype), chosen.methods.split(",")
    depth, whole = config.get_text_config().num_hidden_layers, (chosen.rounds + 1)
    count = len(methods) * (len(chosen.keep) + 1)
    # a pruned prefill costs about two fifths of a full one: what was seen at 7B
    flops = whole * prefill(config, [576] * depth, chosen.words, blocks=[576]).total
    flops *= len(methods) * (1 + 0.4 * len(chosen.keep))
    print(advance_notice(config, dtype, flops, count, chosen.scratch), flush=True)
    shape = f" layers {chosen.layers}" if chosen.layers else ""
    shape += f" width/{chosen.divide}" if chosen.divide > 1 else ""
    more = {"rounds": chosen.rounds, "clock": clock_of(chosen.device, chosen.cpu_time)}
    more["name"] = f"{chosen.model}{shape} (random weights)"
    with weights_on_disk(config, dtype, chosen.attention, chosen.scratch) as model:
        prompt = prompt_for(model, chosen.words, chosen.questions, chosen.batch)
        found = time_methods(model, prompt, methods, chosen.keep, chosen.out, **more)
    columns = ["method", "variant", "keep"]
    shown = found[found.metric.isin(["first_token", "speedup_first_token", "speedup_16"])]
    shown = shown.assign(variant=shown["variant"].fillna(""))
    print(shown.pivot(index=columns, columns="metric", values="value").round(2).to_string())
    return 0


def _model(chosen: argparse.Namespace):
    if chosen.model not in NAMES:
        if chosen.layers is not None or chosen.divide != 1:
            raise ValueError(
                f"--layers and --divide shape random weights: choose --model {' or '.join(NAMES)}"
            )
        more = {"dtype": chosen.dtype, "device": chosen.device, "attention": chosen.attention}
        return chosen.model, load(chosen.model, **more)[0]
    dtype = chosen.dtype or ("float32" if chosen.device == "cpu" else "bfloat16")
    config = config_of(NAMES[chosen.model], chosen.layers, divide=chosen.divide)
    shape = f" layers {chosen.layers}" if chosen.layers else ""
    shape += f" width/{chosen.divide}" if chosen.divide > 1 else ""
    model = make(config, getattr(torch, dtype), chosen.device, chosen.attention)
    return f"{chosen.model}{shape} (random weights)", model


def _scores(chosen: argparse.Namespace) -> int:
    _check(chosen)
    shapes = [(q, v) for q in chosen.queries for v in chosen.visual]
    more = {"heads": chosen.heads, "rank": chosen.rank, "rounds": chosen.rounds}
    more["alpha"] = check_alpha(chosen.alpha)
    more["clock"] = clock_of(chosen.device, chosen.cpu_time)
    table = pd.DataFrame(compare(shapes, device=chosen.device, **more))
    small = [name for name in table.columns if name.endswith("_error")]
    show = dict.fromkeys(table.columns[2:], "{:.2f}".format) | dict.fromkeys(small, "{:.0e}".format)
    print(table.to_string(index=False, formatters=show))
    route = ["Triton kernel where N_q <= 64"] * (kernel() == "triton")
    where = where_run(torch.device(chosen.device), more["clock"], route)
    print(where["source"])
    return _stored(as_results(table, chosen.heads, chosen.rank, chosen.rounds, where), chosen)
