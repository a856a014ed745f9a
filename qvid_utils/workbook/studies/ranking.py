"""How methods stand against each other: both readings of a budget, ranks, pairs of cells, papers.

Everything is over the same questions, and every interval is bootstrapped over pictures.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from ...methods import METHODS
from ..benchmarks.base import FULL, Suite
from ..tables import schema as results
from ..tables.conclusions import differences
from ..tables.report import normalised
from ..tables.schema import AVERAGE
from ..tables.statistics import paired
from .equal_budgets import READINGS, Entry, at_budget

__all__ = ["gains", "paper_order", "ranks", "standings"]

#: The papers' names of methods that have another one here.
NAMES = {"pdrop": "pyramiddrop"}
WHOLE = 576  # visual tokens of the papers' LLaVA-1.5


def standings(
    records: pd.DataFrame, suites: Sequence[Suite], asked: Sequence[Entry], seed: int = 0
) -> pd.DataFrame:
    """Every method at every budget under both readings, and QViD minus it, in pairs of answers.

    records: with the full model; asked: `comparison.entries`. Columns: reading, budget, group,
    method, asked_keep (what the method was asked for), mean_tokens, value and stderr (mean over
    suites in % of the full model), difference, low, high (QViD minus the method, accuracy points,
    95 %; empty for QViD), n, floor (why a budget cannot be met: then the numbers are empty).
    """
    frames = []
    for reading in READINGS:
        mine = [entry for entry in asked if entry.reading == reading]
        if not mine:
            continue
        chosen = at_budget(records, mine)
        mean = normalised(chosen, suites)[["method", "keep", "mean_tokens", "value", "stderr", "n"]]
        gaps = differences(chosen, [suite.name for suite in suites], seed=seed)
        frame = pd.DataFrame(
            [(reading, e.budget, METHODS[e.method].group, e.method, e.keep, e.floor) for e in mine],
            columns=["reading", "budget", "group", "method", "asked_keep", "floor"],
        )
        keys = {"left_on": ["method", "budget"], "right_on": ["method", "keep"], "how": "left"}
        for more in (mean, gaps[["method", "keep", "difference", "low", "high"]]):
            frame = frame.merge(more, **keys).drop(columns="keep")
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True).astype({"asked_keep": "Int64", "n": "Int64"})
    return frame[[*(c for c in frame if c != "floor"), "floor"]]


def ranks(
    records: pd.DataFrame, asked: Sequence[Entry], draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The place of each method by accuracy over all questions, 1 the best, with its 95 % interval.

    Pictures are drawn anew `draws` times, all their questions together, and the methods ranked each
    time; methods with one accuracy share the mean of their places. Columns: reading, budget, group,
    method, accuracy (%), rank, low, high.
    """
    rows = []
    for reading, budget in dict.fromkeys((entry.reading, entry.budget) for entry in asked):
        mine = [e for e in asked if (e.reading, e.budget) == (reading, budget)]
        chosen = at_budget(records, mine, keep_full=False)
        right = chosen.pivot(index="sample", columns="method", values="score")
        pictures = chosen.drop_duplicates("sample").set_index("sample")["picture"].loc[right.index]
        sums = right.groupby(pictures.to_numpy()).sum().to_numpy()
        counts = right.groupby(pictures.to_numpy()).size().to_numpy()
        rng = np.random.default_rng(seed)
        times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
        drawn = (times @ sums) / (times @ counts)[:, None]
        placed = pd.DataFrame(-drawn).rank(axis=1).to_numpy()
        low, high = np.quantile(placed, [0.025, 0.975], axis=0)
        own = pd.DataFrame({"accuracy": 100 * right.mean(), "low": low, "high": high})
        own.insert(1, "rank", (-own["accuracy"]).round(9).rank())
        own.insert(0, "group", [METHODS[name].group for name in own.index])
        rows.append(own.reset_index().assign(reading=reading, budget=budget))
    frame = pd.concat(rows, ignore_index=True)
    return frame[["reading", "budget", "group", "method", "accuracy", "rank", "low", "high"]]


def gains(
    records: pd.DataFrame,
    pairs: Mapping[str, Mapping[int, tuple[Mapping, Mapping]]],
    seed: int = 0,
) -> pd.DataFrame:
    """One cell minus another, in accuracy points over all questions, for pairs of cells by name.

    pairs: name -> budget -> (a, b), each what names a cell (`method`, `variant`, `keep`, `layer`,
    `rank`; the variant is "" unless given). Columns: name, budget, mean_tokens (of a) and beside
    (of b), a and b (accuracy in %), difference, low, high (95 %), n. ValueError where a cell is
    missing, or one name fits several.
    """
    ordered = records.sort_values("sample", kind="stable")
    frame = pd.concat(
        [
            paired(ordered, *both, seed=seed).assign(name=name, budget=budget)
            for name, budgets in pairs.items()
            for budget, both in budgets.items()
        ],
        ignore_index=True,
    ).rename(columns={"tokens_a": "mean_tokens", "tokens_b": "beside"})
    shown = ["name", "budget", "mean_tokens", "beside", "a", "b", "difference", "low", "high", "n"]
    return frame[shown]


def paper_order(
    records: pd.DataFrame,
    suites: Sequence[Suite],
    asked: Sequence[Entry],
    table: int | str,
    seed: int = 0,
) -> pd.DataFrame:
    """For every two methods of a paper's table: which one leads there, and which one here.

    asked: entries of one reading. paper: difference of the printed averages, in % of the full
    model, or where none is printed of the mean over the benchmarks that both have; difference, low,
    high: ours, accuracy points over the suites that stand for the table's benchmarks; here: "same
    way", "other way", or "no difference" where our interval holds zero or the paper has a tie.
    Pairs at budgets that were not measured are left out. The first method is the paper's leader.
    """
    whole = records.loc[records["method"] == FULL, "mean_tokens"].mean()
    theirs = results.paper(table).replace({"method": NAMES})
    printed = set(theirs["benchmark"])
    mine = {suite.name for suite in suites if suite.stands_for in printed}
    chosen = at_budget(records, asked, keep_full=False)
    chosen = chosen[chosen["suite"].isin(mine)]
    rows = []
    for tokens, part in theirs[theirs["method"] != FULL].groupby("keep", sort=False):
        keep = round(tokens * whole / WHOLE)
        values = part.pivot(index="method", columns="benchmark", values="value")
        ours = chosen[chosen["keep"] == keep].sort_values("sample", kind="stable")
        for pair in combinations([m for m in values.index if m in set(ours["method"])], 2):
            a, b = values.loc[pair[0]], values.loc[pair[1]]
            gap = (a - b)[AVERAGE] if AVERAGE in values else (a - b).dropna().mean()
            first, second = pair if gap >= 0 else pair[::-1]
            found = paired(ours, {"method": first}, {"method": second}, seed=seed).iloc[0]
            clear = gap != 0 and (found["low"] > 0 or found["high"] < 0)
            way = "same way" if found["difference"] > 0 else "other way"
            rows.append({
                "keep": keep, "ahead": first, "behind": second, "paper": abs(gap),
                **{name: found[name] for name in ("difference", "low", "high")},
                "here": way if clear else "no difference",
            })  # fmt: skip
    return pd.DataFrame(rows)
