"""Line and interval figures, drawn by seaborn.objects: what the figures of numbers share."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seaborn import axes_style

from ...startup import STYLE
from .base import BLUE, DASHES, FAINT, GREY, INK, ORANGE, legend_below, look, named

EDGE = 1.96  # standard errors on either side of a 95 % interval
#: The workbook's style on seaborn's plain ground.
THEME = {**axes_style("ticks"), **STYLE, "xtick.labelsize": 8, "ytick.labelsize": 8}
Looks = Mapping[str, tuple[str, str, str]]


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str = "method",
    *,
    error: str = "",
    band: bool = False,
    panel: str = "",
    looks: Looks | None = None,
    size: tuple[float, float],
    labels: tuple[str, str],
    columns: int = 4,
    wrap: int | None = None,
    whole: bool = True,
    more: Sequence[Artist] = (),
    dodge: float = 0.0,
) -> Figure:
    """A line for each value of `by`, with its marker; a panel for each value of `panel`.

    frame: long, one row a point; error: a column of standard errors, drawn as 95 % bars or `band`;
    looks: value -> (colour, marker, line), default of the methods; labels: of x and y; whole: a
    dashed line at 100, the full model; dodge: how far lines stand apart in x. The legend stands
    below all panels, in the order of the frame, with the handles of `more` at its end.
    """
    frame = frame.reset_index(drop=True)  # seaborn places values by their row's name
    names = list(dict.fromkeys(frame[by]))
    looks = looks or {name: look(name) for name in names}
    shown = frame.astype({x: "float64", y: "float64"}).assign(
        line=frame[by].map(lambda name: named(name) if by == "method" else str(name))
    )
    order = list(dict.fromkeys(shown["line"]))
    shown[x] += dodge * (shown["line"].map(order.index) - (len(order) - 1) / 2)
    kinds = dict(zip(order, (looks[name] for name in names), strict=True))
    plot = so.Plot(shown, x=x, y=y, color="line", marker="line", linestyle="line")
    if panel:
        plot = plot.facet(panel, order=list(dict.fromkeys(frame[panel])), wrap=wrap)
    plot = plot.add(so.Line(linewidth=1.3, pointsize=4.5))
    if error:
        half = EDGE * frame[error].astype("float64")
        mark = so.Band(alpha=0.15) if band else so.Range(linewidth=0.9)
        plot = plot.add(mark, legend=False, ymin=shown[y] - half, ymax=shown[y] + half)
    fig = drawn(plot.scale(**_scales(kinds)).label(x=labels[0], y=labels[1]), *size)
    return _finished(fig, whole, list(more), columns)


def _scales(kinds: Looks) -> dict[str, so.Nominal]:
    """Colour, marker and line of each name."""
    return {
        name: so.Nominal({one: kind[i] for one, kind in kinds.items()}, order=list(kinds))
        for i, name in enumerate(("color", "marker", "linestyle"))
    }


def _finished(fig: Figure, whole: bool, more: list[Artist], columns: int) -> Figure:
    """The line of the full model, and one legend for everything, below."""
    if whole:
        for ax in fig.axes:
            ax.axhline(100, color=INK, lw=1, ls=(0, DASHES), zorder=0)
        more = [*more, Line2D([], [], color=INK, lw=1, ls=(0, DASHES), label="full model")]
    legend = fig.legends.pop()
    handles, words = legend.legend_handles, [text.get_text() for text in legend.texts]
    words += [handle.get_label() for handle in more]
    legend_below(fig, [*handles, *more], words, columns)
    return fig


def drawn(plot: so.Plot, width: float, height: float) -> Figure:
    """The plot as a figure of this size, in the one style, laid out so that nothing overlaps."""
    fig = Figure(figsize=(width, height), layout="constrained")
    plot.theme(THEME).layout(engine="constrained").on(fig).plot()
    for ax in fig.axes:
        ax.set_title(ax.get_title(), fontsize=9)
    return fig


def intervals(
    ax: Axes,
    rows: pd.DataFrame,
    order: Sequence[str],
    *,
    value: str,
    name: str,
    colour: str | Sequence[str],
    marker: str = "o",
    hollow: bool | Sequence[bool] = False,
    shift: float = 0.0,
) -> None:
    """Points with their intervals (`low`, `high`), a row for each name from the bottom up."""
    place = rows[name].map({one: i for i, one in enumerate(order)}).to_numpy(float) + shift
    colours = np.broadcast_to(colour, len(rows))
    empty = np.broadcast_to(hollow, len(rows))
    if "low" in rows:
        ax.hlines(place, rows["low"], rows["high"], colors=list(colours), lw=1.1)
    face = ["white" if one else c for one, c in zip(empty, colours, strict=True)]
    ax.scatter(rows[value], place, marker=marker, s=18, c=face, edgecolors=list(colours), zorder=3)


def rows_of(ax: Axes, order: Sequence[str], bold: Sequence[str] = (), size: float = 8) -> None:
    """Names of the rows, a faint line under each; the bold ones are what the eye should find."""
    ax.set_yticks(range(len(order)), list(order), fontsize=size)
    for text, one in zip(ax.get_yticklabels(), order, strict=False):
        text.set_fontweight("bold" if one in bold else "normal")
    ax.grid(axis="y", color=FAINT, lw=0.5)
    ax.set_axisbelow(True)
    ax.set_ylim(-0.7, len(order) - 0.3)
    ax.tick_params(axis="y", length=0)


def verdict_colours(rows: pd.DataFrame, value: str = "difference") -> tuple[list[str], list[bool]]:
    """Colour and hollowness of differences: better, worse, and not clear (zero in the interval)."""
    clear = (rows["low"] > 0) | (rows["high"] < 0)
    side = np.where(rows[value] < 0, ORANGE, BLUE)
    return list(np.where(clear, side, GREY)), list(~clear)


def marks(*kinds: tuple[str, str, str, bool]) -> list[Line2D]:
    """Handles of a legend: (label, colour, marker, hollow) each."""
    return [
        Line2D([], [], ls="", marker=marker, color=colour, ms=5, label=label,
               mfc="white" if hollow else colour)
        for label, colour, marker, hollow in kinds
    ]  # fmt: skip


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels of rising values: as near to them as they can be and `gap` apart."""
    places = np.asarray(values, dtype="float64")
    for _ in range(200):
        close = np.diff(places) < gap - 1e-9
        if not close.any():
            break
        push = np.where(close, (gap - np.diff(places)) / 2, 0.0)
        places = places + np.append(0.0, push) - np.append(push, 0.0)
    return places.tolist()
