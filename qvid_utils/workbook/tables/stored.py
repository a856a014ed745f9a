"""The stored run on all questions of the embedded suites, and how it is read back."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pandas as pd

from ...paths import DATA
from ..benchmarks.base import CELL, RUN, Suite
from ..benchmarks.embedded import suite
from ..benchmarks.published import BENCHMARKS
from .report import summary
from .schema import read, write

__all__ = ["asked_in", "is_stored", "rows_of", "store", "stored", "suite_of", "table_run"]

STORED = ("suite", "sample", "asked", *CELL, "prediction", "mean_tokens", "failed")
MAYBE = ("retention_pct", "failed")  # columns that not every run has
MEASURED = DATA / "measured"
#: Table of the papers -> the stored run of an embedded model that stands beside it.
EMBEDDED_RUNS = {
    "1": "llava", "2a": "qwen2_vl", "5": "qwen2_vl_layers", "11": "qwen2_vl_exam",
    "13": "llava_hallusion", "14": "qwen2_vl", "15": "llava",
}  # fmt: skip


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


def table_run(profile: str, table: str) -> str:
    """How the run is called that fills a table of the papers: what `--table` writes for "paper", an
    embedded model's for "tiny" ("" where none stands for the table)."""
    return f"table_{table}" if profile == "paper" else EMBEDDED_RUNS.get(table, "")


def is_stored(profile: str, table: str, folder: Path | None = None) -> bool:
    """Whether there is a stored run that fills a table, in a folder (None: data/measured)."""
    name = table_run(profile, table)
    return bool(name) and ((folder or MEASURED) / f"{profile}_{name}.csv").exists()


def rows_of(profile: str, table: str, folder: Path | None = None) -> pd.DataFrame:
    """The rows of results of the run that fills a table."""
    return read((folder or MEASURED) / f"{profile}_{table_run(profile, table)}.csv")


def asked_in(profile: str, tables: Sequence[str], folder: Path | None = None) -> dict[str, int]:
    """Suite -> how many questions of it the stored runs of these tables hold."""
    frames = [rows_of(profile, t, folder) for t in tables if is_stored(profile, t, folder)]
    return {
        name: int(n) for one in frames for name, n in zip(one["benchmark"], one["n"], strict=True)
    }


def stored(
    profile: str, folder: Path | None = None, model: str = "llava", *, table: str | None = None
) -> pd.DataFrame:
    """The records of the stored run of a profile's model, as `evaluate` gave them; those of suites
    whose answers have no score of their own (captions) are left out. table: the run that fills that
    table of the papers, instead of a model's.

    Raises ValueError where there is no such run, or where it answered other questions.
    """
    name = f"{profile}_{model if table is None else table_run(profile, table)}"
    folder = folder or MEASURED
    path = folder / f"{name}_answers.parquet"
    if not path.exists():
        option = f" --table {table}" if table and profile == "paper" else ""
        raise ValueError(f"no stored run {path.name}: python -m qvid_utils run{option} makes it")
    answers = pd.read_parquet(path)
    texts = answers.select_dtypes("category").columns
    answers = answers.astype({column: "object" for column in texts})
    suites = {name: suite_of(name) for name in answers["suite"].unique()}
    answers = answers[[suites[name].metric != "cider" for name in answers["suite"]]]
    questions = pd.concat([suites[name].samples for name in answers["suite"].unique()])
    questions = questions.assign(asked=_asked(questions)).rename(columns={"id": "sample"})
    columns = ["sample", "asked", "picture", "kind", "split", "group", "question", "answer"]
    frame = answers.merge(questions[columns], on=["sample", "asked"], how="left")
    if frame["question"].isna().any():
        unknown = frame.loc[frame["question"].isna(), "sample"].iloc[0]
        raise ValueError(
            f"{path.name} answers another question than {unknown!r} of today: the suites have "
            "changed, so run python -m qvid_utils run again"
        )
    frame = frame.drop(columns="asked").assign(score=_scores(frame, suites))
    run = read(folder / f"{name}.csv")[list(RUN)].iloc[0].to_dict()
    return frame if run == RUN else frame.assign(**run)


def suite_of(name: str) -> Suite:
    """A suite in the words of the first family that is asked it: all are asked in the same ones,
    and where they were not, the stored number of the question says so."""
    return suite(name, BENCHMARKS[name].families[0] if name in BENCHMARKS else "llava")


def _scores(frame: pd.DataFrame, suites: dict[str, Suite]) -> list[float]:
    """What each answer is worth by its suite's own scorer, as it was when it was given; NaN for a
    question that failed."""
    rows = {name: {row.id: row for row in one.samples.itertuples()} for name, one in suites.items()}
    said = zip(frame["suite"], frame["sample"], frame["prediction"], strict=True)
    return [
        suites[name].hit(text, rows[name][sample]) if isinstance(text, str) else float("nan")
        for name, sample, text in said
    ]
