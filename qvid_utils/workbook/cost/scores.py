"""The score alone: `linalg.leverage` beside the paper's printed QR + SVD and beside forming M."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import pandas as pd
import torch

from ...algebra.linalg import leverage, leverage_qr
from ..tables.schema import tidy
from .rounds import clock_of, interleaved, paired, spread


def compare(
    shapes: Iterable[tuple[int, int]],
    *,
    heads: int = 32,
    head_dim: int = 128,
    rank: int = 16,
    rounds: int = 9,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """One row for each (N_q, N_v), on M = Q Kᵀ of random float32 Q and K.

    Keys: n_query, n_visual; form_ms, qr_ms, leverage_ms: medians; ratio, ratio_low, ratio_high:
    printed recipe over ours within a round, median and quartiles; error: largest difference of the
    head-mean score from a float64 SVD. ValueError for fewer than one round.
    """
    clock, rows = clock or clock_of(device), []
    for n_query, n_visual in shapes:
        noise = torch.Generator().manual_seed(0)
        q = torch.randn(heads, n_query, head_dim, generator=noise).to(device)
        k = torch.randn(heads, n_visual, head_dim, generator=noise).to(device)
        M = q @ k.mT
        tasks = {"form": partial(torch.matmul, q, k.mT), "qr": partial(leverage_qr, M, rank),
                 "leverage": partial(leverage, M, rank)}  # fmt: skip
        timed = {name: partial(_seconds, clock, task) for name, task in tasks.items()}
        took = interleaved(timed, rounds, warm_up=2)
        ratio = paired(took["qr"], took["leverage"])
        directions = torch.linalg.svd(M.cpu().double(), full_matrices=False).Vh[:, :rank]
        truth = directions.square().sum(1).mean(0)
        off = (leverage(M, rank).mean(0).cpu() - truth).abs().max()
        rows.append({
            "n_query": n_query, "n_visual": n_visual,
            **{f"{name}_ms": 1e3 * spread(values).median for name, values in took.items()},
            "ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high,
            "error": float(off),
        })  # fmt: skip
    return rows


def _seconds(clock: Callable[[], float], task: Callable) -> float:
    start = clock()
    task()
    return clock() - start


def as_results(
    table: pd.DataFrame, heads: int, rank: int, rounds: int, where: Mapping[str, str]
) -> pd.DataFrame:
    """What `compare` gives, in the schema; where: the columns device and source."""
    rows = []
    for row in table.itertuples():
        about = {"variant": f"N_q={row.n_query}", "keep": row.n_visual, "rank": rank, "n": rounds}
        for name in ("form", "qr", "leverage"):
            value = getattr(row, f"{name}_ms")
            rows.append(
                {**about, "method": name, "metric": "scoring", "value": value, "unit": "ms"}
            )
        for metric, name in (("speedup", "ratio"), ("speedup_q1", "ratio_low"),
                             ("speedup_q3", "ratio_high")):  # fmt: skip
            value = getattr(row, name)
            rows.append(
                {**about, "method": "leverage", "metric": metric, "value": value, "unit": "x"}
            )
        error = {"metric": "error", "value": row.error, "unit": "1"}
        rows.append({**about, "method": "leverage", **error})
    return tidy(pd.DataFrame(rows).assign(
        table="scoring", model=f"{heads} heads of 128, random", benchmark="efficiency", seed=0,
        dtype="float32", **where,
    ))  # fmt: skip
