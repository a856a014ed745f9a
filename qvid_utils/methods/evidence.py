"""The evidence that a rule may see where a cut is made: named tensors, lazy, each computed once.

Each property of `Evidence` marked `@word` is a word of evidence; `WORDS` is read off the class.
Letters: H heads, N_q question tokens, N_v visual tokens of one prompt, N_t tokens of the text after
the last of them (template included), d width, d_h head width, ℓ the layer about to run; H_t heads,
D width, d_t head width of the vision tower. Everything is float32 or wider, and computed for the
rows that a word needs and for no others.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from ..families.projections import attention_rows, project, rotated, wide
from .words import Word, word

__all__ = ["WORDS", "Evidence", "needing"]


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
    at_entry: Callable[[], tuple[Tensor, Tensor]] | None = None  # visual and text rows, layer 0
    last_norm: nn.Module | None = None
    frames_of: Callable[[], Tensor] | None = None
    tower: Callable[[str], Tensor] | None = None  # a word → (N_v, ...)
    clip: Any = None  # the pair of towers, with `image` and `words`
    text_of: Callable[[], str] | None = None  # the query as text
    row: int = 0  # of the batch

    @word("(N_v, d)")
    def hidden(self) -> Tensor:
        """Visual rows of the residual stream that enters layer ℓ."""
        return wide(self.stream[self.visual])

    @word("(N_v, d)", "before")
    def previous(self) -> Tensor:
        """The same tokens in the stream that entered layer ℓ-1."""
        return wide(self._previous_stream("previous")[self.visual])

    @word("(N_v, d)", "entry")
    def features(self) -> Tensor:
        """What the projector handed to the language model."""
        if self.layer and self.features_of is None:
            raise ValueError(
                "'features' is what the projector gave for each token, and an earlier method of "
                "this block has put in one that stands for no single token (a class token or a "
                "sum); put the method that looks at it first"
            )
        return wide(self.stream[self.visual] if self.layer == 0 else self.features_of)

    @word("(H, N_q, d_h)", "query")
    def queries(self) -> Tensor:
        """Question tokens through layer ℓ's input norm and W_Q, before RoPE."""
        return project(self.module, "q_proj", self.stream[self.query])

    @word("(H, N_v, d_h)")
    def keys(self) -> Tensor:
        """Visual tokens through layer ℓ's input norm and W_K, before RoPE, heads repeated."""
        return project(self.module, "k_proj", self.stream[self.visual])

    @word("(H, N_q, N_v)", "query")
    def interaction(self) -> Tensor:
        """Queries times keys in float32: the paper's M (both rotated first where rope=True)."""
        q, k = self.queries, self.keys
        if self.rope:
            q = rotated(q, self.cos[self.query], self.sin[self.query])
            k = rotated(k, self.cos[self.visual], self.sin[self.visual])
        return q @ k.mT

    @word("(H, N_q, N_v)", "query", "sequence")
    def attention(self) -> Tensor:
        """Attention that the question tokens pay in layer ℓ: RoPE, causal mask, softmax over the
        whole sequence, then the visual columns."""
        return self._rows(self.module, self.stream, self.query)

    @word("(H, N_v)", "text", "sequence")
    def last_row(self) -> Tensor:
        """Attention that the last prompt token pays in layer ℓ."""
        return self._rows(self.module, self.stream, self._last)[:, 0]

    @word("(H, N_v)", "text", "sequence", "before")
    def last_row_before(self) -> Tensor:
        """Attention that the last prompt token paid in layer ℓ-1, the one that has just run."""
        stream = self._previous_stream("last_row_before")
        return self._rows(self.module_before, stream, self._last)[:, 0]

    @word("(H, N_t, N_v)", "text", "sequence", "before")
    def text_rows_before(self) -> Tensor:
        """Attention that the text after the picture paid in layer ℓ-1."""
        stream = self._previous_stream("text_rows_before")
        return self._rows(self.module_before, stream, self._text)

    @word("(N_t,)", "text", "entry")
    def text_relevance(self) -> Tensor:
        """How much the picture calls for each token of the text after it, where layer 0 begins: dot
        products, softmax over the text, mean over the visual tokens."""
        visual, text = (wide(rows) for rows in self.at_entry())
        return (visual @ text.mT).softmax(-1).mean(0)

    @word("(N_t, N_v)")
    def rope_bias(self) -> Tensor:
        """What RoPE alone says of a text and a visual token: the logit of all-ones query and key, 2
        Σ_i cos((m-n)θ_i) / √d_h."""
        cos, sin = wide(self.cos), wide(self.sin)  # (S, d_h): each angle stands there twice
        text, visual = self._text, self.visual
        return (cos[text] @ cos[visual].mT + sin[text] @ sin[visual].mT) / cos.shape[-1] ** 0.5

    @word("(N_v,)", "sequence", "before")
    def received_from_visual(self) -> Tensor:
        """Attention received in layer ℓ-1 from the visual tokens: maximum over the heads of each
        entry of the map, then the sum over its rows."""
        return self._received("received_from_visual", self.visual)

    @word("(N_v,)", "text", "sequence", "before")
    def received_from_text(self) -> Tensor:
        """The same from the text after the picture."""
        return self._received("received_from_text", self._text)

    @word("(N_v,)", "before")
    def key_norms_before(self) -> Tensor:
        """L1 norm of a visual token's keys in layer ℓ-1, all heads together, rotated, as cached."""
        return self._key_norms("key_norms_before", self.visual)

    @word("(N_t,)", "text", "before")
    def text_key_norms_before(self) -> Tensor:
        """The same of the text after the picture."""
        return self._key_norms("text_key_norms_before", self._text)

    @word("(N_v, d)")
    def normed(self) -> Tensor:
        """Visual rows of the stream that enters layer ℓ, through the model's last norm."""
        return wide(self.last_norm(self.stream[self.visual]))

    @word("(N_t, d)", "text")
    def text_normed(self) -> Tensor:
        """The same of the text after the picture."""
        return wide(self.last_norm(self.stream[self._text]))

    @word("(3,) ints", "layout")
    def grid(self) -> tuple[int, int, int]:
        """How the visual tokens lie: frames, rows, columns."""
        return self.grid_of()

    @word("(N_v,) ints", "layout")
    def frames(self) -> Tensor:
        """Which picture, tile or frame of the prompt a token shows a place of, from 0; -1 for one
        that shows none (a line break, a class token)."""
        return self.frames_of()

    @word("(N_v, D)", "tower")
    def patches(self) -> Tensor:
        """What the vision tower fed to the projector: of a token that joins patches, all of them in
        a row; 0 for a line break."""
        return self.tower("patches")

    @word("(H_t, N_v, d_t)", "tower")
    def tower_keys(self) -> Tensor:
        """Keys of the tower's layer that gives the patches, as it multiplies them; mean over the
        patches that a token joins."""
        return self.tower("tower_keys").transpose(0, 1)

    @word("(N_v,)", "tower")
    def received(self) -> Tensor:
        """Attention that a token receives in that layer, mean over heads and queries, pooled as the
        model pools its features; 0 for a token that shows no place."""
        return self.tower("received")

    @word("(H_t, N_v)", "tower", "class token")
    def cls_row(self) -> Tensor:
        """Attention that the class token pays in that layer to the tokens of its picture; 0 for a
        token that shows no place."""
        return self.tower("cls_row").T

    @word("(H_t, N_v)", "tower", "class token")
    def first_cls_row(self) -> Tensor:
        """The same in the tower's first layer."""
        return self.tower("first_cls_row").T

    @word("(N_v,) ints", "tower")
    def tiles(self) -> Tensor:
        """Which picture of the tower's a token shows a place of, from 0 in the prompts encoded
        together: of a picture shown in large, its tile; -1 for one that shows no place."""
        return self.tower("tiles")

    @word("(N_v, D)", "tower", "class token")
    def cls_patch(self) -> Tensor:
        """The feature of the class token of each token's picture."""
        return self.tower("cls_patch")

    @word("(N_v,)", "tower", "class token")
    def last_cls_row(self) -> Tensor:
        """Softmax of the class token's query times all keys of the tower's last layer, heads as
        one; 0 for a token that shows no place."""
        return self.tower("last_cls_row")

    @word("(N_v, D)", "tower")
    def last_keys(self) -> Tensor:
        """Keys of the tower's last layer, all heads in a row."""
        return self.tower("last_keys")

    @word("(N_v, D_p)", "tower", "clip")
    def clip_image(self) -> Tensor:
        """The patches through CLIP's own last norm and projection, where the words of its text
        tower lie; not normalised."""
        return self.clip.image(self.patches)

    @word("(segments, D_p)", "query", "clip")
    def clip_text(self) -> Tensor:
        """The query's words through CLIP's text tower, in segments that fit; not normalised."""
        return self.clip.words(self.text_of())

    @word("(N_v,) bool")
    def filled(self) -> Tensor:
        """Which slots the tower filled: all, unless the method shortens pictures inside it."""
        return self.tower("filled")

    @word("int")
    def prompt(self) -> int:
        """A stable number made from the prompt's token ids, padding left out."""
        content = self.ids.cpu().numpy().astype(numpy.int64).tobytes()
        return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big")

    @cached_property
    def query(self) -> Tensor:
        """(N_q,): places of the query tokens."""
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

    def _rows(self, module: nn.Module, stream: Tensor, rows: Tensor) -> Tensor:
        return torch.cat(list(self._blocks(module, stream, rows)), 1)

    def _blocks(self, module: nn.Module, stream: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Attention that the tokens `rows` pay to the visual ones in a layer, a few rows at a time:
        (H, n', N_v) each."""
        for block in attention_rows(module, stream, rows, self.cos, self.sin):
            yield block[..., self.visual]

    def _received(self, word: str, rows: Tensor) -> Tensor:
        blocks = self._blocks(self.module_before, self._previous_stream(word), rows)
        return sum(block.amax(0).sum(0) for block in blocks)

    def _key_norms(self, word: str, places: Tensor) -> Tensor:
        stream = self._previous_stream(word)[places]
        keys = project(self.module_before, "k_proj", stream)
        keys = rotated(keys, self.cos[places], self.sin[places])
        # a head that serves several query heads is cached once
        return keys.abs().sum((0, 2)) / self.module_before.self_attn.num_key_value_groups


WORDS: Mapping[str, Word] = MappingProxyType(
    {name: lazy.word for name, lazy in vars(Evidence).items() if hasattr(lazy, "word")}
)


def needing(*needs: str) -> frozenset[str]:
    """The words that need any of these, e.g. `needing("query")`."""
    return frozenset(name for name, known in WORDS.items() if set(needs) & set(known.needs))
