"""Uncertainty of scores and of differences between cells that answered the same questions.

`paired` is the one comparison of two cells that all tables use; `holm` corrects its p-values where
a table makes many. Standard errors of a metric are `scoring.error_of` (over pictures).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from types import MappingProxyType

import numpy as np
import pandas as pd

from ..benchmarks.base import CELL

DRAWS = 2000  # of a bootstrap
EDGE = 1.96  # standard errors on either side of a 95 % interval


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

    a, b: (n,) in the same order. Only questions that the two answer differently count; they are
    taken as independent. ValueError for another number of answers, none, and values other than 0
    and 1. Source: McNemar (1947), in its exact binomial form.
    """
    x, y = _finite(a, "a"), _finite(b, "b")
    if x.shape != y.shape or not len(x):
        raise ValueError(f"a has {len(x)} answers and b {len(y)}: give both the same questions")
    if not np.isin([x, y], (0, 1)).all():
        raise ValueError("McNemar's test takes right and wrong, 1 and 0; use paired_bootstrap")
    only_a, only_b = int((x > y).sum()), int((x < y).sum())
    n, least = only_a + only_b, min(only_a, only_b)
    p = min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)
    return McNemar(int((x * y).sum()), only_a, only_b, int(((1 - x) * (1 - y)).sum()), p)


