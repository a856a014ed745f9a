"""Before a big run: the cells of every table, what is done, what is missing, what it will take.

    python -m qvid_utils dry-run --rate 120

Nothing is loaded, downloaded or asked. GPU-hours are prefill operations (`flops`) over a rate in
TFLOP/s: one that you give, or the one that `measure models --out FILE.csv` measured.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from ...algebra.cuts import Infeasible, count_at, tokens_per_layer
from ...families import FAMILIES, Unavailable
from ...methods import METHODS, method
from ...paths import DATA, RUNS
from ..benchmarks.base import FULL
from ..benchmarks.paper_profile import here
from ..benchmarks.published import BENCHMARKS
from ..benchmarks.published.entries import SEEN
from ..benchmarks.published.scorers import caption_tools
from ..cost import flops
from ..tables.paper_tables import ANSWERS, CELL, COSTS, SUITE_OF, cells_of
from ..tables.schema import read

__all__ = ["MODELS", "operations", "plan", "rate_of", "report"]

TEXT = 60  # tokens of a prompt beside the picture, as QViD's Table 8 implies; answers are added
ANSWER = 16  # at most so many tokens of an answer are counted, each as one of the prompt


#: Model -> its family, visual tokens of a prompt, patches of each picture or frame.
MODELS = {
    "LLaVA-1.5-7B": ("llava", 576, [576]),
    # a picture of 640 x 480; larger ones cost more
    "Qwen2-VL-7B": ("qwen2_vl", 391, [1564]),
    "Video-LLaVA-7B": ("video_llava", 8 * 257, [256] * 8),
    "LLaVA-OneVision-7B": ("llava_onevision", 32 * 196 + 1, [729] * 32),
}


@cache
def _shape(model: str) -> SimpleNamespace:
    family, visual, blocks = MODELS[model]
    config = FAMILIES[family].full()
    return SimpleNamespace(config=config, visual=visual, blocks=blocks,
                           layers=flops.decoder_of(config).layers)  # fmt: skip


@cache
def operations(
    model: str, name: str, keep: int | None, share: float | None, layer: int | None, text: int
) -> float | None:
    """FLOPs of one prefill under a method; None where no schedule of the method has this budget.

    model: a key of MODELS; keep: tokens, or share: % of them; layer: None where the method cuts.
    Tower and projector count whole, scores not at all (QViD's is below 0.1 %).
    """
    shape = _shape(model)
    visual = [shape.visual] * shape.layers
    if name != FULL:
        keep = count_at(share, shape.visual) if keep is None else keep
        try:
            cuts = method(name).schedule(keep, shape.visual, shape.layers, layer)
        except Infeasible:
            return None
        visual = tokens_per_layer(cuts, shape.visual, shape.layers)
    return flops.prefill(shape.config, visual, text, blocks=shape.blocks).total


def plan(measured: Sequence[Path] | None = None) -> pd.DataFrame:
    """One row per table, cell and benchmark, as `tables.cells_of`, and: run (what names it in all
    tables), tflops (of all questions), done, missing (what is lacking here, "" for nothing).

    measured: result files; None: all of data/measured and runs.
    """
    frame = pd.concat([cells_of(table) for table in ANSWERS], ignore_index=True)
    known = _done(_results() if measured is None else measured)
    rows = []
    for row in frame.itertuples():
        text = TEXT + min(BENCHMARKS[row.benchmark].new_tokens, ANSWER)
        keep, share, layer, rank = (
            None if pd.isna(v) else v for v in (row.keep, row.retention_pct, row.layer, row.rank)
        )
        each = operations(row.model, row.method, keep, share, layer, text)
        at = () if row.method == FULL else _at(row.method, keep, share, layer, rank)
        run = (row.checkpoint, row.method, row.benchmark, *at)
        lacks = list(_missing(row.checkpoint, row.benchmark, row.method))
        rows.append({
            "run": run, "tflops": None if each is None else each * row.questions / 1e12,
            "done": run in known, "missing": "; ".join(lacks),
        })  # fmt: skip
    return frame.join(pd.DataFrame(rows))


def _results() -> list[Path]:
    return sorted([*(DATA / "measured").rglob("*.csv"), *RUNS.rglob("*.csv")])


def _done(files: Sequence[Path]) -> set[tuple]:
    """The runs, named as in `plan`, of all measured rows that are not of a few questions only."""
    found = set()
    for file in files:
        try:
            rows = read(file)
        except ValueError:  # runs/ may hold tables of other kinds
            continue
        for row in rows[rows["source"].str.startswith("measured")].itertuples():
            name = SUITE_OF.get(row.benchmark, row.benchmark)
            entry = BENCHMARKS.get(name)
            if entry is None or pd.isna(row.n) or row.n < entry.size or row.variant:
                continue
            if row.method not in (FULL, *METHODS):  # a baseline, or a rule of one's own
                continue
            at = (row.keep, row.retention_pct, row.layer, row.rank)
            at = tuple(None if pd.isna(v) else v for v in at)
            at = () if row.method == FULL else _at(row.method, *at)  # it keeps all
            found.add((row.model, row.method, name, *at))
    return found


def _at(
    name: str, keep: int | None, share: float | None, layer: int | None, rank: float | None
) -> tuple:
    """Budget, layer and rank of a cell; what a table leaves out is the method's own."""
    usual = method(name).params.get("rank")
    return (
        keep,
        None if share is None else round(share, 1),  # as the papers print it
        _usual_layer(name) if layer is None else layer,
        usual if rank is None else rank,
    )


@cache
def _usual_layer(name: str) -> int | None:
    """Where the method cuts LLaVA-1.5; None where it cuts more than once."""
    shape = _shape("LLaVA-1.5-7B")
    try:
        layers = {cut.layer for cut in method(name).schedule(64, shape.visual, shape.layers)}
    except Infeasible:
        return None
    return layers.pop() if len(layers) == 1 else None


@cache
def _here(name: str) -> bool:
    return here(name)


def _missing(checkpoint: str, benchmark: str, name: str) -> Iterator[str]:
    entry = BENCHMARKS[benchmark]
    sees = () if name == FULL else method(name).rule.sees
    clip = [FAMILIES["llava"].clip] if any(word.startswith("clip") for word in sees) else []
    for each in (checkpoint, *clip):
        if not _here(each):
            yield f"checkpoint {each}"
    if not _here(benchmark):
        yield f"data {benchmark}"
    if entry.media == "video" and importlib.util.find_spec("av") is None:
        yield "extra video"
    if entry.judge.startswith("needed"):
        yield "a judge"
    if entry.needs == "caption":
        try:
            caption_tools()
        except Unavailable as lacks:
            yield "Java" if "java" in str(lacks).lower() else "extra caption"


def rate_of(given: str | float | Path) -> float:
    """TFLOP/s: a number, or a file of `measure models --out`, whose unpruned model's
    compute over its time to the first token it is. ValueError for anything else."""
    try:
        rate = float(str(given))
    except ValueError:
        file = Path(given)
        if not file.is_file():
            raise ValueError(
                f"--rate {given}: give TFLOP/s, such as 120, or a file that "
                "`python -m qvid_utils measure models --out` wrote"
            ) from None
        rows = read(file)
        full = rows[rows["method"] == FULL].set_index("metric")["value"]
        if not {"compute", "first_token"} <= set(full.index):
            raise ValueError(f"--rate {given}: no compute and first_token of 'full'") from None
        rate = full["compute"] / (full["first_token"] / 1e3)
    if not 0 < rate < float("inf"):
        raise ValueError(f"--rate {given}: it must be above 0")
    return float(rate)


def report(rate: float | None = None, measured: Sequence[Path] | None = None) -> str:
    """What `--dry-run` prints; hours stand there where a rate is given."""
    lines, whole = [], plan(measured)
    for table, part in whole.groupby("table", sort=False):
        left = part[~part["done"]]
        head = f"table {table}: {part['model'].iloc[0]}, {len(part)} cells, "
        head += f"{int(part['done'].sum())} done, {_cost(left, rate)} to go"
        lines += [head, *_lacking(left["missing"])]
        for _, cell in part.groupby(CELL, dropna=False, sort=False):
            lines.append(_line(cell))
    once = whole[~whole["done"]].drop_duplicates("run")
    notes = [name for name in dict.fromkeys(whole["benchmark"]) if name not in SEEN]
    lines.append(f"numbers of questions from notes, seen on no card: {', '.join(notes)}")
    lines.append(f"tables {', '.join(COSTS)}: costs, by `python -m qvid_utils measure`")
    lines.append(
        f"all tables, each cell once: {len(once)} to go, {_cost(once, rate)}"
        + ("" if rate else "; give --rate TFLOP/s (or a file of `measure models --out`) for hours")
    )
    return "\n".join(lines)


def _lacking(missing: pd.Series) -> list[str]:
    """What the cells of a table lack, data in one line."""
    every = dict.fromkeys(part for cell in missing for part in cell.split("; ") if part)
    data = [part.removeprefix("data ") for part in every if part.startswith("data ")]
    found = [part for part in every if not part.startswith("data ")]
    found += [f"data {', '.join(data)}"] if data else []
    return [f"    missing: {what}" for what in found]


def _cost(part: pd.DataFrame, rate: float | None) -> str:
    total = part["tflops"].sum()
    return f"{total / 1e3:,.0f} PFLOPs" if rate is None else f"{total / rate / 3600:.1f} GPU-hours"


def _line(cell: pd.DataFrame) -> str:
    first = cell.iloc[0]
    words = [f"  {first['method']}"]
    for name, sign in (("keep", ""), ("retention_pct", " %"), ("layer", ""), ("rank", "")):
        if not pd.isna(first[name]):
            words.append(f"{name.split('_')[0]} {first[name]:g}{sign}")
    asked = (f"{b}{' (done)' * bool(d)}" for b, d in zip(cell.benchmark, cell.done, strict=True))
    odd = "; no schedule has this budget" if cell["tflops"].isna().any() else ""
    return f"{' '.join(words)}: {', '.join(asked)}{odd}"
