"""Which cells a run has: one setting each, and grids of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...algebra.cuts import check_share, count_at
from ...methods import Method, method
from ..benchmarks.base import CELL
from ..benchmarks.prompts import same_share
from .plain import plain

#: Ways of scoring a method without its question, as `Cell` takes them.
CONTROLS = ("another-question", "noise", "keys")
KEEPS = (48, 32, 16)  # of 144: the papers' 192, 128 and 64 of 576 (`keeps_of`)


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting to evaluate: a method at a budget and a layer, or the full model (`method=None`).

    params: overrides of the method (`rank=8`, `query="content"`, …). A name, word or value that
    the method does not know is an error here, and not in the middle of a run. lists: use of a
    staged method's published lists (`Staged.using`); before: a cut that comes first, as `pruned`
    takes it, e.g. ("divprune", 72, {"positions": "original"}); shared: `keep` is the mean over the
    questions of a suite, each gets its part by its interaction spectrum (`budgets`); share: instead
    of `keep`, the budget in % of each prompt's own visual tokens (`cuts.count_at`), for models
    to which pictures or clips differ in size; of all of them, also where `before` leaves fewer:
    what is more than that is an error, before a run where it holds for every prompt. control: the
    method is scored without its question, by "noise" or the "keys" alone (`pruned`'s control), or
    by "another-question" of its suite (`benchmarks.other_questions`).
    """

    method: str | Method | None = None
    keep: int | None = None
    layer: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    lists: str = ""
    before: tuple = ()
    shared: bool = False
    share: float | None = None
    control: str = ""

    def __post_init__(self) -> None:
        for name, least in (("keep", 1), ("layer", 0)):
            object.__setattr__(self, name, _whole(name, getattr(self, name), least))
        if self.share is not None:
            if self.keep is not None:
                raise ValueError(
                    f"cell with keep={self.keep!r} and share={self.share!r}: give one of them, a "
                    "count of visual tokens or a percentage of each prompt's"
                )
            if self.shared:
                raise ValueError(
                    f"cell with share={self.share!r} and shared=True: the mean that questions "
                    "share is a count, give it as keep"
                )
            object.__setattr__(self, "share", check_share(self.share))
        if (self.method is None) != (self.keep is None and self.share is None):
            raise ValueError(
                f"cell with method={self.method!r} and keep={self.keep!r}: give both to prune "
                "(or share in place of keep), neither for the full model"
            )
        if self.control not in ("", *CONTROLS):
            raise ValueError(
                f"cell with control={self.control!r}: it must be one of {', '.join(CONTROLS)}"
            )
        more = self.params or self.layer is not None or self.lists or self.before
        more = more or self.shared or self.control
        if self.method is None and more:
            raise ValueError("cell without a method: the full model has no layer and no parameters")
        if self.method is not None:
            _ = self.parts  # finds what is wrong

    @property
    def chosen(self) -> Method:
        """The method with its overrides."""
        found = method(self.method, **self.params)
        return using(found, self.lists) if self.lists else found

    def budget(self, counts: Sequence[int]) -> int | list[int]:
        """What is kept of prompts with so many visual tokens each: one number, or one for each."""
        if self.share is None:
            return self.keep
        keeps = [count_at(self.share, n_visual) for n_visual in counts]
        return keeps[0] if len(set(keeps)) == 1 else keeps

    @property
    def first(self) -> list[tuple[Method, int, dict[str, Any]]]:
        """The cut that comes first, if any, as `pruned` takes it."""
        if not self.before:
            return []
        if len(self.before) not in (2, 3):
            raise ValueError(
                f"cell with before={self.before!r}: give (method, keep) or (method, keep, options)"
            )
        name, keep, *more = self.before
        keep = _whole("before", keep, 1)
        options = dict(more[0]) if more else {}
        place = {"layer": options.pop("layer")} if "layer" in options else {}
        return [(method(name, **options), keep, place)]

    def stages(
        self, counts: Sequence[int], others: Sequence[str] = ("another?",)
    ) -> list[tuple[Method, int | list[int], dict[str, Any]]]:
        """What `pruned` takes for a batch of prompts with so many visual tokens each: the cut that
        comes first, if any, then the cell's own. others: another question for each prompt, which a
        control may ask for."""
        own: dict[str, Any] = {} if self.layer is None else {"layer": self.layer}
        if self.control == CONTROLS[0]:
            own["score_question"] = list(others)
        elif self.control:
            own["control"] = self.control
        return [*self.first, (self.chosen, self.budget(counts), own)]

    def asked(
        self, counts: Sequence[int], others: Sequence[str] = ("another?",)
    ) -> tuple | list[tuple] | None:
        """The cell as `grid.answers` takes it: one cut, several one after the other, or none."""
        if self.method is None:
            return None
        stages = self.stages(counts, others)
        return stages if self.before or self.shared else stages[0]

    @property
    def labels(self) -> dict[str, Any]:
        """What names the cell in a table; variant: its parameters but the rank, in words."""
        if self.method is None:
            return dict.fromkeys(CELL) | {"method": "full", "variant": ""}
        chosen = self.chosen
        named = [(name, value) for name, value in self.params.items() if name != "rank"]
        words = [name if value is True else f"{name}={value}" for name, value in named]
        words += [f"lists={self.lists}"] if self.lists else []
        words += [f"after {self.before[0]} {self.before[1]}"] if self.before else []
        words += ["budget shared by spectrum"] if self.shared else []
        words += [f"control={self.control}"] if self.control else []
        return {
            "method": chosen.name,
            "variant": ", ".join(words),
            "keep": self.keep,
            "retention_pct": self.share,
            "layer": self.layer,
            "rank": chosen.params.get("rank"),
        }

    @property
    def words(self) -> list[str]:
        """The labels that are not empty, as texts; a share says that it is one."""
        shown = {name: str(v) for name, v in self.labels.items() if v not in (None, "")}
        return [f"share={v}" if name == "retention_pct" else v for name, v in shown.items()]

    @property
    def parts(self) -> dict[str, Any]:
        """What the cell brings into the key of its records (`identity`)."""
        if self.method is None:
            return {"method": None, "keep": None, "layer": None}
        found = {"method": plain(self.chosen), "keep": self.keep, "layer": self.layer}
        if self.share is not None:
            found["share"] = self.share
        if self.control:
            found["control"] = self.control
        if self.before:
            found["before"] = plain(self.first[0])
        return found | ({"shared": True} if self.shared else {})


