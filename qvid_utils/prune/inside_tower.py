"""Methods inside the vision tower: K tokens come out of it instead of N.

The prompt keeps its N placeholders. A picture's K tokens fill its first K slots, zeros the others,
and the engine's cut at layer 0 takes the filled slots. Works on CLIP towers, for the time of a
block: the tower's forward and the model's encoders are replaced on the instances, and put back.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..algebra.cuts import Infeasible, check_keep
from ..algebra.tome import ToMe, fewest, match, merge, merge_counts, rows_and_columns
from ..families import Family, Unavailable
from ..families.attached import Attached
from ..methods.floors import share_evenly

__all__ = ["TowerSite"]

_UNKNOWN = (
    "inside this block the tower gives fewer tokens than the prompt has places, and {}: hand the "
    "pictures to generate or to the model itself, together with the prompt's input_ids"
)


class TowerSite:
    """What the engine asks: `hang` for the block, `told` at each prompt, `filled` at the cut.

    encode: ToMe or Downsampling; keep_of: visual tokens of a prompt → how many of them it keeps,
    shared evenly among its pictures and frames. Raises Unavailable, with the reason, where the
    family's tower cannot do it.
    """

    def __init__(
        self, model: nn.Module, family: Family, encode: Any, keep_of: Callable[[int], int]
    ):
        self.model, self.family, self.encode, self.keep_of = model, family, encode, keep_of
        self.base, self.config = model.base_model, model.config
        if family.whole_grid:
            raise Unavailable(f"{encode}: {family.name} {family.whole_grid}")
        blocks = family.sources(self.config, {})
        # a picture, or a frame of a video: the tower sees both as one picture
        self.block = {token: next(iter(pictures))[0] for token, pictures in blocks.items()}
        self.kinds = dict(zip(family.visual_tokens(self.config), ("image", "video"), strict=False))
        names = {"image": family.vision, "video": family.vision_of_videos}
        self.towers = {kind: names[kind] for kind in self.kinds.values()}
        for address in self.towers.values():
            self._check(self.base.get_submodule(address))
        self.waiting: dict[str, list[int]] = {}  # kind -> tokens that each picture gets
        self.kind, self.shares = "", None  # of the pictures that the tower is about to see
        self.keep, self.rows = 0, []  # of the prompt at hand; slots that the tower fills
        self.made: list[ref] = []

    def _check(self, tower: nn.Module) -> None:
        if not hasattr(getattr(_inner(tower), "embeddings", None), "class_embedding"):
            raise Unavailable(
                f"{self.encode}: works on CLIP towers, and {self.family.name} has a "
                f"{type(tower).__name__} here"
            )
        if not isinstance(self.config.vision_feature_layer, int):
            raise Unavailable(
                f"{self.encode}: this model joins several layers of its tower, which would hold "
                "different tokens"
            )
        embeddings = _inner(tower).embeddings.parameters()
        if not isinstance(self.encode, ToMe) and any(p.is_meta for p in embeddings):
            raise Unavailable(
                f"{self.encode}: the tower's table of positions is offloaded, and the library "
                "reads it outside its layer; keep the vision tower on the device"
            )
        kernel = tower.config._attn_implementation
        if isinstance(self.encode, ToMe) and kernel not in ("sdpa", "eager"):
            raise Unavailable(
                f"{self.encode}: attention={kernel!r} takes no weight for each key; load the model "
                "with attention='sdpa' or 'eager'"
            )

    # ---------------------------------------------------------------------------- for the engine

    def hang(self, hung: Attached) -> None:
        """Stand in for the towers and the encoders, for as long as `hung` does."""
        for kind, address in self.towers.items():
            tower = self.base.get_submodule(address)
            hung.instead(tower, "forward", self._tower(tower))
            name = f"get_{kind}_features"
            # the class's own: what pictures_once remembers is another encoding
            own = getattr(type(self.base), name).__get__(self.base)
            hung.instead(self.base, name, self._encoder(kind, own))
        if hasattr(self.model, "generate"):
            hung.instead(self.model, "generate", self._generate())

    def told(self, ids: Tensor, encoded: dict[str, Any] | None = None) -> None:
        """A prompt is about to be encoded, or (`encoded`) has been."""
        for out in (encoded or {}).values():
            if not any(made() is out for made in self.made):
                raise ValueError(_UNKNOWN.format("these pictures were encoded outside it"))
        self.waiting, self.rows = {kind: [] for kind in self.towers}, []
        for row in ids.tolist():
            seen = [token for token in row if token in self.kinds]
            pictures = self._pictures(seen)
            sizes = [self.block[token].tokens for token in pictures]
            self.keep = self.keep_of(len(seen)) if seen else 0
            shares = share_evenly(check_keep(self.keep, len(seen)), sizes) if seen else []
            for token, share in zip(pictures, shares, strict=True):
                self.waiting[self.kinds[token]].append(share)
            slots = [torch.arange(n) < k for n, k in zip(sizes, shares, strict=True)]
            self.rows.append(torch.cat(slots) if slots else torch.zeros(0, dtype=torch.bool))

    def filled(self, row: int) -> Tensor:
        """(N_v,) bool: which slots of a row's visual tokens the tower has filled."""
        return self.rows[row]

    def forget(self) -> None:
        self.waiting, self.shares, self.rows, self.made = {}, None, [], []

    def _pictures(self, seen: Sequence[int]) -> list[int]:
        found, at = [], 0
        while at < len(seen):
            size = self.block[seen[at]].tokens
            if len(set(seen[at : at + size])) > 1 or at + size > len(seen):
                raise ValueError(
                    f"{self.encode}: {len(seen)} visual tokens in a row are no whole number of "
                    f"pictures of {size}"
                )
            found.append(seen[at])
            at += size
        return found

    # ------------------------------------------------------------------- what stands in meanwhile

    def _generate(self) -> Callable:
        generate = self.model.generate

        @functools.wraps(generate)
        def told_first(*args: Any, **kwargs: Any) -> Any:
            ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
            if isinstance(ids, Tensor):
                self.told(ids)
            try:
                return generate(*args, **kwargs)
            finally:
                self.waiting = {}

        return told_first

    def _encoder(self, kind: str, encode: Callable) -> Callable:
        @functools.wraps(encode)  # generate reads the signature to know what to hand over
        def shortened(*args: Any, **kwargs: Any) -> Any:
            self.kind, self.shares = kind, self.waiting.pop(kind, None)
            try:
                out = encode(*args, **kwargs)
            finally:
                self.shares = (
                    None  # whatever happened, the next pictures have a prompt of their own
                )
            self.made = [*(made for made in self.made if made() is not None), ref(out)]
            return out

        return shortened

    def _tower(self, tower: nn.Module) -> Callable:
        whole = tower.forward

        @functools.wraps(whole)
        def shortened(pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
            shares = self.shares
            if shares is None:
                raise ValueError(_UNKNOWN.format("it does not know the prompt of these pictures"))
            if len(shares) != len(pixel_values):
                raise ValueError(
                    f"{self.encode}: {len(pixel_values)} pictures (or frames) came for the "
                    f"{len(shares)} that the prompts have places for"
                )
            parts = []
            for share in sorted(set(shares)):  # pictures that keep equally many go together
                here = torch.tensor([i for i, k in enumerate(shares) if k == share])
                part = pixel_values[here.to(pixel_values.device)]
                parts.append((here, self._run(tower, whole, part, share, args, kwargs)))
            return _joined(parts, _inner(tower).embeddings.num_positions)

        return shortened

    def _run(self, tower, whole: Callable, pixels: Tensor, share: int, args, kwargs) -> Any:
        """Some pictures through the tower, each down to `share` tokens for the language model."""
        token = next(token for token, kind in self.kinds.items() if kind == self.kind)
        lead = self.block[token].lead  # 1 where the class token is handed on, as one of them
        if not isinstance(self.encode, ToMe):
            return self._smaller(tower, whole, pixels, share - lead, args, kwargs)
        layers = _inner(tower).encoder.layers
        used = self.config.vision_feature_layer % (len(layers) + 1)  # of these the model reads
        tokens, left = _inner(tower).embeddings.num_positions, share + 1 - lead
        least = fewest(tokens, used)
        if left < least:
            raise Infeasible(
                f"keep={self.keep}: ToMe merges at most half of a picture in each of the {used} "
                f"layers that the model reads, so at least {least - 1 + lead} of its "
                f"{tokens - 1 + lead} tokens stay, and here it would be {share}: keep more"
            )
        counts = [*merge_counts(tokens, left, used), *[0] * (len(layers) - used)]
        if not any(counts):
            return whole(pixels, *args, **kwargs)
        with Attached() as hung:
            sizes = _Sizes(torch.ones(len(pixels), tokens, device=pixels.device))
            for layer, r in zip(layers, counts, strict=True):
                run = functools.partial(self._layer, layer, layer.forward, r, sizes)
                hung.instead(layer, "forward", run)
            return whole(pixels, *args, **kwargs)

    def _layer(
        self, layer, whole: Callable, r: int, sizes: "_Sizes", hidden: Tensor, mask=None, **kwargs
    ) -> Tensor:
        """One layer of a CLIP tower that merges r tokens between its attention and its MLP."""
        if self.encode.proportional and sizes.merged:
            mask = sizes.now.log()[:, None, None].to(hidden.dtype)  # to the logits of each key
        if r == 0:
            return whole(hidden, mask, **kwargs)
        attention, keys = layer.self_attn, []
        with Attached() as spy:
            spy.hook(attention.k_proj, lambda _module, _args, out: keys.append(out), after=True)
            out, _ = attention(layer.layer_norm1(hidden), attention_mask=mask, **kwargs)
        pairs = match(keys[0].unflatten(-1, (attention.num_heads, -1)).mean(2), r)
        hidden, sizes.now = merge(hidden + out, sizes.now, pairs)
        sizes.merged = True
        return hidden + layer.mlp(layer.layer_norm2(hidden))

    def _smaller(self, tower, whole: Callable, pixels: Tensor, patches: int, args, kwargs) -> Any:
        """The pictures shrunk to exactly that many patches; a full one stays as it is."""
        size, patch = _inner(tower).embeddings.image_size, _inner(tower).embeddings.patch_size
        side = size // patch
        if pixels.shape[-2:] != (size, size):  # the library would take any size from here on
            came = " × ".join(map(str, pixels.shape[-2:]))
            raise ValueError(f"pictures of {came} pixels came, this tower takes {size} × {size}")
        try:
            rows, cols = rows_and_columns(patches, side)
        except ValueError as reason:
            raise Infeasible(f"keep={self.keep}: {reason}") from reason
        if rows == cols == side:
            return whole(pixels, *args, **kwargs)
        small = functional.interpolate(
            pixels.float(), size=(rows * patch, cols * patch), mode="bicubic", antialias=True
        )
        kwargs["interpolate_pos_encoding"] = True
        return whole(small.to(pixels.dtype), *args, **kwargs)


@dataclass(eq=False)
class _Sizes:
    """(B, t): how many patches each token stands for, in the pictures on their way through."""

    now: Tensor
    merged: bool = False


def _inner(tower: nn.Module) -> nn.Module:
    return getattr(tower, "vision_model", tower)  # older versions have one more shell


def _joined(parts: Sequence[tuple[Tensor, Any]], tokens: int) -> Any:
    """The outputs of the groups in the order of the pictures, zeros up to `tokens` a picture."""
    first = parts[0][1]
    if first.last_hidden_state.shape[1] == tokens and len(parts) == 1:
        return first
    if first.attentions is not None:
        raise ValueError(
            "output_attentions: a tower that shortens pictures has maps of many sizes; ask the "
            "model without the pruned block"
        )
    order = torch.cat([here for here, _ in parts]).argsort().to(first.last_hidden_state.device)

    def joined(states: Sequence[Tensor | None]) -> Tensor | None:
        if states[0] is None:  # only the layer that the model reads is recorded
            return None
        full = [functional.pad(t, (0, 0, 0, tokens - t.shape[1])) for t in states]
        return torch.cat(full)[order]

    outs = [out for _, out in parts]
    if first.hidden_states is not None:
        first.hidden_states = tuple(
            joined(states) for states in zip(*(out.hidden_states for out in outs), strict=True)
        )
    if first.pooler_output is not None:
        first.pooler_output = torch.cat([out.pooler_output for out in outs])[order]
    first.last_hidden_state = joined([out.last_hidden_state for out in outs])
    return first
