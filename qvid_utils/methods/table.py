"""A method = a rule, a schedule, a selection and a few policies, as frozen data with its source.

Methods that share a rule and differ in schedule (FastV's and PyramidDrop's kind), or share a
schedule and differ in rule, are rows of one table. Every rule is a method under its own name, too.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from ..algebra.cuts import (
    PYRAMIDDROP_LLAVA,
    SPARSEVLM_LLAVA,
    SPARSEVLM_PLUS_LLAVA,
    V2DROP_LLAVA,
    V2DROP_QWEN2_VL,
    Schedule,
    at,
    staged,
)
from ..algebra.linalg import check_rank
from ..algebra.selection import Kept, top_k
from ..algebra.tome import Downsampling, ToMe
from . import rules
from . import table_encoder as methods_encoder
from .evidence import needing
from .keep_in_llm import Recycle, Spread
from .rules import RULES, Rule

__all__ = ["METHODS", "POSITIONS", "QUERIES", "READINGS", "Method", "method"]

QUERIES = ("question", "content", "prompt")
POSITIONS = ("original", "contiguous", "contiguous_on_one_axis")
READINGS = ("in_place", "two_pass")


@dataclass(frozen=True, eq=False)
class Method:
    """A pruning method: what is scored, where the cut is made, what is kept, what happens after.

    rule: evidence → scores; schedule: (keep, n_visual, n_layers, layer) → cuts; select: (scores,
    keep) → Kept; params: all keyword arguments of the rule (given ones over its defaults).
    query: which tokens are the question: "question" (the user's words), "content" (without the
    answer-format sentence), "prompt" (all text after the picture), or a bool mask over the prompt
    (1-D) or batch (2-D). rope: rotate queries and keys before M (the paper does not).
    positions: rotary positions after a cut, "original", "contiguous" (renumbered), or
    "contiguous_on_one_axis": renumbered where positions are one number, original with M-RoPE, as
    official code for LLaVA and its ports to Qwen2-VL do.
    reading: "in_place" (cut and go on) or "two_pass" (score, then a second pass on what is kept).
    encode: what happens inside the vision tower (ToMe, Downsampling), None for nothing; such a
    method cuts at layer 0, where the tower's tokens enter.
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


def _one_of(name: str, value: Any, allowed: tuple[str, ...], more: str = ""):
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)} {more}".rstrip())


