"""Uncertainty of scores and of differences between methods that answered the same questions.

Standard errors of single metrics are `base.error_of` (over pictures) and `results.standard_error`;
intervals of a difference are `results.paired_bootstrap`. Here stand the rest: the plain errors of
QViD's Table 15, McNemar's test for yes and no, and both at once for two cells of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .schema import paired_bootstrap


def plain_error(scores: Sequence[float]) -> float:
    """Standard error of a mean score in %, over questions: 100 · s / √n, with s from n - 1.

    QViD's Table 15 prints these for GQA (√(p(1-p)/12578) to 0.3 %): questions are taken as
    independent, also where they share a picture. ValueError for fewer than two, or NaN.
    """
    values = _finite(scores, "scores")
    if len(values) < 2:
        raise ValueError(f"{len(values)} score(s): a standard error needs at least two")
    return float(100 * values.std(ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True)
class McNemar:
    """Questions that one of two methods answers right: only_a, only_b; and how likely by chance.

    p: two-sided, exact: of only_a + only_b fair coins, as uneven a split or worse.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


def mcnemar(a: Sequence[float], b: Sequence[float]) -> McNemar:
    """McNemar's exact test on right (1) and wrong (0) answers of two methods to the same questions.

    a, b: (n,) in the same order. Only questions that the two answer differently count. ValueError
    for another number of answers, none, and values other than 0 and 1. Source: McNemar (1947), in
    its exact binomial form.
    """
    from scipy.stats import binomtest

    x, y = _finite(a, "a"), _finite(b, "b")
    if x.shape != y.shape or not len(x):
        raise ValueError(f"a has {len(x)} answers and b {len(y)}: give both the same questions")
    if not np.isin([x, y], (0, 1)).all():
        raise ValueError("McNemar's test takes right and wrong, 1 and 0; use paired_bootstrap")
    only_a, only_b = int((x > y).sum()), int((x < y).sum())
    trials = only_a + only_b
    p = binomtest(only_a, trials, 0.5).pvalue if trials else 1.0
    return McNemar(int((x * y).sum()), only_a, only_b, int(((1 - x) * (1 - y)).sum()), float(p))


def paired_difference(ours: pd.DataFrame, theirs: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Mean score in one cell minus that in another on the same questions, in points.

    ours, theirs: records by sample, with `score` and `picture`; of theirs those that are in ours
    count. difference, low and high (95 %, bootstrap over pictures), n, pictures. KeyError for a
    question that only ours was asked.
    """
    a, b, groups = 100 * ours["score"], 100 * theirs["score"].loc[ours.index], ours["picture"]
    difference, low, high = paired_bootstrap(a, b, groups=groups.to_numpy(), seed=seed)
    return {"difference": difference, "low": low, "high": high, "n": len(ours),
            "pictures": groups.nunique()}  # fmt: skip


def compare(records: pd.DataFrame, a: Mapping, b: Mapping, seed: int = 0) -> pd.DataFrame:
    """Two cells of a run on every suite: difference of mean scores, its interval, McNemar's p.

    records: of `runner.evaluate`. a, b: what names the cells, such as {"method": "qvid", "keep":
    16}. One row a suite: n, a and b (mean score in %), difference (a - b, in points), low, high
    (95 %, paired bootstrap over pictures), only_a, only_b, p (empty where scores are no 0 and 1).
    ValueError where a cell is missing, ambiguous, or was asked other questions.
    """
    sides = [_cell(records, named) for named in (a, b)]
    rows = []
    for suite in dict.fromkeys(records["suite"]):
        x, y = (side[side["suite"] == suite].set_index("sample").sort_index() for side in sides)
        if not len(x) or not x.index.equals(y.index) or not x.index.is_unique:
            raise ValueError(f"{dict(a)} and {dict(b)} were not asked the same of {suite}")
        found = paired_difference(x, y, seed)
        row = {"suite": suite, "n": len(x)}
        row |= {"a": 100 * x["score"].mean(), "b": 100 * y["score"].mean()}
        row |= {name: found[name] for name in ("difference", "low", "high")}
        exact = np.isin([x["score"], y["score"]], (0, 1)).all()
        test = mcnemar(x["score"], y["score"]) if exact else None
        row |= {k: getattr(test, k) if test else None for k in ("only_a", "only_b", "p")}
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(records: pd.DataFrame, named: Mapping) -> pd.DataFrame:
    chosen = records
    for column, value in named.items():
        if column not in records:
            raise ValueError(f"records have no column {column!r}; they have {list(records)}")
        same = chosen[column].isna() if value is None else chosen[column].eq(value).fillna(False)
        chosen = chosen[same.astype(bool)]
    if chosen.empty:
        raise ValueError(f"no record of {dict(named)}")
    twice = chosen.duplicated(["suite", "sample"])
    if twice.any():
        raise ValueError(f"{dict(named)} names several cells: add keep, layer, rank or variant")
    return chosen


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    found = np.asarray(values, dtype="float64")
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a row of finite numbers; score every question first")
    return found
