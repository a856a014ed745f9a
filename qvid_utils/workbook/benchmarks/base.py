"""A suite of questions, and how each kind of benchmark turns answers into its published numbers.

A scorer turns per-question records into metrics, the headline first. All are in percent, except
MME's points. Every metric is a sum of ratios of sums over questions (`Ratio`), which gives its
value and its standard error over pictures by the same two lines.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

REQUIRED = ("id", "picture", "image", "question", "answer", "kind", "split", "group")


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


PICTURE = 576  # tokens of a picture, of LLaVA-1.5; others are no further from it than from a word
Metrics = dict[str, list[Ratio]]
#: A language model that settles an answer: its prompt -> its reply.
Judge = Callable[[str], str]


@dataclass(frozen=True)
class Scorer:
    """A published benchmark's rule: what one answer is worth, and what all of them add up to.

    hit(prediction, row, judge): an answer's worth in [0, 1], from the columns of its question; NaN
    where the metric is one of the whole set (CIDEr). total(records, hits): the metrics, headline
    first. needs_judge: the published rule has no other way of reading an answer.
    """

    hit: Callable[[str, Any, Judge | None], float]
    total: Callable[[pd.DataFrame, np.ndarray], Metrics]
    headline: str = "accuracy"
    needs_judge: bool = False


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


def picture(cell: dict, sample: str) -> Image.Image:
    """A picture {"bytes", "path"}, of a parquet cell or a file; a broken one: ValueError with the
    id and the path."""
    try:
        held = cell["bytes"]
        return Image.open(cell["path"] if held is None else io.BytesIO(held)).convert("RGB")
    except (OSError, KeyError, TypeError, AttributeError) as cause:
        where = cell.get("path") if isinstance(cell, dict) else None
        which = f"its picture {where}" if where else "its picture"
        raise ValueError(f"sample {sample!r}: {which} cannot be read ({cause})") from cause


def content(row: Any) -> list[dict]:
    """What a question shows and says, as parts of a chat message: pictures or a video, then words.

    row: of a suite, as a tuple. Its image: one picture, a list of them (none: words alone), or
    {"video", "frames"}, with "part" if only some seconds of it are shown.
    """
    words = {"type": "text", "text": row.question}
    if isinstance(row.image, dict) and "video" in row.image:
        from .published.video import frames

        cell = row.image
        shown = frames(cell["video"], cell["frames"], cell.get("part"))
        return [{"type": "video", "video": shown}, words]
    cells = row.image if isinstance(row.image, list) else [row.image]
    return [*({"type": "image", "image": picture(cell, row.id)} for cell in cells), words]


def prompt_lengths(samples: pd.DataFrame) -> np.ndarray:
    """How long the prompts of some questions are, roughly, in tokens: words, and PICTURE for each
    picture. (n,); for batches of like length, not for counting cost."""
    words = samples["question"].str.split().str.len().to_numpy()
    pictures = [len(cell) if isinstance(cell, list) else 1 for cell in samples["image"]]
    return words + PICTURE * np.array(pictures)


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


def metrics(suite: Suite, records: pd.DataFrame) -> Metrics:
    """The suite's metrics over its records, as ratios; records in the order of their samples.

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
    return rule.total(records, np.array(hits, dtype=float))


def score(suite: Suite, records: pd.DataFrame) -> dict[str, float]:
    """The suite's metrics over per-question records, the headline first."""
    return {name: value_of(ratios) for name, ratios in metrics(suite, records).items()}


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
