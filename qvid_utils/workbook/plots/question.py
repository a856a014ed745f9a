"""The figure of the question control: own question beside its swap."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .base import BLUE, GREY, INK, ORANGE, headline, legend_below, need, new_figure, styled
from .graphs import intervals, marks, rows_of

TITLES = {"tiny/llava": "LLaVA", "tiny/qwen2_vl": "Qwen2-VL",
          "tiny/llava_onevision": "LLaVA-OneVision", "tiny/video_llava": "Video-LLaVA"}  # fmt: skip


@styled
def own_and_swap(
    table: pd.DataFrame, bars: pd.DataFrame, rules: Sequence[str], title: str
) -> Figure:
    """Accuracy scored with the own question (full) and its swap (hollow); a panel for each model.

    table: of `question_tables.control` (model, scored by, a, b); bars: `accuracy` of the rows named
    and keys, a column a model, drawn as lines.
    """
    need(table, ["model", "scored by", "a", "b"])
    models = list(dict.fromkeys(table["model"]))
    fig = new_figure(2.1 * len(models) + 1.2, 2.9)
    order = list(rules)[::-1]
    panels = fig.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, model in zip(panels, models, strict=True):
        rows = table[table["model"] == model].drop(columns=["low", "high"])
        rows = rows.assign(rule=rows["scored by"].str.removesuffix(", own"))
        place = rows["rule"].map(order.index)
        ax.hlines(place, rows["b"], rows["a"], colors=GREY, lw=1.1)
        intervals(ax, rows, order, value="a", name="rule", colour=BLUE)
        intervals(ax, rows, order, value="b", name="rule", colour=ORANGE, hollow=True)
        for name, style in (("named", "-"), ("keys", ":")):
            ax.axvline(bars.loc[name, model], color=INK, lw=0.9, ls=style, zorder=0)
        rows_of(ax, order)
        ax.set(title=TITLES.get(model, model), xlabel="accuracy (%)", xlim=(0, 103))
    lines = [_line("named thing kept", "-"), _line("keys alone", ":")]
    kinds = marks(("own question", BLUE, "o", False), ("its swap", ORANGE, "o", True))
    handles = [*kinds, *lines]
    legend_below(fig, handles, [one.get_label() for one in handles])
    return headline(fig, title)


def _line(label: str, style: str) -> Line2D:
    return Line2D([], [], color=INK, lw=0.9, ls=style, label=label)
