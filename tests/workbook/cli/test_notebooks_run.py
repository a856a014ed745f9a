"""regenerate: real kernels on notebooks of a few lines each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qvid_utils.paths import ROOT
from qvid_utils.workbook.cli import main as qvid_utils
from qvid_utils.workbook.cli import notebooks as module
from qvid_utils.workbook.cli.notebooks import parse_settings, regenerate, tidy

WRITE = "from pathlib import Path\nout = Path('../figures')\nout.mkdir(exist_ok=True)\n"


def main(options) -> int:
    return qvid_utils(["figures", *options])


PARAMETERS = "profile = 'tiny'\nseed = 0\n"


def put(folder: Path, name: str, *sources: str, parameters: str = PARAMETERS, metadata=None):
    """A notebook with a title, a parameters cell and the given code cells."""
    metadata = module.NOTEBOOK_METADATA if metadata is None else metadata
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        new_markdown_cell("# Title", id="title"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters"),
    ]
    cells += [new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)]
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def printed(path: Path) -> list[str]:
    """Text of the stdout streams of a notebook file."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [out for cell in cells if cell.cell_type == "code" for out in cell.outputs]
    return [out.text for out in outputs if out.output_type == "stream"]


@pytest.fixture
def notebooks(tmp_path) -> Path:
    return tmp_path / "notebooks"


def test_in_place_then_unchanged(notebooks, tmp_path, capsys, monkeypatch):
    # A kernel of the user's own that is called python3 too must not be taken.
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # as where there is no environment
    monkeypatch.chdir(tmp_path)

    show = "import sys\nprint('a')\nprint('b', flush=True)\nprint(sys.executable)"
    save = WRITE + "(out / 'f.txt').write_text(f'{profile} {seed}')\nseed"
    path = put(notebooks, "01_first", show, save)

    assert main(["--notebooks", str(notebooks)]) == 0
    assert printed(path) == [f"a\nb\n{sys.executable}\n"]
    assert "1 of 1 notebooks ran" in capsys.readouterr().out
    notebook = nbformat.read(path, as_version=4)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert {key for cell in notebook.cells for key in cell.metadata} == {"tags"}
    assert notebook.metadata == module.NOTEBOOK_METADATA

    first = path.read_bytes(), path.stat().st_mtime_ns
    (outcome,) = regenerate(notebooks=notebooks)
    assert not outcome.error and (path.read_bytes(), path.stat().st_mtime_ns) == first
    times = json.loads((tmp_path / "runs" / "times.json").read_text())
    assert times["tiny"]["01_first"]["ok"] is True
    assert "JUPYTER_PATH" not in os.environ


def test_a_failure_names_its_cell_and_spares_the_rest(notebooks, tmp_path, capsys):
    bad = put(notebooks, "01_bad", "fine = 1", "keep = 700\nraise ValueError('keep=700: too many')")
    good = put(notebooks, "02_good", "print('ran')")
    before = bad.read_bytes()

    assert main(["--notebooks", str(notebooks)]) == 1
    shown = capsys.readouterr()
    assert "01_bad failed: cell 4" in shown.err
    assert "2 | raise ValueError('keep=700: too many')" in shown.err
    assert "ValueError: keep=700: too many" in shown.err
    assert "1 of 2 notebooks ran" in shown.out and "failed: 01_bad" in shown.out
    assert bad.read_bytes() == before
    assert printed(good) == ["ran\n"]
    assert (tmp_path / "runs" / "failed" / "01_bad.ipynb").exists()
    assert (
        json.loads((tmp_path / "runs" / "times.json").read_text())["tiny"]["01_bad"]["ok"] is False
    )


def test_a_dead_kernel_and_a_broken_file_are_failures_too(notebooks):
    put(notebooks, "01_dies", "import os\nos._exit(1)")
    (notebooks / "02_broken.ipynb").write_text("{not json")
    dies, broken = regenerate(notebooks=notebooks)
    assert "DeadKernel" in dies.error
    assert broken.error


