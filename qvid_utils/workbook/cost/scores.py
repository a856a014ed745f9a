"""The score alone: `leverage` and `ridge` beside the printed QR + SVD and beside forming M."""

from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor

from ...algebra.leverage import leverage, leverage_qr, leverage_svd
from ...algebra.ridge import ridge
from ...algebra.spectrum import singular_values
from ..tables.schema import tidy
from .rounds import clock_of, interleaved, paired, spread

OURS = ("leverage", "ridge")  # what is compared with the printed recipe


def compare(
    shapes: Iterable[tuple[int, int]],
    *,
    heads: int = 32,
    head_dim: int = 128,
    rank: int = 16,
    alpha: float = 0.3,
    rounds: int = 9,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """One row for each (N_q, N_v), on M = Q Kᵀ of random float32 Q and K.

    Keys: n_query, n_visual; form_ms, qr_ms, leverage_ms, ridge_ms: medians; and for each NAME of
    OURS NAME_x, NAME_x_low, NAME_x_high: printed recipe over ours within a round, median and
    quartiles; NAME_error: largest difference of the head-mean score from a float64 SVD.
    ValueError for fewer than one round.
    """
    rows, clock = [], clock or clock_of(device)
    for n_query, n_visual in shapes:
        noise = torch.Generator().manual_seed(0)
        q = torch.randn(heads, n_query, head_dim, generator=noise).to(device)
        k = torch.randn(heads, n_visual, head_dim, generator=noise).to(device)
        M = q @ k.mT
        tasks = {
            "form": lambda q=q, k=k: q @ k.mT,
            "qr": lambda M=M: leverage_qr(M, rank),
            "leverage": lambda M=M: leverage(M, rank),
            "ridge": lambda M=M: ridge(M, alpha),
        }
        timed = {name: _timed(task, clock) for name, task in tasks.items()}
        took = interleaved(timed, rounds, warm_up=2)
        row = {"n_query": n_query, "n_visual": n_visual}
        row |= {f"{name}_ms": 1e3 * spread(values).median for name, values in took.items()}
        truth = {"leverage": leverage_svd(M.cpu(), rank), "ridge": _ridge_svd(M.cpu(), alpha)}
        for name in OURS:
            ratio, found = paired(took["qr"], took[name]), tasks[name]().mean(0).cpu()
            row |= {f"{name}_x": ratio.median, f"{name}_x_low": ratio.low}
            row |= {f"{name}_x_high": ratio.high}
            row[f"{name}_error"] = float((found - truth[name].mean(0)).abs().max())
        rows.append(row)
    return rows


def _timed(task: Callable[[], Tensor], clock: Callable[[], float]) -> Callable[[], float]:
    def run() -> float:
        start = clock()
        task()
        return clock() - start

    return run


def _ridge_svd(M: Tensor, alpha: float) -> Tensor:
    # ridge leverage from its definition, in float64
    s = singular_values(M).square()
    Vh = torch.linalg.svd(M.double(), full_matrices=False).Vh
    damped = s / (s + alpha * s.mean(-1, keepdim=True))
    return (damped[..., None] * Vh.square()).sum(-2)


def as_results(
    table: pd.DataFrame, heads: int, rank: int, rounds: int, where: Mapping[str, str]
) -> pd.DataFrame:
    """What `compare` gives, in the schema; where: the columns device and source."""
    rows = []
    for row in table.to_dict("records"):
        about = {"variant": f"N_q={row['n_query']}", "keep": row["n_visual"], "n": rounds}
        ranks = {"qr": rank, "leverage": rank}
        for name in ("form", "qr", *OURS):
            values = [("scoring", row[f"{name}_ms"], "ms")]
            if name in OURS:
                ends = (("", ""), ("_q1", "_low"), ("_q3", "_high"))
                values += [(f"speedup{q}", row[f"{name}_x{end}"], "x") for q, end in ends]
                values.append(("error", row[f"{name}_error"], "1"))
            rows += [
                {**about, "method": name, "rank": ranks.get(name), "metric": metric,
                 "value": value, "unit": unit}
                for metric, value, unit in values
            ]  # fmt: skip
    return tidy(pd.DataFrame(rows).assign(
        table="scoring", model=f"{heads} heads of 128, random", benchmark="efficiency", seed=0,
        dtype="float32", **where,
    ))  # fmt: skip
