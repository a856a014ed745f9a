"""What a block is asked to do: its methods in turn, and for each prompt where they cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..algebra.cuts import Cut
from ..algebra.selection import Kept
from ..families import family_of
from ..methods import Method, Rule
from ..methods import method as find_method
from ..methods.evidence import Evidence
from .inside_tower import TowerSite

__all__ = [
    "DEFAULT_KEEP", "Stage", "Step", "check_numbers", "kept_of", "scores_of", "stages_of",
    "steps_of",
]  # fmt: skip


class _Default(int):
    """An int that can be told from the same number given by the caller."""


DEFAULT_KEEP = _Default(64)


@dataclass(frozen=True, eq=False)
class Stage:
    """One method of a block: what its rule and selection read, its cuts, its choice."""

    method: Method
    sees: set[str]
    plan: Callable[[int, int], tuple[Cut, ...]]  # of keep and the number of visual tokens
    choose: Callable[[Evidence, int], tuple[Tensor, Kept]]
    keeps: tuple[int, ...] = (1,)  # for all rows, or for each
    site: TowerSite | None = None  # for a method inside the vision tower
    looks: bool = False  # scores and cuts nothing
    given: Sequence[tuple[Tensor, Kept]] | None = None  # each row's choice, where made before

    def check_rows(self, ids: Tensor) -> None:
        """ValueError unless there is a budget for each prompt of ids (B, S); beams repeat one."""
        count, rows = len(self.keeps), len(ids)
        if count in (1, rows):
            return
        copies = None if rows % count else ids.unflatten(0, (count, -1))
        if copies is None or not bool((copies == copies[:, :1]).all()):
            raise ValueError(
                f"keep={list(self.keeps)}: {count} numbers for a batch of {rows} prompts, give one "
                "for all or one for each"
            )

    def check_kept(self, kept: Kept, keep: int, n_visual: int) -> None:
        """RuntimeError where the selection gave another number of tokens than was planned."""
        select, index = self.method.select, kept.index
        own = any(
            getattr(select, name, False) for name in ("own_counts", "official_counts", "adaptive")
        )
        if len(index) != keep and not (own and len(index)):
            raise RuntimeError(
                f"method {self.method.name!r}: its selection kept {len(index)} tokens where {keep} "
                "were planned; give as many, or set `own_counts = True` on the selection"
            )
        steps = index.diff(prepend=index.new_tensor([-1]), append=index.new_tensor([n_visual]))
        if not bool((steps > 0).all()):
            raise RuntimeError(
                f"method {self.method.name!r}: its selection gave the numbers {index.tolist()} for "
                f"{n_visual} tokens; give each once, ascending, from 0 to {n_visual - 1}"
            )

    def keep_of(self, row: int, rows: int) -> int:
        return self.keeps[row * len(self.keeps) // rows]  # beams repeat each prompt


def _stage(
    model: nn.Module, name: Any, keep: int, /, layer: int | None = None, **more: Any
) -> Stage:
    chosen = find_method(name, **more)
    keeps = tuple(keep) if isinstance(keep, list | tuple) and keep else (keep,)
    n_layers = [check_numbers(model, count, layer) for count in keeps][0]

    def choose(evidence: Evidence, count: int) -> tuple[Tensor, Kept]:
        scores = scores_of(chosen, evidence)
        return scores, kept_of(chosen, evidence, scores, count)

    def plan(keep: int, n_visual: int) -> tuple[Cut, ...]:
        return chosen.schedule(keep, n_visual, n_layers, layer)

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
        site = TowerSite(model, family_of(model), chosen.encode, keep)
    return Stage(chosen, chosen.sees, plan, choose, keeps, site)


def scores_of(chosen: Method, evidence: Evidence) -> Tensor:
    """One score for each visual token; ValueError where the rule gives another number of them."""
    rule = chosen.rule
    scores = rule(*(getattr(evidence, word) for word in rule.sees), **chosen.params)
    if scores.shape != evidence.visual.shape:
        raise ValueError(
            f"rule {rule.name!r} gave scores of shape {tuple(scores.shape)} for "
            f"{len(evidence.visual)} visual tokens: return one number per token"
        )
    return scores


def kept_of(chosen: Method, evidence: Evidence, scores: Tensor, count: int) -> Kept:
    """What the method's selection keeps, told the evidence that it asks for."""
    more = {word: getattr(evidence, word) for word in chosen.select_sees}
    return chosen.select(scores, count, **more)


def stages_of(
    model: nn.Module, method: Any, keep: int | Sequence[int], options: dict[str, Any]
) -> list[Stage]:
    """One method with its options, or a list of (method, keep, options), as the stages of a block.

    TypeError with the form, ValueError with what is allowed.
    """
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


def check_numbers(model: nn.Module, keep: int, layer: int | None) -> int:
    n_layers = len(family_of(model).part(model, "layers"))
    for name, value in (("keep", keep), ("layer", layer)):
        free = name == "layer" and value is None  # None is the method's own depth
        if not free and (isinstance(value, bool) or not hasattr(value, "__index__")):
            raise TypeError(f"{name}={value!r}: give a whole number")
    if keep < 1:
        raise ValueError(f"keep={keep}: keep at least 1 visual token of each prompt")
    if layer is not None and not 0 <= layer < n_layers:
        raise ValueError(f"layer={layer}: the model has layers 0 to {n_layers - 1}")
    return n_layers


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
        keep = stage.keep_of(row, len(visual))
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
            cuts = stage.plan(keep, steps[m - 1].keep if m else n_visual)
        except ValueError as cause:
            problem = problem or cause
            continue
        door = cuts[0].layer
        if (not m or steps[m - 1].layer <= door) and (m == len(steps) or door < steps[m].layer):
            return cuts
    if not steps:
        raise problem
    raise type(problem)(f"method {stage.method.name!r} after the others: {problem}") from problem
