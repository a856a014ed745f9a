"""Figures of videos: film strips with the kept tokens, and how the kept tokens spread over time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .base import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    WIDTH,
    _curve,
    _figure,
    _legend_row,
    _need,
    _patches,
    _picture,
    _title,
    _wrapped,
    styled,
)

__all__ = ["accuracy_at_shares", "film_strip", "kept_over_time"]


BASELINES = {"fewer_frames": "Fewer frames", "first_frame": "First frame alone"}
# What `video.per_frame` and `video.in_frames` add to a name, and to a label.
ENDINGS = {"_per_frame": "per frame", "_in_frames": "no class tokens"}
LOOKS = ((BLUE, "o"), (ORANGE, "s"), (INK, "D"))  # colour and marker of each suite


@styled
def accuracy_at_shares(table: pd.DataFrame, chance: Mapping[str, float]) -> Figure:
    """Accuracy and its 95 % interval, a panel for each share of the tokens, a line for each method.

    table: `video_tables.by_method` of all types of questions together; chance: by suite, in %. A
    line across each panel is the unpruned model (dashed) and chance (dotted) of a suite. Methods
    stand in the order of their mean over all shares and suites.
    """
    _need(table, ("suite", "share", "method", "value", "low", "high"))
    pruned = table[table["share"] < 100]
    shares = sorted(pruned["share"].unique(), reverse=True)
    order = pruned.groupby("method")["value"].mean().sort_values().index.tolist()
    fig = _figure(WIDTH, 0.26 * len(order) + 1.3)
    axes = fig.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    suites = table["suite"].unique().tolist()
    for ax, share in zip(axes, shares, strict=True):
        for n, (suite, (colour, marker)) in enumerate(zip(suites, LOOKS, strict=False)):
            mine = table[table["suite"] == suite]
            full = mine.loc[mine["method"] == "full", "value"].iloc[0]
            ax.axvline(full, color=colour, lw=1, ls=(0, (6, 2)))
            ax.axvline(chance[suite], color=colour, lw=1, ls=":")
            own = mine[mine["share"] == share]
            y = [order.index(method) + 0.14 - 0.28 * n for method in own["method"]]
            bars = [own["value"] - own["low"], own["high"] - own["value"]]
            ax.errorbar(own["value"], y, xerr=bars, color=colour, marker=marker, ms=4, ls="",
                        elinewidth=1, label=suite)  # fmt: skip
        ax.set(title=f"{share:g} % of the tokens", xlabel="accuracy (%)", xlim=(0, 102))
        ax.grid(axis="y", color=GREY, alpha=0.2, lw=0.6)
    axes[0].set_yticks(range(len(order)), [_named(method) for method in order])
    _legend_row(fig, axes[0])
    return fig


@styled
def film_strip(films: Mapping[str, np.ndarray], shown: pd.DataFrame) -> Figure:
    """Frames from left to right, one strip per question and method: clear and framed is kept.

    films: by sample, (T, h, w, 3) uint8; shown: `video.kept`, all of one number of frames. Beside a
    strip stand the question, the method, its answer, and how many tokens of the clip it keeps.
    """
    _need(shown, ("sample", "question", "answer", "method", "frame", "spot", "kept", "right"))
    order = shown["sample"].unique().tolist()
    strips = sorted(
        shown.groupby(["sample", "method"], sort=False), key=lambda strip: order.index(strip[0][0])
    )
    number = int(shown["frame"].max()) + 1
    side = int((shown["spot"].max() + 1) ** 0.5)
    fig = _figure(2.3 + 0.62 * number, 0.86 * len(strips) + 0.25)
    axes = fig.subplots(len(strips), 1 + number, squeeze=False, width_ratios=(3.4, *[1] * number))
    last = None
    for ((sample, method), own), (words, *panels) in zip(strips, axes, strict=True):
        words.axis("off")
        head = own.iloc[0]
        verdict = "correct" if head["right"] else "wrong"  # "right" is a direction here
        said = f"{_named(method)}: “{head['prediction']}”, {verdict}"
        said += f"\n{int(own['kept'].sum())} of {len(own)} tokens"
        if sample != last:
            asked = _wrapped(_stem(head["question"]), 30)
            said = f"{asked} ({head['answer']})\n{said}"
        last = sample
        words.text(0, 0.5, said, va="center", fontsize=7.5, transform=words.transAxes)
        for t, ax in enumerate(panels):
            _picture(ax, films[sample][t])
            here = own[(own["frame"] == t) & own["kept"]]
            _patches(ax, (side, side), here["spot"].tolist())
    for t, ax in enumerate(axes[0, 1:]):
        ax.set_title(f"{t + 1}", fontsize=8)
    return fig


def _named(method: str) -> str:
    """A method's label, or what `video` makes of it."""
    for ending, words in ENDINGS.items():
        if method.endswith(ending):
            return f"{_title(method.removesuffix(ending))}, {words}"
    return BASELINES.get(method) or _title(method)


def _stem(question: str) -> str:
    """A question with its options and without its answer-format sentence."""
    return question.partition(" Answer ")[0]


@styled
def kept_over_time(spread: pd.DataFrame, uniform: float) -> Figure:
    """The share of a clip's kept tokens that stand in each frame, one line per method.

    spread: `video.frames_kept`; uniform: what each frame would have of an even budget, in %.
    """
    _need(spread, ("method", "frame", "of_kept"))
    fig = _figure(5.2, 3.2)
    ax = fig.subplots()
    ax.axhline(uniform, color="#1A1A1A", lw=1, ls=(0, (6, 2)), label="an even budget")
    for method, own in spread.groupby("method", sort=False):
        own = own.sort_values("frame")
        look = {**_curve(method), "label": _named(method)}
        ax.plot(own["frame"] + 1, own["of_kept"], lw=1.3, **look)
    ax.set(xlabel="frame", ylabel="share of the kept tokens (%)", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    _legend_row(fig, ax)
    return fig
