"""Options of a selection: fields of a frozen dataclass that are checked by kind and range."""

from dataclasses import field, fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy


def option(default: Any, *, least: float, most: float | None = None, below: float | None = None):
    """A field with that default, for numbers from `least`, up to `most` or staying `below`."""
    return field(default=default, metadata={"least": least, "most": most, "below": below})


class Options:
    """Base of a selection with options: each is what its annotation says, and in its range.

    bool, int and float are known; a numpy number becomes a plain one. TypeError or ValueError with
    what came and what is allowed.
    """

    def __post_init__(self):
        for one in fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))


def _checked(one: Any, value: Any) -> Any:
    least, most, below = (one.metadata.get(name) for name in ("least", "most", "below"))
    end = " or more" if most is None else f" to {most}"
    end = end if below is None else f" or more, below {below}"
    kinds = {bool: (bool, numpy.bool_), int: Integral, float: Real}
    words = {
        bool: "True or False",
        int: f"a whole number, {least}{end}",
        float: f"a number, {least}{end}",
    }
    wrong = f"{one.name}={value!r}: give {words[one.type]}"
    if not isinstance(value, kinds[one.type]) or (one.type is not bool and isinstance(value, bool)):
        raise TypeError(wrong)
    if one.type is not bool:
        top = most if below is None else below
        if not (isfinite(value) and value >= least and (top is None or value <= top)):
            raise ValueError(wrong)
        if below is not None and value == below:
            raise ValueError(wrong)
    return one.type(value)
