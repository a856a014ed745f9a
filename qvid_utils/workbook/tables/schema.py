"""Numbers as long tables: one schema, its files, the papers' tables, and tables for readers.

A result is one row of `COLUMNS`; `data/README.md` is the dictionary of these columns. The papers'
tables lie in `data/paper/` and are read with `paper`, never written. Every function takes and
returns plain pandas frames.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from ...paths import figures_dir, papers_numbers

#: Column of a result row -> kind ("text", "int", "float", "rank").
SCHEMA: Mapping[str, str] = MappingProxyType({
    "table": "text", "model": "text", "method": "text", "variant": "text",
    "keep": "int", "retention_pct": "float", "mean_tokens": "float", "layer": "int",
    "rank": "rank", "benchmark": "text", "metric": "text", "value": "float", "unit": "text",
    "n": "int", "stderr": "float", "seed": "int", "device": "text", "dtype": "text",
    "source": "text", "quoted_from": "text", "printed": "text",
})  # fmt: skip
COLUMNS = tuple(SCHEMA)
#: Columns that no row may leave empty.
REQUIRED = ("table", "model", "method", "benchmark", "metric", "value", "unit", "source")
#: Two rows that agree in all of these are the same measurement twice, which is refused.
KEY = ("table", "model", "method", "variant", "keep", "retention_pct", "layer", "rank",
       "benchmark", "metric", "seed", "device", "dtype", "source")  # fmt: skip

#: Checkpoint on the hub -> the name that the papers' tables give the model.
PAPER_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "llava-hf/llava-1.5-7b-hf": "LLaVA-1.5-7B",
        "Qwen/Qwen2-VL-7B-Instruct": "Qwen2-VL-7B",
        "LanguageBind/Video-LLaVA-7B-hf": "Video-LLaVA-7B",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": "LLaVA-OneVision-7B",
    }
)
#: Parts of a benchmark that stand beside its total in a table and are not averaged again.
PARTS = ("VideoMME-Short", "VideoMME-Medium", "VideoMME-Long")
AVERAGE = "Avg"


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with exactly `COLUMNS`, in that order, with the schema's types.

    Optional columns that are absent come back empty: "" for text, missing for numbers. Raises
    ValueError for an unknown or missing column, a number that is none or lies outside its range,
    an empty required cell, a source that is neither paper nor measured, and a duplicate key.
    """
    unknown = [str(c) for c in frame.columns if c not in SCHEMA]
    if unknown:
        raise ValueError(f"unknown column(s) {unknown}; the schema has {list(COLUMNS)}")
    if not frame.columns.is_unique:
        twice = [str(c) for c in frame.columns[frame.columns.duplicated()]]
        raise ValueError(f"column(s) {twice} come twice; name each column once")
    absent = [c for c in REQUIRED if c not in frame.columns]
    if absent:
        raise ValueError(f"missing column(s) {absent}; every result needs {list(REQUIRED)}")
    given = frame.reset_index(drop=True).reindex(columns=COLUMNS).astype("object")
    given = given.mask(given.isna() | (given == ""), None)
    out = pd.DataFrame({name: _typed(given[name], kind) for name, kind in SCHEMA.items()})
    for name in REQUIRED:
        if given[name].isna().any():
            row = int(given[name].isna().idxmax())
            raise ValueError(f"{name} is empty in row {row}; it is required")
    wrong = ~out["source"].str.match(r"(paper|measured)\b").astype(bool)
    if wrong.any():
        came = out.loc[wrong, "source"].iloc[0]
        raise ValueError(f"source={came!r}; it begins with 'paper' or 'measured'")
    if (twice := out.duplicated(list(KEY))).any():
        row = given.loc[twice.idxmax(), list(KEY)].dropna()
        shown = ", ".join(f"{k}={v}" for k, v in row.items())
        raise ValueError(f"duplicate key: {shown}; a measurement stands in one row only")
    return out


