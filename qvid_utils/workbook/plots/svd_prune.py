"""Figures of notebook 07: SVD-Prune over the tokens kept and over its energy threshold."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from ...methods import CENTRAL
from .accuracy import BUDGETS, KEPT, OF_FULL, at_least
from .base import (
    BLUE,
    GREY,
    INK,
    PALE,
    VERMILION,
    WIDTH,
    headline,
    legend_below,
    look,
    named,
    need,
    new_figure,
    styled,
)
from .graphs import lines, spread


@styled
def over_tokens(panels: Mapping[str, pd.DataFrame], methods: Sequence[str]) -> Figure:
    """Avg over the tokens kept, on a doubling axis, a panel for each frame; bars are 95 %.

    panels: title -> method, keep, all, all_stderr (% of full). Those in colour are SVD-Prune, QViD
    and random; the others are grey, and named where their lines end.
    """
    for frame in panels.values():
        need(frame, ("method", "keep", "all", "all_stderr"))
    shown = pd.concat([frame.assign(panel=name) for name, frame in panels.items()])
    shown = shown[shown["method"].isin(list(methods))].sort_values(
        ["method", "keep"], key=lambda s: s.map(list(methods).index) if s.name == "method" else s,
        kind="stable")  # fmt: skip
    shown = shown.sort_values("panel", key=lambda s: s.map(list(panels).index), kind="stable")
    bright = zip(CENTRAL, ((BLUE, "D", "-"), (VERMILION, "o", "-")), strict=True)
    bright = dict(bright) | {"random": (INK, "X", ":")}
    looks = {m: bright.get(m, (PALE, look(m)[1], look(m)[2])) for m in methods}
    fig = lines(shown, "keep", "all", error="all_stderr", panel="panel", looks=looks,
                size=(WIDTH + 1.2, 4.3), labels=(KEPT, OF_FULL))  # fmt: skip
    keeps = sorted({int(k) for k in shown["keep"] if k < 100})
    fig.legends.pop()
    for ax, (_, part) in zip(fig.axes, shown.groupby("panel", sort=False), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xticks(keeps, [str(keep) for keep in keeps])
        ax.minorticks_off()
        ax.set_xlim(keeps[0] / 4.5, None)
        first = part.loc[part.groupby("method")["keep"].idxmin()].sort_values("all")
        low, high = ax.get_ylim()
        places = spread(first["all"].tolist(), (high - low) / 26)
        for place, row in zip(places, first.itertuples(), strict=True):
            ax.annotate(named(row.method), (keeps[0], place), xytext=(-6, 0), va="center",
                        textcoords="offset points", ha="right", fontsize=7,
                        color=bright.get(row.method, (GREY,))[0])  # fmt: skip
    return headline(fig, at_least(shown))


@styled
def over_tau(averages: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """SVD-Prune over its energy threshold: Avg at each budget, and below it the rank it picks.

    averages: keep, tau, center (bool), all, all_stderr (% of full; bars are 95 %); ranks: tau,
    center, median, low, high (10th and 90th percentile over pictures). Left: patches as they are;
    right: their mean taken off. Source: SVD-Prune, figure 3 (upper left); the rest is ours.
    """
    need(averages, ("keep", "tau", "center", "all", "all_stderr"))
    need(ranks, ("tau", "center", "median", "low", "high"))
    fig = new_figure(WIDTH, 5.2)
    axes = fig.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1.45, 1))
    for column, center in enumerate((False, True)):
        top, bottom = axes[:, column]
        top.set_title("patches centred" if center else "patches as they are (the method)")
        mine = averages[averages["center"] == center]
        for (colour, marker), keep in zip(BUDGETS, sorted(mine["keep"].unique()), strict=False):
            own = mine[mine["keep"] == keep].sort_values("tau")
            top.errorbar(own["tau"], own["all"], 1.96 * own["all_stderr"], elinewidth=0.9, lw=1.3,
                         color=colour, marker=marker, ms=5, label=f"keep {keep}")  # fmt: skip
        own = ranks[ranks["center"] == center].sort_values("tau")
        bottom.fill_between(own["tau"], own["low"], own["high"], color=PALE, alpha=0.35, lw=0,
                            label="rank k, 80 % of the pictures")  # fmt: skip
        bottom.plot(own["tau"], own["median"], color=INK, marker="o", ms=4, lw=1.3,
                    label="rank k, median")  # fmt: skip
        bottom.set_yscale("log", base=2)
        bottom.yaxis.set_major_formatter("{x:.0f}")
        bottom.set_xlabel("energy threshold τ (share of Σσ²)")
    axes[0, 0].set_ylabel(OF_FULL)
    axes[1, 0].set_ylabel("rank k")
    both = [ax.get_legend_handles_labels() for ax in axes[:, 0]]
    legend_below(fig, both[0][0] + both[1][0], both[0][1] + both[1][1])
    plain = ranks[~ranks["center"].astype(bool)].sort_values("tau")
    ones = plain.loc[plain["median"] <= 1, "tau"]
    text = f"Up to τ = {ones.max():g} one direction holds the energy" if len(ones) else (
        "No threshold leaves a single direction")  # fmt: skip
    return headline(fig, f"{text}; without the patches' mean the jump goes")
