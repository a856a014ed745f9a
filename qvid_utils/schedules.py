"""Where to cut and how many tokens to keep there.

A schedule is a callable `(keep, n_visual, n_layers, layer=None) -> tuple[Cut, ...]` with a text
`.source`. Layers count from 0, and a cut at layer ℓ shortens what enters layer ℓ (0: what enters
the language model). `keep` is the count after the cut for a single cut, and the wanted mean over
the layers for a staged schedule, as the papers label their rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = [
    "At", "Cut", "Infeasible", "Schedule", "Staged", "V2DROP_LLAVA",
    "at", "check_keep", "mean_tokens", "staged", "tokens_per_layer",
]  # fmt: skip


class Infeasible(ValueError):
    """The wanted mean number of tokens cannot be met by the schedule; the message has the limit."""


@dataclass(frozen=True)
class Cut:
    """Keep `keep` visual tokens where layer `layer` begins."""

    layer: int
    keep: int


Schedule = Callable[..., tuple[Cut, ...]]


def check_keep(keep: int, n_visual: int) -> int:
    """`keep` as a plain int in 1..n_visual.

    Raises TypeError unless it is a whole number (a bool is none), ValueError if out of range.
    """
    if isinstance(keep, bool) or not hasattr(keep, "__index__"):
        raise TypeError(f"keep={keep!r}: give the number of visual tokens to keep as an int")
    keep = keep.__index__()
    if not 1 <= keep <= n_visual:
        raise ValueError(
            f"keep={keep}: the prompt has {n_visual} visual tokens, keep 1 to {n_visual} of them"
        )
    return keep


def tokens_per_layer(cuts: Sequence[Cut], n_visual: int, n_layers: int) -> list[int]:
    """Visual tokens at the input of each of the `n_layers` layers.

    Raises ValueError if the cuts are not in order, leave the model, or raise the count.
    """
    if any(a.layer >= b.layer for a, b in pairwise(cuts)):
        raise ValueError(
            f"cuts at layers {_list(c.layer for c in cuts)}: the layers must rise from cut to cut"
        )
    counts = [n_visual] * n_layers
    for cut in cuts:
        _check_layer(cut.layer, n_layers)
        check_keep(cut.keep, counts[cut.layer])
        counts[cut.layer :] = [cut.keep] * (n_layers - cut.layer)
    return counts


def mean_tokens(cuts: Sequence[Cut], n_visual: int, n_layers: int) -> float:
    """Mean over the layers of the visual tokens at each layer's input.

    Errors as in `tokens_per_layer`.
    """
    return sum(tokens_per_layer(cuts, n_visual, n_layers)) / n_layers


@dataclass(frozen=True)
class At:
    """A single cut; see `at`."""

    depth: int
    of: int
    source: str

    def __call__(
        self, keep: int, n_visual: int, n_layers: int, layer: int | None = None
    ) -> tuple[Cut, ...]:
        keep = check_keep(keep, n_visual)
        place = _scaled(self.depth, self.of, n_layers) if layer is None else layer
        return (Cut(_check_layer(place, n_layers), keep),)

    def __str__(self) -> str:
        return f"one cut at layer {self.depth} of {self.of}"


def at(depth: int = 3, of: int = 32, *, source: str = "") -> At:
    """One cut, at the layer that lies as deep as layer `depth` of `of`: max(1, round(depth·L/of)).

    depth 0 stays 0, before the language model. The schedule's `layer` argument puts the cut
    elsewhere; it raises ValueError for a layer that the model does not have.
    Raises ValueError unless 0 <= depth < of.
    """
    if not 0 <= depth < of:
        raise ValueError(f"at({depth}, of={of}): give a layer from 0 to {of - 1}")
    return At(depth, of, source or f"layer {depth} of {of}")


@dataclass(frozen=True)
class Staged:
    """Several cuts; see `staged`."""

    depths: tuple[int, ...]
    of: int
    last: int | None
    source: str
    published: Mapping[tuple[int, int, int], tuple[int, ...]] = field(hash=False, repr=False)

    def __call__(
        self, keep: int, n_visual: int, n_layers: int, layer: int | None = None
    ) -> tuple[Cut, ...]:
        keep = check_keep(keep, n_visual)
        layers = self.layers(n_layers)
        if layer is not None:
            raise ValueError(
                f"layer={layer}: this schedule has {len(self.depths)} stages, at layers "
                f"{_list(layers)}; an explicit layer moves single-cut methods only"
            )
        pruned = self.published.get((n_visual, n_layers, keep))
        if pruned is not None:
            return _cuts(layers, self._published_counts(n_visual, pruned))
        if keep == n_visual:  # the only way to have that mean
            return _cuts(layers, [n_visual] * len(layers))
        return self._solve(keep, n_visual, n_layers, layers)

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The stages' layers in a model of `n_layers`; ValueError if two fall together."""
        layers = tuple(_scaled(depth, self.of, n_layers) for depth in self.depths)
        if any(a >= b for a, b in pairwise(layers)) or layers[-1] >= n_layers:
            raise ValueError(
                f"{len(layers)} stages at layers {_list(self.depths)} of {self.of} fall on "
                f"{_list(layers)} of {n_layers}: the model is too shallow to keep them apart"
            )
        return layers

    def _published_counts(self, n_visual: int, pruned: tuple[int, ...]) -> list[int]:
        counts, n = [], n_visual
        for percent in pruned:
            n = max(1, n * (100 - percent) // 100)  # whole numbers: no rounding surprise
            counts.append(n)
        return counts

    def _counts(self, n_visual: int, ratio: float) -> list[int]:
        counts, n = [], n_visual
        for _ in self.depths if self.last is None else self.depths[:-1]:
            n = max(1, int(n * ratio))
            counts.append(n)
        return counts if self.last is None else [*counts, min(self.last, n)]

    def _solve(
        self, keep: int, n_visual: int, n_layers: int, layers: tuple[int, ...]
    ) -> tuple[Cut, ...]:
        def mean(ratio: float) -> float:
            return mean_tokens(_cuts(layers, self._counts(n_visual, ratio)), n_visual, n_layers)

        low, high = 0.0, 1.0
        floor, ceiling = mean(low), mean(high)
        if not floor <= keep <= ceiling:
            raise Infeasible(
                f"keep={keep}: cuts at layers {_list(layers)} of {n_layers} can reach a mean of "
                f"{floor:.1f} (all {n_visual} tokens run through the first {layers[0]}) to "
                f"{ceiling:.1f} visual tokens per layer; ask for a mean in between"
            )
        # The mean rises with the ratio in steps: close in on the step that crosses `keep`.
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if mean(middle) <= keep else (low, middle)
        ratio = min((low, high), key=lambda r: abs(mean(r) - keep))
        return _cuts(layers, self._counts(n_visual, ratio))

    def __str__(self) -> str:
        end = "" if self.last is None else f", the last leaves {self.last}"
        return f"cuts at layers {_list(self.depths)} of {self.of}{end}"


def staged(
    depths: Sequence[int],
    of: int = 32,
    *,
    last: int | None = None,
    published: Mapping[tuple[int, int, int], tuple[int, ...]] | None = None,
    source: str = "",
) -> Staged:
    """Several cuts, each keeping one ratio of the tokens that are there: n' = max(1, int(n·ratio)).

    depths, of: layers of the source's model, scaled to the model at hand as in `at`, at least 1.
    last: what the last stage leaves, whatever the ratio (None: the ratio holds there too).
    published: lists of a source, {(n_visual, n_layers, keep): per cent *pruned* of the current
    tokens at each stage}; they are used as printed, even where their mean is not `keep`.
    For everything else the schedule solves for the ratio whose mean over the layers is nearest to
    `keep` (a tie takes fewer tokens); keep = n_visual keeps everything. Calling it raises
    `Infeasible` with the reachable means where the wanted one is outside them, and ValueError where
    the model is too shallow or a `layer` is given.
    """
    depths = tuple(depths)
    if not depths or depths[0] < 1 or depths[-1] >= of:
        raise ValueError(f"staged({depths}, of={of}): give one or more layers from 1 to {of - 1}")
    if any(a >= b for a, b in pairwise(depths)):
        raise ValueError(f"staged({depths}, of={of}): give the layers in rising order")
    if last is not None and last < 1:
        raise ValueError(f"last={last}: at least one visual token must stay")
    published = dict(published or {})
    if wrong := [list_ for list_ in published.values() if len(list_) != len(depths)]:
        raise ValueError(f"published list {wrong[0]} needs one number for each layer of {depths}")
    return Staged(depths, of, last, source or f"layers {_list(depths)} of {of}", published)


# LLaVA-1.5 (576 visual tokens, 32 layers), per cent pruned of the current tokens at layers 3, 17
# and 22, from the V2Drop paper as quoted by its readers (repository issue 6). The means come out
# at 193.75, 131.0 and 66.7 tokens, which only "of the current tokens" explains.
V2DROP_LLAVA = {
    (576, 32, 192): (50, 70, 100),
    (576, 32, 128): (72, 75, 100),
    (576, 32, 64): (95, 95, 100),
}


def _scaled(depth: int, of: int, n_layers: int) -> int:
    return max(min(depth, 1), round(depth * n_layers / of))


def _cuts(layers: Sequence[int], counts: Sequence[int]) -> tuple[Cut, ...]:
    return tuple(Cut(layer, keep) for layer, keep in zip(layers, counts, strict=True))


def _check_layer(layer: int, n_layers: int) -> int:
    if isinstance(layer, bool) or not hasattr(layer, "__index__"):
        raise TypeError(f"layer={layer!r}: give the number of a decoder layer as an int")
    layer = layer.__index__()
    if not 0 <= layer < n_layers:
        raise ValueError(
            f"layer={layer}: the language model has {n_layers} layers, 0 to {n_layers - 1}"
        )
    return layer


def _list(numbers) -> str:
    return ", ".join(map(str, numbers))
