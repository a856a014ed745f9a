"""Where to cut and how many tokens to keep there.

A schedule is a callable `(keep, n_visual, n_layers, layer=None) -> tuple[Cut, ...]` with a text
`.source`. Layers count from 0, and a cut at layer ℓ shortens what enters layer ℓ (0: what enters
the language model). `keep` is the count after the cut for a single cut, and the wanted mean over
the layers for a staged schedule, as the papers label their rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Real

__all__ = [
    "At", "Cut", "Infeasible", "LISTS", "Schedule", "Staged",
    "at", "check_keep", "check_share", "count_at", "mean_tokens", "staged", "tokens_per_layer",
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


def check_share(share: float) -> float:
    """`share` as a plain float in (0, 100].

    Raises TypeError unless it is a number (a bool is none), ValueError if out of range.
    """
    if isinstance(share, bool) or not isinstance(share, Real):
        raise TypeError(f"share={share!r}: give a percentage of the visual tokens, such as 11.1")
    if not 0 < share <= 100:
        raise ValueError(f"share={share}: give a percentage in (0, 100]")
    return float(share)


def count_at(share: float, n_visual: int) -> int:
    """How many of n_visual tokens a share of them in % is: the nearest count, at least one.

    Errors as in `check_share`. No source says how to round: to the even count at a half is ours.
    """
    return max(1, round(n_visual * check_share(share) / 100))


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
    Raises TypeError unless depth is a whole number, ValueError unless 0 <= depth < of.
    """
    if isinstance(depth, bool) or not hasattr(depth, "__index__"):
        raise TypeError(f"at({depth!r}, of={of}): give the layer as an int")
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
    counts: Mapping[tuple[int, int, int], tuple[int, ...]] = field(hash=False, repr=False)
    share: str = "current"
    lists: str = "same depth"

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
        found = self._listed(keep, n_visual, n_layers)
        if found is not None:
            return _cuts(layers, found)
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

    def using(self, lists: str) -> "Staged":
        """The same schedule with another use of its lists, one of LISTS; see `staged`."""
        if lists not in LISTS:
            raise ValueError(f"lists={lists!r}: allowed are {', '.join(LISTS)}")
        return replace(self, lists=lists)

    def _listed(self, keep: int, n_visual: int, n_layers: int) -> list[int] | None:
        """The counts of a source's list for that share of the visual tokens."""
        for (n, depth, label), numbers in {**self.published, **self.counts}.items():
            fits = depth == n_layers if self.lists == "same depth" else self.lists == "scaled"
            if not fits or keep != round(label * n_visual / n):
                continue
            if (n, depth, label) in self.counts:
                return [max(1, round(count * n_visual / n)) for count in numbers]
            return self._published_counts(n_visual, numbers)
        return None

    def _published_counts(self, n_visual: int, pruned: tuple[int, ...]) -> list[int]:
        counts, n = [], n_visual
        for percent in pruned:
            n = max(1, n * (100 - percent) // 100)  # whole numbers: no rounding surprise
            counts.append(n)
        return counts

    def _counts(self, n_visual: int, ratio: float) -> list[int]:
        counts, n = [], n_visual
        for stage, _ in enumerate(self.depths if self.last is None else self.depths[:-1], 1):
            n = max(1, int(n * ratio if self.share == "current" else n_visual * ratio**stage))
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
    counts: Mapping[tuple[int, int, int], tuple[int, ...]] | None = None,
    share: str = "current",
    source: str = "",
) -> Staged:
    """Several cuts, each keeping one ratio of the tokens that are there: n' = max(1, int(n·ratio)).

    share: "current", as above, or "original": stage s keeps max(1, int(N·ratioˢ)) of all N.

    depths, of: layers of the source's model, scaled to the model at hand as in `at`, at least 1.
    last: what the last stage leaves, whatever the ratio (None: the ratio holds there too).
    published: lists of a source, {(n_visual, n_layers, keep): per cent *pruned* of the current
    tokens at each stage}; counts: the same as tokens *kept* at each stage. They are used as
    printed, even where their mean is not `keep`, wherever a model has the source's depth and `keep`
    is the same share of its visual tokens, to the nearest token; counts scale with N, rounded, at
    least 1. `schedule.using("scaled")` uses them at any depth too, with the layers scaled as in
    `at`; `using("none")` solves for the mean always.
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
    if share not in ("current", "original"):
        raise ValueError(f"share={share!r}: allowed are current, original")
    if last is not None and last < 1:
        raise ValueError(f"last={last}: at least one visual token must stay")
    published, counts = dict(published or {}), dict(counts or {})
    lists = [*published.values(), *counts.values()]
    if wrong := [list_ for list_ in lists if len(list_) != len(depths)]:
        raise ValueError(f"published list {wrong[0]} needs one number for each layer of {depths}")
    source = source or f"layers {_list(depths)} of {of}"
    return Staged(depths, of, last, source, published, counts, share)


LISTS = ("same depth", "scaled", "none")


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
