"""Notebooks as pages: HTML from the stored outputs alone, as a reader without Python gets them."""

import base64
import io
import re
import warnings

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from qvid_utils.paths import FIGURES, NOTEBOOKS

nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed: `make test` does")

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
SAVED = sorted((FIGURES / "tiny").glob("*.png"))
INLINE = "data:image/png;base64,"
IMAGE = re.compile(r"<img\b[^>]*?\bsrc=\"([^\"]*)\"", flags=re.DOTALL)
# What nbconvert and the widgets' own script leave where a widget or an answer is missing.
TROUBLE = ("Traceback", "Error displaying widget", "widget-view+json", "Loading widget")
WIDGET = "application/vnd.jupyter.widget-view+json"


def page_of(notebook):
    """The page as `nbconvert --to html` writes it, and what it leaves out; nothing is run."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    return page, [str(one.message) for one in told if "represented" in str(one.message)]


def stored_pictures(notebook):
    """The PNGs of the outputs, in order, as bytes."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    found = [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    return [base64.b64decode(text) for text in found]


def page_faults(notebook):
    """All that is wrong with the exported page; an empty list when nothing is."""
    page, faults = page_of(notebook)
    faults += [f"the page says {words!r}" for words in TROUBLE if words in page]
    sources = IMAGE.findall(page)
    elsewhere = [source[:60] for source in sources if not source.startswith(INLINE)]
    if elsewhere:
        faults.append(f"pictures that are not in the page: {elsewhere}")
    inlined = [base64.b64decode(s.removeprefix(INLINE)) for s in sources if s.startswith(INLINE)]
    if inlined != stored_pictures(notebook):
        faults.append(f"{len(inlined)} pictures in the page are not those of the outputs")
    return faults


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_page_shows_its_figures_and_no_error(path):
    notebook = nbformat.read(path, as_version=4)
    assert page_faults(notebook) == []
    files = [np.asarray(Image.open(file).convert("RGB"), int) for file in SAVED]
    for data in stored_pictures(notebook):
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
        same = [abs(shown - file).mean() for file in files if file.shape == shown.shape]
        # a page's copy has 256 colours at most
        assert same and min(same) < 1, "a page's figure is not one of figures/tiny"
    assert stored_pictures(notebook)


def broken(name):
    """A notebook with one output that a page must not have."""
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    shown = {
        "an error": new_output("error", ename="E", evalue="x", traceback=["Traceback: x"]),
        "a widget": new_output("display_data", data={WIDGET: {"model_id": "0"}}),
        "a picture from a file": new_output(
            "display_data", data={"text/html": '<img src="a.png">'}
        ),
        "a picture of no output": new_output(
            "display_data", data={"text/html": f'<img src="{INLINE}{png}">'}
        ),
    }
    return new_notebook(cells=[new_code_cell("x", outputs=[shown[name]])]) if name else list(shown)


@pytest.mark.parametrize("name", broken(""))
def test_each_trouble_is_seen(name):
    assert page_faults(broken(name)) != []


def test_a_page_of_one_figure_is_in_order():
    (first, *_) = [path for path in FILES if path.name.startswith("00")]
    notebook = nbformat.read(first, as_version=4)
    notebook.cells = [c for c in notebook.cells if "image/png" in str(c.get("outputs"))][:1]
    assert page_faults(notebook) == [] and len(stored_pictures(notebook)) == 1
