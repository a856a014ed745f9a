"""Time pruned and unpruned models side by side, the parts of an answer, the score alone, a grid.

    python -m qvid_utils measure models --model llava-1.5-7b --methods full,qvid,qvid:two_pass \\
        --keep 192,128,64 --lengths 1,64 --out runs/efficiency.csv
    python -m qvid_utils measure scores
    python -m qvid_utils measure parts --model llava-1.5-7b --divide 8 --methods full,qvid
    python -m qvid_utils measure true-size --model llava-1.5-7b --out runs/true_size.csv
    python -m qvid_utils measure grid --model tiny/llava --keep 48,32,16 --cut 1,3,6
"""

import argparse
from pathlib import Path

from .options import add_machine, numbers, whole

METHODS = "full,qvid,qvid:two_pass,v2drop,fastv"
GRID = "qvid,column_norm,fastv,variation"
TRUE_SIZE = "qvid,qvid:two_pass,qvid@mean,ridge,v2drop,fastv,svd_prune,visionzip"
QUERIES, VISUAL = "8,20,40,64,200", "144,576,2880,6273"


def add_options(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each thing that is measured."""
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    models = _one(what, "models", "methods side by side: TTFT, an answer, memory", model=True)
    models.add_argument("--lengths", type=numbers, default=[1, 16], help="tokens of the answer")
    parts = _one(what, "parts", "the parts of an answer, for methods that cut once", model=True)
    parts.add_argument("--tokens", type=whole(1), default=16, help="of the answer")
    grid = _one(what, "grid", "a grid in one pass beside its single runs", model=True)
    grid.set_defaults(methods=GRID, keep=[192, 128, 64], rounds=3)
    grid.add_argument("--cut", type=layers, default=[3], help="layers, a grid at each")
    grid.add_argument("--tokens", type=whole(1), default=2, help="of the answer")
    whole_size = _one(what, "true-size", "7B models on a CPU, stored method by method", model=True)
    whole_size.set_defaults(methods=TRUE_SIZE, rounds=3, dtype="bfloat16", threads=2)
    whole_size.add_argument("--scratch", type=Path, metavar="FOLDER", help="of the weights")
    scores = _one(
        what,
        "scores",
        "the score alone, leverage and ridge, beside the printed QR + SVD and beside forming "
        "M (QVID_KERNEL=triton: the Triton kernel's time)",
    )
    scores.add_argument("--heads", type=whole(1), default=32)
    scores.add_argument("--queries", type=numbers, default=numbers(QUERIES))
    scores.add_argument("--visual", type=numbers, default=numbers(VISUAL))
    scores.add_argument("--rank", type=whole(1), default=16)
    scores.add_argument("--alpha", type=float, default=0.3, help="ridge's (default: 0.3)")
    scores.set_defaults(rounds=9)


def layers(text: str) -> list[int]:
    """Whole numbers of 0 or more with commas between them."""
    return [whole(0)(part) for part in text.split(",")]


def _one(commands, name: str, about: str, model: bool = False) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    add = parser.add_argument
    add("--threads", type=whole(1), default=1, help="of torch on the CPU (default: 1)")
    add("--rounds", type=whole(1), default=5, help="of which the median counts (default: 5)")
    add(
        "--cpu-time",
        action="store_true",
        help="count the processor's seconds, not the wall's: one thread on a busy machine",
    )
    add("--out", type=Path, metavar="FILE.csv", help="store the results there")
    if not model:
        add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
        return parser
    add_machine(parser)
    add(
        "--model",
        required=True,
        help="llava-1.5-7b, qwen2-vl-7b (random weights), tiny/llava, a folder or hub id",
    )
    add("--methods", default=METHODS, help=f"default: {METHODS}")
    add("--keep", type=numbers, default=[192, 128, 64, 32, 16])
    add("--batch", type=whole(1), default=1)
    add("--words", type=whole(1), default=57, help="text tokens of the prompt")
    add("--questions", type=whole(1), default=40, help="of these, the question's")
    add("--layers", type=whole(1), help="of the language model (random weights only)")
    add(
        "--divide",
        type=whole(1),
        default=1,
        metavar="N",
        help="width, heads and FFN by this number (random weights only)",
    )
    return parser


def work(chosen: argparse.Namespace) -> int:
    """Measure what was chosen."""
    from .timing import work as measure

    return measure(chosen)
