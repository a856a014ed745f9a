"""Which cells of an oracle's matrix run by default.

By default a matrix has the fewest cells that show every pair of values of its parameters at least
once, a method counted by its class (how it cuts, whether it merges, where its tokens stand), and
every method at least once, on the families of the papers; each other family has one cell of each
matrix. `pytest -m full` runs all the others.
"""

import zlib
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest

from qvid_utils.methods import METHODS

#: The families of the papers; of another one a test runs a single cell by default.
PAPERS = ("llava", "video_llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
#: Set by conftest.py where tests marked `full` are asked for.
WHOLE = False


def matrix(names: str, cells: Iterable[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Parametrize by the cells that show every pair; the rest, marked `full`, only where asked.

    names: as `parametrize` takes them; of them `name` is a method's.
    """
    cells, keys = list(cells), [name.strip() for name in names.split(",")]
    kept = usual_cells([dict(zip(keys, cell, strict=True)) for cell in cells])
    rest = [cell for i, cell in enumerate(cells) if i not in kept] if WHOLE else []
    usual = [pytest.param(*cells[i]) for i in sorted(kept)]
    return pytest.mark.parametrize(
        keys, [*usual, *(pytest.param(*cell, marks=pytest.mark.full) for cell in rest)]
    )


def method_class(name: str) -> tuple[Any, ...]:
    """What two methods share where the same code prunes for them."""
    entry = METHODS[name]
    return type(entry.schedule).__name__, entry.merges, entry.positions


def demands(cell: dict[str, Any]) -> set[tuple[Any, ...]]:
    """The pairs of values that a cell shows, each value by itself, and its method."""
    values = {axis: method_class(v) if axis == "name" else str(v) for axis, v in cell.items()}
    pairs = {(a, values[a], b, values[b]) for a, b in combinations(sorted(values), 2)}
    return pairs | set(values.items()) | ({("name", cell["name"])} if "name" in cell else set())


def usual_cells(cells: list[dict[str, Any]]) -> set[int]:
    """Places of the cells that run by default."""
    families: dict[str, list[int]] = {}
    for i, cell in enumerate(cells):
        family = cell.get("family", PAPERS[0])
        families.setdefault("papers" if family in PAPERS else family, []).append(i)
    papers = families.pop("papers", [])
    kept = {papers[i] for i in chosen([cells[i] for i in papers])}
    return kept | {one_of(some, family, len(cells)) for family, some in families.items()}


def one_of(some: list[Any], *key: Any) -> Any:
    """One of some, always the same for a key."""
    return some[zlib.crc32(repr(key).encode()) % len(some)]


def chosen(cells: list[dict[str, Any]]) -> set[int]:
    """Places of a small set of cells that shows everything that all of them show.

    Greedy: the cell that shows most of what is missing comes next, the earliest of equals.
    """
    shown = [demands(cell) for cell in cells]
    missing = set().union(*shown)
    picked: set[int] = set()
    while missing:
        best = max(range(len(cells)), key=lambda i: (len(shown[i] & missing), -i))
        picked.add(best)
        missing -= shown[best]
    return picked
