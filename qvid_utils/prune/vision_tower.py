"""What the vision tower shows of each visual token, for methods that score it.

While a block is open that asks for such evidence, hooks stand on two layers of the tower for the
time of each encoding: the one whose output the projector reads, and the last one. They keep what
these layers were fed and gave; the rest is computed when a rule asks, in float32 and from the
projections, whatever the attention kernel.

The evidence belongs to the features of the pictures and lives as long as they do. So it outlives
the block under `pictures_once`; where that answers from memory and no block has watched yet, the
tower runs once more, for the evidence alone.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..families import Family
from ..families.attached import Attached
from ..families.calls import wrap_encoders
from ..families.projections import product, wide

__all__ = ["Encoded", "Encodings", "watch_towers"]

QUERIES_AT_ONCE = 512  # rows of attention held at a time for the mean that is received

_REMEMBERED: WeakIdKeyDictionary = WeakIdKeyDictionary()  # features of a call's pictures -> Encoded


@dataclass(eq=False)
class Encoded:
    """One call of an encoder: N visual tokens in the order of its output.

    entered_first, entered, entered_last: what the attention of the first, of the feature and of
    the last layer was fed,
    (F, n, D) for F pictures of n tower tokens, or (n, D) with pictures one after another; states:
    what the feature layer gave; about: the rotary pair and the borders of the pictures, where the
    tower has them. All words are (N, ...), tokens first.
    """

    family: Family
    base: nn.Module
    kind: str
    given: Mapping[str, Any]
    attention_first: nn.Module
    attention: nn.Module
    attention_last: nn.Module
    entered_first: Tensor | None = None
    entered: Tensor | None = None
    entered_last: Tensor | None = None
    states: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def patches(self) -> Tensor:
        """(N, D): what the projector was fed; where it joins G patches, (N, G·D)."""
        states = self.family.tower.fed(self.base, self.kind, self.states)
        return self._tokens(wide(states)).flatten(1)

    @cached_property
    def cls_patch(self) -> Tensor:
        """(N, D): the class token's own feature, of the picture that a token belongs to."""
        return self._tokens(wide(self.states[:, :1]).expand_as(self.states))[:, 0]

    @cached_property
    def cls_row(self) -> Tensor:
        """(N, H): attention that the class token pays in the feature layer, softmax over all; mean
        over the patches of a token."""
        return self._class_row(self.attention, self.entered)

    @cached_property
    def first_cls_row(self) -> Tensor:
        """(N, H): the same in the first layer."""
        return self._class_row(self.attention_first, self.entered_first)

    @cached_property
    def tiles(self) -> Tensor:
        """(N,) int64: the tower's picture that a token shows a place of; -1 where there is none."""
        sizes = self._sizes(self.entered.shape[:-1].numel())
        numbers = torch.arange(1, len(sizes) + 1, device=self.entered.device)
        numbers = numbers.repeat_interleave(numbers.new_tensor(sizes)).double()
        numbers = self._tokens(numbers.reshape(*self.entered.shape[:-1], 1))
        return numbers.amax((1, 2)).long() - 1

    @cached_property
    def received(self) -> Tensor:
        """(N,): attention that a token receives in the feature layer, mean over heads and queries;
        mean over the patches of a token."""
        q, k, mean = self._turned("q"), self._turned("k"), []
        sizes = self._sizes(q.shape[1])
        for queries, keys in zip(q.split(sizes, 1), k.split(sizes, 1), strict=True):
            total = keys.new_zeros(keys.shape[1])
            for some in queries.split(QUERIES_AT_ONCE, 1):
                total += (some @ keys.mT * keys.shape[-1] ** -0.5).softmax(-1).sum((0, 1))
            mean.append(total / queries.shape[:2].numel())
        received = torch.cat(mean).reshape(*self.entered.shape[:-1], 1)
        if self.family.tower.has_class_token(self.base):
            received = _without_class(received)
        return self._tokens(received).mean((1, 2))

    @cached_property
    def tower_keys(self) -> Tensor:
        """(N, H, d): keys of the feature layer, rotated where the tower rotates; mean over the
        patches of a token."""
        keys = self._turned("k").transpose(0, 1)  # (M, H, d)
        keys_of = self._tokens(keys.reshape(*self.entered.shape[:-1], -1)).mean(1)
        return keys_of.unflatten(1, keys.shape[1:])

    @cached_property
    def last_cls_row(self) -> Tensor:
        """(N,): softmax of the last layer's class query times keys, heads not separated; mean over
        the patches of a token."""
        q = self._flat(self.attention_last, "q", self.entered_last[:, :1])
        k = self._flat(self.attention_last, "k", self.entered_last)
        rows = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)  # (F, 1, n)
        return self._tokens(_without_class(rows.mT)).mean(1)[:, 0]

    @cached_property
    def last_keys(self) -> Tensor:
        """(N, D): keys of the last layer, all heads in a row."""
        return self._tokens(self._flat(self.attention_last, "k", self.entered_last))[:, 0]

    # --------------------------------------------------------------------- how they are made

    def _tokens(self, values: Tensor) -> Tensor:
        return self.family.tower.tokens(self.base, self.kind, values, self.given)

    def _class_row(self, attention: nn.Module, entered: Tensor) -> Tensor:
        q = self._heads(entered[:, :1], "q", attention)
        k = self._heads(entered, "k", attention)
        rows = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)[..., 0, :]  # (F, H, n)
        return self._tokens(_without_class(rows.mT)).mean(1)

    def _flat(self, attention: nn.Module, which: str, rows: Tensor) -> Tensor:
        """q or k of rows (..., D), all heads in a row; the bias is added in float32."""
        norm = getattr(attention, f"{which}_norm", nn.Identity())
        module = getattr(attention, f"{which}_proj", None)
        if module is not None:
            return norm(product(module, rows))
        # one matrix for queries, keys and values
        return norm(product(attention.qkv, rows).chunk(3, -1)["qk".index(which)])

    def _heads(self, rows: Tensor, which: str = "q", attention: nn.Module | None = None) -> Tensor:
        """(..., n, D) → (..., H, n, d), not rotated."""
        attention = attention or self.attention
        flat = self._flat(attention, which, rows)
        return flat.unflatten(-1, (attention.num_heads, -1)).transpose(-3, -2)

    def _turned(self, which: str) -> Tensor:
        """q or k of all M tower tokens one after another, (H, M, d), as the layer multiplies
        them."""
        x = self._heads(self.entered.flatten(0, -2), which)
        if "position_embeddings" not in self.about:
            return x
        cos, sin = (wide(t) for t in self.about["position_embeddings"])
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def _sizes(self, length: int) -> list[int]:
        """Tower tokens of each picture or frame: nobody looks beyond its own."""
        if (spans := self.family.tower.spans) is not None:
            return spans(self.base, self.given)
        borders = self.about.get("cu_seqlens")
        if borders is not None:
            return borders.diff().tolist()
        return [self.entered.shape[1]] * (length // self.entered.shape[1])


@dataclass(eq=False)
class Encodings:
    """The last encoding of each kind of picture inside a block: `of` has the evidence, `pooled` the
    features that went to the language model."""

    of: dict[str, Encoded] = field(default_factory=dict)
    pooled: dict[str, Any] = field(default_factory=dict)

    def check(self, outputs: Mapping[str, Any] | None) -> None:
        """ValueError where the features that a call brings were not encoded in this block."""
        for kind, out in (outputs or {}).items():
            ours, theirs = self.pooled.get(kind), out.pooler_output
            if ours is None or not all(torch.equal(ours[i], theirs[i]) for i in (0, -1)):
                raise ValueError(
                    f"the {kind} features were encoded outside the pruned block, which has not "
                    "seen the vision tower: give the pixels, and let the block encode them"
                )

    def word(self, name: str, config: Any, ids: Tensor, row: int) -> Tensor:
        """One word for the visual tokens of a prompt, (N_v, ...).

        ids (B, S): the prompts that were encoded together, each once.
        """
        family = next(iter(self.of.values())).family
        places = dict(zip(("image", "video"), family.visual_tokens(config), strict=False))
        visual = ids[row][torch.isin(ids[row], ids.new_tensor(list(places.values())))]
        parts = {}
        for kind, token in places.items():
            counts = (ids == token).sum(1).tolist()
            if not counts[row]:
                continue
            every, start = getattr(self.of[kind], name), sum(counts[:row])
            if len(every) != sum(counts):
                raise ValueError(
                    f"the vision tower has {len(every)} {kind} tokens and the prompts "
                    f"{sum(counts)}: pictures and placeholders do not match"
                )
            parts[token] = every[start : start + counts[row]]
        first = next(iter(parts.values()))
        if len(parts) == 1:
            return first
        out = first.new_empty(len(visual), *first.shape[1:])
        for token, part in parts.items():
            out[(visual == token).to(out.device)] = part.to(out.device)
        return out


def watch_towers(hung: Attached, model: nn.Module, family: Family) -> Encodings:
    """What the vision towers hold from now on, for as long as `hung` does."""
    base, seen = model.base_model, Encodings()

    def watching(name: str, encode: Callable) -> Callable:
        kind, names = name.split("_")[1], tuple(inspect.signature(encode).parameters)
        plain = functools.partial(getattr(type(base), name), base)  # past any memory

        @functools.wraps(encode)
        def watched(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            found = _blank(base, family, kind, given)
            with _hooked(found):
                out = encode(*args, **kwargs)
            features = out.pooler_output
            key = features if isinstance(features, Tensor) else features[0]
            if found.states is None:  # answered from memory, the tower did not run
                found = _REMEMBERED.get(key) or found
            if found.states is None:
                with _hooked(found), torch.no_grad():
                    plain(*args, **kwargs)
            _REMEMBERED[key] = seen.of[kind] = found
            seen.pooled[kind] = features
            return out

        return watched

    wrap_encoders(hung, model, watching)
    return seen


def _blank(base: nn.Module, family: Family, kind: str, given: dict[str, Any]) -> Encoded:
    # the memory of pixels must be able to end: their shape is enough
    told = {k: v.shape if k.startswith("pixel_values") else v for k, v in given.items()}
    tower = family.tower
    layers = tower.blocks(base, kind)
    feature = layers[tower.feature_layer(base, kind, given)]
    inner = [getattr(layer, tower.attention) for layer in (layers[0], feature, layers[-1])]
    return Encoded(family, base, kind, told, *inner)


@contextmanager
def _hooked(found: Encoded) -> Iterator[None]:
    def enters(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            setattr(found, name, (args[0] if args else kwargs["hidden_states"]).detach())
            if name == "entered":
                wanted = ("position_embeddings", "cu_seqlens")
                found.about = {k: kwargs[k] for k in wanted if kwargs.get(k) is not None}

        return hook

    def leaves(module: nn.Module, args: tuple, out: Any) -> None:
        if out is not None:  # an error
            found.states = (out[0] if isinstance(out, tuple) else out).detach()

    layers = found.family.tower.blocks(found.base, found.kind)
    (feature,) = (m for m in layers if found.attention in m.children())
    with Attached() as hung:
        hung.hook(found.attention_first, enters("entered_first"))
        hung.hook(found.attention, enters("entered"))
        hung.hook(found.attention_last, enters("entered_last"))
        hung.hook(feature, leaves, after=True)
        yield


def _without_class(rows: Tensor) -> Tensor:
    """What the class token pays to or gets from itself says nothing of a place: 0."""
    rows = rows.clone()
    rows[:, 0] = 0
    return rows
