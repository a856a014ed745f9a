"""The score alone: `linalg.leverage` beside the paper's printed QR + SVD and beside forming M."""

from collections.abc import Iterable

import torch

from ..linalg import leverage, leverage_qr
from .rounds import clock_of, interleaved, paired, spread

__all__ = ["compare"]


def compare(
    shapes: Iterable[tuple[int, int]],
    *,
    heads: int = 32,
    head_dim: int = 128,
    rank: int = 16,
    rounds: int = 9,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """One row for each (N_q, N_v), on M = Q Kᵀ of random float32 Q and K.

    Keys: n_query, n_visual; form_ms, qr_ms, leverage_ms: medians; ratio, ratio_low, ratio_high:
    printed recipe over ours within a round, median and quartiles; error: largest difference of the
    head-mean score from a float64 SVD. ValueError for fewer than one round.
    """
    rows, clock = [], clock_of(device)

    def timed(task):
        def run() -> float:
            start = clock()
            task()
            return clock() - start

        return run

    for n_query, n_visual in shapes:
        noise = torch.Generator().manual_seed(0)
        q = torch.randn(heads, n_query, head_dim, generator=noise).to(device)
        k = torch.randn(heads, n_visual, head_dim, generator=noise).to(device)
        M = q @ k.mT
        took = interleaved(
            {
                "form": timed(lambda q=q, k=k: q @ k.mT),
                "qr": timed(lambda M=M: leverage_qr(M, rank)),
                "leverage": timed(lambda M=M: leverage(M, rank)),
            },
            rounds,
            warm_up=2,
        )
        ratio = paired(took["qr"], took["leverage"])
        directions = torch.linalg.svd(M.cpu().double(), full_matrices=False).Vh[:, :rank]
        truth = directions.square().sum(1).mean(0)
        off = (leverage(M, rank).mean(0).cpu() - truth).abs().max()
        rows.append(
            {
                "n_query": n_query,
                "n_visual": n_visual,
                **{f"{name}_ms": 1e3 * spread(values).median for name, values in took.items()},
                "ratio": ratio.median,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "error": float(off),
            }
        )
    return rows
