"""The named tensors that a rule may see where a cut is made: lazy, each computed once.

`Evidence` is one prompt, with one property for each word of `vocabulary.WORDS`; several rules may
read the same object. Everything is float32 or wider, whatever the model's precision, and computed
for the rows that a word needs and for no others. Nothing depends on the attention kernel: attention
rows are rebuilt from projections, rotary pair and mask. `Scene` is the padded batch behind it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor, nn

__all__ = ["Evidence", "Scene", "project"]

NEEDS_QUERY = frozenset({"queries", "interaction", "attention", "clip_text"})
NEEDS_SEQUENCE = frozenset({"attention", "last_row", "last_row_before"})
LOOKS_BACK = frozenset({"previous", "last_row_before"})


@dataclass(eq=False)
class Evidence:
    """One prompt where layer ℓ begins. S tokens without padding, N_v of them visual, N_q query.

    stream (S, d) is what enters layer ℓ, `before` (S, d) what entered layer ℓ-1 (the same tokens),
    cos and sin (S, d_h) the rotary pair; `visual` (N_v,) and `query` (N_q,) are places in 0..S-1.
    A word that this cut cannot offer raises ValueError where it is read.
    """

    layer: int
    stream: Tensor
    cos: Tensor
    sin: Tensor
    visual: Tensor
    ids: Tensor
    module: nn.Module
    rope: bool = False
    before: Tensor | None = None
    module_before: nn.Module | None = None
    find_query: Callable[[], Tensor] | None = None
    features_of: Tensor | None = None
    grid_of: Callable[[], tuple[int, int, int]] | None = None
    tower: Callable[[str], Tensor] | None = None  # a word of the vision tower → (N_v, ...)
    clip: Any = None  # the pair of towers, with `image` and `words`
    text_of: Callable[[], str] | None = None  # the query as text

    # ------------------------------------------------------------------------- the words

    @cached_property
    def hidden(self) -> Tensor:
        """(N_v, d): the visual tokens as they enter layer ℓ."""
        return _wide(self.stream[self.visual])

    @cached_property
    def previous(self) -> Tensor:
        """(N_v, d): the same tokens as they entered layer ℓ-1."""
        return _wide(self._previous_stream("previous")[self.visual])

    @cached_property
    def features(self) -> Tensor:
        """(N_v, d): what the projector gave the language model for these tokens."""
        return _wide(self.stream[self.visual] if self.layer == 0 else self.features_of)

    @cached_property
    def queries(self) -> Tensor:
        """(H, N_q, d_h): the query tokens through the layer's own norm and W_Q, before RoPE."""
        return project(self.module, "q_proj", self.stream[self.query])

    @cached_property
    def keys(self) -> Tensor:
        """(H, N_v, d_h): the visual tokens through the layer's norm and W_K, before RoPE."""
        return project(self.module, "k_proj", self.stream[self.visual])

    @cached_property
    def interaction(self) -> Tensor:
        """(H, N_q, N_v): queries @ keysᵀ, the paper's M; both rotated first where rope is set."""
        q, k = self.queries, self.keys
        if self.rope:
            q, k = self._turned(q, self.query), self._turned(k, self.visual)
        return q @ k.mT

    @cached_property
    def attention(self) -> Tensor:
        """(H, N_q, N_v): attention of the query tokens in layer ℓ, softmax over the sequence."""
        return self._rows(self.module, self.stream, self.query)

    @cached_property
    def last_row(self) -> Tensor:
        """(H, N_v): attention of the last prompt token in layer ℓ."""
        return self._rows(self.module, self.stream, self._last)[:, 0]

    @cached_property
    def last_row_before(self) -> Tensor:
        """(H, N_v): attention of the last prompt token in layer ℓ-1, which has just run."""
        stream = self._previous_stream("last_row_before")
        return self._rows(self.module_before, stream, self._last)[:, 0]

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """(T, rows, cols) of the caller's visual tokens, before any cut."""
        return self.grid_of()

    @cached_property
    def patches(self) -> Tensor:
        """(N_v, D): what the vision tower fed to the projector."""
        return _wide(self.tower("patches"))

    @cached_property
    def clip_image(self) -> Tensor:
        """(N_v, D_p): the patches in the space that CLIP's two towers share."""
        return self.clip.image(self.patches)

    @cached_property
    def clip_text(self) -> Tensor:
        """(segments, D_p): the query's words in that space."""
        return self.clip.words(self.text_of())

    @cached_property
    def filled(self) -> Tensor:
        """(N_v,) bool: which slots the vision tower filled."""
        return self.tower("filled")

    @cached_property
    def prompt(self) -> int:
        """A number made from the token ids without padding: equal prompts, equal numbers."""
        content = self.ids.cpu().numpy().astype(numpy.int64).tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big")

    # ------------------------------------------------------------------------- how they are made

    @cached_property
    def query(self) -> Tensor:
        """(N_q,): places of the query tokens; looked up only when a word needs them."""
        return self.find_query()

    @property
    def _last(self) -> Tensor:
        return torch.tensor([len(self.stream) - 1], device=self.stream.device)

    def _previous_stream(self, word: str) -> Tensor:
        if self.before is None:
            raise ValueError(
                f"layer=0: {word!r} compares with the layer before, and there is none; "
                "cut at layer 1 or later"
            )
        return self.before

    def _turned(self, x: Tensor, places: Tensor) -> Tensor:
        cos, sin = (_wide(t[places]) for t in (self.cos, self.sin))
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def _rows(self, module: nn.Module, stream: Tensor, rows: Tensor) -> Tensor:
        """Attention that the tokens `rows` pay to the visual ones in a layer: (H, n, N_v)."""
        everyone = torch.arange(len(stream), device=stream.device)
        q = self._turned(project(module, "q_proj", stream[rows]), rows)
        k = self._turned(project(module, "k_proj", stream), everyone)
        logits = q @ k.mT * module.self_attn.scaling
        logits = logits.masked_fill(everyone > rows[:, None], -torch.inf)  # nobody looks ahead
        return logits.softmax(-1)[..., self.visual]


