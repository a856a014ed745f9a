"""A method = a rule, a schedule, a selection and a few policies, as frozen data with its source.

Methods that share a rule and differ in schedule (FastV's and PyramidDrop's kind), or share a
schedule and differ in rule, are rows of one table. Every rule is a method under its own name, too.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from . import rules
from .linalg import check_rank
from .rules import RULES, Rule
from .schedules import V2DROP_LLAVA, Cut, Schedule, at, staged
from .selection import Kept, greedy_dpp, pooled, top_k, with_mean
from .shortening import Downsampling, ToMe

__all__ = ["METHODS", "POSITIONS", "QUERIES", "READINGS", "Method", "method"]

QUERIES = ("question", "content", "prompt")
POSITIONS = ("original", "contiguous")
READINGS = ("in_place", "two_pass")
SPANNED = frozenset(
    {"interaction", "queries", "attention", "clip_text"}
)  # words that depend on the query


@dataclass(frozen=True, eq=False)
class Method:
    """A pruning method: what is scored, where the cut is made, what is kept, what happens after.

    rule: evidence → scores; schedule: (keep, n_visual, n_layers, layer) → cuts; select: (scores,
    keep) → Kept; params: all keyword arguments of the rule (given ones over its defaults).
    query: which tokens are the question: "question" (the user's words), "content" (without the
    answer-format sentence), "prompt" (all text after the picture), or a bool mask over the prompt
    (1-D) or batch (2-D). rope: rotate queries and keys before M (the paper does not).
    positions: rotary positions after a cut, "original" or "contiguous" (renumbered).
    reading: "in_place" (cut and go on) or "two_pass" (score, then a second pass on what is kept).
    encode: what happens inside the vision tower (ToMe, Downsampling), None for nothing; such a
    method cuts at layer 0, where the tower's tokens enter. extra: tokens that the official code
    gives beyond its label, official_counts: whether to give them (False: keep is the exact total).
    note: departures from the source; label: the name for tables.
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
    extra: int = 0
    official_counts: bool = False
    source: str = ""
    note: str = ""
    label: str = ""

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
        # A bad rank is found here and not in the middle of a forward pass.
        if "rank" in params and params["rank"] != self.rule.params["rank"]:
            check_rank(params["rank"])
        for name, value in {
            "params": params,
            "source": self.source or self.rule.source,
            "label": self.label or self.name,
        }.items():
            object.__setattr__(self, name, value)

    def _check_policies(self):
        for name in ("schedule", "select"):
            if not callable(getattr(self, name)):
                raise TypeError(f"method {self.name!r}: {name} must be callable, see `{name}`")
        _one_of("positions", self.positions, POSITIONS)
        _one_of("reading", self.reading, READINGS)
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
        if self.official_counts not in (False, True):
            raise TypeError(f"official_counts={self.official_counts!r}: give True or False")
        if self.official_counts and not self.extra:
            raise ValueError(
                f"official_counts=True: the official code of method {self.name!r} keeps as many "
                "as it says; leave it out"
            )
        if not isinstance(self.rope, bool):
            raise TypeError(f"rope={self.rope!r}: give True or False")
        if self.rope and "interaction" not in self.rule.sees:
            raise ValueError(
                f"rope=True: rule {self.rule.name!r} sees {', '.join(self.rule.sees)}, and rope "
                "changes only interaction"
            )

    def cuts(
        self, keep: int, n_visual: int, n_layers: int, layer: int | None = None
    ) -> tuple[Cut, ...]:
        """Where the method cuts, and what it leaves there; errors as of its schedule."""
        if self.encode is not None and layer:
            raise ValueError(
                f"layer={layer}: method {self.name!r} works inside the vision tower, its tokens "
                "enter the language model at layer 0; leave layer out"
            )
        more = self.extra if self.official_counts else 0
        return self.schedule(keep + more, n_visual, n_layers, layer)

    def describe(self) -> str:
        """The whole method on one line: rule, parameters, cuts, policies, source."""
        params = ", ".join(f"{key}={value}" for key, value in self.params.items())
        query = "a mask" if isinstance(self.query, Tensor) else self.query
        parts = [
            f"{self.name}: {self.rule.name}({params}) of {', '.join(self.rule.sees)}",
            str(self.schedule),
            getattr(self.select, "__name__", str(self.select)),
            *([f"query {query}"] if SPANNED & set(self.rule.sees) else []),
            *(["with RoPE"] if self.rope else []),
            *([f"{self.encode} in the vision tower"] if self.encode is not None else []),
            f"{self.positions} positions",
            self.reading,
            self.source,
        ]
        return " · ".join(parts)


def _one_of(name: str, value: Any, allowed: tuple[str, ...], more: str = ""):
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)} {more}".rstrip())


def method(name: "str | Method | Rule", /, **overrides) -> Method:
    """The method of that name, with some of its fields or of its rule's parameters replaced.

    name: a name in METHODS, else of a rule (one cut at depth 3 of 32), or a Method or Rule itself.
    overrides: schedule, select, query, rope, positions, reading, source, note, label, and the
    rule's own parameters (`method("qvid", rank=8)`). The layer is not among them: it belongs to
    the run, `pruned(..., layer=)`.
    Raises ValueError for an unknown name (with the nearest) or override (with those allowed),
    TypeError for anything but a name, a Method or a Rule.
    """
    found = _find(name)
    own_names = ("name", "rule", "params")
    fields = [f.name for f in dataclasses.fields(Method) if f.name not in own_names]
    unknown = sorted(set(overrides) - set(fields) - set(found.rule.params))
    if unknown:
        own = ", ".join(found.rule.params) or "none"
        raise ValueError(
            f"method {found.name!r} has no {', '.join(unknown)}; parameters of its rule: {own}; "
            f"fields of every method: {', '.join(fields)}"
        )
    if not overrides:
        return found
    params = {key: value for key, value in overrides.items() if key in found.rule.params}
    changed = {key: value for key, value in overrides.items() if key not in params}
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


