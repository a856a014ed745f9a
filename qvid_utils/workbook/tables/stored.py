"""Stored runs: the answers of a run and its table, and how they are read back.

A stored answer carries what it is an answer of: a number made from its question, its right answer
and its picture's bytes, a hash of the model's files, and the definition of its method. Who reads a
run refuses answers of another question, picture, model or method.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import pandas as pd

from ...methods import METHODS, Method, method
from ...models.load import EMBEDDED
from ...paths import DATA
from ..benchmarks.base import CELL, FULL, RUN, Suite
from ..benchmarks.embedded import suite
from ..benchmarks.paper_profile import place
from ..benchmarks.published import BENCHMARKS
from ..run.content import shown_hash
from ..run.definition import definition
from .report import summary
from .schema import read, write

__all__ = [
    "answered", "asked_in", "is_stored", "keyed", "read_back", "rows_of", "store", "stored",
    "suite_of", "table_run", "weights_of", "write_answers",
]  # fmt: skip

KEY = ("asked", "weights", "definition")
STORED = ("suite", "sample", *KEY, *CELL, "share", "frames", "n_visual", "prediction",
          "mean_tokens", "failed")  # fmt: skip
MAYBE = ("retention_pct", "share", "frames", "n_visual", "failed")  # that not every run has
TEXTS = ("suite", "sample", "weights", "definition", "method", "variant", "prediction")
MEASURED = DATA / "measured"
#: Rows that no method has made: the whole model, shown all or less.
PLAIN = (FULL, "fewer_frames", "first_frame")
WHOLE = 1 << 28  # bytes: of a larger file the first of every MiB counts, and its length
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
    methods: Mapping[str, Method] = METHODS,
) -> list[Path]:
    """Write `<name>.csv` (results, the schema of data/README.md) and `<name>_answers.parquet`.

    model, device, dtype: what the rows say of the run; model: as `load` takes it, for its files'
    hash; methods: those of the run that go beyond METHODS, too.
    """
    rows = summary(records, suites, name).assign(model=model, device=device, dtype=dtype)
    path = write_answers(records, suites, folder, name, model, methods)
    return [write(rows, folder / f"{name}.csv"), path]


def write_answers(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    folder: Path,
    name: str,
    model: str,
    methods: Mapping[str, Method] = METHODS,
) -> Path:
    """Write `<name>_answers.parquet` alone, each answer with its key."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_answers.parquet"
    told = keyed(records, suites, weights_of(model), methods)
    columns = [name for name in STORED if name not in MAYBE or name in told]
    kept = told[columns].astype(dict.fromkeys(TEXTS, "category"))
    kept.to_parquet(path, index=False, compression="zstd")
    return path


# --------------------------------------------------------------------------- what an answer is of


def keyed(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    weights: str,
    methods: Mapping[str, Method] = METHODS,
) -> pd.DataFrame:
    """Records with the columns of KEY, as question, model and methods are now."""
    asked = {number: value for one in suites for number, value in answered(one).items()}
    cells = {
        pair: _definition(*pair, methods)
        for pair in records[["method", "variant"]].drop_duplicates().itertuples(index=False)
    }
    pairs = zip(records["method"], records["variant"], strict=True)
    each = zip(records["suite"], records["sample"], strict=True)
    return records.assign(
        asked=[asked[one] for one in each], weights=weights,
        definition=[cells[pair] for pair in pairs],
    )  # fmt: skip


def answered(one: Suite) -> dict[tuple[str, str], int]:
    """(suite, sample) -> a number made from question, right answer and the picture's bytes: it
    tells whether an id still means the same."""
    known: dict[int, str] = {}
    return {
        (one.name, row.id): crc32(
            f"{row.question}\n{row.answer}\n{shown_hash(row.image, known)}".encode()
        )
        for row in one.samples.itertuples()
    }


def _definition(name: str, variant: str, methods: Mapping[str, Method]) -> str:
    """Hash of what a row's method is, and that of the cut before it; its variant's words and its
    rank stand beside it. "" for a method that is no longer there."""
    if name in PLAIN:
        return name
    found = re.search(r"after (\w+) \d+", variant or "")
    names = (name, *(found.groups() if found else ()))
    try:
        found = [methods.get(each) or method(each) for each in names]
    except ValueError:
        return ""
    return "+".join(definition(each) for each in found)


