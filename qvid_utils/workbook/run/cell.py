"""Which cells a run has: one setting each, and the lists of settings that the notebooks compare."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...algebra.schedules import Cut, check_share, count_at
from ...methods import METHODS, Method, method
from ...methods.rules import RULES
from ..studies.equal_budgets import COMPARED, LEFT_OUT, entries, keep_after, using
from ..studies.low_rank import same_share
from ..tables.paper_tables import CELL as PRINTED
from ..tables.paper_tables import cells_of
from ..tables.report import CELL
from ..tables.schema import FULL, PAPER_TOKENS
from .key import plain

__all__ = [
    "KEEPS", "Cell", "comparison_cells", "every_method", "grid", "keeps_of", "layer_cells",
    "option_cells", "our_cells", "position_cells", "scoring_cells", "seed_cells", "stored_cells",
    "table_cells",
]  # fmt: skip

KEEPS = (48, 32, 16)  # of 144: the papers' 192, 128 and 64 of 576 (`keeps_of`)
SEEDS = (1, 2)  # more shuffles of `random` beside its own, 0
#: Methods at the door that renumber positions, and whose tokens have places of their own.
REPOSITIONED = ("svd_prune", "fastervlm", "vispruner", "divprune", "scope", "cdpruner")
#: How many of 144 tokens a cut at the door leaves to QViD, and whose cut it is.
FIRST_CUTS = {72: ("divprune", "fastervlm", "svd_prune", "cdpruner", "stride"),
              36: ("divprune", "fastervlm", "svd_prune")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting to evaluate: a method at a budget and a layer, or the full model (`method=None`).

    params: overrides of the method (`rank=8`, `query="content"`, …). A name, word or value that
    the method does not know is an error here, and not in the middle of a run. lists: use of a
    staged method's published lists (`Staged.using`); before: a cut that comes first, as `pruned`
    takes it, e.g. ("divprune", 72, {"positions": "original"}); shared: `keep` is the mean over the
    questions of a suite, each gets its part by its interaction spectrum (`budgets`); share: instead
    of `keep`, the budget in % of each prompt's own visual tokens (`schedules.count_at`), for models
    to which pictures or clips differ in size; of all of them, also where `before` leaves fewer:
    what is more than that is an error, before a run where it holds for every prompt.
    """

    method: str | Method | None = None
    keep: int | None = None
    layer: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    lists: str = ""
    before: tuple = ()
    shared: bool = False
    share: float | None = None

    def __post_init__(self) -> None:
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
        more = self.params or self.layer is not None or self.lists or self.before or self.shared
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
        name, keep, *more = self.before
        options = dict(more[0]) if more else {}
        place = {"layer": options.pop("layer")} if "layer" in options else {}
        return [(method(name, **options), keep, place)]

    def stages(self, counts: Sequence[int]) -> list[tuple[Method, int | list[int], dict[str, Any]]]:
        """What `pruned` takes for a batch of prompts with so many visual tokens each: the cut that
        comes first, if any, then the cell's own."""
        own = {} if self.layer is None else {"layer": self.layer}
        return [*self.first, (self.chosen, self.budget(counts), own)]

    def asked(self, counts: Sequence[int]) -> tuple | list[tuple] | None:
        """The cell as `grid.answers` takes it: one cut, several one after the other, or none."""
        if self.method is None:
            return None
        stages = self.stages(counts)
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
        if self.before:
            found["before"] = plain(self.first[0])
        return found | ({"shared": True} if self.shared else {})


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


def every_method() -> list[str]:
    """The methods of the table, then every rule that none of them uses: a new rule is in."""
    used = {entry.rule.name for entry in METHODS.values()}
    return [*METHODS, *(name for name in RULES if name not in used)]


def comparison_cells(
    config: Any, budgets: Iterable[int], methods: Sequence[str] = COMPARED
) -> list[Cell]:
    """Methods at equal label and at equal mean; a cell that serves both stands once.

    config: of a model with one picture size.
    """
    found = entries(config, budgets, methods)
    asked = dict.fromkeys((e.method, e.keep, e.lists) for e in found if e.keep is not None)
    return [Cell(name, keep, lists=lists) for name, keep, lists in asked]


def seed_cells(config: Any, budgets: Sequence[int]) -> list[Cell]:
    """Chance again, with other shuffles."""
    keeps = _counts(config, budgets, "random")
    return [cell for seed in SEEDS for cell in grid(["random"], keeps, seed=seed)]


