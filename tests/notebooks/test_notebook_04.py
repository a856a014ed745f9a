"""Notebook 04 and data/README.md name the commands of the stored timings: those, and no others."""

import argparse
import re
import shlex

import nbformat
import pandas as pd
import pytest

from qvid_utils.paths import DATA, NOTEBOOKS, ROOT

FILES = {"efficiency": 1, "batch": 2, "parts": 1, "scoring": 1, "grid": 3}  # name: commands


def commands(text):
    """Arguments of each `measure` command, by the file that it makes; N stands for two."""
    known = argparse.ArgumentParser()
    known.add_argument("kind", nargs="?", default="models")
    for name in ("model", "methods", "keep", "lengths", "rounds", "divide", "cut", "batch"):
        known.add_argument(f"--{name}")
    for name in ("words", "questions", "out"):
        known.add_argument(f"--{name}")
    known.add_argument("--tokens", default="2")
    known.add_argument("--cpu-time", action="store_true")
    found = [
        known.parse_args(shlex.split(line))
        for line in re.findall(r"python -m qvid_utils measure (?!tables)([^`\n]*)", text)
    ]
    names = {"parts": "parts", "scores": "scoring", "grid": "grid"}
    return [(names.get(f.kind) or ("batch" if f.batch else "efficiency"), f) for f in found]


def notebook_text():
    cells = nbformat.read(NOTEBOOKS / "04_efficiency.ipynb", as_version=4).cells
    return next(c.source for c in cells if "The commands that stored the timings" in c.source)


def readme_text():
    lines = (ROOT / "data/README.md").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith(tuple(f"| `{n}_cpu" for n in FILES)))


def stored(name):
    return pd.read_csv(DATA / "measured" / f"{name}_cpu.csv")


def ints(text):
    return {int(part) for part in text.split(",")}


@pytest.mark.parametrize("text", [notebook_text, readme_text])
def test_the_commands_are_those_that_stored_what_is_there(text):
    found = commands(text())
    kinds = [name for name, _ in found]
    assert {name: max(kinds.count(name), 1) for name in kinds} | {"batch": 2} == FILES
    for name, asked in found:
        frame = stored(name)
        assert asked.cpu_time and frame["source"].str.contains("processor seconds").all()
        if name == "grid":
            frame = frame[frame["model"].str.startswith(asked.model)]
            tail = f"{', '.join(asked.keep.split(','))}; {asked.tokens} tokens"
            frame = frame[frame["variant"] == f"keep {tail}"]
            assert set(frame["layer"]) == ints(asked.cut)
        steps = frame["metric"].str.startswith("decode") & (name != "parts")
        assert set(frame.loc[~steps & (frame["n"] > 1), "n"]) == {int(asked.rounds)}
        if asked.methods:
            ran = {
                method if pd.isna(variant) or name == "parts" else f"{method}:{variant}"
                for method, variant in zip(frame["method"], frame["variant"], strict=True)
            }
            assert ran == set(asked.methods.split(","))
            kept = frame.loc[frame["method"] != "full", "keep"]
            assert set(kept) == ints(asked.keep)
        if asked.divide:
            assert frame["model"].str.contains(f"width/{asked.divide} ").all()
    batches = stored("batch")["source"].str.extract(r"batch (\d+)")[0]
    assert set(batches) == {"1", "4"} and "1 and 4" in text()


def test_a_wrong_command_is_seen():
    """The notebook as it was: three methods and three keeps short."""
    wrong = notebook_text().replace(",fastv,svd_prune,visionzip --keep", ",svd_prune --keep")
    with pytest.raises(AssertionError):
        test_the_commands_are_those_that_stored_what_is_there(lambda: wrong)
    slower = notebook_text().replace("--rounds 3", "--rounds 5")
    with pytest.raises(AssertionError):
        test_the_commands_are_those_that_stored_what_is_there(lambda: slower)
