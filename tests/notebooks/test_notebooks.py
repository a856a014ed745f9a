"""The form of a notebook: what every one of them has, so that readers and tools can rely on it."""

import ast
import re
import subprocess
import sys
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qvid_utils.paths import FIGURES, NOTEBOOKS
from qvid_utils.workbook.cli.notebooks import KEPT_CELL_METADATA, NOTEBOOK_METADATA, as_text

MAX_BYTES = 1_000_000  # its figures have 200 dpi
EXTENSIONS = {
    "save": (".png", ".pdf", ".csv"),
    "save_table": (".csv", ".md", ".tex"),
    "explore": (".png", ".pdf", ".csv"),
}
WIDGET = "application/vnd.jupyter.widget-view+json"
FORBIDDEN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MACHINE_PATH = re.compile(r"/(home|root|Users|work|tmp|site-packages)/|[A-Z]:\\\\")

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_faults(notebook):
    """The first code cell is tagged `parameters`: plain literals, profile and seed among them."""
    cells = code_cells(notebook)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0] is not cells[0]:
        return ["the first code cell, and only it, must be tagged `parameters`"]
    values = {}
    for statement in ast.parse(tagged[0].source).body:
        try:
            (target,) = statement.targets
            values[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            return [f"parameters: not a plain `name = literal`: {ast.unparse(statement)}"]
    wanted = {"profile": "tiny", "seed": 0}
    return [
        f"parameters: there must be {name} = {value!r}"
        for name, value in wanted.items()
        if values.get(name) != value
    ]


def source_faults(notebook):
    """No definitions but a rule's, and every figure or table that is saved is there."""
    faults = []
    for cell in code_cells(notebook):
        if re.search(r"^\s*[%!]", cell.source, flags=re.MULTILINE):
            faults.append(f"a magic or shell line: {cell.source!r}")
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, FORBIDDEN) and not is_rule(node):
                faults.append(f"defines {node.name}: that belongs in qvid_utils")
            if isinstance(node, ast.Call):
                faults += saved_faults(node)
    return faults


def is_rule(node):
    """A function under `@rule(...)`: all that a notebook may define."""
    marks = [mark.func for mark in node.decorator_list if isinstance(mark, ast.Call)]
    return isinstance(node, ast.FunctionDef) and "rule" in [getattr(m, "id", "") for m in marks]


def saved_faults(call):
    """What `save(figure, "name", ...)`, `save_table(frame, "name", ...)` and `explore(...,
    name="name")` write must exist."""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if function not in EXTENSIONS:
        return []
    given = [] if function == "explore" else call.args[1:2]
    given = given + [word.value for word in call.keywords if word.arg == "name"]
    if len(given) != 1 or not isinstance(given[0], ast.Constant):
        return [f"{function}: write the name out, so that a reader can search for it"]
    stems = [FIGURES / "tiny" / f"{given[0].value}{end}" for end in EXTENSIONS[function]]
    return [
        f"{function}: figures/tiny/{path.name} is missing" for path in stems if not path.exists()
    ]


def output_faults(notebook):
    """Run from top to bottom, outputs kept, nothing in them of this machine alone."""
    faults = []
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        faults.append(f"execution counts are {counts}: run the notebook from top to bottom")
    outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
    if not outputs:
        faults.append("no outputs are kept: nbval would compare nothing")
    for out in outputs:
        if out.output_type == "error":
            faults.append(f"an error is stored: {out.ename}")
        if out.output_type == "stream" and out.name == "stderr":
            faults.append(f"stderr is stored: {out.text[:80]!r}")
        if WIDGET in out.get("data", {}):
            faults.append("a widget is stored, which no page can show: run it with `regenerate`")
        text = out.get("text", "") + str(
            {k: v for k, v in out.get("data", {}).items() if "text" in k}
        )
        if MACHINE_PATH.search(text):
            faults.append(f"a path of one machine is stored: {text[:80]!r}")
    return faults


def metadata_faults(notebook):
    """No dates, times or versions."""
    faults = [] if notebook.metadata == NOTEBOOK_METADATA else ["notebook metadata is not tidied"]
    keys = {key for cell in notebook.cells for key in cell.metadata} - set(KEPT_CELL_METADATA)
    return faults + [f"cell metadata {key!r} is not tidied" for key in sorted(keys)]


def title_faults(notebook):
    """Title, question, three findings, and where to go from here."""
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell must be text that begins with `# `"]
    faults = []
    if len(re.findall(r"^- \*\*", first.source, flags=re.MULTILINE)) != 3:
        faults.append("under the title there must be three bullets that begin with `- **`")
    for link in ("[Glossary](../data/glossary.md)", "[README](../README.md)"):
        if link not in first.source:
            faults.append(f"the first cell must link {link}")
    return faults


def faults_of(notebook):
    """All that is wrong with the form of a notebook; an empty list when nothing is."""
    checks = (title_faults, parameters_faults, source_faults, output_faults, metadata_faults)
    return [fault for check in checks for fault in check(notebook)]


