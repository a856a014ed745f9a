"""Execute notebooks by papermill and write them back without anything that differs between runs.

With the profile `tiny` and nothing set, each notebook is executed in place: its outputs are what
readers see and what nbval compares. Any other run leaves the notebooks as they are and puts the
executed copy under `runs/<profile>/`. Either way, figures and tables go where the notebook writes
them for its profile. Times go to `runs/times.json`, which is not tracked.
"""

import ast
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import write_kernel_spec
from papermill.exceptions import PapermillException, PapermillExecutionError

from ...paths import NOTEBOOKS, PROFILES

KERNEL = "python3"
KEPT_CELL_METADATA = ("jupyter", "tags")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
    "language_info": {"name": "python"},
}
# What a run can fail with besides a cell: a kernel that dies (RuntimeError) or does not start, a
# file that is not a notebook (ValueError), a full disk (OSError).
FAILURES = (PapermillException, RuntimeError, ValueError, KeyError, OSError)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook: seconds and the error's text (empty when it ran)."""

    name: str
    seconds: float
    error: str = ""
    copy: Path | None = None  # executed copy, where the notebook itself was left alone


def notebooks_of(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Notebooks `NN_*.ipynb` of a folder in order, or those whose name begins with one of `only`.

    Raises ValueError for an entry of `only` that fits no notebook, or an empty folder.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    names = ", ".join(path.stem for path in found)
    if not found:
        raise ValueError(f"no notebook named NN_*.ipynb in {folder}")
    for start in only:
        if not start.strip():
            raise ValueError(f"--only {start!r}: name the notebooks' beginnings, such as 02")
        if not any(path.name.startswith(start) for path in found):
            raise ValueError(f"--only {start}: no notebook begins so; there are {names}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["keep=16", "name=qvid"]` → `{"keep": 16, "name": "qvid"}`: Python literals, else text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ValueError(f"--set {setting}: it must be name=value, for example --set keep=16")
        if name == "profile":
            raise ValueError(f"--set {setting}: the profile has its own option, --profile")
        try:
            parsed[name] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            parsed[name] = text
    return parsed


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that the notebook's `parameters` cell does not have.

    Papermill itself only warns, and then runs the notebook without the setting.
    """
    if not parameters:
        return
    with tempfile.TemporaryDirectory(prefix="qvid-") as folder:
        known = papermill.inspect_notebook(str(_prepared(notebook, Path(folder))))
    for name in parameters:
        if name not in known:
            have = ", ".join(known) or "none"
            raise ValueError(f"{notebook.stem} has no parameter {name!r}; its parameters: {have}")


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Take out, in place, all that differs between two equal runs; return the notebook.

    Goes: papermill's notes, times of cells, versions of kernel and language, widget state, empty
    tags. Stays: cells and their ids, tags, execution counts, outputs.
    """
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
    return notebook


def as_text(notebook: nbformat.NotebookNode) -> str:
    """The one spelling of a notebook that is written to disk: sorted keys, one trailing newline."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def regenerate(
    profile: str = "tiny",
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    notebooks: Path = NOTEBOOKS,
    jobs: int = 1,
) -> list[Outcome]:
    """Run the chosen notebooks, `jobs` at a time; one that fails does not stop the others.

    profile: one of `PROFILES`. only: beginnings of names, such as "02". parameters: values for the
    `parameters` cell of every chosen notebook. notebooks: their folder; figures, data and `runs/`
    are taken to be beside it. Raises ValueError, before anything runs, for an unknown profile,
    notebook or parameter.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    notebooks = Path(notebooks).resolve()
    chosen = notebooks_of(notebooks, only)
    values = dict(parameters or {})
    if profile != "tiny":
        values["profile"] = profile
    for path in chosen:
        check_parameters(path, values)
    runs = notebooks.parent / "runs"

    def one(path: Path) -> Outcome:
        began = time.perf_counter()
        error, copy = _run(path, values, runs, profile, bar=jobs == 1)
        return Outcome(path.stem, time.perf_counter() - began, error, copy)

    with _this_interpreter(), ThreadPoolExecutor(jobs) as pool:
        outcomes = []
        for outcome in pool.map(one, chosen):
            outcomes.append(outcome)
            print(_line(outcome), file=sys.stderr, flush=True)
            _note_time(runs / "times.json", profile, values, outcome)
    return outcomes


def _prepared(path: Path, folder: Path) -> Path:
    """A tidied copy to run: it names kernel and language even where a new notebook does not yet."""
    copy = folder / f"in_{path.name}"
    copy.write_text(as_text(tidy(nbformat.read(path, as_version=4))), encoding="utf-8")
    return copy


def _run(
    path: Path, values: dict[str, Any], runs: Path, profile: str, bar: bool
) -> tuple[str, Path | None]:
    """Execute one notebook; give the error's text (or "") and where a copy was put (or None)."""
    in_place = not values
    with tempfile.TemporaryDirectory(prefix="qvid-") as folder:
        executed = Path(folder) / path.name
        try:
            papermill.execute_notebook(
                str(_prepared(path, Path(folder))),
                str(executed),
                parameters=values,
                kernel_name=KERNEL,
                cwd=str(path.parent),
                progress_bar={"desc": path.stem, "file": sys.stderr} if bar else False,
                coalesce_streams=True,  # else pieces depend on when the kernel flushed
            )
            text = as_text(tidy(nbformat.read(executed, as_version=4)))
        except FAILURES as failure:
            copy = None
            if executed.exists():
                copy = runs / "failed" / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(executed, copy)
            return _explain(failure), copy
    target = path if in_place else runs / profile / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, text)
    return "", None if in_place else target


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; an unchanged file is not touched."""
    data = text.encode("utf-8")
    if path.exists() and path.read_bytes() == data:
        return
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _explain(failure: BaseException) -> str:
    """A failure as readers need it: the cell with its lines numbered, then what it raised."""
    if not isinstance(failure, PapermillExecutionError):
        return f"{type(failure).__name__}: {failure}"
    lines = failure.source.splitlines()
    source = "\n".join(f"  {number:>3} | {line}" for number, line in enumerate(lines, start=1))
    traceback = _ANSI.sub("", "\n".join(failure.traceback))
    return (
        f"cell {failure.cell_index + 1} (In [{failure.exec_count}]):\n{source}\n\n"
        f"{failure.ename}: {failure.evalue}\n\n{traceback}"
    )


@contextmanager
def _this_interpreter() -> Iterator[None]:
    """Inside the block, the kernel `python3` is the interpreter that runs this.

    Needed because outside a virtual environment a kernel of that name in the user's folder wins.
    """
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="qvid-kernel-") as folder:
        # The kernel's own warnings (about its transport) would cut through the progress bar.
        write_kernel_spec(Path(folder) / "kernels" / KERNEL, extra_arguments=["--log-level=ERROR"])
        os.environ["JUPYTER_PATH"] = folder + (os.pathsep + before if before else "")
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def _note_time(path: Path, profile: str, values: Mapping[str, Any], outcome: Outcome) -> None:
    """Put one notebook's time into the untracked sidecar; a damaged sidecar is begun anew."""
    try:
        times = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        times = {}
    times.setdefault(profile, {})[outcome.name] = {
        "seconds": round(outcome.seconds, 1),
        "ok": not outcome.error,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "set": {name: value for name, value in values.items() if name != "profile"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(times, indent=1, sort_keys=True, default=str) + "\n")


def _line(outcome: Outcome) -> str:
    state = "FAILED" if outcome.error else "ok"
    copy = f"  executed copy: {outcome.copy}" if outcome.copy else ""
    return f"{outcome.name}  {state}  {outcome.seconds:.1f} s{copy}"


def summary(outcomes: Sequence[Outcome], root: Path) -> str:
    """The closing lines: how many ran, what failed, and the files that git sees as changed."""
    failed = [outcome.name for outcome in outcomes if outcome.error]
    total = sum(outcome.seconds for outcome in outcomes)
    head = f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks ran, {total:.1f} s"
    return "\n".join([head + (f"; failed: {', '.join(failed)}" if failed else ""), _changed(root)])


def _changed(root: Path) -> str:
    """What git says of the folders that notebooks write to."""
    try:
        said = subprocess.run(
            ["git", "status", "--short", "--", "figures", "data", "notebooks"],
            cwd=root, capture_output=True, text=True, check=True,
        ).stdout.rstrip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "what changed is not known: this is no git checkout"
    return f"changed:\n{said}" if said else "no figure, table or notebook changed"
