"""What a prefill costs, in closed form: any model, any token schedule, by named convention.

    decoder = decoder_of(model.config)
    prefill(model.config, budgets.in_place(576, 64, layer=3, n_layers=32), text=57).total / 1e12

A schedule here is a list of visual-token counts, one for each layer *run*: `budgets.in_place`
and `two_pass` make it for one cut, `cuts.tokens_per_layer` for any. One layer on n tokens costs,
in multiply-adds, with width d, H heads of d_h, H_kv key heads and FFN width m:

    projections  n · (2·d·H·d_h + 2·d·H_kv·d_h)        attention  2 · n² · H·d_h
    FFN          3 · n · d · m   (gate, up, down)

Papers differ in what they count and what they call it, so a number belongs to a convention:

    macs_fastv   4nd² + 2n²d + 2ndm of the layers: two FFN matrices, all heads with keys of their
                 own; FastV's formula, which SVD-Prune's Table 2 prints as "FLOPs"
    macs         the layers as they are (three FFN matrices, grouped key heads)
    flops        2 × multiply-adds of everything: tower, projector, layers, scoring, language head

Attention is counted over all n² pairs, as the library's kernels and torch's counter do; norms,
activations, softmax and rotary products are left out, as everywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...families import FAMILIES

CONVENTIONS: Mapping[str, str] = MappingProxyType(
    {
        "macs_fastv": "multiply-adds of the layers, two FFN matrices (FastV; SVD-Prune, Table 2)",
        "macs": "multiply-adds of the layers as they are",
        "flops": "2 x multiply-adds of tower, projector, layers, scoring and language head",
    }
)


@dataclass(frozen=True)
class Decoder:
    """The numbers of a language model that decide its cost: L, d, H, H_kv, d_h, m, vocabulary."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    experts: int = 0  # among which a router chooses; `ffn` is that of the chosen ones together

    def layer(self, n: float, convention: str = "macs") -> float:
        """Multiply-adds of one layer on n tokens."""
        d, inner = self.width, self.heads * self.head_dim
        if convention == "macs_fastv":
            return 4 * n * d * d + 2 * n * n * d + 2 * n * d * self.ffn
        keys = self.key_heads * self.head_dim
        ffn = 3 * self.ffn + self.experts
        return n * (2 * d * inner + 2 * d * keys + d * ffn) + 2 * n * n * inner


@dataclass(frozen=True)
class Tower:
    """The numbers of a vision tower and its projector.

    lead: tokens before the patches (a class token); pixels: inputs of one patch; matrices: of the
    FFN; projector: (inputs, outputs) of each matrix; merge: patches that make one projected token;
    window: patches of an attention window, in all layers but `whole`; None: all attend to all.
    """

    layers: int
    width: int
    ffn: int
    pixels: int
    projector: tuple[tuple[int, int], ...]
    lead: int = 0
    matrices: int = 2
    merge: int = 1
    window: int | None = None
    whole: tuple[int, ...] = ()

    def embedding(self, blocks: Sequence[int]) -> int:
        """Multiply-adds of the patch embedding; blocks: patches of each picture or frame."""
        return sum(blocks) * self.pixels * self.width

    def encoder(self, blocks: Sequence[int]) -> int:
        """Multiply-adds of the layers; the patches of a block (and its class token) attend."""
        tokens = [n + self.lead for n in blocks]
        linear = sum(tokens) * (4 * self.width**2 + self.matrices * self.width * self.ffn)
        whole = len(self.whole) if self.window else self.layers
        spans = [s for n in tokens for s in _windows(n, self.window)]
        pairs = whole * _squares(tokens) + (self.layers - whole) * _squares(spans)
        return self.layers * linear + 2 * self.width * pairs

    def project(self, patches: int) -> int:
        """Multiply-adds of the projector on that many patches."""
        return patches // self.merge * sum(a * b for a, b in self.projector)


@dataclass(frozen=True)
class Cost:
    """Operations of one prefill by part, in the convention's unit; total: their sum."""

    convention: str
    vision: float
    projector: float
    layers: float
    scoring: float
    head: float

    @property
    def total(self) -> float:
        return self.vision + self.projector + self.layers + self.scoring + self.head


def decoder_of(config: Any) -> Decoder:
    """The language model of any Hugging Face configuration, or anything with its names.

    Raises ValueError naming what the configuration lacks.
    """
    text = getattr(config, "text_config", None) or config
    d, heads = _need(text, "hidden_size"), _need(text, "num_attention_heads")
    experts, ffn = getattr(text, "num_experts", None) or 0, _need(text, "intermediate_size")
    if experts:
        ffn = _need(text, "num_experts_per_tok") * _need(text, "moe_intermediate_size")
    return Decoder(
        layers=_need(text, "num_hidden_layers"),
        width=d,
        heads=heads,
        key_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or d // heads,
        ffn=ffn,
        vocabulary=_need(text, "vocab_size"),
        experts=experts,
    )


def tower_of(config: Any) -> Tower:
    """The vision tower and projector of a model family's configuration.

    Raises ValueError for another architecture, or naming what the configuration lacks.
    """
    kind = getattr(config, "model_type", "?")
    if kind not in FAMILIES:
        raise ValueError(
            f"model_type={kind!r}: the tower's cost is known for {', '.join(sorted(FAMILIES))}; "
            "count the layers alone with 'macs'"
        )
    try:
        return Tower(**FAMILIES[kind].cost(config))
    except AttributeError as lacks:
        raise ValueError(
            f"the configuration ({type(config).__name__}) has no {lacks.name}; give it one"
        ) from lacks


