"""A suite of questions, its metrics, and the names that records of all suites share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from .scoring import SCORERS, Judge, Metrics, Scorer, mean, right, value_of, yes_or_no

REQUIRED = ("id", "picture", "image", "question", "answer", "kind", "split", "group")
#: What names a cell; retention_pct is there only where a run has budgets as shares.
CELL = ["method", "variant", "keep", "retention_pct", "layer", "rank"]
#: What records without such columns come from; `evaluate` adds them for any other run.
RUN = {"model": "tiny/llava", "device": "cpu", "dtype": "float32"}
YES_NO = ("pope", "mme")  # metrics of the embedded suites whose answers are yes or no
FULL = "full"  # the method of records of the unpruned model
#: Embedded suite -> the published benchmark that it stands for.
PAPER_BENCHMARKS: Mapping[str, str] = MappingProxyType({
    "tiny_pope": "POPE", "tiny_gqa": "GQA", "tiny_textvqa": "TextVQA",
    "tiny_mme": "MME", "tiny_mmb": "MMB", "tiny_sqa": "SQA", "tiny_hallusion": "HallusionBench",
    "tiny_captions": "COCO", "tiny_mmmu_pro": "MMMU-Pro",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Suite:
    """Questions with their pictures; `metric` names the scorer, `stands_for` the published kin.

    samples: one row a question, columns `REQUIRED` at least, and what else the scorer reads.
    picture: questions of one picture share it (resampled together); group: a pair or the rotations
    of one question, "" for neither. new_tokens: room for an answer (None: the caller's). media:
    "image", or "video": then `image` holds files or folders of frames. judge: see `Scorer`.
    Raises ValueError for a missing column, an unknown metric, no question, an id that is double,
    and a metric that needs a judge where there is none.
    """

    name: str
    stands_for: str
    metric: str
    samples: pd.DataFrame
    new_tokens: int | None = None
    media: str = "image"
    judge: Judge | None = None

    def __post_init__(self) -> None:
        missing = [column for column in REQUIRED if column not in self.samples]
        if missing:
            raise ValueError(
                f"suite {self.name!r} lacks the columns {missing}; a suite has {list(REQUIRED)}"
            )
        if self.metric not in SCORERS:
            raise ValueError(
                f"suite {self.name!r} wants the metric {self.metric!r}; known: {sorted(SCORERS)}"
            )
        ids = self.samples["id"]
        if not len(ids) or ids.duplicated().any():
            wrong = f"the id {ids[ids.duplicated()].iloc[0]!r} twice" if len(ids) else "no question"
            raise ValueError(f"suite {self.name!r} has {wrong}; each question stands there once")
        rule = SCORERS[self.metric]
        if isinstance(rule, Scorer) and rule.needs_judge and self.judge is None:
            raise ValueError(
                f"suite {self.name!r}: its metric {self.metric!r} reads answers with a judge, and "
                "none is given: pass judge=, a function from a prompt to a language model's reply"
            )

    def hit(self, prediction: str, row: Any) -> float:
        """What an answer to a question is worth, in [0, 1]; row: the question's, as a tuple."""
        rule = SCORERS[self.metric]
        if isinstance(rule, Scorer):
            return float(rule.hit(prediction, row, self.judge))
        return float(right(prediction, row.answer))

    def reads(self, prediction: str, row: Any) -> bool:
        """Whether the metric's rule reads anything in an answer; row: the question's."""
        rule = SCORERS[self.metric]
        if isinstance(rule, Scorer):
            return rule.reads(prediction, row)
        return yes_or_no(prediction) if self.metric in YES_NO else bool(prediction.strip())

    @property
    def _groups(self) -> pd.Series:
        """The pair or rotation of each question; a question without one is its own group."""
        group = self.samples["group"]
        return group.where(group != "", self.samples["id"])

    def head(self, limit: int | None, seed: int = 0) -> "Suite":
        """`limit` questions drawn by seed, pairs and rotations kept whole; all of them for None.

        Groups are drawn one after another until the limit is reached, so that a paired or circular
        metric still has its pairs; the last group may carry the count a few questions over.
        """
        if limit is None or limit >= len(self.samples):
            return self
        if limit < 1:
            raise ValueError(f"limit={limit}: give at least 1 question, or None for all")
        order = np.random.default_rng(seed).permutation(self._groups.unique())
        sizes = self._groups.value_counts()[order].cumsum()
        chosen = order[: int(np.searchsorted(sizes.to_numpy(), limit)) + 1]
        return self._part(self._groups.isin(chosen))

    def only(self, ids: Iterable[str]) -> "Suite":
        """The questions with these ids. ValueError for an unknown id, and for half a pair."""
        ids = set(ids)
        unknown = sorted(ids - set(self.samples["id"]))
        if unknown:
            raise ValueError(f"suite {self.name!r} has no question {unknown[0]!r}")
        chosen = self.samples["id"].isin(ids)
        torn = self._groups[self._groups.isin(self._groups[chosen]) & ~chosen]
        if len(torn):
            raise ValueError(
                f"suite {self.name!r}: only part of {torn.iloc[0]!r} is there; its metric "
                f"{self.metric!r} counts whole pairs and rotations"
            )
        return self if chosen.all() else self._part(chosen)

    def _part(self, rows: pd.Series) -> "Suite":
        return self._with(self.samples[rows].reset_index(drop=True))

    def _with(self, samples: pd.DataFrame) -> "Suite":
        return replace(self, samples=samples)


def metrics(suite: Suite, records: pd.DataFrame) -> Metrics:
    """The suite's metrics over its records, as ratios; records in the order of their samples. The
    last is `unread`, in %, where a published rule reads nothing in some answers.

    Raises ValueError where records are missing or double: a metric over part of a suite is another.
    """
    if sorted(records["sample"]) != sorted(suite.samples["id"]):
        raise ValueError(
            f"suite {suite.name!r} has {len(suite.samples)} samples, the records hold "
            f"{len(records)} ({records['sample'].nunique()} different); score needs each once"
        )
    rule = SCORERS[suite.metric]
    if not isinstance(rule, Scorer):
        return rule(records)
    known = [c for c in suite.samples if c in ("id", "image") or c in records]
    asked = suite.samples.set_index("id", drop=False).drop(columns=known)
    records = records.join(asked, on="sample")
    hits = [suite.hit(row.prediction, row) for row in records.itertuples()]
    found = rule.total(records, np.array(hits, dtype=float))
    lost = np.array([not suite.reads(row.prediction, row) for row in records.itertuples()], float)
    return found | ({"unread": [mean(lost)]} if lost.any() else {})


def score(suite: Suite, records: pd.DataFrame) -> dict[str, float]:
    """The suite's metrics over per-question records, the headline first."""
    return {name: value_of(ratios) for name, ratios in metrics(suite, records).items()}
