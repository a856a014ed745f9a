"""One method of a block: three kinds of stage, each with its cuts and its choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..algebra.cuts import Cut, check_share, count_at
from ..algebra.selection import Kept
from ..methods import Method
from ..methods.evidence import Evidence
from .control import Control
from .inside_tower import TowerSite

__all__ = ["Given", "Looking", "Share", "Stage", "count_of", "kept_of", "scores_of"]


@dataclass(frozen=True)
class Share:
    """A budget in % of each prompt's own visual tokens."""

    percent: float

    def __post_init__(self) -> None:
        check_share(self.percent)

    def __str__(self) -> str:
        return f"{self.percent} %"


def count_of(budget: int | Share, n_visual: int) -> int:
    """Tokens that a budget is, of a prompt with n_visual of them."""
    return count_at(budget.percent, n_visual) if isinstance(budget, Share) else budget


@dataclass(frozen=True, eq=False)
class Stage:
    """One method of a block: where it cuts, and what stays there.

    keeps: the budget of all rows, or one for each.
    """

    method: Method
    sees: frozenset[str] | set[str]
    keeps: tuple[int | Share, ...] = (1,)
    layer: int | None = None
    n_layers: int = 0
    site: TowerSite | None = None  # for a method inside the vision tower
    control: Control = field(default_factory=Control)

    drops = True  # a stage that only looks takes nothing out of the stream

    def cuts(self, keep: int, n_visual: int) -> tuple[Cut, ...]:
        """The method's cuts for a prompt of n_visual tokens; ValueError where there are none."""
        return self.method.schedule(keep, n_visual, self.n_layers, self.layer)

    def choose(self, evidence: Evidence, keep: int) -> tuple[Tensor, Kept]:
        """The scores of the tokens at a cut, and which `keep` of them stay. RuntimeError where the
        selection gives another number than that."""
        scores = scores_of(self.method, evidence)
        kept = kept_of(self.method, evidence, scores, keep)
        _check_kept(self.method, kept, keep, len(evidence.visual))
        return scores, kept

    def keep_of(self, row: int, counts: Sequence[int]) -> int:
        """The budget of a row of a batch whose rows have so many visual tokens."""
        budget = self.keeps[row * len(self.keeps) // len(counts)]  # beams repeat each prompt
        return count_of(budget, counts[row])

    def check_rows(self, ids: Tensor) -> None:
        """ValueError unless there is a budget for each prompt of ids (B, S); beams repeat one."""
        count, rows = len(self.keeps), len(ids)
        if count in (1, rows):
            return
        copies = None if rows % count else ids.unflatten(0, (count, -1))
        if copies is None or not bool((copies == copies[:, :1]).all()):
            raise ValueError(
                f"keep=[{', '.join(map(str, self.keeps))}]: {count} numbers for a batch of {rows} "
                "prompts, give one for all or one for each"
            )


@dataclass(frozen=True, eq=False)
class Looking(Stage):
    """Shows the evidence at one layer to `look`, and cuts nothing."""

    look: Callable[[Evidence], Any] | None = None

    drops = False

    def cuts(self, keep: int, n_visual: int) -> tuple[Cut, ...]:
        return (Cut(self.layer, n_visual),)

    def choose(self, evidence: Evidence, keep: int) -> tuple[Tensor, Kept]:
        self.look(evidence)
        everyone = evidence.visual.new_ones(keep).cumsum(0) - 1
        return everyone.new_zeros(keep).float(), Kept(everyone)


@dataclass(frozen=True, eq=False)
class Given(Stage):
    """Makes one cut whose choice, for each row, was made before."""

    choices: Sequence[tuple[Tensor, Kept]] = ()

    def cuts(self, keep: int, n_visual: int) -> tuple[Cut, ...]:
        return (Cut(self.layer, keep),)

    def choose(self, evidence: Evidence, keep: int) -> tuple[Tensor, Kept]:
        return self.choices[evidence.row]


def scores_of(chosen: Method, evidence: Evidence) -> Tensor:
    """One score for each visual token; ValueError where the rule gives another number of them."""
    rule = chosen.rule
    scores = rule(*(getattr(evidence, word) for word in rule.sees), **chosen.params)
    if not isinstance(scores, Tensor) or scores.shape != evidence.visual.shape:
        shape = f"scores of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else ""
        raise ValueError(
            f"rule {rule.name!r} gave {shape or type(scores).__name__} for "
            f"{len(evidence.visual)} visual tokens: return a tensor with one number per token"
        )
    return scores


def kept_of(chosen: Method, evidence: Evidence, scores: Tensor, count: int) -> Kept:
    """What the method's selection keeps, given the evidence that it asks for."""
    more = {word: getattr(evidence, word) for word in chosen.select_sees}
    return chosen.select(scores, count, **more)


def _check_kept(chosen: Method, kept: Kept, keep: int, n_visual: int) -> None:
    index = kept.index
    own = any(
        getattr(chosen.select, name, False)
        for name in ("own_counts", "official_counts", "adaptive")
    )
    if len(index) != keep and not (own and len(index)):
        raise RuntimeError(
            f"method {chosen.name!r}: its selection kept {len(index)} tokens where {keep} were "
            "planned; give as many, or set `own_counts = True` on the selection"
        )
    steps = index.diff(prepend=index.new_tensor([-1]), append=index.new_tensor([n_visual]))
    if not bool((steps > 0).all()):
        raise RuntimeError(
            f"method {chosen.name!r}: its selection gave the numbers {index.tolist()} for "
            f"{n_visual} tokens; give each once, ascending, from 0 to {n_visual - 1}"
        )
