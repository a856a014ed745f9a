"""Which table needs what, as plain data: checkpoint, benchmarks, methods and budgets.

A table's rows are those of data/paper; here stands what turns their names into ours, the rows whose
numbers our copy of a paper lost, and the tables that hold costs and no answers.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ...algebra.cuts import Infeasible, count_at
from ...methods import method as find_method
from ..benchmarks.base import FULL
from ..benchmarks.published import BENCHMARKS
from . import schema as results
from .schema import AVERAGE, PAPER_MODELS, PARTS

__all__ = ["ANSWERS", "CELL", "CHECKPOINTS", "COSTS", "as_printed", "cells_of", "method_name",
           "printed_names"]  # fmt: skip

#: Tables of answers, in the papers' order; all their cells are runs of `runner`.
ANSWERS = ("1", "2a", "2b", "3a", "3b", "4", "5", "6", "7", "10", "11", "12", "13", "14", "15",
           "svd_1")  # fmt: skip
#: Tables of costs: `python -m qvid_utils measure` makes them, on the machine at hand.
COSTS = ("8", "9", "svd_2", "svd_3")
CHECKPOINTS = {name: hub for hub, name in PAPER_MODELS.items()}
#: A column of a table -> the published benchmark that fills it.
SUITE_OF = {
    "GQA": "gqa", "SQA": "scienceqa_img", "TextVQA": "textvqa_ocr", "POPE": "pope", "MME": "mme",
    "MME-P": "mme", "MME-C": "mme", "MMB": "mmbench_en_dev", "AI2D": "ai2d", "ChartQA": "chartqa",
    "MMMU": "mmmu_val", "OCRBench": "ocrbench", "SEEDBench": "seedbench_image",
    "MMMU-Pro": "mmmu_pro_standard", "HallusionBench": "hallusionbench", "COCO": "coco2014_cap_val",
    "MVBench": "mvbench", "VideoMME": "videomme",
}  # fmt: skip
#: (name in a table, its model or None for any) -> our method.
METHOD_OF = {("pdrop", None): "pyramiddrop", ("v2drop", "Qwen2-VL-7B"): "v2drop_qwen2_vl"}
#: Where one choice has two names, a stored run may hold it under either.
SAME_CHOICE = {"hired": "fastervlm"}  # LLaVA-1.5: both take the best by one row of class attention
#: SVD-Prune's Table 1 as it was printed: method -> tokens kept; our copy lost most of its numbers.
SVD_TABLE_1 = {
    "full": (576,), "tome": (192, 128, 64, 32), "fastv": (192, 128, 64, 32), "trim": (64,),
    "pdrop": (192, 128, 64), "sparsevlm": (64, 32), "visionzip": (128, 32),
    "svd_prune": (192, 128, 64, 32, 16),
}  # fmt: skip

#: Visual tokens of a prompt, where prompts differ in them: a cut's layer does not depend on it.
ANY_SIZE = 1000
#: What names a cell of a table; keep is a count, or retention_pct a share of each picture's tokens.
CELL = ["method", "keep", "retention_pct", "layer", "rank"]


def method_name(printed: str, model: str) -> str:
    """Our method for a name in a table: `pdrop` is `pyramiddrop`; others are called the same."""
    return METHOD_OF.get((printed, model), METHOD_OF.get((printed, None), printed))


def cells_of(table: str) -> pd.DataFrame:
    """The runs behind a table of answers: one row per cell and benchmark, in printed order.

    Columns: table, model (the paper's name), checkpoint (hub id), `CELL`, benchmark (ours),
    questions. ValueError for a table that is none of ANSWERS.
    """
    if table not in ANSWERS:
        raise ValueError(
            f"table {table!r} has no runs of answers; there are {', '.join(ANSWERS)} "
            f"(costs: {', '.join(COSTS)})"
        )
    rows = results.paper(table)
    rows = rows[~rows["benchmark"].isin([AVERAGE, *PARTS])]
    frame = rows[["model", *CELL, "benchmark"]]
    if table == "svd_1":
        (model,) = frame["model"].unique()
        printed = [
            {"model": model, "method": name, "keep": keep, "benchmark": benchmark}
            for name, keeps in SVD_TABLE_1.items()
            for keep in keeps
            for benchmark in dict.fromkeys(frame["benchmark"])
        ]
        frame = pd.DataFrame(printed, columns=frame.columns).astype(frame.dtypes.to_dict())
    pairs = zip(frame["method"], frame["model"], strict=True)
    frame = frame.assign(
        table=table,
        checkpoint=frame["model"].map(CHECKPOINTS),
        method=[method_name(*pair) for pair in pairs],
        benchmark=frame["benchmark"].map(SUITE_OF),
    ).drop_duplicates(ignore_index=True)
    frame["questions"] = [BENCHMARKS[name].size for name in frame["benchmark"]]
    return frame[["table", "model", "checkpoint", *CELL, "benchmark", "questions"]]


def as_printed(
    records: pd.DataFrame,
    methods: Iterable[str],
    keeps: Iterable[int],
    config: Any,
    shares: Iterable[float] = (),
) -> pd.DataFrame:
    """The records that fill a table: the full model, and each method as its source has it, with
    its own layer and rank, under the name that the table prints.

    methods: the table's names; keeps: counts, shares: % of each prompt's visual tokens; config: of
    the model that answered. A cell that was not measured, or whose schedule has no such budget, is
    left out.
    """
    budgets = [("keep", keep) for keep in keeps] + [("retention_pct", share) for share in shares]
    budgets = [(column, value) for column, value in budgets if column in records]
    frames = [records[records["method"] == FULL]]
    there = set(records["method"]) - {FULL}
    for printed in dict.fromkeys(methods):
        name = method_name(printed, "")
        name = name if name in there else SAME_CHOICE.get(name, name)
        for column, value in budgets if name in there else ():
            mine = records[(records["method"] == name) & _equal(records[column], value)]
            rank = find_method(name).params.get("rank")
            mine = mine[(mine["variant"] == "") & _equal(mine["rank"], rank)]
            n_visual = config.image_seq_length if column == "keep" else ANY_SIZE
            keep = value if column == "keep" else count_at(value, n_visual)
            mine = mine[_equal(mine["layer"], _layer(name, keep, n_visual, config))]
            frames.append(mine.assign(method=printed))
    return pd.concat(frames, ignore_index=True)


def printed_names(frame: pd.DataFrame, table: str, also: Iterable[str] = ()) -> pd.DataFrame:
    """The rows or records of a table's methods, and those of `also`, under the printed names."""
    rows = results.paper(table)
    model, printed = rows["model"].iloc[0], list(rows["method"].unique())
    called = {method_name(name, model): name for name in printed}
    named = frame["method"].map(lambda name: called.get(name, name))
    return frame.assign(method=named)[named.isin([FULL, *printed, *also])]


def _equal(column: pd.Series, value: float | None) -> pd.Series:
    return column.isna() if value is None else column.eq(value).fillna(False).astype(bool)


def _layer(name: str, keep: int, n_visual: int, config: Any) -> int | None:
    """Where the method cuts once; None where it cuts more than once, or cannot."""
    depth = config.get_text_config().num_hidden_layers
    try:
        cuts = find_method(name).schedule(keep, n_visual, depth)
    except Infeasible:
        return None
    layers = {cut.layer for cut in cuts}
    return layers.pop() if len(layers) == 1 else None
