"""The layers of the package: a module imports only from levels above its own."""

import ast
import subprocess
import sys

import pytest

import qvid_utils
from qvid_utils.paths import ROOT

PACKAGE = ROOT / "qvid_utils"

LEVELS = {
    0: "paths vocabulary linalg clustering flops startup",
    1: "rules selection schedules budgets shortening families results records identity",
    1.3: "rules_encoder selection_encoder selection_in_llm merging pooling",
    1.6: "methods_encoder",
    2: "methods evidence tower text_tower tower_site work",
    2.3: "stages costs",
    2.5: "comparison catalogue",
    2.6: "pictures",
    3: "pruning",
    4: "models tiny",
    5: "benchmarks grid",
    5.5: "cells measure",
    6: "runner views",
    6.5: "dry_run figures video_tables",
    7: "lmms regenerate image_alone ten_minutes distributed lmms_local figures_benchmarks video",
    7.5: "figures_methods figures_cost figures_explorer figures_video",
    8: "command explorer overhead",
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}

# `vocabulary` to `figures`: pure enough to be used where no model library is installed.
NEVER_TRANSFORMERS = [
    *["vocabulary", "linalg", "rules", "selection", "schedules", "shortening", "pooling"],
    *["methods", "results", "flops", "figures", "clustering", "budgets", "selection_in_llm"],
    *["rules_encoder", "selection_encoder", "merging", "methods_encoder", "costs", "figures_cost"],
]
OPTIONAL = {"lmms_eval", "ray", "datasets", "ipywidgets", "av", "torchvision", "pycocoevalcap"}


def part_of(path) -> str:
    """The name in LEVELS that a file belongs to: its module, or its folder."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def own_imports(tree: ast.AST, package: str) -> set[str]:
    """Parts of qvid_utils that a module imports, relative and re-exported names included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    parts = [name.split(".")[1] for name in found if name.startswith("qvid_utils.")]
    return {qvid_utils._WHERE.get(part, part) for part in parts}


def violations(part: str, source: str, package: str = "qvid_utils") -> list[str]:
    """Imports of `part` that go sideways or down."""
    imported = own_imports(ast.parse(source), package) - {part, "__version__"}
    return [
        f"{part} (level {LEVEL[part]}) imports {other} (level {LEVEL.get(other, '?')})"
        for other in sorted(imported)
        if LEVEL.get(other, 99) >= LEVEL[part]
    ]


def outside_imports(tree: ast.AST) -> set[str]:
    """Top-level names of everything that a module imports anywhere, from outside."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def imported_on_import(tree: ast.Module) -> set[str]:
    """As `outside_imports`, without what only a function body imports."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= outside_imports(node)
        waiting += ast.iter_child_nodes(node)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
IDS = [path.relative_to(PACKAGE).as_posix() for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_upward(path):
    part = part_of(path)
    assert part in LEVEL, f"{part} has no level: give it one here and in the design"
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert violations(part, path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_optional_packages_are_imported_where_used(path):
    assert imported_on_import(ast.parse(path.read_text(encoding="utf-8"))) & OPTIONAL == set()


@pytest.mark.parametrize("part", NEVER_TRANSFORMERS)
def test_never_transformers(part):
    for path in [PACKAGE / f"{part}.py", *(PACKAGE / part).rglob("*.py")]:
        if path.exists():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert "transformers" not in outside_imports(tree), path.name


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_is_light():
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib'}"
    assert run_python(f"import sys, qvid_utils; print({heavy} & {{*sys.modules}})") == "set()"


def test_never_transformers_through_another_module():
    names = [name for name in NEVER_TRANSFORMERS if (PACKAGE / f"{name}.py").exists()]
    lines = "\n".join(f"import qvid_utils.{name}" for name in names)
    assert run_python(f"import sys\n{lines}\nprint('transformers' in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("part", "package", "source"),
    [
        ("linalg", "qvid_utils", "from qvid_utils.rules import qvid"),
        ("linalg", "qvid_utils", "from qvid_utils import rules"),
        ("linalg", "qvid_utils", "from qvid_utils import pruned"),
        ("linalg", "qvid_utils", "import qvid_utils.rules as r"),
        ("linalg", "qvid_utils", "from . import rules"),
        ("linalg", "qvid_utils", "def f():\n    from .rules import qvid"),
        ("families", "qvid_utils.families", "from ..methods import METHODS"),
        ("models", "qvid_utils", "from qvid_utils.tiny import world"),
        ("rules", "qvid_utils", "from qvid_utils.nowhere import x"),
    ],
)
def test_a_wrong_import_is_seen(part, package, source):
    assert len(violations(part, source, package)) == 1


@pytest.mark.parametrize(
    ("part", "package", "source"),
    [
        ("rules", "qvid_utils", "from qvid_utils.linalg import leverage"),
        ("families", "qvid_utils.families", "from .base import Family"),
        ("families", "qvid_utils.families", "from ..vocabulary import WORDS"),
        ("tiny", "qvid_utils.tiny", "from qvid_utils.tiny.world import draw"),
    ],
)
def test_a_right_import_passes(part, package, source):
    assert violations(part, source, package) == []
