"""Values as plain data for a key: equal where, and only where, they do the same.

A function of one's own counts by its code and by the values of all that it names: constants,
helpers, classes and modules, and what these name. A function of the folders that `COUNTED` lists
counts by its name and what it closes over; their sources are in the key as a whole.
"""

import dataclasses
import dis
import functools
import hashlib
import json
import pickle
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...paths import ROOT
from .content import digest

__all__ = ["COUNTED", "Walk", "counts", "key_of", "plain"]

PACKAGE = ROOT / "qvid_utils"
#: Folders and files that can change an answer or its score.
COUNTED = (
    *("algebra", "families", "methods", "models", "prune", "workbook/benchmarks"),
    *(f"workbook/run/{name}.py" for name in ("asker", "batches", "cell", "evaluate", "grid")),
)
#: Fields that say something about a method or a checkpoint and do nothing.
WORDS_ONLY = frozenset(
    ("source", "departures", "venue", "link", "key", "label", "short", "curve", "apart")
    + ("printed", "cost")
)
#: Where Python and the installed libraries are.
LIBRARY = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "purelib", "platlib")]
#: What reads a name of the module.
NAMING = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "IMPORT_NAME")
#: Entries of a class or module that do nothing.
IDLE = frozenset(
    "__doc__ __module__ __qualname__ __dict__ __weakref__ __annotations__ __firstlineno__ "
    "__static_attributes__ __match_args__ __dataclass_fields__ __dataclass_params__ __name__ "
    "__package__ __loader__ __spec__ __file__ __cached__ __builtins__ __annotations_cache__ "
    "__annotate__ __annotate_func__ __conditional_annotations__".split()
)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of what `plain` made: 64 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def counts(name: str) -> bool:
    """Whether a source, by its path in the package, can change an answer."""
    return any(name == part or name.startswith(f"{part}/") for part in COUNTED)


def plain(value: Any) -> Any:
    """A value as JSON data that is equal where, and only where, the value does the same.

    Dataclasses field by field; tensors, arrays, pictures and bytes by hash; a Path by what lies
    there; functions, classes and modules of one's own as the head of this file says, those of
    libraries by name and version; other objects by their class and what they hold. TypeError,
    which names the object, for one that none of this describes.
    """
    return Walk().of(value)