@dataclass(eq=False)
class Scene:
    """A padded batch of prompts with pictures, at the door of the layer about to run.

    The caller's own, (B, S): ids, given (no padding), words (the query), counts of visual tokens,
    features (B, S, d) entering layer 0. Of the tokens that are left, (B, S'): valid (no padding and
    no filler), visual, number (of a visual token among its row's), column (in the caller's prompt),
    hidden and before (B, S', d) entering this layer and the one before, rotary: cos and sin.
    """

    ids: Tensor
    given: Tensor
    visual: Tensor
    words: Tensor | None = None
    features: Tensor | None = None
    hidden: Tensor | None = None
    before: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.valid, self.counts = self.given, self.visual.sum(1).tolist()
        self.number = self.visual.cumsum(1) - 1
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        self.column = places.expand(self.ids.shape)

    def enter(self, i: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], sees: set[str]) -> None:
        """Layer i is about to run on `hidden`; what no rule sees is not held on to."""
        self.before = self.hidden if sees & LOOKS_BACK else None
        self.hidden, self.rotary = hidden, self.rotary or rotary
        if i == 0 and "features" in sees:
            self.features = hidden

    def take(self, order: Tensor) -> None:
        """Keep the tokens `order` (B, S') in that order."""

        def rows(t: Tensor | None) -> Tensor | None:
            if t is not None:
                t = t.expand(len(order), -1, -1)  # a rotary pair may serve all rows
                t = t.gather(1, order[..., None].expand(-1, -1, t.shape[-1]))
            return t

        self.hidden, self.before = rows(self.hidden), rows(self.before)
        self.rotary = (rows(self.rotary[0]), rows(self.rotary[1]))
        for name in ("valid", "visual", "number", "column"):
            setattr(self, name, getattr(self, name).gather(1, order))

    def places(self, row: int) -> Tensor:
        """(N_v,): where a row's visual tokens stand among its S' columns."""
        return self.visual[row].nonzero()[:, 0]

    def evidence(self, i: int, row: int, layers: nn.ModuleList, **about: Any) -> Evidence:
        """What one prompt shows where layer i begins."""
        here = self.valid[row].nonzero()[:, 0]
        visual, columns = self.visual[row, here].nonzero()[:, 0], self.column[row, here]
        cos, sin = (t.expand(len(self.valid), -1, -1)[row, here] for t in self.rotary)
        return Evidence(
            layer=i,
            stream=self.hidden[row, here],
            cos=cos,
            sin=sin,
            visual=visual,
            ids=self.ids[row, self.given[row]],
            module=layers[i],
            before=None if self.before is None else self.before[row, here],
            module_before=layers[i - 1] if i else None,
            find_query=lambda: self.words[row, columns].nonzero()[:, 0],
            features_of=None if self.features is None else self.features[row, columns[visual]],
            **about,
        )


def project(layer: nn.Module, name: str, rows: Tensor) -> Tensor:
    """q_proj or k_proj of a decoder layer on rows of its input: (n, d) → (H, n, d_h).

    The layer's own input norm comes first, the bias is added in float32, and key heads that serve
    several query heads are repeated, so that both projections have H heads.
    """
    attention = layer.self_attn
    linear, normed = getattr(attention, name), layer.input_layernorm(rows)
    if type(linear) is nn.Linear and linear.bias is not None:
        # a key bias can be 100 times the content: in half precision the sum would round it away
        out = _wide(nn.functional.linear(normed, linear.weight)) + _wide(linear.bias)
    else:
        out = _wide(linear(normed))
    out = out.unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
    groups = attention.num_key_value_groups if name == "k_proj" else 1
    return out.repeat_interleave(groups, 0) if groups > 1 else out


def _wide(values: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
