"""The explorer's one figure: a question seen by a few methods, side by side.

Drawn anew at every move of a slider, so places are given and not searched for: the layout engine
of the other figures takes longer than the model does.
"""

from __future__ import annotations

import textwrap
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import NullLocator

from ...startup import STYLE
from ..plots.base import BLUE, GREEN, GREY, INK, MAP, PURPLE, SKY, VERMILION, styled
from ..plots.pictures import split_question, veil_of
from ..plots.words import word_bars
from .one_look import Look, Side
from .one_question import name_of

__all__ = ["explorer", "png"]

GAP = 0.1  # between two pictures, whose width is 1
STEP = 1 + GAP
COLUMNS = 25  # letters across a picture
LOOKS = ((GREY, ""), (BLUE, "///"), (VERMILION, "..."), (GREEN, "xxx"), (PURPLE, "\\\\\\"))


@styled
def explorer(look: Look) -> Figure:
    """The picture; for each method what it keeps, its scores, answer and cost; below, M's spectrum
    with the modes that vote, the query words, and how likely the first words of the answers are."""
    panels = 1 + 2 * len(look.sides)
    width = 1.76 * panels
    fig = Figure(figsize=(width, 5.2), layout="none")
    ax = fig.add_axes((0.1 / width, 0.46, 1 - 0.2 / width, 0.53))
    tall = look.asked.seen.shape[0] / look.asked.seen.shape[1]
    # one axes for all pictures: each axes costs as much to draw as a picture
    ax.set(xlim=(0, panels * STEP - GAP), ylim=(tall + 0.62, -0.31), aspect="equal")
    ax.axis("off")
    _seen(ax, look, tall)
    for place, side in enumerate(look.sides):
        _side(ax, look, side, (1 + 2 * place) * STEP, tall)
    bottom = GridSpec(1, 3, fig, top=0.38, bottom=0.17, left=0.6 / width, right=1 - 0.15 / width,
                      wspace=0.3, width_ratios=(1, 2.2, 1.15))  # fmt: skip
    spectrum, words, answers = (fig.add_subplot(cell) for cell in bottom)
    _spectrum(spectrum, look)
    word_bars(words, look.words, look.rank)
    _title(words, f"b  words of the question, M before layer {look.asked.layer}")
    words.legend(fontsize=6.5, loc="upper right", ncols=3, borderaxespad=0.1,
                 handlelength=1.4, columnspacing=1)  # fmt: skip
    words.set_ylim(0, 1.22)
    _answers(answers, look)
    return fig


def _title(ax: Axes, text: str) -> None:
    """A title at a given height: else every label of the axes is measured to find one."""
    ax.set_title(text, fontsize=9, y=1.0)


def _panel(ax: Axes, left: float, tall: float, above: str, below: str) -> tuple:
    """Where an image of this panel goes; what stands above and below it, wrapped to its width."""
    ax.text(left + 0.5, -0.03, _wrapped(above), ha="center", va="bottom", fontsize=9)
    ax.text(left + 0.5, tall + 0.03, _wrapped(below), ha="center", va="top", fontsize=8)
    return left, left + 1, tall, 0


def _wrapped(text: str) -> str:
    """Each line of a caption broken where the panel ends."""
    return "\n".join("\n".join(textwrap.wrap(line, COLUMNS)) for line in text.split("\n"))


def _said(text: str) -> str:
    return f"“{text}”" if text else "(nothing)"


def _seen(ax: Axes, look: Look, tall: float) -> None:
    asked, whole = look.asked, look.costs.iloc[0]
    question = textwrap.wrap(split_question(asked.question)[0], COLUMNS, max_lines=2,
                             placeholder=" …")  # fmt: skip
    said = f"{name_of(asked.model)}\n{_said(asked.answer.text)}, p = {asked.answer.probability:.2f}"
    said += f"\n{asked.n_visual} tokens\n{_count(whole['operations'])} operations"
    ax.imshow(asked.seen, extent=_panel(ax, 0, tall, "\n".join(question), said))


def _side(ax: Axes, look: Look, side: Side, left: float, tall: float) -> None:
    """Kept tokens clear and framed, the others veiled; beside them the scores."""
    asked, name = look.asked, side.method.label
    settings = ", ".join(f"{name} {value}" for name, value in side.settings.items())
    name += f"\n{settings or 'its own settings'}"
    if side.problem:
        _panel(ax, left, tall, name, "")
        text = "\n".join(textwrap.wrap(side.problem, 46)[:11])
        ax.text(left, 0.1, text, va="top", fontsize=8)
        return
    said = f"{_said(side.answer.text)}, p = {side.answer.probability:.2f}\n{_kept(side)}"
    extent = _panel(ax, left, tall, name, said)
    rows, columns = asked.board
    ax.imshow(asked.seen, extent=extent)
    ax.imshow(veil_of(asked.board, side.kept), extent=extent)
    if len(side.kept) < rows * columns:
        places = (divmod(token, columns) for token in side.kept)
        wide, high = 1 / columns, tall / rows
        corners = [(left + column * wide, row * high) for row, column in places]
        frames = [[(x, y), (x + wide, y), (x + wide, y + high), (x, y + high)] for x, y in corners]
        ax.add_collection(PolyCollection(frames, facecolor="none", edgecolor=INK, lw=0.7))
    low, high = np.nanmin(side.scores), np.nanmax(side.scores)
    extent = _panel(ax, left + STEP, tall, "score", _cost(look, side))
    ax.imshow(side.scores.reshape(asked.board), cmap=MAP, extent=extent)
    _bar(ax, left + STEP, f"{low:.2g}", f"{high:.2g}")


def _bar(ax: Axes, left: float, low: str, high: str) -> None:
    """The colours of a map from its lowest to its highest score, in a strip above it."""
    strip = (left + 0.25, left + 0.75, -0.17, -0.21)
    ax.imshow(np.linspace(0, 1, 64)[None], cmap=MAP, extent=strip)
    for x, side, text in ((left + 0.23, "right", low), (left + 0.77, "left", high)):
        ax.text(x, -0.19, text, ha=side, va="center", fontsize=7)


def _cost(look: Look, side: Side) -> str:
    whole = look.costs["operations"].iloc[0]
    share = 100 * side.operations / whole
    text = f"mean {side.mean_tokens:.1f} tokens\n{share:.0f} % of the operations"
    first = next(other for other in look.sides if other.answer)
    if side is first:
        return text
    same = "not to be had" if side.same_cost is None else f"keep {side.same_cost}"
    return f"{text}\nat {first.method.label}'s cost: {same}"


def _kept(side: Side) -> str:
    where = f"layer {side.layers[0]}"
    if len(side.layers) > 1:
        where = f"first of {len(side.layers)} cuts, {where}"
    if not side.placed:
        return f"{len(side.kept)} tokens, {where}\nslots: it merges tokens"
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
    _title(ax, f"a  {rank}: {look.votes:.3g} of {len(lines)} modes vote")


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
    _title(ax, "c  answers")
    ax.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1.02, -0.46), borderaxespad=0,
              ncols=2, handlelength=1.4, columnspacing=1)  # fmt: skip


def _count(number: float) -> str:
    """1234567 as "1.23 M"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def png(fig: Figure) -> bytes:
    """The figure as a PNG for a screen, quickly: half the resolution of what is saved."""
    made = BytesIO()
    fig.savefig(made, format="png", dpi=STYLE["figure.dpi"], pil_kwargs={"compress_level": 1})
    return made.getvalue()