def test_settings_leave_the_notebook_alone(notebooks, tmp_path):
    text = "profile = 'tiny'\nseed = 0\nkeep = 32  # of 144\n"
    path = put(notebooks, "01_first", "print(profile, seed, keep)", parameters=text, metadata={})
    put(notebooks, "02_other", "print('not run')")
    before = path.read_bytes()

    (outcome,) = regenerate("paper", ["01"], {"keep": 16}, notebooks)
    assert outcome.copy == tmp_path / "runs" / "paper" / "01_first.ipynb"
    assert printed(outcome.copy) == ["paper 0 16\n"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "kep=16"], ["01_first", "'kep'", "profile, seed"]),
        (["--set", "keep"], ["--set keep", "name=value"]),
        (["--set", "profile=paper"], ["--profile"]),
        (["--only", "07"], ["--only 07", "01_first"]),
        (["--profile", "huge"], ["huge", "tiny"]),
    ],
)
def test_a_wrong_option_is_named_before_anything_runs(notebooks, capsys, options, words):
    path = put(notebooks, "01_first", "print('ran')")
    before = path.read_bytes()
    try:
        code = main(["--notebooks", str(notebooks), *options])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert path.read_bytes() == before


def test_git_says_what_changed(notebooks, tmp_path):
    (tmp_path / "figures").mkdir()
    assert "no git checkout" in module.summary([], tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert "no figure, table or notebook changed" in module.summary([], tmp_path)
    (tmp_path / "figures" / "new.csv").write_text("1")
    assert "?? figures/" in module.summary([], tmp_path)


def test_several_at_a_time_come_back_in_order(notebooks):
    put(notebooks, "01_slow", "import time; time.sleep(1)")
    put(notebooks, "02_fast", "print('ran')")
    outcomes = regenerate(notebooks=notebooks, jobs=2)
    assert [(one.name, one.error) for one in outcomes] == [("01_slow", ""), ("02_fast", "")]


def test_an_empty_folder_is_named(notebooks):
    with pytest.raises(ValueError, match="no notebook named"):
        regenerate(notebooks=notebooks)


def test_settings_are_literals_or_text():
    settings = ["keep=16", "share=0.5", "ranks=[1, 2]", "method=qvid", "flag=True", "a=b=c"]
    assert parse_settings(settings) == {
        "keep": 16,
        "share": 0.5,
        "ranks": [1, 2],
        "method": "qvid",
        "flag": True,
        "a": "b=c",
    }


def test_tidy_takes_out_what_differs_between_runs():
    cell = new_code_cell("1", id="a", execution_count=1)
    cell.metadata.update(
        {
            "papermill": {"start_time": "now"},
            "execution": {"iopub.execute_input": "now"},
            "tags": [],
            "jupyter": {"source_hidden": True},
        }
    )
    notebook = new_notebook(
        cells=[cell],
        metadata={
            "papermill": {"duration": 1.5},
            "language_info": {"name": "python", "version": "3.11.7"},
        },
    )
    tidied = tidy(notebook)
    assert tidied.cells[0].metadata == {"jupyter": {"source_hidden": True}}
    assert tidied.metadata == module.NOTEBOOK_METADATA
    assert (tidied.cells[0].id, tidied.cells[0].execution_count) == ("a", 1)


def test_plain_papermill_works_from_any_folder(notebooks, tmp_path):
    text = "profile = 'tiny'\nkeep = 32\n"
    source = "from qvid_utils.paths import DATA\nprint(keep, DATA.is_dir())"
    path = put(notebooks, "02_second", source, parameters=text)
    out = tmp_path / "elsewhere" / "out.ipynb"
    out.parent.mkdir()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            str(path),
            out.name,
            "-p",
            "keep",
            "16",
        ],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # also where the package is not installed
        check=True,
        capture_output=True,
    )
    assert printed(out) == ["16 True\n"]
