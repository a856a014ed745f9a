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

from . import rules, rules_encoder
from .linalg import check_rank
from .merging import PruMerge, PruMergeInPlace, VisionZip, VisionZipInPlace
from .rules import RULES, Rule
from .schedules import V2DROP_LLAVA, Schedule, at, staged
from .selection import Kept, top_k, top_k_by_picture
from .selection_encoder import Chunks, Coverage, Rate, Thinned, max_min

__all__ = ["METHODS", "POSITIONS", "QUERIES", "READINGS", "Method", "method"]

QUERIES = ("question", "content", "prompt")
POSITIONS = ("original", "contiguous", "contiguous_on_one_axis")
READINGS = ("in_place", "two_pass")
SPANNED = frozenset({"interaction", "queries", "attention"})  # words that depend on the query


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
            *([f"query {query}"] if SPANNED & set(self.rule.sees) else []),
            *(["with RoPE"] if self.rope else []),
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
        Method("random", rules.random, label="Random"),
        Method("stride", rules.stride, label="Uniform stride"),
    )
}


# --- at the door of the language model: what the vision tower shows ----------------------------

_DOOR = {
    "schedule": at(0, source="before the language model"),
    "positions": "contiguous_on_one_axis",
}
_EACH = (
    "Several pictures, tiles or frames share the budget in proportion to their tokens; a token "
    "that shows no place (line break, class token of a frame) goes before all others."
)
_ADAPTED = (
    "Our adaptation to towers without a class token: mean attention received, over heads and "
    "queries, pooled as the model pools its features. " + _EACH
)
_SAME = "On LLaVA-1.5 HiRED, FasterVLM and VisionZip's dominant part rank by this one row. "

