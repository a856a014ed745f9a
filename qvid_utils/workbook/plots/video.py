"""Figures of videos: film strips with the kept tokens, and how the kept tokens spread over time."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .base import DASHES, INK, headline, legend_below, look, need, new_figure, styled
from .methods import video_name
from .pictures import patches_on, picture_on, wrapped


@styled
def film_strip(films: Mapping[str, np.ndarray], shown: pd.DataFrame) -> Figure:
    """Frames from left to right, one strip per question and method: clear and framed is kept.

    films: by sample, (T, h, w, 3) uint8; shown: `run.look`, all of one number of frames. Beside a
    strip stand the question, the method, its answer, and how many tokens of the clip it keeps.
    """
    need(shown, ("sample", "question", "answer", "method", "frame", "spot", "kept", "right"))
    order = shown["sample"].unique().tolist()
    strips = sorted(
        shown.groupby(["sample", "method"], sort=False), key=lambda strip: order.index(strip[0][0])
    )
    number = int(shown["frame"].max()) + 1
    side = int((shown["spot"].max() + 1) ** 0.5)
    fig = new_figure(1.9 + 0.85 * number, 1.05 * len(strips) + 0.6)
    axes = fig.subplots(len(strips), 1 + number, squeeze=False, width_ratios=(2.2, *[1] * number))
    last = None
    for ((sample, method), own), (words, *panels) in zip(strips, axes, strict=True):
        words.axis("off")
        head = own.iloc[0]
        verdict = "correct" if head["right"] else "wrong"  # "right" is a direction here
        said = f"{video_name(method)}: “{head['prediction']}”, {verdict}"
        said += f"\n{int(own['kept'].sum())} of {len(own)} tokens"
        if sample != last:
            said = f"{wrapped(head['question'], 30)} ({head['answer']})\n{said}"
        for t, ax in enumerate(panels):
            picture_on(ax, films[sample][t])
            here = own[(own["frame"] == t) & own["kept"]]
            patches_on(ax, (side, side), here["spot"].tolist())
            if sample != last:
                ax.set_title(f"frame {t + 1}", fontsize=8)
        last = sample
        words.text(0, 0.5, said, va="center", fontsize=7.5, transform=words.transAxes)
    own = shown[shown["kept"] & (shown["method"] == shown["method"].iloc[0])]
    first = 100 * (own["frame"] == 0).sum() / max(len(own), 1)
    return headline(fig, f"{video_name(shown['method'].iloc[0])} puts {first:.0f} % of what it "
                         f"keeps in the first of {number} frames")  # fmt: skip


@styled
def kept_over_time(spread: pd.DataFrame, uniform: float) -> Figure:
    """The share of a clip's kept tokens that stand in each frame, one line per method.

    spread: `video.frames_kept`; uniform: what each frame would have of an even budget, in %.
    """
    need(spread, ("method", "frame", "of_kept"))
    fig = new_figure(6.2, 3.9)
    ax = fig.subplots()
    ax.axhline(uniform, color=INK, lw=1, ls=(0, DASHES), label="an even budget")
    for method, own in spread.groupby("method", sort=False):
        own, (colour, marker, line) = own.sort_values("frame"), look(method)
        ax.plot(own["frame"] + 1, own["of_kept"], lw=1.3, ms=5, color=colour, marker=marker,
                ls=line, label=video_name(method))  # fmt: skip
    ax.set(xlabel="frame", ylabel="share of the kept tokens (%)", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    legend_below(fig, *ax.get_legend_handles_labels(), 3)
    most = spread.loc[spread["of_kept"].idxmax()]
    said = f"{video_name(most['method'])} puts {most['of_kept']:.0f} % of its tokens in frame "
    return headline(fig, f"{said}{int(most['frame']) + 1}; an even budget {uniform:.1f} %")
