"""How each kind of benchmark turns answers into its published numbers.

A scorer turns per-question records into metrics, the headline first. All are in percent, except
MME's points. Every metric is a sum of ratios of sums over questions (`Ratio`), which gives its
value and its standard error over pictures by the same two lines.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Ratio(NamedTuple):
    """One part of a metric: scale · Σ top / Σ bottom; top and bottom have one entry a question."""

    scale: float
    top: np.ndarray
    bottom: np.ndarray

    @property
    def value(self) -> float:
        """0 where the bottom is: no question, or for F1 nobody says yes and nothing is there."""
        return self.scale * self.top.sum() / (self.bottom.sum() or 1)

    @property
    def pull(self) -> np.ndarray:
        """What each question adds to the value's error, to first order: (n,), sums to 0."""
        share = self.top.sum() / (self.bottom.sum() or 1)
        return self.scale * (self.top - share * self.bottom) / (self.bottom.sum() or 1)


Metrics = dict[str, list[Ratio]]
#: A language model that settles an answer: its prompt -> its reply.
Judge = Callable[[str], str]


@dataclass(frozen=True)
class Scorer:
    """A published benchmark's rule: what one answer is worth, and what all of them add up to.

    hit(prediction, row, judge): an answer's worth in [0, 1], from the columns of its question; NaN
    where the metric is one of the whole set (CIDEr). total(records, hits): the metrics, headline
    first. needs_judge: the published rule has no other way of reading an answer. reads(prediction,
    row): whether it reads anything in an answer, and does not merely count it for right or wrong.
    """

    hit: Callable[[str, Any, Judge | None], float]
    total: Callable[[pd.DataFrame, np.ndarray], Metrics]
    headline: str = "accuracy"
    needs_judge: bool = False
    reads: Callable[[str, Any], bool] = lambda prediction, row: bool(prediction.strip())


def yes_or_no(prediction: str, row: Any = None) -> bool:
    """Whether an answer holds yes, no or not as a word."""
    return not {"yes", "no", "not"}.isdisjoint(re.findall("[a-z]+", prediction.lower()))


def right(prediction: str, answer: str) -> bool:
    """Whether an answer is the right word; case and space around it do not count."""
    return prediction.strip().lower() == answer.strip().lower()


def accuracy(records: pd.DataFrame) -> Metrics:
    """Share of right answers, in % (GQA, TextVQA's single words, ScienceQA's letters)."""
    return {"accuracy": [mean(_right(records))]}


def pope(records: pd.DataFrame) -> Metrics:
    """POPE: F1 of "yes", mean over its splits (random, popular, adversarial), and accuracy; in %.

    Source: POPE (Li et al., 2023); LLaVA-1.5 reports the mean F1 of the three splits. An answer
    that is neither word is a miss here, where POPE's own script reads all that is not "no" as yes.
    """
    said = records["prediction"].str.strip().str.lower().eq("yes").to_numpy(float)
    truth = records["answer"].str.lower().eq("yes").to_numpy(float)
    names = sorted(records["split"].unique())
    parts = [records["split"].eq(name).to_numpy(float) for name in names]
    f1 = [Ratio(100 / len(parts), 2 * said * truth * p, (said + truth) * p) for p in parts]
    return {"f1": f1, **accuracy(records)}


COGNITION = ("reasoning",)


def mme(records: pd.DataFrame) -> Metrics:
    """MME's points: per category, accuracy + accuracy over pairs ("acc+"), 200 at most.

    Source: MME (Fu et al., 2023). Five categories here, so 1,000 points at most in all; perception
    and cognition are their two sums, left out where none of their categories was asked.
    """
    return paired(records, _right(records), COGNITION)


def paired(records: pd.DataFrame, hits: np.ndarray, cognition: Iterable[str]) -> Metrics:
    """MME's sums from what each answer is worth; cognition: the categories of the second sum."""
    both, first = whole(hits, records["group"])
    seen, thought = [], []
    for category in sorted(records["split"].unique()):
        part = records["split"].eq(category).to_numpy(float)
        points = [Ratio(100, hits * part, part), Ratio(100, both * part, first * part)]
        (thought if category in cognition else seen).extend(points)
    sums = {"points": seen + thought, "perception": seen, "cognition": thought}
    return {name: part for name, part in sums.items() if part} | {"accuracy": [mean(hits)]}


def circular(records: pd.DataFrame) -> Metrics:
    """MMBench's CircularEval, in %: a question counts when right under all its option orders."""
    every = whole(_right(records), records["group"])
    return {"circular": [Ratio(100, *every)], **accuracy(records)}


def _right(records: pd.DataFrame) -> np.ndarray:
    pairs = zip(records["prediction"], records["answer"], strict=True)
    return np.array([right(*pair) for pair in pairs], dtype=float)


def mean(hits: np.ndarray) -> Ratio:
    """The mean of what each answer is worth, in %."""
    return Ratio(100, hits, np.ones(len(hits)))


def whole(hits: np.ndarray, groups: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """On the first question of each group whether all of it is right, and where that is: (n,)."""
    groups = pd.Series(list(groups))
    every = pd.Series(hits).groupby(groups).transform("min")
    first = ~groups.duplicated().to_numpy()
    return every.to_numpy() * first, first.astype(float)


#: Metric -> its rule; those of the published benchmarks are added by `published`.
SCORERS: dict[str, Callable[[pd.DataFrame], Metrics] | Scorer] = {
    "accuracy": accuracy,
    "pope": pope,
    "mme": mme,
    "circular": circular,
}


def value_of(ratios: list[Ratio]) -> float:
    """A metric's value: the sum of its ratios."""
    return float(sum(ratio.value for ratio in ratios))


def pull_of(ratios: list[Ratio], pictures) -> pd.Series:
    """What each picture adds to a metric's error, to first order; one entry a picture."""
    total = np.sum([ratio.pull for ratio in ratios], axis=0)
    return pd.Series(total).groupby(np.asarray(pictures)).sum()


def error_of(pull: pd.Series) -> float:
    """Standard error over pictures, √(G/(G-1) · Σ pull²) for G pictures; NaN for a single one.

    For a mean of questions with a picture each this is the standard deviation (n-1) over √n. It
    takes the pictures as drawn at random and the metric as smooth: few pictures, or an F1 near its
    end, make it too small.
    """
    number = len(pull)
    return float(np.sqrt(number / (number - 1) * np.square(pull).sum())) if number > 1 else np.nan
