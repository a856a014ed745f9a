"""The named tensors that a rule may see where a cut is made: lazy, each computed once.

`Evidence` is one prompt, with one property for each word of `vocabulary.WORDS`; several rules may
read the same object. Everything is float32 or wider, whatever the model's precision, and computed
for the rows that a word needs and for no others. Nothing depends on the attention kernel: attention
rows are rebuilt from projections, rotary pair and mask.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
import torch
from torch import Tensor, nn

__all__ = ["Evidence", "project"]

CLIP = frozenset({"clip_image", "clip_text"})  # both towers of CLIP
NEEDS_QUERY = frozenset({"queries", "interaction", "attention", "clip_text"})
RECEIVED = frozenset({"text_rows_before", "received_from_visual", "received_from_text"})
KEY_NORMS = frozenset({"key_norms_before", "text_key_norms_before"})
NEEDS_SEQUENCE = frozenset({"attention", "last_row", "last_row_before"}) | RECEIVED
LOOKS_BACK = frozenset({"previous", "last_row_before"}) | RECEIVED | KEY_NORMS
NEEDS_DOOR = frozenset({"features", "text_relevance"})
NEEDS_CLASS = frozenset({"cls_row", "cls_patch", "last_cls_row"})  # a tower with a class token
NEEDS_TOWER = NEEDS_CLASS | {"patches", "clip_image", "tower_keys", "received", "last_keys"}
BLOCK = 2**24  # entries of an attention map that are there at once; one row of all heads at least


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
    find_text: Callable[[], Tensor] | None = None
    at_door: Callable[[], tuple[Tensor, Tensor]] | None = None  # visual and text rows, layer 0
    last_norm: nn.Module | None = None
    frames_of: Callable[[], Tensor] | None = None
    tower: Callable[[str], Tensor] | None = None  # a word → (N_v, ...)
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
        if self.layer and self.features_of is None:
            raise ValueError(
                "'features' is what the projector gave for each token, and an earlier method of "
                "this block has put in one that stands for no single token (a class token or a "
                "sum); put the method that looks at it first"
            )
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
    def text_rows_before(self) -> Tensor:
        """(H, N_t, N_v): attention of the text after the picture in layer ℓ-1."""
        stream = self._previous_stream("text_rows_before")
        return self._rows(self.module_before, stream, self._text)

    @cached_property
    def text_relevance(self) -> Tensor:
        """(N_t,): mean over the visual tokens of softmax over the text of v·t, at layer 0."""
        visual, text = (_wide(rows) for rows in self.at_door())
        return (visual @ text.mT).softmax(-1).mean(0)

    @cached_property
    def rope_bias(self) -> Tensor:
        """(N_t, N_v): the rotated logit of an all-ones query and key."""
        cos, sin = _wide(self.cos), _wide(self.sin)  # (S, d_h): each angle stands there twice
        text, visual = self._text, self.visual
        return (cos[text] @ cos[visual].mT + sin[text] @ sin[visual].mT) / cos.shape[-1] ** 0.5

    @cached_property
    def received_from_visual(self) -> Tensor:
        """(N_v,): column sums, over the visual rows, of layer ℓ-1's map of the largest head."""
        return self._received("received_from_visual", self.visual)

    @cached_property
    def received_from_text(self) -> Tensor:
        """(N_v,): the same over the rows of the text after the picture."""
        return self._received("received_from_text", self._text)

    @cached_property
    def key_norms_before(self) -> Tensor:
        """(N_v,): L1 norm of the visual tokens' keys in layer ℓ-1, rotated, as cached."""
        return self._key_norms("key_norms_before", self.visual)

    @cached_property
    def text_key_norms_before(self) -> Tensor:
        """(N_t,): the same of the text after the picture."""
        return self._key_norms("text_key_norms_before", self._text)

    @cached_property
    def normed(self) -> Tensor:
        """(N_v, d): the visual tokens through the model's last norm."""
        return _wide(self.last_norm(self.stream[self.visual]))

    @cached_property
    def text_normed(self) -> Tensor:
        """(N_t, d): the text after the picture through the model's last norm."""
        return _wide(self.last_norm(self.stream[self._text]))

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """(T, rows, cols) of the caller's visual tokens, before any cut."""
        return self.grid_of()

    @cached_property
    def frames(self) -> Tensor:
        """(N_v,) int64: the picture or frame of each token, -1 where it shows no place."""
        return self.frames_of()

    @cached_property
    def patches(self) -> Tensor:
        """(N_v, D): what the vision tower fed to the projector."""
        return self.tower("patches")

    @cached_property
    def tower_keys(self) -> Tensor:
        """(H_t, N_v, d_t): keys of the tower's layer that gives the patches."""
        return self.tower("tower_keys").transpose(0, 1)

    @cached_property
    def received(self) -> Tensor:
        """(N_v,): attention received in that layer, mean over heads and queries."""
        return self.tower("received")

    @cached_property
    def cls_row(self) -> Tensor:
        """(H_t, N_v): attention that the class token pays in that layer."""
        return self.tower("cls_row").T

    @cached_property
    def cls_patch(self) -> Tensor:
        """(N_v, D): the class token's own feature, of each token's picture."""
        return self.tower("cls_patch")

    @cached_property
    def last_cls_row(self) -> Tensor:
        """(N_v,): the class token's softmax in the last layer, heads not separated."""
        return self.tower("last_cls_row")

    @cached_property
    def last_keys(self) -> Tensor:
        """(N_v, D): keys of the last layer, all heads in a row."""
        return self.tower("last_keys")

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

    @property
    def _text(self) -> Tensor:
        return self.find_text()

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
        return torch.cat(list(self._blocks(module, stream, rows)), 1)

    def _blocks(self, module: nn.Module, stream: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """The same a few rows at a time: (H, n', N_v) each."""
        everyone = torch.arange(len(stream), device=stream.device)
        k = self._turned(project(module, "k_proj", stream), everyone)
        for some in rows.split(max(1, BLOCK // k[..., 0].numel())):
            q = self._turned(project(module, "q_proj", stream[some]), some)
            logits = q @ k.mT * module.self_attn.scaling
            logits = logits.masked_fill(everyone > some[:, None], -torch.inf)  # nobody looks ahead
            yield logits.softmax(-1)[..., self.visual]

    def _received(self, word: str, rows: Tensor) -> Tensor:
        blocks = self._blocks(self.module_before, self._previous_stream(word), rows)
        return sum(block.amax(0).sum(0) for block in blocks)

    def _key_norms(self, word: str, places: Tensor) -> Tensor:
        stream = self._previous_stream(word)[places]
        keys = self._turned(project(self.module_before, "k_proj", stream), places)
        # a head that serves several query heads is cached once
        return keys.abs().sum((0, 2)) / self.module_before.self_attn.num_key_value_groups


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