def option_cells(keeps: Sequence[int]) -> list[Cell]:
    """QViD's ranks and spans."""
    ranks = [cell for rank in (1, 2, 4, 8) for cell in grid(["qvid"], keeps, rank=rank)]
    spans = [cell for span in ("content", "prompt") for cell in grid(["qvid"], keeps, query=span)]
    return [*ranks, *spans]


def position_cells(keeps: Sequence[int]) -> list[Cell]:
    """At the door: methods that renumber with original positions, and chance under both."""
    kept = grid(["random", "stride"], keeps, [0])
    renumbered = grid(["random", "stride"], keeps, [0], positions="contiguous")
    return [*grid(REPOSITIONED, keeps, positions="original"), *kept, *renumbered]


def our_cells(config: Any, budgets: Sequence[int]) -> list[Cell]:
    """QViD behind a cut at the door, at equal means, and with a budget for each question."""
    (cut,) = METHODS["qvid"].schedule(1, 1, config.get_text_config().num_hidden_layers)
    cells = []
    cuts = [(same_share(n, config), name) for n in FIRST_CUTS for name in FIRST_CUTS[n]]
    for first, name in cuts:
        options = {"layer": 0} if name == "stride" else {"positions": "original"}
        for budget in (b for b in budgets if b < first):
            keep = keep_after([Cut(0, first)], budget, config, cut.layer)
            cells.append(Cell("qvid", keep, before=(name, first, options)))
    return [*cells, *(Cell("qvid", keep, shared=True) for keep in _counts(config, budgets, "qvid"))]


def _counts(config: Any, budgets: Sequence[int], name: str) -> list[int]:
    """What the method is asked for, under both readings."""
    found = entries(config, budgets, [name])
    return list(dict.fromkeys(entry.keep for entry in found if entry.keep is not None))


def scoring_cells(config: Any) -> list[Cell]:
    """Notebook 02: all methods, at equal label and mean; seeds, options, positions, ours."""
    keeps = keeps_of(config)
    rest = [name for name in every_method() if name in LEFT_OUT or name not in METHODS]
    return [
        Cell(), *comparison_cells(config, keeps), *grid(rest, keeps), *seed_cells(config, keeps),
        *option_cells(keeps), *position_cells(keeps), *our_cells(config, keeps),
    ]  # fmt: skip


def layer_cells(layers: Iterable[int], keeps: Sequence[int]) -> list[Cell]:
    """Notebook 03: where to cut, for QViD, its raw energy and chance."""
    return [Cell(), *grid(["qvid", "column_norm", "random"], keeps, list(layers))]


def stored_cells(config: Any) -> list[Cell]:
    """The stored run: notebook 02 whole; notebook 03 without column norm, to save time."""
    depth = config.get_text_config().num_hidden_layers
    (default,) = METHODS["qvid"].schedule(1, 1, depth)  # its layer is among the scoring cells
    others = [layer for layer in range(depth) if layer != default.layer]
    scoring = scoring_cells(config)
    known = {tuple(cell.labels.values()) for cell in scoring}
    layers = grid(["qvid", "random"], keeps_of(config), others)
    return [*scoring, *(c for c in layers if tuple(c.labels.values()) not in known)]


def table_cells(table: str, config: Any) -> list[Cell]:
    """The cells of a paper's table of answers (`tables.cells_of`), the full model first: all else
    is shown in % of it.

    config: of the model that is asked. Counts are the printed ones, of as many visual tokens as the
    paper's model has, or the same shares of a model with another number.
    """
    frame = cells_of(table)
    printed = PAPER_TOKENS.get(frame["model"].iloc[0])
    whole = getattr(config, "image_seq_length", printed)
    found = [Cell()]
    for row in frame[frame["method"] != FULL].drop_duplicates(PRINTED).itertuples():
        keep, share, layer, rank = (
            None if pd.isna(value) else value
            for value in (row.keep, row.retention_pct, row.layer, row.rank)
        )
        keep = None if keep is None else round(int(keep) * whole / printed)
        more = {} if rank is None else {"rank": int(rank) if rank >= 1 else rank}
        layer = (
            None if layer is None or int(layer) == _own_layer(row.method, config) else int(layer)
        )
        found.append(Cell(row.method, keep, layer, more, share=share))
    return found


def _own_layer(name: str, config: Any) -> int:
    """Where the method cuts first if nobody says."""
    return method(name).schedule(1, 1, config.get_text_config().num_hidden_layers)[0].layer