def _typed(cells: pd.Series, kind: str) -> pd.Series:
    """A column in the schema's type; refuses what is not finite, not whole (int) or below zero."""
    if kind == "text":
        return cells.map(str, na_action="ignore").fillna("").astype("object")
    x = cells.map(_float, na_action="ignore").astype("float64")
    whole = x == x.round()
    faults = {
        "is not a number": x.isna() & cells.notna(),
        "is not finite": np.isinf(x),
        "is not a whole number": (kind == "int") & x.notna() & ~whole,
        "is neither a whole number >= 1 nor a share in (0, 1)": (kind == "rank")
        & ((x <= 0) | ((x >= 1) & ~whole)),
        "is negative": (cells.name != "value") & (x < 0),
        "is outside (0, 100]": (cells.name == "retention_pct") & ((x <= 0) | (x > 100)),
    }
    for fault, where in faults.items():
        if where.any():
            row = int(where.idxmax())
            raise ValueError(f"{cells.name}={cells[row]!r} in row {row} {fault}")
    return x.astype("Int64") if kind == "int" else x


def _float(cell) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


def read(path: str | Path) -> pd.DataFrame:
    """A result file as a frame with the schema's types; the header must be `COLUMNS`.

    Raises ValueError, naming the file, for another header or a cell outside the schema.
    """
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    if tuple(head) != COLUMNS:
        odd = sorted(set(head) ^ set(COLUMNS)) or "the order"
        raise ValueError(f"{path.name}: the header differs from the schema in {odd}")
    for number, line in enumerate(lines):
        if len(line) != len(COLUMNS):
            raise ValueError(
                f"{path.name}: row {number} has {len(line)} cells; the schema has {len(COLUMNS)}"
            )
    try:
        return tidy(pd.DataFrame(lines, columns=list(COLUMNS), dtype="object"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def write(frame: pd.DataFrame, path: str | Path, *, order: str = "key") -> Path:
    """Write results as CSV, the same bytes for the same rows; returns the path.

    order: "key" sorts by the key columns, "given" leaves the rows as they come. Lines end in LF,
    floats have their shortest round-trip form, whole ranks no decimal point. ValueError as `tidy`.
    """
    if order not in ("key", "given"):
        raise ValueError(f"order={order!r}; it is 'key' or 'given'")
    out = tidy(frame)
    if order == "key":
        out = out.sort_values(list(KEY), kind="stable", na_position="first", ignore_index=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_csv(out, path)
    return path


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A CSV with LF, floats in their shortest round-trip form, and whole ranks as such."""
    if "rank" in frame:
        rank = [int(r) if isinstance(r, float) and r == r // 1 else r for r in frame["rank"]]
        frame = frame.assign(rank=pd.Series(rank, frame.index, dtype="object"))
    frame.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


# ---------------------------------------------------------------- the papers' tables


def paper(table: int | str) -> pd.DataFrame:
    """One table of the papers in long form: `paper(1)`, `paper("2a")`, `paper("svd_1")`.

    Names of files work too ("table02a", "svd_table01"). Raises ValueError for another name, and
    lists the known ones.
    """
    known = {path.stem: path for path in sorted(papers_numbers().glob("*table*.csv"))}
    m = re.fullmatch(r"(svd)?[ _-]*(?:table)?[ _]*0*(\d+)([a-z]?)", str(table).strip().lower())
    stem = f"{'svd_' if m[1] else ''}table{int(m[2]):02d}{m[3]}" if m else ""
    if stem not in known:
        raise ValueError(f"no table {table!r}; known are {', '.join(known)}")
    return read(known[stem])


def peers() -> pd.DataFrame:
    """What the compared methods print of themselves: all of data/paper/peers_*.csv, long form."""
    files = sorted(papers_numbers().glob("peers_*.csv"))
    return pd.concat([read(path) for path in files], ignore_index=True)


# ---------------------------------------------------------------- tables for readers


def save_table(
    frame: pd.DataFrame,
    name: str,
    profile: str = "tiny",
    caption: str = "",
    show: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Write a frame to figures/<profile>/<name>.csv, .md and .tex, and give it back.

    show: the same in the shape to be read (`wide_table`): then it is what .md, .tex and
    <name>_wide.csv hold, and what is given back. The CSV holds the numbers in full; the other two
    show at most three decimals, as many for each column as its numbers need, and a dash for what is
    missing. The same frame gives the same bytes. An index with names becomes columns. Raises
    ValueError for a name that is no file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name={name!r}; use letters, digits, '-', '_' and '.' only")
    folder = Path(figures_dir(profile))
    folder.mkdir(parents=True, exist_ok=True)
    plain = _plain(frame)
    _write_csv(plain, folder / f"{name}.csv")
    if show is not None:
        plain = _plain(show)
        _write_csv(plain, folder / f"{name}_wide.csv")
    text = _markdown(plain)
    text = f"{caption}\n\n{text}\n" if caption else f"{text}\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")
    text = _latex(plain, name, caption)
    (folder / f"{name}.tex").write_text(text, encoding="utf-8", newline="\n")
    return frame if show is None else show


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Named indexes as columns, and columns with one name each."""
    plain = frame.reset_index() if any(n is not None for n in frame.index.names) else frame
    return plain.set_axis([_flat(c) for c in plain.columns], axis=1)


def _sides(plain: pd.DataFrame) -> list[bool]:
    """Whether each column stands to the right: numbers, also those that are written as text."""
    number = r"[-+]?[\d,.]+|–|"
    return [
        pd.api.types.is_numeric_dtype(plain.iloc[:, i])
        or bool(plain.iloc[:, i].astype(str).str.fullmatch(number).all())
        for i in range(plain.shape[1])
    ]


def _as_text(plain: pd.DataFrame) -> pd.DataFrame:
    cells = {i: _shown(plain.iloc[:, i]) for i in range(plain.shape[1])}
    return pd.DataFrame(cells).set_axis(plain.columns, axis=1)


def _markdown(plain: pd.DataFrame) -> str:
    bars = _as_text(plain).replace({r"\|": r"\|", "\n": " "}, regex=True)
    sides = ["right" if number else "left" for number in _sides(plain)]
    return bars.to_markdown(index=False, colalign=sides, disable_numparse=True)


def _latex(plain: pd.DataFrame, name: str, caption: str) -> str:
    style = _as_text(plain).style.hide(axis="index").format(escape="latex")
    return style.format_index(escape="latex", axis=1).to_latex(
        hrules=True, position_float="centering", label=f"tab:{name}",
        column_format="".join("r" if number else "l" for number in _sides(plain)),
        caption=re.sub(r"([%&#_])", r"\\\1", caption) or None,
    ).translate(str.maketrans(SIGNS))  # fmt: skip


#: Signs of a table that pdflatex does not know.
SIGNS = {"–": "--", "±": r"$\pm$", "×": r"$\times$", "²": r"\textsuperscript{2}", "σ": r"$\sigma$",
         "ℓ": r"$\ell$", "↓": r"$\downarrow$", "τ": r"$\tau$", "α": r"$\alpha$", "≥": r"$\ge$",
         "≤": r"$\le$", "−": "-"}  # fmt: skip


def _flat(column) -> str:
    return " ".join(str(c) for c in column if str(c)) if isinstance(column, tuple) else str(column)


def _shown(column: pd.Series) -> list[str]:
    """The cells of a column as text; a dash for what is missing."""
    if not pd.api.types.is_float_dtype(column):
        return ["–" if pd.isna(x) or x == "" else str(x) for x in column]
    texts = [f"{x:.3f}" for x in column.dropna()]
    places = max((len(t.rstrip("0").split(".")[1]) for t in texts), default=0)
    shown = ["–" if pd.isna(x) else f"{x:.{places}f}" for x in column]
    return [t.lstrip("-") if not t.strip("-0.") else t for t in shown]  # no "-0.00"
