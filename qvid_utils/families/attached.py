"""What a block hangs on a model's modules, hooks and attributes of instances, and takes off again.

Nothing of it can stay: it is written down before it is hung, and taken off when the block ends or
when nobody holds the block any more, whatever was interrupted. A deep copy has none of it.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

__all__ = ["Attached", "Hook"]

_TABLES = (  # the hooks themselves last: while one is there, the rest of it is found
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_hooks",
)
_LIVE: weakref.WeakSet = weakref.WeakSet()


class Hook:
    """A hook that calls a method, with `first` in front, for as long as the method's object lives:
    what is forgotten is not kept alive by the model."""

    def __init__(self, method: Callable, *first: Any):
        self.method, self.first = weakref.WeakMethod(method), first

    def __call__(self, *args: Any) -> Any:
        method = self.method()
        return None if method is None else method(*self.first, *args)


class Attached:
    """The hooks and attributes of one block: `with Attached() as hung: hung.hook(module, …)`."""

    def __init__(self) -> None:
        self.entries: list[list] = []
        weakref.finalize(self, _take_off, self.entries).atexit = False
        _LIVE.add(self)

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *error: Any) -> None:
        _take_off(self.entries)

    def hook(self, module: nn.Module, function: Callable, after: bool = False) -> None:
        """Run function(module, args, kwargs) before the module's forward, or function(module, args,
        output) after it, be it an error."""
        self._copied_plainly(module)
        self.entries.append([module, None, function, False, None])
        if after:
            module.register_forward_hook(function, always_call=True)
        else:
            module.register_forward_pre_hook(function, with_kwargs=True)

    def instead(self, module: nn.Module, name: str, value: Any) -> None:
        """Give the instance another attribute, in front of its class's own."""
        if name != "__deepcopy__":
            self._copied_plainly(module)
        self.entries.append([module, name, value, name in vars(module), vars(module).get(name)])
        setattr(module, name, value)

    def _copied_plainly(self, module: nn.Module) -> None:
        if "__deepcopy__" not in vars(module):
            self.instead(module, "__deepcopy__", _PlainCopy(module))


class _PlainCopy:
    """`__deepcopy__` of a module on which something hangs."""

    def __init__(self, module: nn.Module):
        self.module = weakref.ref(module)

    def __call__(self, memo: dict) -> nn.Module:
        modules = {id(entry[0]): entry[0] for one in _LIVE for entry in one.entries}.values()
        before = [
            (vars(module), dict(vars(module)), [(t, list(t.items())) for t in _tables(module)])
            for module in modules
        ]
        try:
            for one in _LIVE:
                _take_off(list(one.entries))
            return copy.deepcopy(self.module(), memo)
        finally:
            for now, then, tables in before:
                now.update(then)
                for table, items in tables:
                    table.clear()
                    table.update(items)


def _tables(module: nn.Module) -> Iterator[dict]:
    return (vars(module)[name] for name in _TABLES)


def _take_off(entries: list[list]) -> None:
    """Undo the entries, the last one first; once more does no harm."""
    while entries:
        module, name, value, had, before = entries[-1]
        if name is None:
            hooks = [
                number for table in _tables(module) for number, h in table.items() if h is value
            ]
            for table in _tables(module):
                for number in hooks:
                    table.pop(number, None)
        elif vars(module).get(name) is value:
            if had:
                setattr(module, name, before)
            else:
                vars(module).pop(name, None)
        else:  # another block has hung its own in front: what it puts back is what was here
            for other in (entry for one in _LIVE for entry in one.entries):
                if other[0] is module and other[1] == name and other[4] is value:
                    other[3:] = had, before
        entries.pop()
