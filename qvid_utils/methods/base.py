"""What a pruning method is: a rule, a schedule, a selection and a few policies, as frozen data.

Each paper has one file in this folder, which is found by looking into it (`__init__`): its rule,
its selection, its published budgets, and in `methods` its rows of METHODS. Methods may share a rule
and differ in schedule, or the other way round. Every rule is a method under its own name, too.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from html import escape
from numbers import Real
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

from ..algebra.cuts import At, Schedule, at
from ..algebra.selection import Kept, top_k
from ..algebra.spectrum import check_rank
from ..algebra.tome import Downsampling, ToMe
from .evidence import needing
from .scoring import RULES, Rule

QUERIES = ("question", "content", "prompt")
POSITIONS = ("original", "contiguous", "contiguous_on_one_axis")
READINGS = ("in_place", "two_pass")
#: Where a method stands in a comparison: by the place of its cut, or as no published method.
GROUPS = ("in the language model", "before the language model", "ours", "floors")


@dataclass(frozen=True, eq=False)
class Method:
    """A pruning method: what is scored, where the cut is made, what is kept, what happens after.

    rule: evidence → scores; schedule: (keep, n_visual, n_layers, layer) → cuts; select: (scores,
    keep) → Kept; params: all keyword arguments of the rule (given ones over its defaults).
    query: which tokens are the question: "question" (the user's words), "content" (without the
    answer-format sentence), "prompt" (all text after the picture), or a bool mask over the prompt
    (1-D) or batch (2-D), torch's or numpy's. rope: rotate queries and keys before M (the paper
    does not).
    positions: rotary positions after a cut, "original", "contiguous" (renumbered), or
    "contiguous_on_one_axis": renumbered where positions are one number, original with M-RoPE, as
    official code for LLaVA and its ports to Qwen2-VL do.
    reading: "in_place" (cut and go on) or "two_pass" (score, then a second pass on what is kept).
    encode: what happens inside the vision tower (ToMe, Downsampling), None for nothing; such a
    method cuts at layer 0, where the tower's tokens enter.
    What follows changes no result. source: paper and section, or official code; departures: from
    it; venue: where it was published ("ours" for what was not, "floor"); link: to the paper; key:
    its entry in data/methods.bib; label: the name for tables, short: for panels, where it differs;
    curve: colour, marker and line of its curve; apart: "ours" or "floors" where a comparison sets
    it apart from what is published; printed: the name of its rows in data/paper, where it differs.
    Raises ValueError or TypeError, with what is allowed, for a field that is none of these.
    """

    name: str
    rule: Rule
    schedule: Schedule = at(3)
    select: Callable[..., Kept] = top_k
    params: dict[str, Any] = field(default_factory=dict)
    query: str | Tensor = "question"
    rope: bool = False
    positions: str = "original"
    reading: str = "in_place"
    encode: ToMe | Downsampling | None = None
    source: str = ""
    departures: str = ""
    venue: str = "ours"
    link: str = ""
    key: str = ""
    label: str = ""
    short: str = ""
    curve: tuple[str, str, str] | None = None
    apart: str = ""
    printed: str = ""

    def __post_init__(self):
        if not isinstance(self.rule, Rule):
            raise TypeError(f"method {self.name!r}: rule={self.rule!r} is no Rule; see RULES")
        self._check_policies()
        unknown = sorted(set(self.params) - set(self.rule.params))
        if unknown:
            raise ValueError(
                f"method {self.name!r}: rule {self.rule.name!r} takes no {', '.join(unknown)}; "
                f"it takes {', '.join(self.rule.params) or 'no parameters'}"
            )
        params = {**self.rule.params, **self.params}
        for name, value in self.params.items():  # found here, not in the middle of a forward pass
            _check_param(name, value, self.rule.params[name])
        for name, value in {
            "params": params,
            "source": self.source or self.rule.source,
            "label": self.label or self.name,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def site(self) -> str:
        """Where tokens go: inside the vision "tower", "before" the language model, its "layers"."""
        if self.encode is not None:
            return "tower"
        return "before" if isinstance(self.schedule, At) and not self.schedule.depth else "layers"

    @property
    def where(self) -> str:
        """The place of the cuts in words, e.g. "layer 3 of 32"."""
        if self.site != "layers":
            places = {"tower": "inside the vision tower", "before": "before the language model"}
            return places[self.site]
        depths = getattr(self.schedule, "depths", None) or (getattr(self.schedule, "depth", ""),)
        depth = ", ".join(map(str, depths))
        of = getattr(self.schedule, "of", "")
        return f"layer{'s' * (len(depths) > 1)} {depth} of {of}" if of else str(self.schedule)

    @property
    def group(self) -> str:
        """One of GROUPS: where the method stands in a comparison."""
        return self.apart or GROUPS[self.site != "layers"]

    @property
    def merges(self) -> bool:
        """Whether the selection writes into the tokens that it keeps, or puts them in an order of
        its own: then dropping is more than hiding."""
        return getattr(self.select, "merges", False)

    @property
    def select_sees(self) -> tuple[str, ...]:
        """The words of evidence that the selection reads, after scores and keep."""
        return tuple(inspect.signature(self.select).parameters)[2:]

    @property
    def sees(self) -> frozenset[str]:
        """The words of evidence that rule and selection read."""
        return frozenset({*self.rule.sees, *self.select_sees})

    def _check_policies(self):
        for name in ("schedule", "select"):
            if not callable(getattr(self, name)):
                raise TypeError(f"method {self.name!r}: {name} must be callable, see `{name}`")
        if getattr(self.select, "reorders", False) and self.positions == "original":
            raise ValueError(
                f"method {self.name!r}, positions='original': its selection puts tokens in an "
                "order of its own, at places that were others'; use 'contiguous'"
            )
        _one_of("positions", self.positions, POSITIONS)
        _one_of("reading", self.reading, READINGS)
        _one_of("apart", self.apart, ("", *GROUPS[2:]))
        if isinstance(self.query, ndarray):
            object.__setattr__(self, "query", torch.as_tensor(self.query))
        if isinstance(self.query, Tensor):
            if self.query.dtype != torch.bool or self.query.dim() not in (1, 2):
                raise ValueError(
                    f"query: a mask must be bool with one entry per token of the prompt, 1-D or "
                    f"2-D for a batch; got {self.query.dtype} of shape {tuple(self.query.shape)}"
                )
        else:
            _one_of("query", self.query, QUERIES, "or a bool tensor over the prompt's tokens")
        if self.encode is not None and not isinstance(self.encode, ToMe | Downsampling):
            raise TypeError(f"encode={self.encode!r}: give ToMe(), Downsampling() or None")
        if not isinstance(self.rope, bool):
            raise TypeError(f"rope={self.rope!r}: give True or False")
        if self.rope and "interaction" not in self.rule.sees:
            raise ValueError(
                f"rope=True: rule {self.rule.name!r} sees {', '.join(self.rule.sees)}, and rope "
                "changes only interaction"
            )

    def describe(self) -> str:
        """The whole method on one line: rule, parameters, cuts, policies, source."""
        params = ", ".join(f"{key}={value}" for key, value in self.params.items())
        query = "a mask" if isinstance(self.query, Tensor) else self.query
        parts = [
            f"{self.name}: {self.rule.name}({params}) of {', '.join(self.rule.sees)}",
            str(self.schedule),
            getattr(self.select, "__name__", str(self.select)),
            *([f"query {query}"] if needing("query") & set(self.rule.sees) else []),
            *(["with RoPE"] if self.rope else []),
            *([f"{self.encode} in the vision tower"] if self.encode is not None else []),
            f"{self.positions} positions",
            self.reading,
            self.source,
        ]
        return " · ".join(parts)


class Methods(dict[str, Method]):
    """The methods by name; in a notebook a table of them."""

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{escape(m.label)}</td><td><code>{escape(m.name)}</code></td>"
            f"<td>{_linked(m)}</td><td>{escape(m.where)}</td></tr>"
            for m in self.values()
        ]
        head = "".join(f"<th>{name}</th>" for name in ("method", "name", "venue", "where it cuts"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


METHODS = Methods()


def _linked(method: Method) -> str:
    venue = escape(method.venue)
    return f'<a href="{escape(method.link)}">{venue}</a>' if method.link else venue


def _check_param(name: str, value: Any, default: Any) -> None:
    """A hyper-parameter is of its default's kind: a rank, True or False, or a number."""
    if name == "rank":
        if value != default:
            check_rank(value)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: give True or False")
    elif isinstance(default, Real) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name}={value!r}: give a number, such as {default}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...], more: str = ""):
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)} {more}".rstrip())