def prefill(
    config: Any,
    visual: Sequence[float],
    text: float,
    *,
    convention: str = "flops",
    blocks: Sequence[int] | None = None,
    projected: int | None = None,
    scored: Iterable[float] = (),
    logits: int = 1,
) -> Cost:
    """Operations of one prefill, by part.

    visual: visual tokens in each layer run (`in_place`, `two_pass`, `tokens_per_layer`); text: all
    other tokens of the prompt; convention: one of CONVENTIONS. Only "flops" counts more than the
    layers: blocks: patches of each picture or frame (None: no picture goes through the tower);
    projected: what the projector runs on, where that is not the patches (Video-LLaVA's videos: 257
    a frame, with the class token); scored: FLOPs of each score, e.g. `sum(scoring(...).values())`;
    logits: rows that the language head turns into logits. Raises ValueError for an unknown
    convention or no layers.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r}: choose one of {', '.join(CONVENTIONS)}")
    if not visual:
        raise ValueError("visual=[]: give the visual tokens of each layer that runs, at least one")
    decoder = decoder_of(config)
    layers = sum(decoder.layer(n + text, convention) for n in visual)
    if convention != "flops":
        return Cost(convention, 0, 0, layers, 0, 0)
    vision = projector = 0
    if blocks is not None:
        tower = tower_of(config)
        vision = tower.embedding(blocks) + tower.encoder(blocks)
        projector = tower.project(sum(blocks) if projected is None else projected)
    head = logits * decoder.width * decoder.vocabulary
    return Cost(convention, 2 * vision, 2 * projector, 2 * layers, sum(scored), 2 * head)


def per_parameter(parameters: float, visual: Sequence[float], text: float, layers: int) -> float:
    """FLOPs by rule of thumb: 2 x parameters for each token, spread evenly over the layers.

    visual: visual tokens in each layer run; layers: of the model. With 7e9 parameters, 57.1 other
    tokens and the schedule of `two_pass` this gives all of QViD's totals in Table 8 to their last
    digit (0.006 T), which no count by matrices does: an inference from the printed numbers.
    """
    return 2 * parameters * sum(n + text for n in visual) / layers


def scoring(
    config: Any,
    score: str,
    n_visual: int,
    n_query: int = 0,
    rank: int = 16,
    heads: int | None = None,
) -> dict[str, float]:
    """FLOPs of one score, step by step; what the cut layer does once more is counted, too.

    score: a rule's `cost`: "leverage" (as `leverage.leverage` does it, through the Gram matrix),
    "QR and SVD" (QViD's printed recipe), "energy" (its column norm), "one row" (of attention), or
    "difference" (of two streams). n_query: query tokens, for those that see the question. Dense
    eigen and singular value problems count Golub and Van Loan's 9 n³ and 22 n³; they are estimates,
    the rest is exact. Raises ValueError for another score, or no query tokens where one is needed.
    """
    decoder = decoder_of(config)
    d, d_h = decoder.width, decoder.head_dim
    H, q, v = heads or decoder.heads, n_query, n_visual
    if score == "difference":
        return {"norm of the difference": 3.0 * v * d}
    keys = 2.0 * v * d * decoder.key_heads * d_h
    if score == "one row":
        return {"keys": keys, "query": 2.0 * d * H * d_h, "row": 2.0 * H * v * d_h}
    if score not in ("leverage", "QR and SVD", "energy"):
        known = "leverage, QR and SVD, energy, one row, difference"
        raise ValueError(f"score={score!r}: costs are known for {known}")
    if q < 1:
        raise ValueError(f"n_query={q}: {score} needs the number of query tokens, 1 or more")
    made = {"keys": keys, "queries": 2.0 * q * d * H * d_h, "interaction": 2.0 * H * q * v * d_h}
    m, long = min(q, v), max(q, v)
    r = min(rank, m)
    if score == "energy":
        return made | {"column norm": 2.0 * H * q * v}
    if score == "QR and SVD":
        reduced = 4.0 * H * (long * m * m - m**3 / 3)  # QR, and Q made explicit
        return made | {
            "QR": reduced, "SVD": 22.0 * H * m**3, "right vectors": 2.0 * H * v * m * m,
            "participation": 2.0 * H * r * v,
        }  # fmt: skip
    first = {} if q <= v else {"QR": 2.0 * H * (q * v * v - v**3 / 3)}  # wide words, few patches
    return made | first | {
        "Gram matrix": 2.0 * H * m * m * v, "eigenvectors": 9.0 * H * m**3,
        "leading rows": 2.0 * H * r * m * v, "participation": 5.0 * H * r * v,
    }  # fmt: skip


def _need(config: Any, name: str) -> Any:
    value = getattr(config, name, None)
    if value is None:
        raise ValueError(f"the configuration ({type(config).__name__}) has no {name}; give it one")
    return value


def _squares(spans: Iterable[int]) -> int:
    return sum(n * n for n in spans)


def _windows(n: int, window: int | None) -> list[int]:
    # whole windows and one smaller rest: exact where the picture is a whole number of windows
    if window is None:
        return [n]
    return [window] * (n // window) + [n % window] * bool(n % window)
