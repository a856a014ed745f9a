"""Figures of what pruning costs and saves (notebook 04), in the style of `figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .base import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    _curve,
    _figure,
    _full_line,
    _legend_row,
    _need,
    styled,
)

__all__ = ["accuracy_over_cost", "growth", "paper_over_cost", "where_time_goes"]

PARTS = {  # part -> what the legend says, colour, hatch
    "vision": ("vision and projector", GREY, ""),
    "below": ("layers below the cut", SKY, "//"),
    "scoring": ("scoring", VERMILION, ""),
    "above": ("layers above, head", BLUE, "\\\\"),
    "decode": ("decoding", ORANGE, ".."),
}

MORE = {  # curves that only this figure has: colour, marker, line, no pair as in `figures.CURVES`
    "qvid_adaptive": (SKY, "D", "--"),
    "sparsevlm_plus": (GREEN, "s", "--"),
    "divprune": (INK, "p", "-."),
}


@styled
def where_time_goes(parts: pd.DataFrame) -> Figure:
    """Left: milliseconds of each part of an answer, stacked. Right: operations per second reached.

    parts: label, part (of PARTS), ms, gflop; one bar for each label, in their order from the top.
    Parts without a count of operations have no point on the right.
    """
    _need(parts, ("label", "part", "ms", "gflop"))
    labels = list(parts["label"].unique())
    fig = _figure(WIDTH, 0.42 * len(labels) + 1.5)
    bars, rates = fig.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    for part, (name, colour, hatch) in PARTS.items():
        own = parts[parts["part"] == part].set_index("label").reindex(labels)
        before = [
            parts[
                (parts["label"] == label)
                & parts["part"].isin(list(PARTS)[: list(PARTS).index(part)])
            ]["ms"].sum()
            for label in labels
        ]
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "lw": 0.5}
        bars.barh(range(len(labels)), own["ms"], left=before, height=0.62, label=name, **look)
        rate = own["gflop"] / own["ms"] * 1e3
        some = rate.notna() & (own["gflop"] > 0)
        marker = dict(zip(PARTS, "soDv^", strict=True))[part]
        rates.plot(rate[some], np.flatnonzero(some), marker, color=colour, ms=6)
    bars.set_yticks(range(len(labels)), labels)
    bars.invert_yaxis()
    bars.set_xlabel("ms of one answer")
    rates.set(xlabel="GFLOP/s reached", xscale="log")
    fastest = (parts["gflop"] / parts["ms"].where(parts["ms"] > 0)).max() * 1e3
    ticks = [n for n in (0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if n < 2 * fastest][-5:]
    rates.set_xticks(ticks, [f"{n:g}" for n in ticks])
    rates.minorticks_off()
    rates.grid(axis="x", color="#E6E6E6", lw=0.6, which="both")
    rates.set_axisbelow(True)
    _legend_row(fig, bars)
    return fig


@styled
def growth(scoring: pd.DataFrame, prefill: pd.DataFrame) -> Figure:
    """Left: time of one score over N_v. Right: operations of a prefill over N_v. Both log-log.

    scoring: n_query, n_visual, route ("leverage", "qr"), ms; prefill: n_visual, what, tflops. The
    dotted line rises in proportion to N_v.
    """
    _need(scoring, ("n_query", "n_visual", "route", "ms"))
    _need(prefill, ("n_visual", "what", "tflops"))
    fig = _figure(WIDTH, 3.5)
    left, right = fig.subplots(1, 2)
    colours = dict(
        zip(sorted(scoring["n_query"].unique()), (SKY, GREEN, BLUE, PURPLE), strict=False)
    )
    styles = {"leverage": ("o", "-", "ours"), "qr": ("v", "--", "QR + SVD")}
    for (n_query, route), own in scoring.groupby(["n_query", "route"]):
        marker, line, name = styles[route]
        own = own.sort_values("n_visual")
        look = {"color": colours[n_query], "marker": marker, "ls": line, "ms": 4, "lw": 1.2}
        left.plot(own["n_visual"], own["ms"], label=f"{name}, $N_q$ = {n_query}", **look)
    _proportional(left, scoring, "ms")
    left.set(xlabel="visual tokens, $N_v$", ylabel="ms of one score, 32 heads")
    looks = zip((INK, BLUE, GREEN), ("s", "o", "^"), ("-", "-", "--"), strict=True)
    for (what, own), (colour, marker, line) in zip(
        prefill.groupby("what", sort=False), looks, strict=False
    ):
        look = {"color": colour, "marker": marker, "ls": line, "ms": 4, "lw": 1.2}
        right.plot(own["n_visual"], own["tflops"], label=what, **look)
    _proportional(right, prefill, "tflops")
    right.set(xlabel="visual tokens, $N_v$", ylabel="TFLOPs of a prefill (computed)")
    ticks = sorted(scoring["n_visual"].unique())
    for ax in (left, right):
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return fig


def _proportional(ax, frame: pd.DataFrame, column: str) -> None:
    ends = np.array([frame["n_visual"].min(), frame["n_visual"].max()])
    low = frame[column].min()
    ax.plot(ends, 0.7 * low * ends / ends[0], color=GREY, ls=":", lw=1, label="in proportion")


@styled
def paper_over_cost(points: pd.DataFrame) -> Figure:
    """The paper's Fig. 4 from its own tables: Avg over the printed operations.

    points: method, keep, tflops, value_avg (% of the unpruned model).
    """
    _need(points, ("method", "keep", "tflops", "value_avg"))
    fig = _figure(WIDTH * 0.62, 3.0)
    ax = fig.subplots()
    _full_line(ax)
    for method, own in points[points["method"] != "full"].groupby("method", sort=False):
        own = own.sort_values("tflops")
        below, look = method == "qvid", _curve(method)
        ax.plot(own["tflops"], own["value_avg"], lw=1.3, **look)
        for row in own.itertuples():
            offset = (4, -11) if below else (-4, 6)
            where = {"xytext": offset, "textcoords": "offset points", "fontsize": 7}
            where["color"] = look["color"]  # where the lines cross, a number must say whose it is
            ax.annotate(
                f"{row.keep}", (row.tflops, row.value_avg), ha="left" if below else "right", **where
            )
    ax.margins(0.12)
    ax.set(xlabel="TFLOPs as printed", ylabel="Avg (% of full)")
    ax.legend(fontsize=7.5, loc="lower right")
    return fig


@styled
def accuracy_over_cost(cells: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Mean over suites over the computed operations of a prefill; bars are 95 %.

    cells: method, keep, gflops, all, all_stderr, in % of the unpruned model, "full" among them for
    what it costs, which is told and not drawn, or the curves would have half the panel.
    """
    _need(cells, ("method", "keep", "gflops", "all", "all_stderr"))
    fig = _figure(WIDTH * 0.8, 3.7)
    ax = fig.subplots()
    _full_line(ax)
    for method in methods:
        own = cells[cells["method"] == method].sort_values("gflops")
        bars = 1.96 * own["all_stderr"].to_numpy(float)
        look = _curve(method)
        if method in MORE:
            look |= dict(zip(("color", "marker", "ls"), MORE[method], strict=True))
        ax.errorbar(own["gflops"], own["all"], bars, elinewidth=0.9, lw=1.3, **look)
    whole = float(cells.loc[cells["method"] == "full", "gflops"].iloc[0])
    ax.annotate(f"unpruned: {whole:.2f} \N{RIGHTWARDS ARROW}", (1, 0), xytext=(-4, 5), ha="right",
                xycoords="axes fraction", textcoords="offset points", fontsize=7.5)  # fmt: skip
    ax.set(xlabel="GFLOPs of a prefill (computed)", ylabel="mean over suites (% of full)")
    ax.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.01, 1))
    return fig
