"""What a method is, by its content: its fields and the source of its functions, wherever they are.

A stored run carries it for each cell, so that an answer never passes for one of another method. It
is the same on every machine and Python: sources count as Python writes them, without docstrings.
"""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from ...methods import Method
from .plain import Walk, key_of

__all__ = ["definition"]


@cache
def definition(chosen: Method) -> str:
    """Hash of a method's fields but its words, and of the source of its functions: 12 hexadecimal
    digits. In which file of the package a function stands is no part of it, nor what it calls."""
    return key_of({"method": _Sources().of(chosen)})[:12]


class _Sources(Walk):
    """A walk to which functions are sources."""

    def counted(self, function: Any) -> dict[str, Any]:
        return {"source": self.by_code(function)}

    def by_code(self, function: Any) -> Any:
        try:
            return _source(function)
        except (OSError, TypeError, SyntaxError):
            return super().by_code(function)


def _source(function: Any) -> str:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list = []
        first = tree.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            tree.body[0] = ast.Pass()
    return ast.unparse(tree)
