"""What all figures share: one style, one look for each method, and `save`, the only writer.

A figure function takes a frame or array and gives a `Figure`; it draws the numbers it was given and
nothing else, so that the CSV that `save` puts beside the picture holds what is plotted. Its title
states what these numbers show. Colours are Okabe and Ito's, maps cividis; where a colour says
something, a word, a hatch or a line style says it, too.
"""

import base64
import functools
import io
import re
import textwrap
from collections.abc import Callable, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from ...methods import METHODS
from ...paths import figures_dir
from ...startup import STYLE
from ..benchmarks.base import FULL

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY, PALE, INK = "#56B4E9", "#CC79A7", "#6E6E6E", "#A8A8A8", "#1A1A1A"
FAINT = "#E6E6E6"
MAP = "cividis"
WIDTH = 7.0  # inches: two columns of a paper, a notebook's width on a screen
DASHES = (6, 2)

COLOURS = {
    "blue": BLUE, "orange": ORANGE, "green": GREEN, "vermilion": VERMILION, "sky": SKY,
    "purple": PURPLE, "grey": GREY, "pale": PALE, "ink": INK,
}  # fmt: skip
#: The methods by every name that a table has for them, the papers' too.
BY_NAME = {**METHODS, **{m.printed: m for m in METHODS.values() if m.printed}}
#: Name -> colour, marker, line.
LOOKS = {
    name: (COLOURS[m.curve[0]], *m.curve[1:]) for name, m in BY_NAME.items() if m.curve is not None
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: draw under the one style, whether or not `startup.start` was called."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with mpl.rc_context(dict(STYLE)):
            return draw(*args, **kwargs)

    return wrapped


def named(method: str) -> str:
    """A method's name for a figure."""
    if method in BY_NAME:
        return BY_NAME[method].short or BY_NAME[method].label
    return "full model" if method == FULL else method


def look(method: str) -> tuple[str, str, str]:
    """Colour, marker and line of a method."""
    return LOOKS.get(method, (INK, "*", "-"))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure whose parts are laid out so that nothing overlaps; sizes in inches."""
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.07)  # the default cuts two-line titles
    return fig


def headline(fig: Figure, text: str) -> Figure:
    """The figure with what it shows as its title, wrapped to its width."""
    lines = textwrap.wrap(text, int(11.4 * fig.get_figwidth()))
    fig.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return fig


def legend_below(fig: Figure, handles: Sequence, labels: Sequence[str], columns: int = 4) -> None:
    """One legend for the whole figure, below its panels."""
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """ValueError naming the columns that a frame lacks."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")


def described(fig: Figure) -> str:
    """Alternative text: the title, the panels, the axes and what the legends name."""

    def of(texts) -> str:
        return ", ".join(dict.fromkeys(" ".join(t.split()) for t in texts if t.strip()))

    axes = [ax for ax in fig.axes if ax.axison]
    parts = {
        "": of([fig.get_suptitle()]),
        "Panels: ": of(ax.get_title() for ax in axes),
        "Across: ": of(ax.get_xlabel() for ax in axes),
        "Up: ": of(ax.get_ylabel() for ax in axes),
        "Shown: ": of(
            text.get_text()
            for legend in [*fig.legends, *(ax.get_legend() for ax in axes if ax.get_legend())]
            for text in legend.get_texts()
        ),
    }
    return " ".join(f"{name}{text.rstrip('.')}." for name, text in parts.items() if text)


def save(fig: Figure, name: str, data: pd.DataFrame, profile: str = "tiny") -> None:
    """Write figures/<profile>/<name>.png, .pdf and .csv (the plotted numbers); show the picture.

    The same figure gives the same bytes: no dates, no names of software. Numbers have four digits.
    The PNG and the page carry the alternative text of `described`. In a notebook the picture is
    displayed, with 256 colours at most. Raises ValueError for a name that is no file name or a
    frame without rows.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name={name!r}; use letters, digits, '-', '_' and '.' only")
    if data.empty:
        raise ValueError(f"figure {name!r}: its data has no rows; give the frame that was plotted")
    folder = figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    drawn, text = io.BytesIO(), described(fig)
    with mpl.rc_context(dict(STYLE)):
        fig.savefig(drawn, format="png")
        nothing = {"Creator": None, "Producer": None, "CreationDate": None}
        fig.savefig(folder / f"{name}.pdf", metadata=nothing)
    dpi, words = STYLE["savefig.dpi"], PngImagePlugin.PngInfo()
    words.add_itxt("Description", text)
    png = folder / f"{name}.png"
    with Image.open(drawn) as full:
        picture = full.convert("RGB")
    maps = any(ax.images for ax in fig.axes)
    few = picture.quantize(256 if maps else 144, Image.Quantize.MEDIANCUT, kmeans=2, dither=0)
    # without a map few colours are enough, and a third of the bytes; so they are on a page
    (picture if maps else few).save(png, optimize=True, dpi=(dpi, dpi), pnginfo=words)
    lines = data.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    (folder / f"{name}.csv").write_text(lines, encoding="utf-8", newline="\n")
    page = io.BytesIO()
    few.save(page, "png", optimize=True, dpi=(dpi, dpi))
    _show(page.getvalue(), f"{name}.png", text, int(110 * fig.get_figwidth()))


def _show(png: bytes, name: str, alt: str, width: int) -> None:
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:  # bytes, and no object's address
        image = {"image/png": base64.b64encode(png).decode(), "text/plain": name}
        display(image, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)
