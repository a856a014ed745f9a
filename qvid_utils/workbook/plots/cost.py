"""Figures of what pruning costs (notebook 04): where an answer's time goes, and how it grows."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .base import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    headline,
    legend_below,
    need,
    new_figure,
    styled,
)

PARTS = {  # part -> what the legend says, colour, hatch, marker
    "vision": ("vision and projector", GREY, "", "s"),
    "below": ("layers below the cut", SKY, "//", "o"),
    "scoring": ("scoring", VERMILION, "", "D"),
    "above": ("layers above, head", BLUE, "\\\\", "v"),
    "decode": ("decoding", ORANGE, "..", "^"),
}


@styled
def where_time_goes(parts: pd.DataFrame) -> Figure:
    """Left: milliseconds of each part of an answer, stacked. Right: operations per second reached.

    parts: label, part (of PARTS), ms, gflop; one bar for each label, in their order from the top.
    Parts without a count of operations have no point on the right.
    """
    need(parts, ("label", "part", "ms", "gflop"))
    labels = list(parts["label"].unique())
    fig = new_figure(WIDTH, 0.42 * len(labels) + 1.9)
    bars, rates = fig.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    parts = parts.assign(rate=1e3 * parts["gflop"] / parts["ms"])
    ms, rate = (
        parts.pivot(index="label", columns="part", values=value).reindex(
            index=labels, columns=PARTS)
        for value in ("ms", "rate")
    )  # fmt: skip
    left = ms.fillna(0).cumsum(axis=1).shift(axis=1, fill_value=0.0)
    for part, (name, colour, hatch, marker) in PARTS.items():
        bars.barh(range(len(labels)), ms[part], left=left[part], height=0.62, label=name,
                  color=colour, hatch=hatch, edgecolor="white", lw=0.5)  # fmt: skip
        some = np.flatnonzero(rate[part] > 0)
        rates.plot(rate[part].iloc[some], some, marker, color=colour, ms=6, label=name)
    _scoring(bars, ms)
    bars.set_yticks(range(len(labels)), labels)
    bars.invert_yaxis()
    bars.set_xlabel("ms of one answer")
    rates.set(xlabel="GFLOP/s reached", xscale="log")
    ticks = [n for n in (0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
             if n < 2 * np.nanmax(rate)][-5:]  # fmt: skip
    rates.set_xticks(ticks, [f"{n:g}" for n in ticks])
    rates.minorticks_off()
    rates.grid(axis="x", color=FAINT, lw=0.6, which="both")
    rates.set_axisbelow(True)
    handles, names = bars.get_legend_handles_labels()
    dots, _ = rates.get_legend_handles_labels()
    legend_below(fig, list(zip(handles, dots, strict=True)), names, 5)
    share = (100 * ms["scoring"] / ms.sum(axis=1)).where(ms["scoring"] > 0)
    if share.notna().sum() == 0:
        return headline(fig, "Where the time of one answer goes")
    low, high = share.min(), share.max()
    said = f"{low:.1f} %" if round(low, 1) == round(high, 1) else f"{low:.1f} to {high:.1f} %"
    return headline(fig, f"Scoring takes {said} of an answer's time")


def _scoring(bars: Axes, ms: pd.DataFrame) -> None:
    """How long scoring takes, written behind each bar that is too thin to see."""
    for place, (whole, own) in enumerate(zip(ms.sum(axis=1), ms["scoring"], strict=True)):
        if own > 0:
            bars.annotate(f"scoring {own:.3g} ms", (whole, place), xytext=(3, 0), va="center",
                          textcoords="offset points", fontsize=7, color=VERMILION)  # fmt: skip
    bars.margins(x=0.28)


@styled
def growth(scoring: pd.DataFrame, prefill: pd.DataFrame) -> Figure:
    """Left: time of one score over N_v. Right: operations of a prefill over N_v. Both log-log.

    scoring: n_query, n_visual, route ("leverage", "ridge", "qr"), ms; prefill: n_visual, what,
    tflops. The dotted line starts with the lowest one and rises in proportion to N_v.
    """
    need(scoring, ("n_query", "n_visual", "route", "ms"))
    need(prefill, ("n_visual", "what", "tflops"))
    fig = new_figure(WIDTH, 4.3)
    left, right = fig.subplots(1, 2)
    colours = dict(
        zip(sorted(scoring["n_query"].unique()), (SKY, GREEN, BLUE, PURPLE), strict=False)
    )
    styles = {"leverage": ("o", "-", "ours"), "qr": ("v", "--", "QR + SVD")}
    styles["ridge"] = ("s", "-.", "ridge")
    for (n_query, route), own in scoring.groupby(["n_query", "route"]):
        marker, line, name = styles[route]
        own = own.sort_values("n_visual")
        left.plot(own["n_visual"], own["ms"], label=f"{name}, $N_q$ = {n_query}", marker=marker,
                  color=colours[n_query], ls=line, ms=4, lw=1.2)  # fmt: skip
    looks = zip((INK, BLUE, GREEN), "so^", ("-", "-", "--"), strict=True)
    for (what, own), (colour, marker, line) in zip(
        prefill.groupby("what", sort=False), looks, strict=False
    ):
        right.plot(own["n_visual"], own["tflops"], label=what, color=colour, marker=marker, ls=line,
                   ms=4, lw=1.2)  # fmt: skip
    left.set(xlabel="visual tokens, $N_v$", ylabel="ms of one score, 32 heads")
    right.set(xlabel="visual tokens, $N_v$", ylabel="TFLOPs of a prefill (computed)")
    ticks = sorted(scoring["n_visual"].unique())
    for ax, frame, column in ((left, scoring, "ms"), (right, prefill, "tflops")):
        ends = np.array([frame["n_visual"].min(), frame["n_visual"].max()])
        low = frame.loc[frame["n_visual"] == ends[0], column].min()
        ax.plot(
            ends, low * ends / ends[0], color=GREY, ls=":", lw=1, label="in proportion to $N_v$"
        )
        ax.set(xscale="log", yscale="log")
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    wide = scoring.pivot_table(index=["n_visual", "n_query"], columns="route", values="ms")
    if not {"qr", "leverage"} <= set(wide):
        return headline(fig, "Time of one score, and operations of a prefill, over visual tokens")
    gain = wide["qr"] / wide["leverage"]
    return headline(fig, f"This route is {gain.min():.1f} to {gain.max():.1f} times as fast as the "
                         "printed QR + SVD")  # fmt: skip
