"""What a block is asked to do: its methods in turn, and for each prompt where they cut."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ..algebra.cuts import Cut
from ..families import family_of
from ..families.base import unwrapped
from ..methods import Method, Rule
from ..methods import method as find_method
from .control import Control
from .inside_tower import TowerSite
from .stages import Share, Stage, count_of

__all__ = ["DEFAULT_KEEP", "Step", "check_numbers", "stages_of", "steps_of"]


class _Default(int):
    """An int that can be told from the same number given by the caller."""


DEFAULT_KEEP = _Default(64)


# ------------------------------------------------------------------- from arguments to stages


def _stage(
    model: nn.Module,
    name: Any,
    keep: Any,
    /,
    layer: int | None = None,
    share: Any = None,
    score_question: Any = None,
    control: str | None = None,
    control_seed: int = 0,
    **more: Any,
) -> Stage:
    chosen = find_method(name, **more)
    keeps = _budgets(keep, share)
    n_layers = [check_numbers(model, count, layer) for count in keeps][0]
    other = Control(score_question, control, control_seed)
    other.check(chosen)
    site = None
    if chosen.encode is not None:
        if layer:
            raise ValueError(
                f"layer={layer}: method {chosen.name!r} works inside the vision tower, its tokens "
                "enter the language model at layer 0; leave layer out"
            )
        if len(keeps) > 1:
            raise ValueError(
                f"keep={list(keeps)}: method {chosen.name!r} works inside the vision tower, with "
                "one number for all prompts of a batch"
            )
        site = TowerSite(model, family_of(model), chosen.encode, lambda n: count_of(keeps[0], n))
    return Stage(chosen, chosen.sees, keeps, layer, n_layers, site, other)


def _budgets(keep: Any, share: Any) -> tuple:
    if share is None:
        return tuple(keep) if isinstance(keep, list | tuple) and keep else (keep,)
    if keep is not None and keep is not DEFAULT_KEEP:
        raise TypeError(
            f"keep={keep!r} and share={share!r}: give one of them, a count of visual tokens or a "
            "percentage of each prompt's"
        )
    shares = share if isinstance(share, list | tuple) and share else [share]
    return tuple(Share(one) for one in shares)


def stages_of(
    model: nn.Module, method: Any, keep: int | Sequence[int], options: dict[str, Any]
) -> list[Stage]:
    """One method with its options, or a list of (method, keep, options), as the stages of a block.

    TypeError with the form, ValueError with what is allowed.
    """
    model = unwrapped(model)
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(method, str | Method | Rule):
        wanted = [(method, keep, options)]
    else:
        wanted = _composed(method, keep, options)
    stages = [_stage(model, name, count, **more) for name, count, more in wanted]
    late = next((stage.method.name for stage in stages[1:] if stage.site is not None), None)
    if late is not None:
        raise ValueError(f"method {late!r} works inside the vision tower: put it before the others")
    if len(stages) > 1 and any(stage.method.reading == "two_pass" for stage in stages):
        raise ValueError("reading='two_pass' starts over after one method: compose with 'in_place'")
    if len({s.control.question for s in stages if s.control.question is not None}) > 1:
        raise ValueError(
            "score_question: a block is scored with one other question, give its methods the same"
        )
    return stages


def _composed(methods: Any, keep: int, options: dict[str, Any]) -> list[tuple]:
    """[(method, keep, options)] as (method, keep, options) of each; TypeError with the form."""
    form = "give a method's name, or a list such as [('divprune', 72), ('qvid', 16, {'rank': 8})]"
    if not isinstance(methods, list | tuple) or not methods:
        raise TypeError(f"method={methods!r}: {form}")
    for entry in methods:
        if not isinstance(entry, list | tuple) or len(entry) not in (2, 3):
            raise TypeError(f"method=[... {entry!r} ...]: {form}")
        if len(entry) == 3 and not isinstance(entry[2], dict):
            raise TypeError(f"method=[... {entry!r} ...]: the third part is a dict of options")
    if keep is not DEFAULT_KEEP or options:
        given = ", ".join([*(["keep"] if keep is not DEFAULT_KEEP else []), *options])
        raise TypeError(f"{given}: belongs to one of several methods; {form}")
    return [(*entry, {}) if len(entry) == 2 else tuple(entry) for entry in methods]


def check_numbers(model: nn.Module, keep: int | Share, layer: int | None) -> int:
    """The model's number of layers; TypeError or ValueError for a keep or layer that is none."""
    n_layers = len(family_of(model).part(model, "layers"))
    for name, value in (("keep", keep), ("layer", layer)):
        free = name == "layer" and value is None  # None is the method's own depth
        free = free or isinstance(value, Share)
        if not free and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"{name}={value!r}: give a whole number")
    if not isinstance(keep, Share) and keep < 1:
        raise ValueError(f"keep={keep}: keep at least 1 visual token of each prompt")
    if layer is not None and not 0 <= layer < n_layers:
        raise ValueError(f"layer={layer}: the model has layers 0 to {n_layers - 1}")
    return n_layers


# -------------------------------------------------------------------- the cuts of each prompt


class Step(NamedTuple):
    """One cut of one row: `stage` numbers the methods of the block."""

    layer: int
    stage: int
    keep: int


def steps_of(
    stages: Sequence[Stage], row: int, visual: Sequence[int], depth: int
) -> tuple[list[Step], float]:
    """The cuts of a prompt, in their order, and the mean over layers of what they leave.

    row: which of a batch whose prompts have `visual` visual tokens; depth: layers of the model.
    ValueError where a method asks for more than the others have left.
    """
    steps: list[Step] = []
    n_visual = visual[row]
    for k, stage in enumerate(stages if n_visual else ()):
        keep = stage.keep_of(row, visual)
        steps += [Step(cut.layer, k, cut.keep) for cut in _among(steps, stage, keep, n_visual)]
        steps.sort(key=lambda step: step.layer)  # stable: at one layer in the caller's order
    counts = [n_visual] * depth
    for step in steps:
        if step.keep > counts[step.layer]:
            raise ValueError(
                f"method {stages[step.stage].method.name!r} keeps {step.keep} visual "
                f"tokens at layer {step.layer}, where the others have left "
                f"{counts[step.layer]}: ask for less, or put it before them"
            )
        counts[step.layer :] = [step.keep] * (depth - step.layer)
    return steps, sum(counts) / depth


def _among(steps: list[Step], stage: Stage, keep: int, n_visual: int) -> tuple[Cut, ...]:
    """The cuts of a method that finds what earlier ones have left at its first layer."""
    problem = None
    for m in range(len(steps), -1, -1):  # as many of the others' cuts come before it
        try:
            cuts = stage.cuts(keep, steps[m - 1].keep if m else n_visual)
        except ValueError as cause:
            problem = problem or cause
            continue
        first = cuts[0].layer
        if (not m or steps[m - 1].layer <= first) and (m == len(steps) or first < steps[m].layer):
            return cuts
    if not steps:
        raise problem
    raise type(problem)(f"method {stage.method.name!r} after the others: {problem}") from problem
