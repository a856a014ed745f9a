"""Three coordinates of one budget: tokens kept, mean tokens over the layers, operations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .flops import decoder_of, prefill


def in_place(n_visual: int, keep: int, layer: int, n_layers: int) -> list[int]:
    """Visual tokens of each layer run, where the cut is made at `layer` and the pass goes on.

    Raises ValueError unless 0 <= layer < n_layers and 1 <= keep <= n_visual, as does `two_pass`.
    """
    _check_cut(n_visual, keep, layer, n_layers)
    return [n_visual] * layer + [keep] * (n_layers - layer)


def two_pass(n_visual: int, keep: int, layer: int, n_layers: int) -> list[int]:
    """The same where `layer` layers score, and a second pass runs all layers on what is kept.

    An inference from QViD's Table 8 (see `per_parameter`): its totals leave, over a line in the
    kept tokens, three of 32 layers on the whole prompt.
    """
    _check_cut(n_visual, keep, layer, n_layers)
    return [n_visual] * layer + [keep] * n_layers


def _check_cut(n_visual: int, keep: int, layer: int, n_layers: int) -> None:
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer={layer}: the model has layers 0 to {n_layers - 1}")
    if not 1 <= keep <= n_visual:
        raise ValueError(f"keep={keep}: keep 1 to {n_visual} of the {n_visual} visual tokens")


@dataclass(frozen=True)
class Budget:
    """One point in three coordinates: tokens kept, mean tokens over the layers, operations.

    mean_tokens counts every layer run over the model's layers: a scoring pass adds to it.
    """

    keep: int
    mean_tokens: float
    operations: float


def exchange(
    config: Any,
    n_visual: int,
    text: float,
    *,
    keep: int | None = None,
    mean_tokens: float | None = None,
    operations: float | None = None,
    tokens_of: Callable[[int], Sequence[float]] | None = None,
    **more: Any,
) -> Budget:
    """keep ↔ mean tokens ↔ operations: the other two of the one that is given.

    Where a mean or a cost is wanted, the answer is the largest keep that stays within it.
    tokens_of: keep → visual tokens of each layer run (default: `in_place` at the depth of layer 3
    of 32); more: as in `prefill`. Raises ValueError unless exactly one is given, and where even
    one kept token costs more, with that floor.
    """
    given = {"keep": keep, "mean_tokens": mean_tokens, "operations": operations}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        names = ", ".join(given) or "none"
        raise ValueError(f"give one of keep, mean_tokens and operations; got {names}")
    depth = decoder_of(config).layers
    layer = min(max(1, round(3 * depth / 32)), depth - 1)
    tokens_of = tokens_of or (lambda count: in_place(n_visual, count, layer, depth))

    def at(count: int) -> Budget:
        visual = tokens_of(count)
        cost = prefill(config, visual, text, **more).total
        return Budget(count, sum(visual) / depth, cost)

    if keep is not None:
        return at(keep)
    ((name, wanted),) = given.items()
    low, high = _least(tokens_of, n_visual), n_visual
    if getattr(at(low), name) > wanted:
        raise ValueError(
            f"{name}={wanted:g}: keep={low}, the least there is, already costs "
            f"{getattr(at(low), name):g}; ask for more, or cut earlier"
        )
    while low < high:  # both rise with keep
        middle = (low + high + 1) // 2
        low, high = (middle, high) if getattr(at(middle), name) <= wanted else (low, middle - 1)
    return at(low)


def _least(tokens_of: Callable[[int], list[int]], n_visual: int) -> int:
    """The smallest keep that a schedule can carry out; its own error where that is none."""
    low, high = 1, n_visual
    tokens_of(high)
    while low < high:  # what one keep allows, a larger one does
        middle = (low + high) // 2
        try:
            tokens_of(middle)
        except ValueError:
            low = middle + 1
        else:
            high = middle
    return low


def budget_table(
    config: Any, n_visual: int, text: float, keeps: Iterable[int], **more: Any
) -> list[dict[str, float]]:
    """Rows (keep, mean_tokens, operations, share of the unpruned model's operations) for a table.

    Arguments as in `exchange`; the unpruned model comes first.
    """
    depth = decoder_of(config).layers
    plain = {name: value for name, value in more.items() if name not in ("tokens_of", "scored")}
    full = prefill(config, [n_visual] * depth, text, **plain).total
    points = [Budget(n_visual, float(n_visual), full)]
    points += [exchange(config, n_visual, text, keep=keep, **more) for keep in keeps]
    return [
        {
            "keep": p.keep,
            "mean_tokens": p.mean_tokens,
            "operations": p.operations,
            "share": p.operations / full,
        }
        for p in points
    ]