def adapted(published: Method, how: str, **changes: Any) -> Method:
    """Our adaptation of a published method: the same but for the fields in `changes`.

    It is called `published_how`, labelled "Published (how)" and counted as ours, and keeps the link
    and the key of the work. Parameters are those of the new rule, if `changes` has one.
    """
    own = {
        "name": f"{published.name}_{how}",
        "label": f"{published.label} ({how})",
        "short": "",
        "venue": "ours",
        "curve": None,
    }
    if "rule" in changes:
        own["params"] = {}
    return dataclasses.replace(published, **own | changes)


def paper(venue: str, arxiv: str, key: str) -> dict[str, str]:
    """The fields that name a paper: where it was published, its arXiv number, its key."""
    return {"venue": venue, "link": f"https://arxiv.org/abs/{arxiv}", "key": key}


def method(name: "str | Method | Rule", /, **overrides) -> Method:
    """The method of that name, with some of its fields or of its rule's parameters replaced.

    name: a name in METHODS, else of a rule (one cut at depth 3 of 32), or a Method or Rule itself.
    overrides: schedule, select, query, rope, positions, reading, source, label and the other
    fields, the rule's own parameters (`rank=8`), and the fields of a selection that is a dataclass
    (`official_counts=True`). The layer is not among them: it belongs to the run,
    `pruned(..., layer=)`.
    Raises ValueError for an unknown name (with the nearest) or override (with those allowed),
    TypeError for anything but a name, a Method or a Rule.
    """
    found = _find(name)
    own_names = ("name", "rule", "params")
    fields = [f.name for f in dataclasses.fields(Method) if f.name not in own_names]
    select = overrides.get("select", found.select)
    data = dataclasses.is_dataclass(select) and not isinstance(select, type)
    options = {f.name for f in dataclasses.fields(select)} if data else set()
    unknown = sorted(set(overrides) - set(fields) - set(found.rule.params) - options)
    if unknown:
        own = ", ".join(found.rule.params) or "none"
        given = ", ".join(f"{name}={overrides[name]!r}" for name in unknown)
        raise ValueError(
            f"method {found.name!r} takes no {given}; parameters of its rule: {own}; "
            + (f"of its selection: {', '.join(sorted(options))}; " if options else "")
            + f"fields of every method: {', '.join(fields)}"
        )
    if not overrides:
        return found
    params = {key: value for key, value in overrides.items() if key in found.rule.params}
    chosen = {key: value for key, value in overrides.items() if key in options}
    changed = {key: overrides[key] for key in overrides if key not in {*params, *chosen}}
    if chosen:
        changed["select"] = dataclasses.replace(select, **chosen)
    return dataclasses.replace(found, params={**found.params, **params}, **changed)


def _find(name: "str | Method | Rule") -> Method:
    if isinstance(name, Method):
        return name
    if isinstance(name, Rule):
        return Method(name.name, name)
    if not isinstance(name, str):
        raise TypeError(f"method {name!r}: give a method's name, a Method or a Rule")
    if name in METHODS:
        return METHODS[name]
    if name in RULES:
        return Method(name, RULES[name])
    known = sorted({*METHODS, *RULES})
    near = get_close_matches(name.lower(), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    raise ValueError(f"unknown method {name!r}: {hint}")
