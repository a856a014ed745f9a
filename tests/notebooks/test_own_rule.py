"""What notebook 08 promises: its rule has eight lines and is in notebook 02 wherever it stands."""

import os
import shutil
import subprocess
import sys

import nbformat

from qvid_utils.paths import NOTEBOOKS, ROOT

# the names whose cells the stored run asks, from which notebook 02 reads
ASK = "from qvid_utils.workbook.studies.cell_lists import every_method; print(every_method())"


def sources(name):
    (path,) = NOTEBOOKS.glob(f"{name}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def own_rule() -> str:
    (source,) = [source for source in sources("08") if "def eight_lines(" in source]
    return source


def test_eight_lines_are_eight_lines():
    assert len(own_rule().splitlines()) == 8


def test_moved_into_the_package_it_is_in_notebook_02_without_another_edit(tmp_path):
    shutil.copytree(ROOT / "qvid_utils", tmp_path / "qvid_utils",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    head = "import torch\n\nfrom .scoring import rule\n\n\n"
    file = tmp_path / "qvid_utils" / "methods" / "mine.py"
    file.write_text(f"{head}{own_rule()}\n", encoding="utf-8")
    told = subprocess.run(
        [sys.executable, "-c", ASK], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "'eight_lines'" in told.stdout and "'centred'" not in told.stdout
