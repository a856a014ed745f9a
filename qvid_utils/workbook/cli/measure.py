"""Measure models, the score alone, the parts of an answer or a grid, from the command line.

    python -m qvid_utils.workbook.cost --model llava-1.5-7b --methods full,qvid,qvid:two_pass,v2drop \\
        --keep 192,128,64 --lengths 1,64 --out runs/efficiency.csv
    python -m qvid_utils.workbook.cost scores
    python -m qvid_utils.workbook.cost parts --model llava-1.5-7b --divide 8 --methods full,qvid
    python -m qvid_utils.workbook.cost grid --model tiny/llava --keep 48,32,16 --cut 1,3,6
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ...algebra.linalg import kernel
from ...families import Unavailable
from ...models.load import LoadError, device_of, load
from ..cost.cells import Cell, cells_of, infeasible, measure, where_run
from ..cost.grids import beside_single_runs
from ..cost.parts import PARTS, parts
from ..cost.rounds import clock_of
from ..cost.scores import as_results, compare
from ..cost.workloads import NAMES, config_of, make, prompt_for
from ..tables.schema import write

METHODS = "full,qvid,qvid:two_pass,v2drop,fastv"
QUERIES, VISUAL = "8,20,40,64,200", "144,576,2880,6273"
ONE_OR_MORE = ("threads", "batch", "layers", "divide", "words", "tokens", "keep", "heads",
               "queries", "visual", "rank")  # fmt: skip
SHOWN = ("first_token", "prefill", "decode", "scoring", "speedup_first_token")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        other = {"scores": _scores, "parts": _parts, "grid": _grid}.get(argv[0] if argv else "")
        return _models(argv) if other is None else other(argv[1:])
    except (ValueError, TypeError, ImportError, LoadError, Unavailable) as error:
        print(f"measure: {error}", file=sys.stderr)
        return 2


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers with commas") from None


def _common(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qvid_utils.workbook.cost", description=about)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    busy = "count the processor's seconds, not the wall's: one thread on a busy machine"
    parser.add_argument("--cpu-time", action="store_true", help=busy)
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="store the results there")
    return parser


def _with_model(about: str) -> argparse.ArgumentParser:
    parser = _common(about)
    known = ", ".join(NAMES)
    where = f"{known} (random weights), tiny/llava, a folder or hub id"
    parser.add_argument("--model", required=True, help=where)
    parser.add_argument("--methods", default=METHODS, help=f"default: {METHODS}")
    parser.add_argument("--keep", type=_numbers, default=[192, 128, 64, 32, 16])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--words", type=int, default=57, help="text tokens of the prompt")
    parser.add_argument("--questions", type=int, default=40, help="of these, the question's")
    parser.add_argument("--layers", type=int, help="of the language model (random weights only)")
    narrower = "width, heads and FFN by this number (random weights only)"
    parser.add_argument("--divide", type=int, default=1, metavar="N", help=narrower)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--attention", default="sdpa")
    return parser


def _check(chosen: argparse.Namespace) -> None:
    """ValueError for what no measurement can begin with; sets torch's threads."""
    for name in ONE_OR_MORE:
        given = getattr(chosen, name, None)
        for number in given if isinstance(given, list) else [given]:
            if number is not None and number < 1:
                raise ValueError(f"--{name} {number}: give 1 or more")
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


def _parts(argv: Sequence[str]) -> int:
    parser = _with_model("Time the parts of an answer, for methods that cut once.")
    parser.add_argument("--tokens", type=int, default=16, help="of the answer")
    chosen = parser.parse_args(argv)
    cells = cells_of(chosen.methods.split(","), chosen.keep)
    name, model, prompt, clock = _ready(chosen)
    more = {"tokens": chosen.tokens, "rounds": chosen.rounds, "clock": clock}
    found = parts(model, prompt, cells, name=name, **more)
    print(found.source.iloc[0])
    shown = found[found.metric.isin(PARTS)]
    table = shown.pivot(index=["method", "keep"], columns="metric", values="value")
    print(table[list(PARTS)].round(2).to_string())
    return _stored(found, chosen)


def _grid(argv: Sequence[str]) -> int:
    parser = _with_model("Time a grid of rules and keeps in one pass beside its single runs.")
    parser.set_defaults(methods="qvid,column_norm,fastv,variation", keep=[192, 128, 64], rounds=3)
    parser.add_argument("--cut", type=_numbers, default=[3], help="layers, a grid at each")
    parser.add_argument("--tokens", type=int, default=2, help="of the answer")
    chosen = parser.parse_args(argv)
    name, model, prompt, clock = _ready(chosen)
    more = {"tokens": chosen.tokens, "rounds": chosen.rounds, "clock": clock}
    methods = chosen.methods.split(",")
    found = beside_single_runs(model, prompt, methods, chosen.keep, chosen.cut, name=name, **more)
    print(found.source.iloc[0])
    table = found.pivot(index=["variant", "layer"], columns="metric", values="value")
    print(table.round(3).to_string())
    return _stored(found, chosen)


def _models(argv: Sequence[str]) -> int:
    parser = _with_model("Time methods side by side; other first words: scores, parts, grid.")
    parser.add_argument("--lengths", type=_numbers, default=[1, 16], help="tokens of the answer")
    chosen = parser.parse_args(argv)
    cells = cells_of(chosen.methods.split(","), chosen.keep)
    name, model, prompt, clock = _ready(chosen)
    floors = infeasible(model, cells, prompt.n_visual)
    for cell, reason in floors.items():
        print(f"infeasible: {cell.key}: {reason}")
    left: list[Cell] = [cell for cell in cells if cell not in floors]
    more = {"lengths": chosen.lengths, "rounds": chosen.rounds, "clock": clock}
    found = measure(model, prompt, left, name=name, **more)
    print(found.source.iloc[0])
    shown = found[found.metric.isin([*SHOWN, "kv_cache", "peak_memory", "compute"])]
    columns = ["method", "variant", "keep"]
    table = shown.pivot(index=columns, columns="metric", values="value")
    print(table.sort_index(level="keep", ascending=False).round(3).to_string())
    return _stored(found, chosen)


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


def _scores(argv: Sequence[str]) -> int:
    parser = _common(
        "Time `leverage` beside the printed QR + SVD and beside forming M; with QVID_KERNEL=triton "
        "in the environment it is the Triton kernel's time."
    )
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--queries", type=_numbers, default=_numbers(QUERIES))
    parser.add_argument("--visual", type=_numbers, default=_numbers(VISUAL))
    parser.add_argument("--rank", type=int, default=16)
    chosen = parser.parse_args(argv)
    _check(chosen)
    shapes = [(q, v) for q in chosen.queries for v in chosen.visual]
    more = {"heads": chosen.heads, "rank": chosen.rank, "rounds": chosen.rounds}
    more["clock"] = clock_of(chosen.device, chosen.cpu_time)
    table = pd.DataFrame(compare(shapes, device=chosen.device, **more))
    show = {"error": "{:.1e}".format, **dict.fromkeys(table.columns[2:-1], "{:.2f}".format)}
    print(table.to_string(index=False, formatters=show))
    route = ["Triton kernel where N_q <= 64"] * (kernel() == "triton")
    where = where_run(torch.device(chosen.device), more["clock"], route)
    return _stored(as_results(table, chosen.heads, chosen.rank, chosen.rounds, where), chosen)


if __name__ == "__main__":
    sys.exit(main())
