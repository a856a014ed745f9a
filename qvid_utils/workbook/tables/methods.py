"""The methods table: what every method is, needs and departs in, read from the data of the methods.

    main, notes = catalogue(), departures()

Only the works that have no training-free public code are written here. All else is computed: the
score is the first sentence of the rule, the needs are its words of evidence, the families those
whose models have what the words ask for.
"""

import inspect
from typing import Any

import pandas as pd

from ...algebra.cuts import Staged
from ...families import FAMILIES
from ...methods import METHODS, Method
from ...methods.evidence import needing
from ...paths import figures_dir
from . import families
from .families import mixes, refusal
from .schema import save_table

__all__ = ["ABSENT", "catalogue", "departures", "refusal", "store"]


#: Works that the papers' tables name and this package does not have: (label, venue, why).
ABSENT = (
    (
        "IVTP",
        "ECCV 2024",
        "No public code was found, and the text does not fix its two stages (inside the tower, "
        "then led by the instruction inside the language model): not implemented.",
    ),
    (
        "LLaVA-Mini",
        "ICLR 2025",
        "Its compression module and the fusion before the language model are trained with the "
        "model: no training-free form exists, not implemented.",
    ),
)


def catalogue() -> pd.DataFrame:
    """One row per method, in the order of METHODS, then the works that are absent: short facts.

    Columns: method (the name to use), work (the label), venue, where, score (one line), needs,
    merges, positions, count, families, link, key (of data/methods.bib). `departures` has the rest.
    """
    rows = [_row(method) for method in METHODS.values()]
    rows += [{"method": "", "work": label, "venue": venue, "where": "not implemented"}
             for label, venue, _ in ABSENT]  # fmt: skip
    return pd.DataFrame(rows).fillna("")


def departures() -> pd.DataFrame:
    """One row per method and absent work: how it chooses, its source, and every departure."""
    rows = [
        {
            "method": method.name,
            "chooses": _sentence(method.select),
            "source": method.source,
            "departures": method.departures,
        }
        for method in METHODS.values()
    ]
    rows += [{"method": label, "departures": why} for label, _, why in ABSENT]
    return pd.DataFrame(rows).fillna("")


def store(profile: str) -> pd.DataFrame:
    """Write figures/<profile>/methods.csv, .tex and .md, the last with the departures below; and
    the table of the families, families.csv, .tex and .md.

    Gives the short table back. `methods_departures.csv`, .tex and .md hold the rest alone.
    """
    families.store(profile)
    short, more = catalogue(), departures()
    caption = f"{len(METHODS)} methods: what each scores, where it cuts, what it needs"
    save_table(short, "methods", profile, caption)
    save_table(more, "methods_departures", profile, "How each method chooses, and every departure")
    page = figures_dir(profile) / "methods.md"
    rest = (figures_dir(profile) / "methods_departures.md").read_text(encoding="utf-8")
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{rest}", encoding="utf-8", newline="\n")
    return short


def _row(method: Method) -> dict[str, Any]:
    carried = [family for family in FAMILIES.values() if not refusal(method, family)]
    names = ", ".join(family.name for family in carried)
    return {
        "method": method.name,
        "work": method.label,
        "venue": method.venue,
        "where": method.where,
        "score": _sentence(method.rule),
        "needs": _needs(method),
        "merges": "yes" if mixes(method) else "no",
        "positions": method.positions.replace("_", " "),
        "count": _count(method),
        "families": "all" if len(carried) == len(FAMILIES) else names,
        "link": method.link,
        "key": method.key,
    }


def _needs(method: Method) -> str:
    words = method.sees
    found = [
        *(
            ["question"]
            if words & needing("query")
            else ["text"]
            if words & needing("text")
            else []
        ),
        *(["class token"] if words & needing("class token") else []),
        *(["text tower"] if words & needing("clip") else []),
    ]
    return ", ".join(found) or "nothing"


def _count(method: Method) -> str:
    if isinstance(method.schedule, Staged):
        return "mean over layers"
    options = hasattr(method.select, "official_counts")
    return "exact, or the code's own" if options else "exact"


def _sentence(thing: Any) -> str:
    """The first sentence of what a rule or selection says about itself."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    head, dot, _ = text.partition(". ")
    return head.rstrip(".;") if dot else text.rstrip(".")
