"""The five parts of `check --device`: each gives its steps, and a step gives a table."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import torch

from ...models.load import load
from ...paths import NOTEBOOKS, ROOT
from ..benchmarks.embedded import TINY, suite
from ..cost.cases import cases_of, infeasible, measure
from ..cost.grids import beside_single_runs
from ..cost.rounds import clock_of
from ..cost.scores import OURS, compare
from ..cost.workloads import NAMES, config_of, make, prompt_for
from ..run import cell as run_cell
from ..run.evaluate import evaluate

__all__ = ["STEPS", "Size"]

COMPARED = ("qvid", "qvid:two_pass", "ridge", "v2drop", "fastv", "svd_prune", "visionzip")
NO_CLASS_TOKEN = {"visionzip": "visionzip_received"}  # of a tower without one: Qwen2-VL's
KEEPS = (192, 128, 64, 32, 16)
BATCHES = (1, 8)
VISUAL, QUERY, HEADS = (576, 2880, 6272), 40, 32
CUTS = (1, 3, 6, 9)
RULES = ("qvid", "column_norm", "fastv", "variation")
WORDS, QUESTION = 57, 40
SHOWN = ("first_token", "prefill", "decode", "latency_16", "scoring", "peak_memory")


@dataclass(frozen=True)
class Size:
    """What is checked, and how small: divide and layers shape the models of random weights; limit:
    so many steps of a part, budgets, questions of a suite (None: all)."""

    device: str
    divide: int = 1
    layers: int | None = None
    limit: int | None = None
    rounds: int = 3

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"


Steps = Iterator[tuple[str, Callable[[], pd.DataFrame]]]


# ---------------------------------------------------------------------------------------- oracles


def _oracles(size: Size) -> Steps:
    yield "twins", partial(_pytest, size, "tests/prune/test_on_device.py")
    if size.cuda:
        triton = "tests/algebra/test_leverage_triton.py"
        yield "triton", partial(_pytest, size, triton, "-m", "full or not full")
    for name in ("tiny/llava", "tiny/qwen2_vl")[: size.limit]:
        yield name.replace("/", "-"), partial(_answers, size, name)


def _pytest(size: Size, file: str, *more: str) -> pd.DataFrame:
    """One row for each test of a file, run on the device."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        limit = {"QVID_DEVICE_LIMIT": str(size.limit)} if size.limit else {}
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
             *more, f"--junitxml={report}", file],
            cwd=ROOT, env=os.environ | {"QVID_DEVICE": size.device} | limit,
            capture_output=True, text=True,
        )  # fmt: skip
        if not report.exists():
            raise RuntimeError(f"pytest {file} ended with {ran.returncode}: {ran.stdout[-800:]}")
        cases = ElementTree.parse(report).getroot().iter("testcase")
        rows = [
            {
                "name": case.get("name"),
                "fine": not (case.findall("failure") or case.findall("error")),
                "skipped": bool(case.findall("skipped")),
                "seconds": float(case.get("time", 0)),
            }
            for case in cases
        ]
    if not rows:
        raise RuntimeError(f"pytest {file} ran no test: {ran.stdout[-800:]}")
    return pd.DataFrame(rows)


def _answers(size: Size, name: str) -> pd.DataFrame:
    """How many answers of an embedded model on the device are the CPU's, pruned and not."""
    cells = [run_cell.Cell(), run_cell.Cell("qvid", 16)]
    suites, found = [suite(one) for one in TINY], []
    for device in ("cpu", size.device):
        model, processor = load(name, device=device, dtype="float32")
        found.append(evaluate(model, processor, suites, cells, limit=size.limit))
    both = found[0].assign(there=found[1]["prediction"])
    rows = []
    for (asked, method), part in both.groupby(["suite", "method"], sort=False):
        same = (part["prediction"] == part["there"]).mean()
        about = {"name": f"{name} {asked} {method}", "n": len(part)}
        rows.append(about | {"same_pct": 100 * same, "fine": bool(same >= 0.99)})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ score