class Walk:
    """One walk over a value; what it meets again stands there as a number."""

    def __init__(self) -> None:
        self.met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):  # JSON has no NaN and no infinity
            return value if abs(value) < float("inf") else {"float": repr(value)}
        if isinstance(value, torch.dtype | torch.device | np.dtype):
            return str(value)
        if isinstance(value, np.generic):
            return self.of(value.item())
        if isinstance(value, Mapping):
            return [[self.of(k), self.of(v)] for k, v in sorted(value.items(), key=_by_name)]
        if isinstance(value, set | frozenset):
            return sorted((self.of(part) for part in value), key=str)
        if isinstance(value, list | tuple):
            return [self.of(part) for part in value]
        if isinstance(value, Path) and not value.exists():
            return {"path": str(value)}
        try:
            return {type(value).__name__: digest(value)}
        except (TypeError, ValueError):  # no content: an object that does something
            pass
        if id(value) in self.met:
            return {"again": self.met[id(value)][0]}
        self.met[id(value)] = len(self.met), value  # held, so that its number is not used anew
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return {"partial": self.of([value.func, value.args, value.keywords])}
        if isinstance(value, types.MethodType):
            return {"method": self.of([value.__self__, value.__func__])}
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if hasattr(value, "__wrapped__"):  # of functools.cache and other decorators
            return {"wrapped": self.of(value.__wrapped__), "by": type(value).__qualname__}
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _FUNCTIONS) or _library(value):
            return self._function(value)
        if dataclasses.is_dataclass(value):
            told = (f.name for f in dataclasses.fields(value) if f.name not in WORDS_ONLY)
            held = {f: self.of(getattr(value, f)) for f in told}
            return {"is": type(value).__qualname__, **self._own(type(value)), **held}
        try:
            if not _of_library(type(value).__module__):
                return {"is": self.of(type(value)), "holds": self.of(vars(value))}
            return {type(value).__name__: hashlib.sha256(pickle.dumps(value)).hexdigest()}
        except Exception as cause:  # of whatever kind the object's own is
            raise TypeError(
                f"{type(value).__name__} cannot be part of a key: what {value!r} does is not known "
                "from its content; use a dataclass or a function"
            ) from cause

    def _function(self, value: Any) -> Any:
        code = getattr(value, "__code__", None)
        module = getattr(value, "__module__", None) or ""
        if code is None or (not _counted(module) and _of_library(module)):
            return {"function": f"{module}.{getattr(value, '__qualname__', value)}", **_at(module)}
        cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
        inside = {name: _held(cell) for name, cell in cells}
        told = {"function": value.__qualname__, "inside": self.of(inside)}
        told["defaults"] = self.of([value.__defaults__, value.__kwdefaults__])
        if _counted(module):
            return told | self.counted(value)
        names = {name: _found(name, value.__globals__) for name in sorted(_names(code))}
        return told | {"code": self.by_code(value), "names": self.of(names)}

    def counted(self, function: Any) -> dict[str, Any]:
        """What is told of a function whose source is in every key."""
        return {}

    def by_code(self, function: Any) -> Any:
        """What a function does by itself."""
        return _code(function.__code__)

    def _own(self, kind: type) -> dict[str, Any]:
        """What a class of one's own does, beside what its instances hold."""
        module = kind.__module__
        return {} if _counted(module) or _of_library(module) else {"class": self.of(kind)}

    def _class(self, kind: type) -> Any:
        if _counted(kind.__module__) or _of_library(kind.__module__):
            return {"class": kind.__qualname__, **_at(kind.__module__)}
        held = {k: v for k, v in vars(kind).items() if _is_told(k, v)}
        return {
            "class": kind.__qualname__,
            "holds": self.of(held),
            "bases": self.of(kind.__bases__),
        }

    def _module(self, module: types.ModuleType) -> Any:
        if _counted(module.__name__) or _of_library(module.__name__):
            return {"module": module.__name__, **_at(module.__name__)}
        held = {k: v for k, v in vars(module).items() if _is_told(k, v)}
        return {"module": module.__name__, "holds": {k: self._beside(held[k]) for k in held}}

    def _beside(self, value: Any) -> Any:
        """A value of a module that a function names: the function need not use it."""
        try:
            return self.of(value)
        except TypeError:
            return {"of": type(value).__qualname__}


def _by_name(item: tuple) -> str:
    return str(item[0])


def _is_told(name: str, value: Any) -> bool:
    """Whether an entry of a class or module does something: not a docstring, not a slot."""
    made = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)
    return name not in IDLE and not isinstance(value, made)


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _found(name: str, names: Mapping[str, Any]) -> Any:
    """What a name stands for in a module; None for one that is not there (yet)."""
    if name in names:
        return names[name]
    return sys.modules.get(name)


def _names(code: types.CodeType) -> set[str]:
    """The names of the module that a code reads, those of the functions inside it, too."""
    found = {str(step.argval) for step in dis.get_instructions(code) if step.opname in NAMING}
    inside = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return found.union(*map(_names, inside)) if code.co_consts else found


def _code(code: types.CodeType) -> list[Any]:
    """What a code does, wherever it stands."""

    def const(value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return _code(value)
        # the order in which a set prints changes from process to process
        return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)

    consts = [const(value) for value in code.co_consts]
    done = hashlib.sha256(code.co_code + code.co_exceptiontable).hexdigest()
    return [done, consts, code.co_names, code.co_varnames, code.co_freevars]


def _counted(module: str) -> bool:
    """Whether a module's source is in every key."""
    first, _, rest = module.partition(".")
    name = rest.replace(".", "/")
    return first == "qvid_utils" and (counts(f"{name}.py") or counts(name))


def _of_library(module: str) -> bool:
    """Whether a module is Python's or an installed library's, and not one's own."""
    if module.split(".")[0] in (*sys.builtin_module_names, *sys.stdlib_module_names):
        return module != "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module == "__main__":
        return False
    place = Path(file).resolve()
    return PACKAGE not in place.parents and any(part in place.parents for part in LIBRARY)


def _library(value: Any) -> bool:
    """Whether an object is made by a library and known there by a name, like numpy's ufuncs."""
    named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return isinstance(named, str) and callable(value) and _of_library(type(value).__module__)


def _at(module: str) -> dict[str, str]:
    """The version of a library that the key does not name as a whole."""
    version = getattr(sys.modules.get(module.split(".")[0]), "__version__", None)
    return {} if version is None or module.startswith("qvid_utils") else {"version": str(version)}
