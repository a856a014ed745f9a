"""The explorer's one figure: a question seen by a few methods, side by side.

Drawn anew at every move of a slider, so places are given and not searched for: the layout engine
of the other figures takes longer than the model does.
"""

from __future__ import annotations

import textwrap
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import NullLocator

from . import figures
from .figures import BLUE, GREEN, GREY, MAP, PURPLE, SKY, VERMILION
from .startup import STYLE
from .views import Look, Side

__all__ = ["explorer", "png"]

LOOKS = ((GREY, ""), (BLUE, "///"), (VERMILION, "..."), (GREEN, "xxx"), (PURPLE, "\\\\\\"))


@figures.styled
def explorer(look: Look) -> Figure:
    """The picture; for each method what it keeps, its scores, answer and cost; below, M's spectrum
    with the modes that vote, the query words, and how likely the first words of the answers are."""
    sides, asked = look.sides, look.asked
    width = 2.35 + 3.3 * len(sides)
    fig = Figure(figsize=(width, 4.9), layout="none")
    edge = {"left": 0.15 / width, "right": 1 - 0.15 / width}
    top = GridSpec(1, 1 + 2 * len(sides), fig, top=0.915, bottom=0.59, wspace=0.12, **edge)
    _seen(fig.add_subplot(top[0]), look)
    for place, side in enumerate(sides):
        pair = [fig.add_subplot(top[1 + 2 * place + i]) for i in (0, 1)]
        _side(*pair, look, side)
    edge["left"] = 0.6 / width
    bottom = GridSpec(1, 3, fig, top=0.38, bottom=0.17, wspace=0.3, width_ratios=(1, 2.2, 1.15),
                      **edge)  # fmt: skip
    spectrum, words, answers = (fig.add_subplot(cell) for cell in bottom)
    _spectrum(spectrum, look)
    figures._word_bars(words, look.words, look.rank)
    _title(words, f"words of the question, M at the door of layer {asked.layer}")
    words.legend(fontsize=7, loc="upper right", ncols=3, borderaxespad=0.1, handlelength=1.4)
    words.set_ylim(0, 1.22)
    _answers(answers, look)
    return fig


def _title(ax: Axes, text: str) -> None:
    """A title at a given height: else every label of the axes is measured to find one."""
    ax.set_title(text, fontsize=9, y=1.0)


def _seen(ax: Axes, look: Look) -> None:
    asked = look.asked
    figures._picture(ax, asked.seen)
    ax.set_aspect(asked.seen.shape[0] / asked.seen.shape[1])
    _title(ax, "\n".join(textwrap.wrap(figures.split_question(asked.question)[0], 26)[:3]))
    whole = look.costs.iloc[0]
    ax.set_xlabel(
        f"full model: “{asked.answer.text}”\np = {asked.answer.probability:.2f}\n"
        f"{asked.n_visual} tokens, {_count(whole['operations'])} operations",
        fontsize=8,
    )


def _side(left: Axes, right: Axes, look: Look, side: Side) -> None:
    asked = look.asked
    settings = ", ".join(f"{name} {value}" for name, value in side.settings.items())
    _title(left, f"{side.method.label}\n{settings or 'its own settings'}")
    if side.problem:
        for ax in (left, right):
            ax.axis("off")
        text = "\n".join(textwrap.wrap(side.problem, 46)[:11])
        left.text(0, 0.95, text, va="top", fontsize=8, transform=left.transAxes)
        return
    shape = asked.seen.shape[0] / asked.seen.shape[1]
    figures._picture(left, asked.seen)
    figures._patches(left, asked.board, side.kept)
    left.set_aspect(shape)
    line = look.costs.set_index("label").loc[side.method.label]
    said = side.answer
    left.set_xlabel(f"“{said.text}”, p = {said.probability:.2f}\n{_kept(side)}", fontsize=8)
    right.imshow(side.scores.reshape(asked.board), cmap=MAP, extent=(0, 1, 1, 0))
    right.set_aspect(shape)
    figures._bare(right)
    low, high = np.nanmin(side.scores), np.nanmax(side.scores)
    _title(right, f"score, {low:.3g} to {high:.3g}")
    same = line["same_cost"]
    cost = f"mean {side.mean_tokens:.1f} tokens\n{100 * line['share']:.0f} % of the operations"
    first = next(s for s in look.sides if s.answer)
    if side is not first:
        cost += "\nsame cost: " + (f"keep {same}" if same is not None else "not to be had")
    right.set_xlabel(cost, fontsize=8)


def _kept(side: Side) -> str:
    where = f"layer {side.layers[0]}"
    if len(side.layers) > 1:
        where = f"first of {len(side.layers)} cuts, {where}"
    if not side.placed:
        return f"{len(side.kept)} tokens, {where}:\nslots, it merges tokens"
    return f"{len(side.kept)} of {len(side.scores)} tokens\n{where}"


def _spectrum(ax: Axes, look: Look) -> None:
    lines = look.spectrum
    ax.axvspan(0.5, look.votes + 0.5, color=SKY, alpha=0.25, lw=0)
    ax.fill_between(lines["mode"], lines["lowest"], lines["highest"], color=BLUE, alpha=0.22, lw=0)
    ax.plot(lines["mode"], lines["mean"], color=BLUE, marker="o", ms=2.5)
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlim(0.5, len(lines) + 0.5)
    ax.set_xlabel("mode k")
    ax.set_ylabel("σₖ / σ₁", fontsize=8)
    rank = f"rank {look.rank}" if look.rank >= 1 else f"{100 * look.rank:.0f} % of the energy"
    _title(ax, f"{rank}: {look.votes:.3g} of {len(lines)} modes vote")


def _answers(ax: Axes, look: Look) -> None:
    table = look.answers
    words, who = list(dict.fromkeys(table["word"])), list(dict.fromkeys(table["who"]))
    height = 0.8 / len(who)
    for place, (label, (colour, hatch)) in enumerate(zip(who, LOOKS, strict=False)):
        own = table[table["who"] == label]
        y = np.arange(len(own)) + (place - (len(who) - 1) / 2) * height
        ax.barh(y, own["probability"], height * 0.92, color=colour, hatch=hatch, ec="white", lw=0,
                label=label)  # fmt: skip
    ax.set(ylim=(len(words) - 0.5, -0.5), xlim=(0, 1), yticks=range(len(words)))
    ax.set_yticklabels(words, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("probability as the first word")
    _title(ax, "answers")
    ax.legend(fontsize=7, loc="lower right", borderaxespad=0.1)


def _count(number: float) -> str:
    """1234567 as "1.23 M"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def png(fig: Figure) -> bytes:
    """The figure as a PNG, in the style's resolution, quickly."""
    made = BytesIO()
    fig.savefig(made, format="png", dpi=STYLE["savefig.dpi"], pil_kwargs={"compress_level": 1})
    return made.getvalue()