def paired_bootstrap(
    a, b, groups=None, *, draws: int = DRAWS, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float, float]:
    """(mean(a) - mean(b), low, high, p) of two cells' scores of the same questions.

    a, b: (n,) in the same order (pandas objects: with equal indexes). groups (n,): questions that
    share a picture are drawn together. low, high: percentiles of the differences of `draws`
    resamples; p: two-sided, twice the smaller share of them at or beyond zero, at least
    2 / (draws + 1). ValueError for unaligned samples, NaN, and fewer than two samples or groups.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; it lies between 0 and 1, such as 0.95")
    if draws < 2:
        raise ValueError(f"draws={draws}; at least 2 are needed")
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise ValueError("unaligned samples: a and b have different indexes; align them by id")
    x, y = _finite(a, "a"), _finite(b, "b")
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"a has {len(x)} samples and b {len(y)}: at least two, the same of both")
    members = np.arange(len(x)) if groups is None else pd.factorize(np.asarray(groups))[0]
    if len(members) != len(x) or (members < 0).any():
        raise ValueError(f"groups needs one name for each of the {len(x)} samples, none missing")
    units = int(members.max()) + 1
    if units < 2:
        raise ValueError("one group only: nothing to resample")
    sums = [np.bincount(members, weights) for weights in (x, y, np.ones(len(x)))]
    rng, found, step = np.random.default_rng(seed), [], max(1, 1_000_000 // units)
    for start in range(0, draws, step):  # some at a time, so that memory stays small
        drawn = rng.integers(0, units, size=(min(step, draws - start), units))
        first, second, counts = (each[drawn].sum(axis=1) for each in sums)
        found.append(first / counts - second / counts)
    found = np.concatenate(found)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min((found <= 0).sum(), (found >= 0).sum())
    p = min(1.0, 2 * (1 + int(beyond)) / (draws + 1))
    return float(x.mean() - y.mean()), float(low), float(high), p


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values of one table, corrected for their number m: (m,) in the order given; NaN stays.

    The i-th smallest times m + 1 - i, never below the one before, at most 1: of all differences
    that are then called clear at 5 %, the chance that any is none is at most 5 %. Source: Holm
    (1979), Scand. J. Statist. 6.
    """
    values = np.asarray(p, dtype="float64")
    out, here = np.full(values.shape, np.nan), np.flatnonzero(~np.isnan(values))
    order = here[np.argsort(values[here], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1, np.maximum.accumulate(steps))
    return out


def points(ours: pd.DataFrame, theirs: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Mean score in one cell minus that in another, in points; both by sample, the same questions.

    a, b (means in %), difference, low, high and p (bootstrap over pictures), only_a, only_b
    (questions on which one scores higher), mcnemar (its p; None where scores are no 0 and 1), n,
    pictures; and of records that have them tokens_a, tokens_b (mean visual tokens of a layer).
    """
    x, y = ours["score"], theirs["score"]
    found = paired_bootstrap(100 * x, 100 * y, ours["picture"].to_numpy(), seed=seed)
    exact = np.isin([x, y], (0, 1)).all()
    tokens = {"tokens_a": ours, "tokens_b": theirs} if "mean_tokens" in ours else {}
    return {
        "a": 100 * x.mean(), "b": 100 * y.mean(),
        **dict(zip(("difference", "low", "high", "p"), found, strict=True)),
        "only_a": int((x > y).sum()), "only_b": int((x < y).sum()),
        "mcnemar": mcnemar(x, y).p if exact else None,
        "n": len(ours), "pictures": ours["picture"].nunique(),
        **{name: side["mean_tokens"].mean() for name, side in tokens.items()},
    }  # fmt: skip


def paired(
    records: pd.DataFrame,
    a: Mapping,
    b: Mapping | None = None,
    by: Sequence[str] = (),
    *,
    cell: Sequence[str] = CELL,
    seed: int = 0,
    measure: Callable[..., dict] = points,
) -> pd.DataFrame:
    """One cell of a run minus others, on the same questions: a row for each group and other cell.

    records: of `evaluate`, scored. a: what names the cell, column -> value (None: empty; a variant
    that is not named is ""). b: the same of the other; None: every other cell, told apart by the
    columns `cell`. by: columns; each group of rows with equal values there is compared apart.
    measure(ours, theirs, seed): the numbers of a row, from both cells' records by sample.

    Columns: by, the other cell's where b is None, then `measure`'s. ValueError where a cell is
    missing, is named ambiguously, or was asked other questions.
    """
    rows = []
    for group, part in cells(records, by):
        ours = cell_of(part, a, group)
        mine = ours.set_index("sample")
        if b is None:
            rest = part[~_named(part, a)]
            others = cells(rest, [name for name in cell if name in part and name not in by])
        else:
            others = [({}, cell_of(part, b, group))]
        for names, theirs in others:
            its = theirs.set_index("sample")
            if not its.index.is_unique:
                raise ValueError(f"{_told(names | group)} names several cells: tell them apart")
            if set(mine.index) != set(its.index):
                raise ValueError(f"{_told(a)} and {_told(names or b)} were not asked the same"
                                 f"{_told(group, ' of ')}: ask both every question")  # fmt: skip
            rows.append(group | names | measure(mine, its.loc[mine.index], seed))
    return pd.DataFrame(rows)


def cells(records: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The parts of records with equal values in `names`, each with these values, as they come."""
    if not len(names):
        yield {}, records
        return
    for labels, part in records.groupby(list(names), dropna=False, sort=False):
        yield dict(zip(names, labels, strict=True)), part


def cell_of(records: pd.DataFrame, named: Mapping, group: Mapping = MappingProxyType({})):
    """The records of the one cell that these values name; ValueError as `paired` has it."""
    chosen = records[_named(records, named)]
    if chosen.empty:
        at = _told(group, " at ")
        raise ValueError(f"no record of {_told(named)}{at}; run python -m qvid_utils run with it")
    if chosen["sample"].duplicated().any():
        raise ValueError(f"{_told(named)}{_told(group, ' at ')} names several cells: add keep, "
                         "layer, rank or variant")  # fmt: skip
    return chosen


def _named(records: pd.DataFrame, named: Mapping) -> pd.Series:
    """Which records these values name (n,), as `paired` reads them."""
    usual = {"variant": ""} if "variant" in records else {}
    chosen = pd.Series(True, index=records.index)
    for column, value in (usual | dict(named)).items():
        if column not in records:
            raise ValueError(f"records have no column {column!r}; they have {list(records)}")
        cells = records[column]
        same = cells.isna() if value is None else cells.eq(value).fillna(False)
        chosen &= same.astype(bool)
    return chosen


def _told(named: Mapping | None, start: str = "") -> str:
    told = {k: v for k, v in (named or {}).items() if v is not None and not pd.isna(v)}
    said = [f"{k}={v!r}" if isinstance(v, str) else f"{k}={v}" for k, v in told.items()]
    return start + ", ".join(said) if said else ""


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    found = np.asarray(values, dtype="float64")
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a row of finite numbers; score every question first")
    return found
