"""The methods, one file for each paper, found by looking into this folder; `METHODS[name]`."""

import importlib
import pkgutil

from .base import GROUPS, METHODS, Method, adapted, method
from .scoring import RULES, TAKEN, Rule, rule

__all__ = ["CENTRAL", "GROUPS", "METHODS", "RULES", "Method", "Rule", "adapted", "method", "rule"]

_FILES = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
# by group, in each the papers that this workbook is about first, then by file
_FILES.sort(key=lambda file: not getattr(file, "central", False))
_FOUND = [entry for file in _FILES for entry in getattr(file, "methods", ())]
METHODS.update((m.name, m) for m in sorted(_FOUND, key=lambda m: GROUPS.index(m.group)))
#: The methods of the papers that this workbook is about.
CENTRAL = tuple(file.methods[0].name for file in _FILES if getattr(file, "central", False))
TAKEN.update(set(METHODS) - set(RULES))