def _score(size: Size) -> Steps:
    for n_visual in VISUAL[: size.limit]:
        shape = (QUERY, n_visual // size.divide)
        routes = ["torch", "triton"] if size.cuda else ["torch"]
        for route in routes:
            yield f"{shape[1]}-{route}", partial(_scored, size, shape, route)


def _scored(size: Size, shape: tuple[int, int], route: str) -> pd.DataFrame:
    before = os.environ.get("QVID_KERNEL")
    os.environ["QVID_KERNEL"] = route
    try:
        heads, rounds = max(1, HEADS // size.divide), max(9, size.rounds)
        (row,) = compare([shape], heads=heads, rounds=rounds, device=size.device)
    finally:
        os.environ.pop("QVID_KERNEL")
        if before is not None:
            os.environ["QVID_KERNEL"] = before
    about = {"heads": heads, "n_query": shape[0], "n_visual": shape[1], "route": route}
    found = [{**about, "score": "QR + SVD", "us": 1e3 * row["qr_ms"]}]
    for name in OURS:
        ends = {f"times_faster{end}": row[f"{name}_x{end}"] for end in ("", "_low", "_high")}
        found.append({**about, "score": name, "us": 1e3 * row[f"{name}_ms"], **ends,
                      "error": row[f"{name}_error"]})  # fmt: skip
    return pd.DataFrame(found)


# ----------------------------------------------------------------------------------------- models


def _model(size: Size, name: str):
    kind = NAMES[name]
    divide = math.gcd(size.divide, 4) if kind == "qwen2_vl" else size.divide  # its key heads: 4
    tower = None if size.layers is None else min(size.layers, 4)
    config = config_of(kind, size.layers, tower=tower, divide=divide)
    return make(config, torch.float16 if size.cuda else torch.float32, size.device)


def _models(size: Size) -> Steps:
    made: dict[str, torch.nn.Module] = {}

    def model(name: str):
        if name not in made:
            made.clear()  # one at a time
            made[name] = _model(size, name)
        return made[name]

    every = [(n, batch, m) for n in NAMES for batch in BATCHES for m in COMPARED]
    for name, batch, method in every[: size.limit]:
        if name.startswith("qwen"):
            method = NO_CLASS_TOKEN.get(method, method)
        step = f"{name}-{batch}-{method.replace(':', '-')}"
        yield step, partial(_timed, size, model, name, batch, method)
    made.clear()


def _timed(size: Size, model: Callable, name: str, batch: int, method: str) -> pd.DataFrame:
    """The unpruned model and one method at all budgets, in the same rounds."""
    chosen = model(name)
    prompt = prompt_for(chosen, WORDS, QUESTION, batch)
    cases = cases_of(["full", method], KEEPS[: size.limit])
    out = infeasible(chosen, cases, prompt.n_visual)
    cases = [case for case in cases if case not in out]
    more = {"lengths": [1, 16], "rounds": size.rounds, "clock": clock_of(size.device)}
    found = measure(chosen, prompt, cases, name=name, **more)
    found = found.assign(variant=found["variant"].fillna(""))
    wide = found.pivot(index=["method", "variant", "keep"], columns="metric", values="value")
    wide = wide.reset_index().sort_values("keep", ascending=False)
    table = wide[["method", "variant", "keep"]].assign(model=name, batch=batch)
    for metric in SHOWN:
        table[metric] = wide.get(metric)
    for end in ("", "_q1", "_q3"):
        table[f"speedup{end}"] = wide[f"speedup_first_token{end}"]
    table["bound"] = wide["compute"].max() / wide["compute"]
    return table.assign(of_bound=table["speedup"] / table["bound"])


# -------------------------------------------------------------------------------------- notebooks


def _notebooks(size: Size) -> Steps:
    for start in ("00", "02", "04")[: size.limit]:
        yield start, partial(_notebook, size, start)


def _notebook(size: Size, start: str) -> pd.DataFrame:
    """One notebook in a copy of the checkout, so that no tracked file changes."""
    hidden = {} if size.cuda else {"CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory(prefix="qvid-check-") as folder:
        copy = Path(folder) / "checkout"
        left = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=left, symlinks=True)
        ran = subprocess.run(
            [sys.executable, "-m", "qvid_utils", "figures", "--only", start],
            cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)} | hidden,
            capture_output=True, text=True,
        )  # fmt: skip
    last = (ran.stdout + ran.stderr).strip().splitlines()[-1:] or [""]
    name = next(NOTEBOOKS.glob(f"{start}_*.ipynb")).stem
    return pd.DataFrame([{"name": name, "fine": ran.returncode == 0, "said": last[0]}])


# ------------------------------------------------------------------------------------------- grid


def _grid(size: Size) -> Steps:
    yield "llava-1.5-7b", partial(_gridded, size)


def _gridded(size: Size) -> pd.DataFrame:
    model = _model(size, "llava-1.5-7b")
    depth = model.config.get_text_config().num_hidden_layers
    cuts = [layer for layer in CUTS if layer < depth][: size.limit]
    prompt = prompt_for(model, WORDS, QUESTION)
    more = {"rounds": size.rounds, "clock": clock_of(size.device)}
    found = beside_single_runs(model, prompt, RULES, KEEPS[:3], cuts, name="llava-1.5-7b", **more)
    return found.pivot(index="layer", columns="metric", values="value").reset_index()


STEPS: dict[str, Callable[[Size], Steps]] = {
    "oracles": _oracles,
    "score": _score,
    "models": _models,
    "notebooks": _notebooks,
    "grid": _grid,
}
