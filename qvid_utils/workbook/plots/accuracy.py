"""Figures of accuracy in % of the full model: over tokens kept, rank, layer, cost and threshold."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...methods import CENTRAL
from ..benchmarks.base import FULL, PAPER_BENCHMARKS
from .base import (
    BLUE,
    DASHES,
    GREEN,
    INK,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    headline,
    look,
    named,
    need,
    styled,
)
from .graphs import lines, marks

MUTE = "hollow: no suite can tell methods apart"
OF_FULL = "mean over suites (% of full)"
KEPT = "visual tokens kept (nominal budget)"
#: Looks of budgets, in the order that they come.
BUDGETS = ((VERMILION, "v"), (GREEN, "s"), (BLUE, "o"), (PURPLE, "D"), (SKY, "^"))


def budget_looks(names: Sequence, line: str = "-") -> dict:
    """A colour and marker for each budget."""
    return {name: (*look, line) for name, look in zip(names, BUDGETS, strict=False)}


def at_least(frame: pd.DataFrame, value: str = "all") -> str:
    """Where the methods stand at the smallest budget: QViD and random, or best and worst."""
    own = frame[frame["method"] != FULL]
    least = own["keep"].min()
    own = own[own["keep"] == least].groupby("method")[value].max().sort_values(ascending=False)
    names = [name for name in (*CENTRAL, "random") if name in own][:3]
    if len(names) < 2:
        names = list(dict.fromkeys([own.index[0], own.index[-1]]))
    best = [own.index[0]] if own.index[0] not in names else []
    said = ", ".join(f"{named(name)} {own[name]:.0f} %" for name in [*best, *names])
    return f"At {least} tokens: {said} of the full model"


@styled
def over_keep(averages: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> Figure:
    """Mean over suites in % of the full model, over the visual tokens kept; bars are 95 %.

    averages: `conclusions.averages`, one row per method and keep; panels: title -> methods. A
    staged method stands at its mean over layers, as the papers label it; all others after one cut.
    """
    need(averages, ("method", "keep", "all", "all_stderr"))
    shown = pd.concat(
        [averages[averages["method"] == method].assign(panel=title)
         for title, methods in panels.items() for method in methods]
    ).sort_values("keep", kind="stable")  # fmt: skip
    order = {m: n for n, m in enumerate(m for methods in panels.values() for m in methods)}
    shown = shown.sort_values("method", key=lambda s: s.map(order), kind="stable")
    fig = lines(shown, "keep", "all", error="all_stderr", panel="panel", size=(WIDTH, 3.9),
                labels=(KEPT, OF_FULL), dodge=0.4)  # fmt: skip
    keeps = sorted(shown["keep"].unique())
    for ax in fig.axes:
        ax.set_xticks([float(keep) for keep in keeps], [f"{keep}" for keep in keeps])
    return headline(fig, at_least(shown))


@styled
def over_rank(joined: pd.DataFrame) -> Figure:
    """Avg over the number of modes that vote, ours and the paper's, one colour per budget.

    joined: the Avg rows of `report.beside(..., 6)` whose rank is a count. Source: QViD, Table 6.
    """
    need(joined, ("budget_pct", "rank", "paper_pct_of_full", "measured_pct_of_full", "stderr"))
    sides = {"ours": "measured_pct_of_full", "paper": "paper_pct_of_full"}
    long = pd.concat(
        [joined.assign(side=side, value=joined[column],
                       error=joined["stderr"] if side == "ours" else np.nan)
         for side, column in sides.items()]
    )  # fmt: skip
    long["line"] = long["side"] + long["budget_pct"].map(", {:.1f} % kept".format)
    looks = {}
    budgets = sorted(joined["budget_pct"].unique())
    for side, style in (("ours", "-"), ("paper", ":")):
        found = budget_looks([f"{side}, {budget:.1f} % kept" for budget in budgets], style)
        looks |= found
    long = long.sort_values("line", key=lambda s: s.map(list(looks).index), kind="stable")
    fig = lines(long, "rank", "value", "line", error="error", looks=looks,
                size=(WIDTH * 0.8, 3.8), labels=("modes that vote, r", OF_FULL),
                columns=3)  # fmt: skip
    (ax,) = fig.axes
    ax.set_xscale("log", base=2)
    ranks = sorted(joined["rank"].unique())
    ax.set_xticks(ranks, [f"{rank:.0f}" for rank in ranks])
    ax.minorticks_off()
    low = joined[joined["budget_pct"] == budgets[0]].dropna(subset=list(sides.values()))
    best = {side: low.loc[low[column].idxmax(), "rank"] for side, column in sides.items()}
    return headline(fig, f"At {budgets[0]:.1f} % kept rank {best['ours']:.0f} is best here, rank "
                         f"{best['paper']:.0f} in the paper")  # fmt: skip


@styled
def layer_sweep(averages: pd.DataFrame) -> Figure:
    """Mean over suites in % of the full model, by the layer of the cut, one panel per budget.

    averages: `conclusions.averages_by_layer`; bands are 95 %. Where no suite can tell methods
    apart, points are hollow. Source: QViD, Table 4.
    """
    need(averages, ("method", "keep", "layer", "all", "all_stderr", "loud"))
    order = ["qvid", *(name for name in averages["method"].unique() if name != "qvid")]
    shown = averages.sort_values(
        ["keep", "method", "layer"], ascending=[False, True, True], kind="stable",
        key=lambda s: s.map(order.index) if s.name == "method" else s,
    )  # fmt: skip
    shown = shown.assign(panel=[f"keep {keep}" for keep in shown["keep"]])
    fig = lines(shown, "layer", "all", error="all_stderr", band=True, panel="panel",
                size=(WIDTH + 0.4, 3.5), labels=("layer of the cut", OF_FULL),
                more=marks((MUTE, INK, "o", True)))  # fmt: skip
    for ax, (_, part) in zip(fig.axes, shown.groupby("panel", sort=False), strict=True):
        for method, own in part[part["loud"] == 0].groupby("method", sort=False):
            colour, marker, _ = look(method)
            ax.plot(own["layer"].astype(float), own["all"], marker, ls="", color=colour,
                    mfc="white", ms=4.5, zorder=4)  # fmt: skip
        ax.set_xticks(range(0, int(averages["layer"].max()) + 1, 2))
    least = shown["keep"].min()
    at = shown[shown["keep"] == least].pivot(index="layer", columns="method", values="all")
    said = [
        f"layer {layer}: " + ", ".join(f"{named(m)} {at.loc[layer, m]:.0f} %" for m in order)
        for layer in at.index[:2]
    ]
    return headline(fig, f"Cut to {least} tokens at " + "; at ".join(said))


@styled
def layer_cost(averages: pd.DataFrame) -> Figure:
    """The same sweep at what it costs: mean visual tokens per layer, one panel per method.

    averages: `conclusions.averages_by_layer`; a line is a budget, its first point a cut at the
    first layer, each next point a layer later. Points above one another cost the same.
    """
    need(averages, ("method", "keep", "layer", "mean_tokens", "all"))
    shown = averages.sort_values(["keep", "layer"], ascending=[False, True], kind="stable")
    shown = shown.assign(budget=[f"keep {keep}" for keep in shown["keep"]],
                         panel=shown["method"].map(named))  # fmt: skip
    shown = shown.sort_values("panel", key=lambda s: s.map(
        list(averages["method"].map(named).unique()).index), kind="stable")  # fmt: skip
    looks = budget_looks(shown["budget"].unique()[::-1])
    labels = ("mean visual tokens per layer", OF_FULL)
    fig = lines(shown, "mean_tokens", "all", "budget", panel="panel", looks=looks,
                size=(WIDTH + 0.4, 3.5), labels=labels)  # fmt: skip
    names, least = list(shown["method"].unique()), shown["keep"].min()
    first = "qvid" if "qvid" in names else names[0]
    own = shown[(shown["method"] == first) & (shown["keep"] == least)].set_index("layer")
    near = own[own["all"] >= 0.99 * own["all"].max()].iloc[0]
    return headline(
        fig, f"{named(first)} at keep {least} is within 1 % of its best from layer {near.name} on, "
        f"at {near['mean_tokens']:.0f} mean tokens; each later layer costs more")  # fmt: skip


@styled
def layer_sweep_by_suite(accuracies: pd.DataFrame, least: float) -> Figure:
    """Accuracy of each suite by the layer of the cut at one budget, full beside.

    accuracies: the accuracy rows of `report.summary` (benchmark, method, layer, value, stderr).
    The band is less than `least` points lost: where random is in it, the suite cannot tell methods
    apart.
    """
    need(accuracies, ("benchmark", "method", "layer", "value", "stderr"))
    pruned = accuracies[accuracies["method"] != FULL]
    names = {suite: f"{suite} ({PAPER_BENCHMARKS.get(suite, suite)})"
             for suite in accuracies["benchmark"].unique()}  # fmt: skip
    shown = pruned.sort_values("layer", kind="stable").assign(
        panel=pruned["benchmark"].map(names))  # fmt: skip
    shown = shown.sort_values("panel", key=lambda s: s.map(list(names.values()).index),
                              kind="stable")  # fmt: skip
    band = Patch(color=PALE, alpha=0.25, lw=0, label=f"less than {least:.0f} points lost")
    whole = Line2D([], [], color=INK, lw=1, ls=(0, DASHES), label="full model")
    fig = lines(shown, "layer", "value", error="stderr", panel="panel", size=(WIDTH, 4.9), wrap=3,
                labels=("layer of the cut", "accuracy (%)"), whole=False,
                more=[whole, band])  # fmt: skip
    full = accuracies[accuracies["method"] == FULL].set_index("benchmark")["value"]
    told = 0
    for ax, suite in zip(fig.axes, names, strict=False):
        ax.axhline(full[suite], color=INK, lw=1, ls=(0, DASHES), zorder=0)
        ax.axhspan(full[suite] - least, full[suite], color=PALE, alpha=0.25, lw=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
        random = shown[(shown["benchmark"] == suite) & (shown["method"] == "random")]
        told = max(told, *(random.loc[random["value"] <= full[suite] - least, "layer"]), 0)
    said = f"After layer {told:.0f} random pruning costs no suite {least:.0f} points"
    return headline(fig, f"{said}: the model has read the picture by then")


@styled
def over_cost(
    cells: pd.DataFrame, x: str, y: str, labels: tuple[str, str], error: str = ""
) -> Figure:
    """Accuracy over the operations of a prefill; numbers are nominal budgets.

    cells: method, keep, x and y, "full" among them; error: standard errors, drawn as 95 % bars.
    Source: QViD, figure 4.
    """
    need(cells, ("method", "keep", x, y))
    shown = cells[cells["method"] != FULL].sort_values(x, kind="stable")
    order = list(dict.fromkeys(cells["method"]))
    shown = shown.sort_values("method", key=lambda s: s.map(order.index), kind="stable")
    fig = lines(shown, x, y, error=error, size=(WIDTH, 4.0), labels=labels)
    (ax,) = fig.axes
    few = set(order) if len(order) <= 4 else {"qvid", "random"}  # numbers that do not collide
    for row in shown[shown["method"].isin(few)].itertuples():
        ax.annotate(f"{row.keep}", (float(getattr(row, x)), float(getattr(row, y))),
                    xytext=(4, -9), textcoords="offset points", fontsize=6.5,
                    ha="left", color=look(row.method)[0])  # fmt: skip
    full = cells.loc[cells["method"] == FULL, x]
    if len(full):
        ax.annotate(f"unpruned: {float(full.iloc[0]):.3g} \N{RIGHTWARDS ARROW}", (1, 0), ha="right",
                    xytext=(-4, 5), xycoords="axes fraction", textcoords="offset points",
                    fontsize=7.5)  # fmt: skip
    ax.margins(0.08)
    return headline(fig, at_least(shown, y))