def weights_of(model: str) -> str:
    """Hash of a model's files, wherever they are: weights, configuration, processor, template. ""
    for a checkpoint that is not on this machine, or only in the hub's cache."""
    folder = DATA / model if model.startswith(EMBEDDED) else Path(model)
    folder = folder if folder.is_dir() else place(model)
    if folder is None:
        return ""
    running = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            running.update(f"{file.name}:{file.stat().st_size};".encode())
            running.update(_content(file))
    return running.hexdigest()[:12]


def _content(file: Path) -> bytes:
    if file.stat().st_size <= WHOLE:
        return hashlib.sha256(file.read_bytes()).digest()
    running = hashlib.sha256()
    with file.open("rb") as stream:
        for start in range(0, file.stat().st_size, 1 << 20):
            stream.seek(start)
            running.update(stream.read(1 << 12))
    return running.digest()


# --------------------------------------------------------------------------- which run is where


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

    Raises ValueError where there is no such run, or where it is of other questions, pictures,
    weights or methods.
    """
    name = f"{profile}_{model if table is None else table_run(profile, table)}"
    option = f" --table {table}" if table and profile == "paper" else ""
    return read_back(folder or MEASURED, name, f"python -m qvid_utils run{option}")


def read_back(
    folder: Path,
    name: str,
    command: str,
    *,
    suite_named: Callable[[str], Suite] | None = None,
    methods: Mapping[str, Method] = METHODS,
) -> pd.DataFrame:
    """The records of the run that is called so in a folder; command: what makes it; suite_named:
    its suites by name (default: `suite_of`). Errors as in `stored`."""
    path = folder / f"{name}_answers.parquet"
    if not path.exists():
        raise ValueError(f"no stored run {path.name}: {command} makes it")
    answers = pd.read_parquet(path)
    texts = answers.select_dtypes("category").columns
    answers = answers.astype(dict.fromkeys(texts, "object"))
    suites = {each: (suite_named or suite_of)(each) for each in answers["suite"].unique()}
    answers = answers[[suites[each].metric != "cider" for each in answers["suite"]]]
    run = read(folder / f"{name}.csv")[list(RUN)].iloc[0].to_dict()
    _check(path.name, command, answers, suites, run["model"], methods)
    questions = pd.concat([one.samples.assign(suite=key) for key, one in suites.items()])
    columns = ["suite", "sample", "picture", "kind", "split", "group", "question", "answer"]
    questions = questions.rename(columns={"id": "sample"})[columns]
    frame = answers.merge(questions, on=["suite", "sample"], how="left")
    frame = frame.drop(columns=list(KEY)).assign(score=_scores(frame, suites))
    return frame if run == RUN or "share" in frame else frame.assign(**run)


def _check(
    name: str,
    command: str,
    answers: pd.DataFrame,
    suites: Mapping[str, Suite],
    model: str,
    methods: Mapping[str, Method],
) -> None:
    """ValueError for the first answer that is none to today's question, by today's model or method;
    a checkpoint that is not here cannot be looked at."""
    lacks = [column for column in KEY if column not in answers]
    asked = {each: number for one in suites.values() for each, number in answered(one).items()}
    each = zip(answers["suite"], answers["sample"], answers["asked"], strict=True)
    other = next((s for suite, s, number in each if asked.get((suite, s)) != number), None)
    says = ""
    if lacks:
        says = f"carries no {lacks[0]}"
    elif other is not None:
        says = f"answers another question than {other!r} of today, or one about another picture"
    elif (weights := weights_of(model)) and (answers["weights"] != weights).any():
        says = f"is of other weights than those of {model} today"
    else:
        cells = answers[["method", "variant", "definition"]].drop_duplicates()
        for cell in cells.itertuples():
            if _definition(cell.method, cell.variant, methods) != cell.definition:
                says = f"is of another {cell.method!r} than that of today"
                break
    if says:
        raise ValueError(
            f"{name} {says}: python -m qvid_utils run --rekey asks one in a hundred of its answers "
            f"again and keeps it if all are the same; else make it anew: {command}"
        )


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