_QVID_NOTE = (
    "The paper leaves the query span, the layer's numbering and the positions after the cut open: "
    "here the user's words, three layers have run, original positions. The rank is also capped by "
    "the numerical rank of M."
)

METHODS: dict[str, Method] = {
    entry.name: entry
    for entry in (
        Method(
            "qvid",
            rules.qvid,
            source="QViD, section 3.4 and 4.1: equation 6, layer 3, rank 16, no RoPE",
            note=_QVID_NOTE,
            label="QViD",
        ),
        Method(
            "qvid_rope",
            rules.qvid,
            rope=True,
            source="QViD, section 3.2: what its argument against positions leaves out",
            note="The ablation that the paper argues from and does not print. " + _QVID_NOTE,
            label="QViD with RoPE",
        ),
        Method("per_head_max", rules.per_head_max, label="Per-head max"),
        Method("column_norm", rules.column_norm, label="Column norm"),
        Method("sigma_weighted", rules.sigma_weighted, label="Sigma-weighted"),
        Method("leverage_qr", rules.leverage_qr, label="QViD, printed QR recipe"),
        Method(
            "fastv",
            rules.previous_attention,
            at(2, source="FastV, K = 2"),
            source="FastV (Chen et al., 2024), K = 2, official code",
            note="Ranks once, at the prefill. The paper's text averages the attention received "
            "from all tokens; the official code reads the last prompt token's, as here.",
            label="FastV",
        ),
        Method(
            "v2drop",
            rules.variation,
            staged(
                (3, 17, 22),
                32,
                last=1,
                published=V2DROP_LLAVA,
                source="V2Drop, layers 3, 17, 22 of 32; lists for LLaVA-1.5 from its paper",
            ),
            source="V2Drop (Chen et al., 2026), L2 variation, official code since March 2026",
            note="keep is the mean over layers. For models and budgets without a published list "
            "one ratio serves the first two stages and is solved for; the last leaves one token.",
            label="V²Drop",
        ),
        Method(
            "variation",
            rules.variation,
            note="V2Drop's score with one cut where QViD makes it: compares the two scores alone.",
            label="Variation, single cut",
        ),
        Method(
            "last_attention",
            rules.last_attention,
            note="PyramidDrop's score with one cut where QViD makes it.",
            label="Last-token attention, single cut",
        ),
        Method(
            "tome",
            rules.slots,
            at(0, source="inside the vision tower"),
            encode=ToMe(),
            positions="contiguous",
            source="ToMe (Bolya et al., 2023), sections 3.1 and 3.2; the schedule r is ours",
            note="Merges in the layers that the model reads (of LLaVA-1.5 all but the last), "
            "evenly, the remainder in the first: no source of a ToMe row for LLaVA has a list. As "
            "in the official code the tokens leave the tower unmerged ones first, then those at "
            "odd places, not in the order of the picture. Several pictures share keep evenly.",
            label="ToMe",
        ),
        Method(
            "trim",
            rules.trim,
            at(0, source="before the projector"),
            with_mean,
            positions="contiguous",
            extra=1,
            source="TRIM (Song et al., 2024), official code without its interquartile rule",
            note="The mean token counts inside keep (official_counts=True: beyond it). All "
            "pictures of a prompt are scored as one; CLIP runs in float32.",
            label="TRIM",
        ),
        Method(
            "cdpruner",
            rules.relevance,
            at(0, source="at the door of the language model"),
            greedy_dpp,
            query="content",
            positions="contiguous",
            source="CDPruner (Zhang et al., 2025), official code",
            note="Relevance is stretched per prompt, not per batch. Each segment of a long "
            "question has its own begin and end mark, which the official code gives to the whole "
            "only. Where the kernel's rank is used up the rest goes by relevance.",
            label="CDPruner",
        ),
        Method(
            "pooling",
            rules.alike,
            at(0, source="at the door of the language model"),
            pooled,
            source="floor: average pooling of the projected features to exactly keep cells",
            note="Cells are rows × cols by area, a border token in both by its part; where no such "
            "split of keep is near the picture's aspect, equal lengths of the reading order. Each "
            "cell stands at the position of its middle token.",
            label="Average pooling",
        ),
        Method(
            "downsampling",
            rules.slots,
            at(0, source="inside the vision tower"),
            encode=Downsampling(),
            positions="contiguous",
            source="floor: a smaller picture, position embeddings interpolated",
            note="To exactly keep patches: the grid nearest to a square, so 48 are 6 × 8 and the "
            "picture is squeezed a little; counts without a grid up to 1:2 are refused. Resized "
            "after the processor (bicubic, antialiased).",
            label="Image downsampling",
        ),
        Method("random", rules.random, label="Random"),
        Method("stride", rules.stride, label="Uniform stride"),
    )
}
