"""Which cells of an oracle's matrix run by default.

By default a matrix has the fewest cells that show every pair of values of its parameters at least
once, a method counted by its class (how it cuts, whether it merges, where its tokens stand), and
every method at least once. `pytest -m full` runs all the others.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest

from qvid_utils.methods import METHODS

#: Set by conftest.py where tests marked `full` are asked for.
WHOLE = False


def matrix(names: str, cells: Iterable[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Parametrize by the cells that show every pair; the rest, marked `full`, only where asked.

    names: as `parametrize` takes them; of them `name` is a method's.
    """
    cells, keys = list(cells), [name.strip() for name in names.split(",")]
    kept = chosen([dict(zip(keys, cell, strict=True)) for cell in cells])
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
