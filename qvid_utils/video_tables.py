"""Tables of the video runs: accuracy by type of question, and paired differences of methods."""

from __future__ import annotations

import pandas as pd

from .benchmarks.base import error_of
from .results import paired_bootstrap

__all__ = ["ALL", "by_method", "leads"]

ALL = "all"  # the type of question that stands for a suite's whole
EDGE = 1.96  # standard errors on either side of a 95 % interval


def by_method(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each method at each share, by suite and type of question, `ALL` types first.

    records: `video.evaluate_shares`. Columns: suite, kind, share, method, value (%), stderr over
    clips, low and high (95 %, within [0, 100]), n, mean_tokens.
    """
    every = pd.concat([records.assign(kind=ALL), records])
    rows = []
    for key, part in every.groupby(["suite", "kind", "share", "method"], sort=False):
        off = (part["score"] - part["score"].mean()) / len(part)
        value, error = (
            100 * part["score"].mean(),
            100 * error_of(off.groupby(part["picture"]).sum()),
        )
        rows.append(
            dict(zip(("suite", "kind", "share", "method"), key, strict=True))
            | {"value": value, "stderr": error, "low": max(0.0, value - EDGE * error)}
            | {"high": min(100.0, value + EDGE * error), "n": len(part)}
            | {"mean_tokens": part["mean_tokens"].mean()}
        )
    return pd.DataFrame(rows)


def leads(records: pd.DataFrame, method: str = "qvid", seed: int = 0) -> pd.DataFrame:
    """`method` minus every other one at the same share, in accuracy points.

    Paired over the questions of a suite, bootstrapped over clips: suite, share, method (the other),
    difference, low and high (95 %), n, clips. ValueError where the method was not asked.
    """
    rows = []
    pruned = records[~records["method"].isin(["full", "first_frame"])]
    for (suite, share), part in pruned.groupby(["suite", "share"], sort=False):
        own = part[part["method"] == method].set_index("sample")
        if own.empty:
            raise ValueError(f"no answers of {method!r} at {share} % of {suite}: ask it as well")
        for other, theirs in part[part["method"] != method].groupby("method", sort=False):
            score = theirs.set_index("sample")["score"].loc[own.index]
            found = paired_bootstrap(
                100 * own["score"], 100 * score, groups=own["picture"], seed=seed
            )
            rows.append(
                {"suite": suite, "share": share, "method": other}
                | dict(zip(("difference", "low", "high"), found, strict=True))
                | {"n": len(own), "clips": own["picture"].nunique()}
            )
    return pd.DataFrame(rows)
