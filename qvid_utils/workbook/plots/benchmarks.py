"""Figures of notebooks 06 and 07: leads of one method, accuracy over τ, accuracy over tokens kept.

Drawn and saved as those of `figures`, whose style they share.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...methods import METHODS
from .base import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILION, WIDTH, styled
from .base import _figure as new_figure
from .base import _need as need

__all__ = ["by_place", "leads", "over_tau", "over_tokens"]

#: Names as the papers print them, where ours are longer or differ.
PRINTED = {
    "pdrop": "PyramidDrop", "prumerge": "PruMerge", "tome": "ToMe", "random": "random (ours)",
    "hired": "HiRED", "sparsevlm": "SparseVLM",
}  # fmt: skip


def title(method: str) -> str:
    """A method's name for a figure."""
    return PRINTED.get(method) or (METHODS[method].label if method in METHODS else method)


@styled
def leads(paper: pd.DataFrame, ours: pd.DataFrame, name: str = "QViD") -> Figure:
    """How far one method leads each other one, theirs and ours, a panel for each share of tokens.

    paper: budget_pct, method, lead (difference of Avg, in % of the unpruned model), whose; ours:
    budget_pct, method, lead, low, high. Filled: measured with 95 % interval; hollow: printed.
    """
    need(paper, ("budget_pct", "method", "lead", "whose"))
    need(ours, ("budget_pct", "method", "lead", "low", "high"))
    budgets = sorted({*paper["budget_pct"], *ours["budget_pct"]}, reverse=True)
    middle = paper[paper["budget_pct"] == budgets[len(budgets) // 2]].sort_values("lead")
    order = middle["method"].tolist()
    order += [m for m in dict.fromkeys([*paper["method"], *ours["method"]]) if m not in order]
    fig = new_figure(WIDTH + 0.6, 0.34 * len(order) + 1.5)
    axes = fig.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for ax, budget in zip(axes, budgets, strict=True):
        ax.axvline(0, color=INK, lw=0.9)
        ax.grid(axis="y", color="#E6E6E6", lw=0.6)
        for place, method in enumerate(order):
            _pair(ax, place, *(f[(f["budget_pct"] == budget) & (f["method"] == method)]
                               for f in (paper, ours)))  # fmt: skip
        ax.set_title(f"{budget:.1f} % kept")
        ax.set_yticks(range(len(order)), [title(method) for method in order])
        ax.tick_params(axis="y", length=0)
    fig.supxlabel(f"{name} minus the other: Avg, in % of each side's own unpruned model",
                  fontsize=9)  # fmt: skip
    handles = [
        axes[0].plot([], [], "o-", color=BLUE, ms=5, label="measured here, 95 % interval")[0],
        axes[0].plot([], [], "D", color=VERMILION, mfc="white", ms=5, label="printed in Table 1")[
            0
        ],
        axes[0].plot([], [], "s", color=ORANGE, mfc="white", ms=5, label="its own paper's row")[0],
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    return fig


def _pair(ax, place: int, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    for row in ours.itertuples():
        ax.plot([row.low, row.high], [place + 0.14] * 2, color=BLUE, lw=1.5)
        ax.plot(row.lead, place + 0.14, "o", color=BLUE, ms=4.5)
    for row in theirs.itertuples():
        own = "own paper" in row.whose
        look = {"color": ORANGE if own else VERMILION, "marker": "s" if own else "D"}
        ax.plot(row.lead, place - 0.16, mfc="white", ms=4.5, ls="", **look)


BUDGETS = ((VERMILION, "v"), (GREEN, "s"), (BLUE, "o"), (PURPLE, "D"), (SKY, "^"))


@styled
def over_tau(averages: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """SVD-Prune over its energy threshold: Avg at each budget, and below it the rank it picks.

    averages: keep, tau, center (bool), all, all_stderr (% of full; bars are 95 %); ranks: tau,
    center, median, low, high (10th and 90th percentile over pictures). Left: patches as they are;
    right: their mean taken off. Source: SVD-Prune, figure 3 (upper left); the rest is ours.
    """
    need(averages, ("keep", "tau", "center", "all", "all_stderr"))
    need(ranks, ("tau", "center", "median", "low", "high"))
    fig = new_figure(WIDTH, 4.9)
    axes = fig.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1.45, 1))
    for column, center in enumerate((False, True)):
        top, bottom = axes[:, column]
        top.set_title("patches centred" if center else "patches as they are (the method)")
        mine = averages[averages["center"] == center]
        for look, keep in zip(BUDGETS, sorted(mine["keep"].unique()), strict=False):
            own, (colour, marker) = mine[mine["keep"] == keep].sort_values("tau"), look
            top.errorbar(own["tau"], own["all"], 1.96 * own["all_stderr"], elinewidth=0.9, lw=1.3,
                         color=colour, marker=marker, ms=5, label=f"keep {keep}")  # fmt: skip
        own = ranks[ranks["center"] == center].sort_values("tau")
        bottom.fill_between(own["tau"], own["low"], own["high"], color=PALE, alpha=0.35, lw=0,
                            label="80 % of the pictures")  # fmt: skip
        bottom.plot(own["tau"], own["median"], color=INK, marker="o", ms=4, lw=1.3, label="median")
        bottom.set_yscale("log", base=2)
        bottom.yaxis.set_major_formatter("{x:.0f}")
        bottom.set_xlabel("energy threshold τ (share of Σσ²)")
    axes[0, 0].set_ylabel("mean over suites (% of full)")
    axes[1, 0].set_ylabel("rank k")
    axes[0, 1].legend(fontsize=8, loc="best")
    axes[1, 0].legend(fontsize=8, loc="best")
    return fig


@styled
def by_place(attention: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Attention received by a token's place in the prompt, and how often rules keep each place.

    attention: `image_alone.attention_by_place`; chosen: `image_alone.chosen_by_place`, a line per
    method, mean over eight neighbours. Source: SVD-Prune, figure 1 (upper two); the third is ours.
    """
    need(attention, ("place", "picture", "raw", "per_attender"))
    need(chosen, ("method", "place", "kept"))
    fig = new_figure(WIDTH, 6.2)
    axes = fig.subplots(3, 1, sharex=True)
    titles = ("mean over all tokens of the prompt", "mean over the tokens that can attend")
    for ax, name, heading in zip(axes, ("raw", "per_attender"), titles, strict=False):
        for picture, colour, label in ((True, BLUE, "picture"), (False, ORANGE, "text")):
            own = attention[attention["picture"] == picture]
            look = {"color": colour, "label": label, "ls": "", "marker": "o" if picture else "^"}
            ax.plot(own["place"], own[name], ms=3, **look)
        ax.axhline(1, color=INK, lw=0.8)
        ax.set_ylabel("attention received\n(picture's mean = 1)")
        ax.set_title(heading, fontsize=9)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, loc="upper right", ncols=2)
    for method, own in chosen.groupby("method", sort=False):
        own = own.sort_values("place")
        smooth = own["kept"].rolling(8, center=True, min_periods=4).mean()
        colour, _, line = LOOKS[method]
        axes[2].plot(own["place"], 100 * smooth, color=colour, ls=line, label=title(method))
    axes[2].set(xlabel="place in the prompt (the first visual token is 0)", ylabel="kept (%)")
    axes[2].set_title("what is kept, mean over eight neighbours", fontsize=9)
    axes[2].legend(fontsize=8, ncols=4)
    return fig


LOOKS = {  # method -> colour, marker, line: no two share marker and line
    "svd_prune": (BLUE, "o", "-"), "qvid": (INK, "D", "-"), "fastervlm": (ORANGE, "^", "-"),
    "divprune": (GREEN, "s", "-"), "visionzip": (VERMILION, "P", "--"), "stride": (PALE, "d", "-."),
    "random": (GREY, "X", ":"), "tome": (PURPLE, "v", "--"), "trim": (SKY, "<", "--"),
    "fastv": (VERMILION, "x", ":"), "pyramiddrop": (SKY, "*", "-"), "sparsevlm": (PURPLE, "h", ":"),
}  # fmt: skip


@styled
def over_tokens(panels: Mapping[str, pd.DataFrame], methods: Sequence[str]) -> Figure:
    """Avg over the tokens kept, on a doubling axis, a panel for each frame; bars are 95 %.

    panels: title -> method, keep, all, all_stderr (% of full).
    """
    fig = new_figure(WIDTH + 1.2, 4.1)
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (name, frame) in zip(axes, panels.items(), strict=True):
        need(frame, ("method", "keep", "all", "all_stderr"))
        ax.axhline(100, color=INK, lw=1, ls=(0, (6, 2)))
        shift = np.geomspace(0.95, 1.05, len(methods)) if len(methods) > 1 else [1.0]
        for method, by in zip(methods, shift, strict=True):
            own = frame[frame["method"] == method].sort_values("keep")
            if own.empty:
                continue
            colour, marker, line = LOOKS[method]
            ax.errorbar(own["keep"].astype(float) * by, own["all"], 1.96 * own["all_stderr"],
                        elinewidth=0.8, lw=1.2, color=colour, marker=marker, ls=line, ms=4.5,
                        label=title(method))  # fmt: skip
        ax.set_xscale("log", base=2)
        keeps = sorted({k for part in panels.values() for k in part["keep"] if k < 100})
        ax.set_xticks(keeps, [str(keep) for keep in keeps])
        ax.minorticks_off()
        ax.set(title=name, xlabel="visual tokens kept")
    axes[0].set_ylabel("mean over suites (% of full)")
    found = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    fig.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return fig
