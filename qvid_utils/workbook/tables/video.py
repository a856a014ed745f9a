"""Tables of the video runs: accuracy by type of question, paired differences of methods, and how
much of what is kept depends on the question."""

from __future__ import annotations

import pandas as pd

from ..benchmarks.base import FULL
from ..benchmarks.scoring import error_of
from .statistics import EDGE, paired

__all__ = ["ALL", "at_cost", "by_method", "in_common", "leads"]

UNPRUNED = (FULL, "first_frame")
ALL = "all"  # the type of question that stands for a suite's whole
#: What a comparison of two cells says here.
SHOWN = ["difference", "low", "high", "n", "clips"]


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
    pruned = records[~records["method"].isin(UNPRUNED)]
    frame = paired(
        pruned, {"method": method}, by=["suite", "share"], cell=["method"], seed=seed
    ).rename(columns={"pictures": "clips"})
    return frame[["suite", "share", "method", *SHOWN]]


def at_cost(records: pd.DataFrame, method: str = "qvid", seed: int = 0) -> pd.DataFrame:
    """`method` minus every cell of the others that costs as much or a little more.

    A label is not a cost: of the shares at which the method was asked, the largest whose mean
    tokens do not exceed the other cell's is set against it; cells below all of them are left out.
    Columns: suite, method and share (the other's), tokens, own_share, own_tokens (mean over layers
    and questions), difference, low, high (95 %, points), n, clips.
    """
    frames = []
    pruned = records[~records["method"].isin(UNPRUNED)]
    for suite, part in pruned.groupby("suite", sort=False):
        costs = part[part["method"] == method].groupby("share")["mean_tokens"].mean()
        for (other, share), theirs in part[part["method"] != method].groupby(
            ["method", "share"], sort=False
        ):
            tokens = theirs["mean_tokens"].mean()
            within = costs[costs <= tokens]
            if within.size:
                own = within.idxmax()
                sides = {"method": method, "share": own}, {"method": other, "share": share}
                found = paired(part, *sides, seed=seed).rename(columns={"pictures": "clips"})
                names = {"suite": suite, "method": other, "share": share, "tokens": tokens,
                         "own_share": own, "own_tokens": within.max()}  # fmt: skip
                frames.append(found[SHOWN].assign(**names)[[*names, *SHOWN]])
    return pd.concat(frames, ignore_index=True)


def in_common(shown: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The part of a question's kept tokens that another question about its clip keeps, too.

    shown: `run.look` of equal budgets; samples: with `picture`, the first two questions of each
    clip count. Columns: method, common (mean over clips, %), least (the lowest), clips. ValueError
    where no clip has two questions.
    """
    clip = samples.set_index("id")["picture"]
    kept = shown[shown["kept"]].groupby(["method", "sample"], sort=False)["token"].agg(set)
    rows = []
    for method, sets in kept.groupby("method", sort=False):
        sets = sets.droplevel("method")
        pairs = sets.groupby(clip.loc[sets.index].to_numpy(), sort=False).agg(list)
        parts = [len(two[0] & two[1]) / len(two[0]) for two in pairs if len(two) > 1]
        if not parts:
            raise ValueError("no clip is asked two questions: give samples of some that are")
        found = {"common": 100 * sum(parts) / len(parts), "least": 100 * min(parts)}
        rows.append({"method": method, **found, "clips": len(parts)})
    return pd.DataFrame(rows)