def test_there_are_notebooks():
    numbers = [path.name[:2] for path in FILES]
    assert numbers == sorted(set(numbers)) and numbers[0] == "00"
    assert len(FILES) >= 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_form(path):
    assert faults_of(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path):
    """Small enough for a code host to show, and spelled as `regenerate` spells it."""
    assert path.stat().st_size < MAX_BYTES
    text = path.read_bytes().decode("utf-8")
    assert text == as_text(nbformat.read(path, as_version=4))


def install_cell():
    """The one that installs in Colab, as notebook 00 has it."""
    return code_cells(nbformat.read(FILES[0], as_version=4))[1]


def test_the_install_cell_is_in_the_first_notebook_alone():
    for path in FILES:
        cells = code_cells(nbformat.read(path, as_version=4))
        assert [cell.get("id") == "colab" for cell in cells].count(True) == (path == FILES[0])
        setup = cells[2 if path == FILES[0] else 1]
        assert setup.source.startswith("from qvid_utils import startup\n"), path


def test_outside_colab_the_install_cell_does_nothing(tmp_path):
    """In a Python that has no package of ours: nothing printed or written."""
    command = [sys.executable, "-I", "-S", "-c", install_cell().source]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "") and not list(tmp_path.iterdir())


def test_in_colab_it_installs_the_checkout_with_the_constraints(monkeypatch):
    given = []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", lambda words, **more: given.append((words, more)))
    exec(install_cell().source, {})
    pip = "-m pip install -q -c constraints.txt -e .[workbook]".split()
    assert given == [([sys.executable, *pip], {"cwd": "..", "check": True})]


def good_notebook():
    parameters = new_code_cell("profile = 'tiny'\nseed = 0  # any", execution_count=1)
    parameters.metadata["tags"] = ["parameters"]
    shown = new_code_cell("print(seed)", execution_count=2)
    shown.outputs = [new_output("stream", name="stdout", text="0\n")]
    links = "[Glossary](../data/glossary.md) · [README](../README.md)"
    title = "# Title\n\n- **One.**\n- **Two.**\n- **Three.**\n\n" + links
    cells = [new_markdown_cell(title), parameters, shown]
    return new_notebook(cells=cells, metadata=NOTEBOOK_METADATA)


def test_a_good_notebook_has_no_faults():
    assert faults_of(good_notebook()) == []


def test_a_notebook_may_define_a_rule():
    notebook = good_notebook()
    notebook.cells[-1].source = "@rule(source='mine')\ndef longest(keys):\n    return keys.norm()"
    assert faults_of(notebook) == []


def spoil(name, notebook):
    """Break one thing in a good notebook."""
    title, parameters, shown = notebook.cells
    error = new_output("error", ename="ValueError", evalue="x", traceback=[])
    stderr = new_output("stream", name="stderr", text="warning")
    widget = new_output("display_data", data={WIDGET: {"model_id": "0"}, "text/plain": "x"})
    machine = new_output("stream", name="stdout", text="read from /" + "home/me/data")
    steps = {
        "title": lambda: title.update(source="Title"),
        "two findings": lambda: title.update(source=title.source.replace("- **One.**\n", "")),
        "no glossary": lambda: title.update(source=title.source.replace("glossary.md", "x.md")),
        "untagged": lambda: parameters.metadata.update(tags=[]),
        "computed": lambda: parameters.update(source="profile = 'tiny'\nseed = int(0)"),
        "no seed": lambda: parameters.update(source="profile = 'tiny'"),
        "other profile": lambda: parameters.update(source="profile = 'paper'\nseed = 0"),
        "def": lambda: shown.update(source="def f():\n    return 1"),
        "class": lambda: shown.update(source="class A:\n    x = 1"),
        "magic": lambda: shown.update(source="%matplotlib inline"),
        "missing figure": lambda: shown.update(source="save(figure, 'no_such_figure', frame)"),
        "missing table": lambda: shown.update(source="results.save_table(frame, name='no_table')"),
        "missing explorer": lambda: shown.update(source="explore(model, name='no_such_figure')"),
        "other decorator": lambda: shown.update(source="@cache\ndef f():\n    return 1"),
        "called decorator": lambda: shown.update(source="@cache(2)\ndef f():\n    return 1"),
        "class as a rule": lambda: shown.update(source="@rule(source='x')\nclass A:\n    x = 1"),
        "widget": lambda: shown.outputs.append(widget),
        "computed name": lambda: shown.update(source="save(figure, f'fig{seed}', frame)"),
        "count": lambda: shown.update(execution_count=5),
        "not run": lambda: shown.update(execution_count=None),
        "no outputs": lambda: shown.update(outputs=[]),
        "error": lambda: shown.outputs.append(error),
        "stderr": lambda: shown.outputs.append(stderr),
        "path": lambda: shown.outputs.append(machine),
        "cell time": lambda: shown.metadata.update(execution={"shell.execute_reply": "now"}),
        "version": lambda: notebook.metadata.language_info.update(version="3.11.7"),
    }
    if notebook is not None and name in steps:
        steps[name]()
    return list(steps)


@pytest.mark.parametrize("name", spoil("", good_notebook()))
def test_each_fault_is_seen(name):
    notebook = good_notebook()
    spoil(name, notebook)
    assert faults_of(notebook) != []
