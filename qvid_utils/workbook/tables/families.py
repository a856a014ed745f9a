"""The families table: which model types are carried, with which methods, and which are refused.

    carried = table()
    store("tiny")

Everything is read off the families and the methods: what a method needs, and what a family has.
"""

from collections.abc import Iterable

import pandas as pd

from ...algebra.cuts import At
from ...families import FAMILIES, Family
from ...families.deepstack import deepstack_depth
from ...families.refused import REFUSED
from ...methods import METHODS, Method
from ...methods.evidence import needing
from .schema import save_table

__all__ = ["mixes", "refusal", "sorted_types", "store", "table"]


def sorted_types(kinds: Iterable[str]) -> dict[str, list[str]]:
    """Model types as carried, refused (with a reason, in REFUSED) and unknown."""
    found: dict[str, list[str]] = {"carried": [], "refused": [], "unknown": []}
    for kind in sorted(kinds):
        known = "carried" if kind in FAMILIES else "refused" if kind in REFUSED else "unknown"
        found[known].append(kind)
    return found


def refusal(method: Method, family: Family) -> str:
    """Why a family cannot carry the method, "" where it can: what `pruned` would say."""
    words = method.sees
    if words & needing("clip") and family.no_clip:
        return "no text tower"
    if words & needing("class token") and not family.has_cls:
        return "no class token"
    if "patches" in method.select_sees and method.merges and not family.patchwise:
        return "joins patches before the projector"
    if method.encode is not None and family.whole_grid:
        return "needs its whole grid"
    if "grid" in words and family.line_breaks:
        return "line breaks among its patches"
    if method.positions == "contiguous" and not family.one_axis:
        return "positions along several axes"
    if mixes(method) and _first(method) < deepstack_depth(family.tiny()):
        return "features of single tokens are added later"
    return ""


def mixes(method: Method) -> bool:
    """Whether a method puts something in the place of tokens that is no token of its own."""
    return method.encode is not None or (method.merges and getattr(method.select, "mixes", True))


def _first(method: Method) -> int:
    """The layer of a method's first cut, of as many as its source has."""
    schedule = method.schedule
    return schedule.depth if isinstance(schedule, At) else schedule.depths[0]


def table() -> pd.DataFrame:
    """One row per model type: those carried, then those refused.

    Columns: model_type, family, checkpoint (one of its hub ids), positions, methods (carried of
    all), why_not (what refuses the others, or the whole type).
    """
    rows = [_row(family) for family in FAMILIES.values()]
    rows += [{"model_type": kind, "methods": "refused", "why_not": why}
             for kind, why in sorted(REFUSED.items())]  # fmt: skip
    return pd.DataFrame(rows).fillna("")


def store(profile: str) -> pd.DataFrame:
    """Write figures/<profile>/families.csv, .tex and .md, and give the table back."""
    caption = (
        f"{len(FAMILIES)} families: model type, a checkpoint, how positions count, and how many of "
        f"the {len(METHODS)} methods each carries; then the model types that are refused"
    )
    return save_table(table(), "families", profile, caption)


def _row(family: Family) -> dict[str, str]:
    why: dict[str, list[str]] = {}
    for method in METHODS.values():
        if reason := refusal(method, family):
            why.setdefault(reason, []).append(method.name)
    carried = len(METHODS) - sum(map(len, why.values()))
    return {
        "model_type": family.model_type,
        "family": family.name,
        "checkpoint": family.checkpoint,
        "positions": "one axis" if family.one_axis else "three axes",
        "methods": f"{carried} of {len(METHODS)}",
        "why_not": "; ".join(f"{reason}: {', '.join(names)}" for reason, names in why.items()),
    }