_AT_THE_DOOR = (
    Method(
        "svd_prune",
        rules_encoder.svd_prune,
        source="SVD-Prune (arXiv 2604.11530), section 3.2; no public code",
        note="The paper leaves open: the layer (here the one that the model projects), centring "
        "(off), energy (σ²), τ (0.9), positions (renumbered), and every model but LLaVA-1.5: all "
        "pictures and frames of a prompt are one matrix, a token that joins patches holds them in "
        "a row. k stays below N. A token that shows no place scores 0.",
        label="SVD-Prune",
    ),
    Method(
        "svd_prune_per_frame",
        rules_encoder.svd_prune,
        select=top_k_by_picture,
        params={"per_frame": True},
        source="SVD-Prune (arXiv 2604.11530), section 3.2, for each frame",
        note="Not in the paper: each picture, tile or frame is a matrix of its own. " + _EACH,
        label="SVD-Prune per frame",
    ),
    Method(
        "fastervlm",
        rules_encoder.class_attention,
        select=top_k_by_picture,
        source="FasterVLM (Zhang et al., 2024), official code",
        note=_SAME + "In float32, where the code scores in half precision. " + _EACH,
        label="FasterVLM",
    ),
    Method(
        "hired",
        rules_encoder.class_attention,
        select=Rate(),
        source="HiRED (Arif et al., 2025), official code for LLaVA-1.5",
        note=_SAME + "Exactly K; official_counts=True gives its 191, 127, 63 for 192, 128, 64 of "
        "576. Its sharing out among tiles of LLaVA-NeXT is not here, a model we do not carry. "
        + _EACH,
        label="HiRED",
    ),
    Method(
        "visionzip",
        rules_encoder.class_attention,
        select=VisionZip(),
        source="VisionZip (Yang et al., 2025), official code",
        note="The class token counts inside K; contextual = round(K·10/64) carries its 54+10, "
        "108+20, 162+30 to any K (the code keeps at least one). Mean over heads in float32. "
        + _EACH,
        label="VisionZip",
    ),
    Method(
        "prumerge",
        rules_encoder.last_class_attention,
        select=PruMerge(),
        source="LLaVA-PruMerge (Shang et al., 2024), official code",
        note="The paper has no fixed budget: here K-1 tokens and the merged rest (K, "
        "official_counts=True: K+1); adaptive=True is its outlier rule, for each picture and not "
        "pooled over the batch, with at least one token. float32. " + _EACH,
        label="PruMerge",
    ),
    Method(
        "prumerge_plus",
        rules_encoder.last_class_attention,
        select=PruMerge(plus=True),
        source="LLaVA-PruMerge (Shang et al., 2024), official code, PruMerge+",
        note="As prumerge. With a fixed budget half of the K-1 are the best, half lie evenly, as "
        "in the code's fixed branch, which has them twice where they meet: here the next free "
        "token. adaptive=True is the published rule.",
        label="PruMerge+",
    ),
    Method(
        "vispruner",
        rules_encoder.class_attention,
        select=Thinned(),
        source="VisPruner (Zhang et al., 2025), official code, half important",
        note="Where the code fails (an odd rest, fewer than eight to drop) a round drops what is "
        "left to drop. float32. " + _EACH,
        label="VisPruner",
    ),
    Method(
        "divprune",
        rules_encoder.divprune,
        select=max_min,
        source="DivPrune (Alvar et al., 2025), official code",
        note="A picked token is out of the choice (the code can pick a duplicate again). Exactly "
        "K. Over all visual tokens of the prompt, line breaks too, as in its LLaVA-NeXT code.",
        label="DivPrune",
    ),
    Method(
        "scope",
        rules_encoder.class_attention,
        select=Coverage(),
        source="SCOPE (Deng et al., 2025), official code, α = 1",
        note="Mean over heads for their sum, which picks the same. float32. " + _EACH,
        label="SCOPE",
    ),
    Method(
        "holov",
        rules_encoder.class_attention,
        select=Chunks(),
        source="HoloV (Zou et al., 2025), official code, 16 chunks, α = 0.09",
        note="What a full chunk cannot take goes to others (official_counts=True: zero vectors, "
        "as in the code). A chunk of one token is weighted like the rest (the code forgets a "
        "factor of 1000 there). " + _EACH,
        label="HoloV",
    ),
    Method(
        "fastervlm_received",
        rules_encoder.received_attention,
        select=top_k_by_picture,
        source="FasterVLM with the mean received attention that VisPruner's author advises",
        note=_ADAPTED + " HiRED's would be the same.",
        label="FasterVLM (received)",
    ),
    Method(
        "visionzip_received",
        rules_encoder.received_attention,
        select=VisionZipInPlace(),
        source="VisionZip adapted as in EffiVLM-Bench: behind the projector, in place",
        note="No class token among the K; keys are averaged over the patches of a token. "
        + _ADAPTED,
        label="VisionZip (received)",
    ),
    Method(
        "prumerge_received",
        rules_encoder.received_attention,
        select=PruMergeInPlace(),
        source="PruMerge adapted as in EffiVLM-Bench: behind the projector, in place",
        note="Scores and keys of the layer that gives the patches, heads separated; no token for "
        "the rest. " + _ADAPTED,
        label="PruMerge (received)",
    ),
    Method(
        "prumerge_plus_received",
        rules_encoder.received_attention,
        select=PruMergeInPlace(plus=True),
        source="PruMerge+ adapted as in EffiVLM-Bench: behind the projector, in place",
        note="As prumerge_received; half of the tokens lie evenly.",
        label="PruMerge+ (received)",
    ),
    Method(
        "vispruner_received",
        rules_encoder.received_attention,
        select=Thinned(),
        source="VisPruner with the mean received attention that its author advises",
        note=_ADAPTED,
        label="VisPruner (received)",
    ),
    Method(
        "scope_received",
        rules_encoder.received_attention,
        select=Coverage(),
        source="SCOPE with mean received attention",
        note=_ADAPTED,
        label="SCOPE (received)",
    ),
    Method(
        "holov_received",
        rules_encoder.received_attention,
        select=Chunks(),
        source="HoloV with mean received attention",
        note=_ADAPTED,
        label="HoloV (received)",
    ),
)
METHODS |= {entry.name: dataclasses.replace(entry, **_DOOR) for entry in _AT_THE_DOOR}