def method(name: "str | Method | Rule", /, **overrides) -> Method:
    """The method of that name, with some of its fields or of its rule's parameters replaced.

    name: a name in METHODS, else of a rule (one cut at depth 3 of 32), or a Method or Rule itself.
    overrides: schedule, select, query, rope, positions, reading, source, note, label, the rule's
    own parameters (`method("qvid", rank=8)`), and the fields of a selection that is a dataclass
    (`method("prumerge", official_counts=True)`). The layer is not among them: it belongs to
    the run, `pruned(..., layer=)`.
    Raises ValueError for an unknown name (with the nearest) or override (with those allowed),
    TypeError for anything but a name, a Method or a Rule.
    """
    found = _find(name)
    own_names = ("name", "rule", "params")
    fields = [f.name for f in dataclasses.fields(Method) if f.name not in own_names]
    select = overrides.get("select", found.select)
    options = {f.name for f in dataclasses.fields(select)} if _is_data(select) else set()
    unknown = sorted(set(overrides) - set(fields) - set(found.rule.params) - options)
    if unknown:
        own = ", ".join(found.rule.params) or "none"
        raise ValueError(
            f"method {found.name!r} has no {', '.join(unknown)}; parameters of its rule: {own}; "
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


def _is_data(select: Any) -> bool:
    return dataclasses.is_dataclass(select) and not isinstance(select, type)


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

_ENERGY_NOTE = (
    "The paper does not say how heads are joined: here their energies are added up, which is the "
    "energy of their matrices one above the other. It prints the norm in one place and its square "
    "in another, which rank differently over several heads: here the square. Query span, layer and "
    "positions as qvid."
)

_V2DROP = staged(
    (3, 17, 22),
    32,
    last=1,
    published=V2DROP_LLAVA,
    source="V2Drop, layers 3, 17, 22 of 32; lists for LLaVA-1.5 from its paper",
)
_V2DROP_NOTE = (
    "keep is the mean over layers. For models and budgets without a published list one ratio "
    "serves the first two stages and is solved for; the last leaves one token."
)
_SPARSEVLM = staged(
    (3, 7, 16),
    32,
    counts=SPARSEVLM_LLAVA,
    source="SparseVLM v1.5, after layers 2, 6, 15 of 32; its lists for LLaVA-1.5",
)
_SPARSEVLM_NOTE = (
    "192, 128, 96 and 64 of 576 tokens in 32 layers are the official lists, whose true means over "
    "layer inputs lie 14 to 18 tokens above the label; else keep is the mean, and one ratio of the "
    "current tokens, solved for, serves all stages. Scores in float32, not in half precision. "
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
        Method("per_head_max", rules.per_head_max, note=_QVID_NOTE, label="Per-head max"),
        Method("column_norm", rules.column_norm, note=_ENERGY_NOTE, label="Column norm"),
        Method("sigma_weighted", rules.sigma_weighted, note=_ENERGY_NOTE, label="Sigma-weighted"),
        Method(
            "leverage_qr",
            rules.leverage_qr,
            note="As printed, without the cap at the numerical rank: repeated or zero query tokens "
            "let noise vote. Else as qvid.",
            label="QViD, printed QR recipe",
        ),
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
            "qvid_adaptive",
            rules.qvid,
            params={"rank": 0.9},
            source="ours: QViD with the fewest modes that hold 0.9 of the energy, head by head",
            note="SVD-Prune's τ in QViD's equation 6. " + _QVID_NOTE,
            label="QViD, adaptive rank",
        ),
        Method(
            "qvid_head_weighted",
            rules.qvid_head_weighted,
            note="Not published. Else as qvid.",
            label="QViD, heads weighted",
        ),
        Method(
            "fastv_k3",
            rules.previous_attention,
            at(3, source="FastV, K = 3"),
            source="FastV (Chen et al., 2024), K = 3, the official evaluation file",
            note="The setting that later works build on, without its second run of layer 2. Which "
            "setting is behind FastV's rows at 192, 128 and 64 tokens is not published.",
            label="FastV, K = 3",
        ),
        Method(
            "sparsevlm",
            rules.sparsevlm,
            _SPARSEVLM,
            select=Recycle(),
            positions="contiguous",
            source="SparseVLM (Zhang et al., 2025), v1.5, official code",
            note=_SPARSEVLM_NOTE + "Merged tokens count inside K. Without the noise of 1e-6 on the "
            "densities (a tie goes to the earlier token), so that a run repeats; a merged token is "
            "the plain mean, without 1e-6 in the denominator.",
            label="SparseVLM",
        ),
        Method(
            "sparsevlm_in_place",
            rules.sparsevlm,
            _SPARSEVLM,
            select=Recycle(in_place=True),
            source="SparseVLM v1.5, our adaptation to positions along several axes",
            note="Not published: a merged token stands where its cluster's centre stood, and all "
            "positions are kept. Else as sparsevlm.",
            label="SparseVLM, merged in place",
        ),
        Method(
            "sparsevlm_plus",
            rules.sparsevlm_plus,
            staged(
                (3, 7, 16),
                32,
                counts=SPARSEVLM_PLUS_LLAVA,
                source="SparseVLM+, after layers 2, 6, 15 of 32; its lists for LLaVA-1.5",
            ),
            source="SparseVLM+ (SparseVLM repository, version 2.0), official code",
            note=_SPARSEVLM_NOTE + "The code takes 14 heads, of 28 by its comment; a model with "
            "fewer than 28 gives half of its heads.",
            label="SparseVLM+",
        ),
        Method(
            "pyramiddrop",
            rules.last_attention,
            staged(
                (2, 8, 16),
                32,
                counts=PYRAMIDDROP_LLAVA,
                share="original",
                source="PyramidDrop, λ, λ², λ³ of all tokens at layers 2, 8, 16 of 32: its author",
            ),
            positions="contiguous_on_one_axis",
            source="PyramidDrop (Xing et al., 2025), official code",
            note="keep is the mean over layers. λ = 0.19 for 64 of 576 tokens is the author's; "
            "0.42 and 0.56 for 128 and 192 are derived; elsewhere λ is solved for. At least one "
            "token stays. Positions along several axes, for which there is no code, stay. The "
            "repository's own setting is cuts.PYRAMIDDROP_DEFAULT.",
            label="PyramidDrop",
        ),
        Method(
            "dart",
            rules.key_norm,
            at(2, source="DART, K = 2"),
            select=Spread(),
            source="DART (Wen et al., 2025), official code, K = 2",
            note="Exactly keep tokens, shared among the pivots as evenly as can be; "
            "official_counts=True keeps 4 + 8·⌊keep / 8⌋. Pivots take turns by falling norm, the "
            "picture's first; in the code a set of Python's decides. The reading of the cached "
            "states as rotated keys, and of the text as all that follows the picture, is ours.",
            label="DART",
        ),
        Method(
            "fitprune",
            rules.fitprune,
            source="FitPrune (Ye et al., 2024), official code: its score",
            note="One cut where QViD makes it; the code deletes some tokens after every layer, by "
            "tables that are fitted offline and published for LLaVA-1.5-7B alone.",
            label="FitPrune's score, single cut",
        ),
        Method(
            "v2drop",
            rules.variation,
            _V2DROP,
            source="V2Drop (Chen et al., 2026), L2 variation, official code since March 2026",
            note=_V2DROP_NOTE,
            label="V²Drop",
        ),
        Method(
            "v2drop_cosine",
            rules.turning,
            _V2DROP,
            source="V2Drop, first release (August 2025 to March 2026): cosine",
            note=_V2DROP_NOTE + " The lists are the paper's, which came with the L2 variation.",
            label="V²Drop, cosine",
        ),
        Method(
            "v2drop_qwen2_vl",
            rules.variation,
            staged(
                (3, 16, 22),
                28,
                last=1,
                published=V2DROP_QWEN2_VL,
                source="V2Drop, layers 3, 16, 22 of 28, official code for Qwen2-VL",
            ),
            source="V2Drop (Chen et al., 2026), official code for Qwen2-VL",
            note="At 22.2 % of the tokens in 28 layers the official shares 0.25, 0.05, 0 of the "
            "current count. For 33.3 and 11.1 % no list is published: there, as everywhere else, "
            "one ratio for the first two stages is solved for.",
            label="V²Drop, Qwen2-VL's layers",
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
            "random",
            rules.random,
            note="A floor of ours: cuts once, by default where QViD does. The seed and the prompt "
            "draw the shuffle, so equal prompts lose equal places.",
            label="Random",
        ),
        Method(
            "stride",
            rules.stride,
            note="A floor of ours: cuts once, by default where QViD does.",
            label="Uniform stride",
        ),
    )
}
METHODS |= {entry["name"]: Method(**entry) for entry in methods_encoder.ENTRIES}
