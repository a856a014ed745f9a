"""The figures that compare every method: averages by place of the cut, ranks, and gains."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...methods import GROUPS
from .base import BLUE, GREY, INK, ORANGE, PURPLE, VERMILION, WIDTH, _figure, _need, _title, styled

__all__ = ["gains", "methods_by_group", "rank_intervals"]

COLOURS = dict(zip(GROUPS, (BLUE, VERMILION, PURPLE, GREY), strict=True))
MARKS = dict(zip(GROUPS, ("o", "s", "D", "^"), strict=True))
FAINT = "#E6E6E6"


@styled
def methods_by_group(standings: pd.DataFrame) -> Figure:
    """Mean over suites of every method, one panel per budget, methods grouped by place of the cut.

    standings: as `standing.standings` gives it. Filled: at an equal mean over the layers; hollow:
    at an equal label. Bars are 95 % over pictures. A budget that a method cannot meet has no point.
    """
    _need(standings, ("reading", "budget", "group", "method", "value", "stderr"))
    order = _grouped(standings)
    budgets = sorted(standings["budget"].unique(), reverse=True)
    fig = _figure(WIDTH, 0.19 * len(order) + 0.9)
    axes = fig.subplots(1, len(budgets), sharey=True, sharex=True, squeeze=False)[0]
    for ax, budget in zip(axes, budgets, strict=True):
        for reading, shift in (("label", -0.2), ("mean", 0.2)):
            part = standings[(standings["budget"] == budget) & (standings["reading"] == reading)]
            for row in part.dropna(subset=["value"]).itertuples():
                at = order.index((row.group, row.method)) + shift
                colour, filled = COLOURS[row.group], reading == "mean"
                bar = 1.96 * row.stderr
                ax.plot([row.value - bar, row.value + bar], [at, at], color=colour, lw=0.9)
                ax.plot(row.value, at, MARKS[row.group], ms=3.6, color=colour,
                        mfc=colour if filled else "white")  # fmt: skip
        _rows(ax, order)
        ax.axvline(100, color=INK, lw=0.8, ls="--")
        ax.set_title(f"{budget} tokens")
    _names(axes[0], [method for _, method in order])
    axes[len(axes) // 2].set_xlabel("mean over suites (% of full)")
    _key(fig, axes[0], [("hollow: equal label", "white"), ("filled: equal mean", INK)])
    return fig


@styled
def rank_intervals(ranks: pd.DataFrame) -> Figure:
    """The place of each method at one budget under both readings, with its interval.

    ranks: rows of one budget of `standing.ranks`; 1 is the best. Methods stand in the order of the
    equal mean, those that cannot meet it last.
    """
    _need(ranks, ("reading", "budget", "group", "method", "rank", "low", "high"))
    if ranks["budget"].nunique() != 1:
        raise ValueError(f"ranks of budgets {sorted(ranks['budget'].unique())}: give one budget")
    mean = ranks[ranks["reading"] == "mean"].set_index("method")["rank"]
    label = ranks[ranks["reading"] == "label"].set_index("method")["rank"]
    order = sorted(label.index, key=lambda name: (mean.get(name, np.inf), label[name]))
    fig = _figure(WIDTH, 0.17 * len(order) + 0.9)
    axes = fig.subplots(1, 2, sharey=True, sharex=True)
    for ax, reading, title in zip(
        axes, ("label", "mean"), ("at equal label", "at equal mean over layers"), strict=True
    ):
        part = ranks[ranks["reading"] == reading]
        for row in part.itertuples():
            at = order.index(row.method)
            ax.plot([row.low, row.high], [at, at], color=COLOURS[row.group], lw=1.2)
            ax.plot(row.rank, at, MARKS[row.group], ms=4, color=COLOURS[row.group])
        ax.grid(axis="y", color=FAINT, lw=0.5)
        ax.set(title=title, xlabel="place (1: most right answers)", ylim=(len(order) - 0.4, -0.6))
    _names(axes[0], order)
    axes[0].tick_params(axis="y", length=0)
    _key(fig, axes[0])
    return fig


@styled
def gains(rows: pd.DataFrame, label: str) -> Figure:
    """Differences of pairs of cells with their intervals, one panel per budget.

    rows: `standing.gains`, with one order of names at all budgets; label: what right means. A
    hollow point's interval holds zero.
    """
    _need(rows, ("name", "budget", "difference", "low", "high"))
    names, budgets = list(rows["name"].unique())[::-1], rows["budget"].unique()
    fig = _figure(WIDTH, 0.22 * len(names) + 1.0)
    axes = fig.subplots(1, len(budgets), sharey=True, sharex=True, squeeze=False)[0]
    for ax, budget in zip(axes, budgets, strict=True):
        for row in rows[rows["budget"] == budget].itertuples():
            at, clear = names.index(row.name), row.low > 0 or row.high < 0
            colour = ORANGE if row.difference < 0 else BLUE
            ax.plot([row.low, row.high], [at, at], color=colour if clear else GREY, lw=1.5)
            ax.plot(row.difference, at, "o", ms=4.5, color=colour if clear else GREY,
                    mfc=colour if clear else "white")  # fmt: skip
        ax.axvline(0, color=INK, lw=0.8)
        ax.grid(axis="y", color=FAINT, lw=0.5)
        ax.set_title(f"{budget} tokens")
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].tick_params(axis="y", length=0)
    axes[len(axes) // 2].set_xlabel(label)
    return fig


def _grouped(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(group, method) from the bottom up: groups in their order, each by its mean, best on top."""
    last = frame[frame["reading"] == "label"]
    size = last.groupby("method")["value"].mean()
    pairs = frame[["group", "method"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(pairs, key=lambda one: (-GROUPS.index(one[0]), size.get(one[1], 0)))


def _names(ax: Axes, methods: Sequence[str]) -> None:
    """Labels of the rows; QViD's is bold, so that the eye finds it."""
    ticks = ax.set_yticks(range(len(methods)), [_title(name) for name in methods], fontsize=6.8)
    for name, tick in zip(methods, ticks, strict=True):
        tick.label1.set_fontweight("bold" if name == "qvid" else "normal")


def _rows(ax: Axes, order: Sequence[tuple[str, str]]) -> None:
    """Faint lines under the rows, and a stronger one between two groups."""
    ax.grid(axis="y", color=FAINT, lw=0.5)
    ax.set_ylim(-0.7, len(order) - 0.3)
    ax.tick_params(axis="y", length=0)
    for at in range(1, len(order)):
        if order[at][0] != order[at - 1][0]:
            ax.axhline(at - 0.5, color=INK, lw=0.6)


def _key(fig: Figure, ax: Axes, more: Sequence[tuple[str, str]] = ()) -> None:
    """A legend of the groups, and of what filling says."""
    handles = [
        ax.plot([], [], MARKS[name], ls="", ms=4.5, color=COLOURS[name], label=name)[0]
        for name in GROUPS
    ]
    handles += [
        ax.plot([], [], "o", ls="", ms=4.5, color=INK, mfc=face, label=text)[0]
        for text, face in more
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7.5)
