"""The stored run on all questions of the embedded suites, and how it is read back."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pandas as pd

from ..paths import DATA
from ..results import write
from .base import Suite, right
from .report import CELL, summary
from .tiny import suite

__all__ = ["store", "stored"]

STORED = ("suite", "sample", "asked", *CELL, "prediction", "mean_tokens", "failed")
MAYBE = ("retention_pct", "failed")  # columns that not every run has


def store(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    folder: Path,
    name: str,
    *,
    model: str = "tiny/llava",
    device: str = "cpu",
    dtype: str = "float32",
) -> list[Path]:
    """Write `<name>.csv` (results, the schema of data/README.md) and `<name>_answers.parquet`.

    model, device, dtype: what the rows say of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = folder / f"{name}_answers.parquet"
    texts = {c: "category" for c in ("suite", "sample", "method", "variant", "prediction")}
    columns = [name for name in STORED if name not in MAYBE or name in records]
    kept = records.assign(asked=_asked(records))[columns].astype(texts)
    kept.to_parquet(answers, index=False, compression="zstd")
    rows = summary(records, suites, name).assign(model=model, device=device, dtype=dtype)
    return [write(rows, folder / f"{name}.csv"), answers]


def _asked(frame: pd.DataFrame) -> list[int]:
    """A number made from question and answer: tells whether an id still means the same."""
    pairs = zip(frame["question"], frame["answer"], strict=True)
    return [crc32(f"{question}\n{answer}".encode()) for question, answer in pairs]


def stored(profile: str, folder: Path = DATA / "measured", model: str = "llava") -> pd.DataFrame:
    """The records of the stored run of a profile's model, as `evaluate` gave them; those of suites
    whose answers have no score of their own (captions) are left out.

    Raises ValueError where there is no such run, or where it answered other questions.
    """
    path = folder / f"{profile}_{model}_answers.parquet"
    if not path.exists():
        raise ValueError(f"no stored run {path.name}: python -m qvid_utils.runner makes it")
    answers = pd.read_parquet(path)
    texts = answers.select_dtypes("category").columns
    answers = answers.astype({column: "object" for column in texts})
    answers = answers[[suite(name).metric != "cider" for name in answers["suite"]]]
    questions = pd.concat([suite(name).samples for name in answers["suite"].unique()])
    questions = questions.assign(asked=_asked(questions)).rename(columns={"id": "sample"})
    columns = ["sample", "asked", "picture", "kind", "split", "group", "question", "answer"]
    frame = answers.merge(questions[columns], on=["sample", "asked"], how="left")
    if frame["question"].isna().any():
        unknown = frame.loc[frame["question"].isna(), "sample"].iloc[0]
        raise ValueError(
            f"{path.name} answers another question than {unknown!r} of today: the suites have "
            "changed, so run python -m qvid_utils.runner again"
        )
    pairs = zip(frame["prediction"], frame["answer"], strict=True)
    return frame.drop(columns="asked").assign(score=[float(right(*pair)) for pair in pairs])