def _whole(name: str, value: Any, least: int) -> int | None:
    """A whole number of `least` or more, or None; TypeError, ValueError for another."""
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"cell with {name}={value!r}: give a whole number of {least} or more")
    if value.__index__() < least:
        raise ValueError(f"cell with {name}={value}: give a whole number of {least} or more")
    return value.__index__()


def grid(
    methods: Iterable[str | Method],
    keeps: Iterable[int],
    layers: Iterable[int | None] = (None,),
    *,
    shares: Iterable[float] = (),
    **params: Any,
) -> list[Cell]:
    """Every method at every budget and layer, with the same parameters; keeps: counts, shares: %
    of each prompt's visual tokens."""
    budgets = [{"keep": keep} for keep in keeps] + [{"share": share} for share in shares]
    layers = list(layers)
    return [
        Cell(m, layer=layer, params=params, **budget)
        for m in methods
        for budget in budgets
        for layer in layers
    ]


def keeps_of(config: Any, keeps: Iterable[int] = KEEPS) -> list[int]:
    """Budgets of the embedded model's 144 visual tokens as the same shares of this model's:
    48, 32 and 16 are 192, 128 and 64 of LLaVA-1.5's 576. ValueError as `same_share`."""
    return [same_share(keep, config) for keep in keeps]


def using(method: Method, lists: str) -> Method:
    """The same method with another use of its published lists."""
    return replace(method, schedule=method.schedule.using(lists))
