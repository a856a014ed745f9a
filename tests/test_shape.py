"""The architecture: a file's place is its folder, imports go down, nothing is long.

The library is all but `workbook/`. Its ceilings only fall, or a sentence in CHANGELOG.md says what
was bought.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from qvid_utils.families import FAMILIES
from qvid_utils.paths import ROOT

PACKAGE = ROOT / "qvid_utils"
LIBRARY = ("paths", "startup", "algebra", "families", "methods", "models", "prune")
WORKBOOK = ("benchmarks", "run", "tables", "cost", "plots", "studies", "harness", "cli")
ORDER = (*LIBRARY, *WORKBOOK)
WORLD = ROOT / "data" / "tiny" / "make"

LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines; a function's docstring does not count
TOP = 9  # modules and folders that `ls qvid_utils` shows
CORE, FOR_EACH_NEW_FAMILY, OLD_FAMILIES = 6200, 120, 5  # lines of code of the library
WHOLE, MADE = 19000, 3010  # lines of code: the package; the world and its training
FLOORS = 12  # the longest chain of imports between folders

TREES = {
    path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


# ------------------------------------------------------------------------- what imports what


def file_of(name: str) -> Path | None:
    """The file of a module of the package, by its dotted name."""
    if not name.startswith("qvid_utils."):
        return None
    own = Path(*name.split(".")[1:])
    return next((p for p in (own.with_suffix(".py"), own / "__init__.py") if p in TREES), None)


def targets(path: Path, node: ast.AST) -> Iterator[Path]:
    """Files of the package that an import names; `import_module("…")` counts, too."""
    if isinstance(node, ast.ImportFrom):
        above = ("qvid_utils", *path.parts[:-1])
        base = above[: len(above) - node.level + 1] if node.level else ()
        stem = ".".join((*base, *([node.module] if node.module else [])))
        inside = [f"{stem}.{alias.name}" for alias in node.names]
        # `from . import reading` names the file; the index is meant where a name is no file
        names = inside if all(map(file_of, inside)) else [stem, *inside]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    else:
        return
    yield from filter(None, map(file_of, names))


GRAPH = {
    path: {to for node in ast.walk(tree) for to in targets(path, node)} - {path}
    for path, tree in TREES.items()
}


def room(path: Path) -> str | None:
    """The folder or top-level module that a file belongs to; None for an index above the rooms."""
    parts = path.parts[1:] if path.parts[0] == "workbook" else path.parts
    name = parts[0].removesuffix(".py")
    return {"__main__": "cli", "__init__": None}.get(name, name)


def place(path: Path) -> int:
    name = room(path)
    return len(ORDER) if name is None else ORDER.index(name)


# ------------------------------------------------------------------------------------- sizes


def code_lines(path: Path) -> int:
    """Lines that hold code: no blanks, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    words = [n.body[0] for n in ast.walk(ast.parse(text)) if isinstance(n, documented)
             and ast.get_docstring(n)]  # fmt: skip
    said = {i for word in words for i in range(word.lineno, word.end_lineno + 1)}
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in said
        for number, line in enumerate(text.splitlines(), 1)
    )


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return node.end_lineno - first.lineno + 1


# ------------------------------------------------------------------------------------- tests


def test_every_file_has_a_place():
    assert {room(path) for path in TREES} - {None} <= set(ORDER)
    inside = [p for p in TREES if room(p) in WORKBOOK and p.name != "__main__.py"]
    assert [p for p in inside if p.parts[0] != "workbook"] == []
    hidden = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    assert len([p for p in PACKAGE.iterdir() if p.name not in hidden]) <= TOP


def test_imports_only_go_down():
    up = [
        f"{path} imports {to}"
        for path, them in GRAPH.items()
        for to in sorted(them)
        if path.name != "__init__.py" and place(to) > place(path)
    ]
    assert up == []


def test_the_package_does_not_import_the_world():
    """Its generator is on the tests' path alone: in a notebook's kernel it is not there."""
    made = {path.stem for path in WORLD.rglob("*.py")}
    for path, tree in TREES.items():
        nodes = list(ast.walk(tree))
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
        assert not names & made, path


def test_there_are_no_circles():
    """Imports inside a function count; an index names the files that import it."""
    open_, done, circles = [], set(), []

    def visit(path: Path) -> None:
        open_.append(path)
        for to in GRAPH[path]:
            if to in open_ and to.parent / "__init__.py" not in (to, path):
                circles.append([str(p) for p in (*open_[open_.index(to) :], to)])
            elif to not in done and to not in open_:
                visit(to)
        done.add(open_.pop())

    for path in TREES:
        if path not in done:
            visit(path)
    assert circles == []


def test_a_few_floors():
    """The longest chain of imports from folder to folder."""
    rooms = {}
    for path, them in GRAPH.items():
        rooms.setdefault(room(path), set()).update(room(to) for to in them)

    @cache
    def floors(name: str) -> int:
        below = [n for n in rooms[name] if n is not None and ORDER.index(n) < ORDER.index(name)]
        return 1 + max(map(floors, below), default=0)

    assert max(floors(name) for name in ORDER) <= FLOORS


def test_no_long_file_and_no_long_function():
    files = {str(p): len((PACKAGE / p).read_text(encoding="utf-8").splitlines()) for p in TREES}
    functions = {
        f"{path}:{node.name}": function_lines(node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {n: size for n, size in files.items() if size > LONGEST_FILE} == {}
    assert {n: size for n, size in functions.items() if size > LONGEST_FUNCTION} == {}


def test_the_library_the_package_and_the_world_are_small():
    lines = {path: code_lines(PACKAGE / path) for path in TREES}
    core = sum(n for path, n in lines.items() if path.parts[0] != "workbook")
    assert core <= CORE + FOR_EACH_NEW_FAMILY * (len(FAMILIES) - OLD_FAMILIES)
    assert sum(lines.values()) <= WHOLE
    assert sum(map(code_lines, WORLD.rglob("*.py"))) <= MADE


def test_the_library_needs_no_workbook_package():
    """Nothing in the library imports pandas, matplotlib, seaborn or papermill, and nothing in
    algebra or methods imports transformers."""
    for path, tree in TREES.items():
        if path.parts[0] == "workbook" or path.name == "__main__.py":
            continue
        nodes = list(ast.walk(tree))
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
        roots = {name.split(".")[0] for name in names}
        assert not roots & {"pandas", "matplotlib", "seaborn", "papermill"}, path
        if path.parts[0] in ("algebra", "methods"):
            assert "transformers" not in roots, path
