"""One function per figure: frame or array in, `Figure` out. `save` is the only writer.

A figure function draws the numbers of the frame that it is given and nothing else, so that the
CSV that `save` puts beside the picture holds what is plotted. Colours are Okabe and Ito's, maps
cividis; where a colour says something, a word, a hatch or a line style says it, too.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ...methods import METHODS
from ...paths import figures_dir
from ...startup import STYLE
from ..benchmarks.base import PAPER_BENCHMARKS

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY, PALE, INK = "#56B4E9", "#CC79A7", "#6E6E6E", "#A8A8A8", "#1A1A1A"
MAP = "cividis"
VEIL = 0.8  # how much of a dropped patch is covered
WIDTH = 7.0  # inches: two columns of a paper, a notebook's width on a screen


# ------------------------------------------------------------------------------- style and saving
def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: draw under the one style, whether or not `startup.start` was called."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with mpl.rc_context(dict(STYLE)):
            return draw(*args, **kwargs)

    return wrapped


def save(fig: Figure, name: str, data: pd.DataFrame, profile: str = "tiny") -> None:
    """Write figures/<profile>/<name>.png, .pdf and .csv (the plotted numbers); show the picture.

    The same figure gives the same bytes: no dates, no names of software. Numbers have four digits.
    In a notebook the saved PNG is displayed. Raises ValueError for a name that is no file name or
    a frame without rows.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"name={name!r}; use letters, digits, '-', '_' and '.' only")
    if data.empty:
        raise ValueError(f"figure {name!r}: its data has no rows; give the frame that was plotted")
    folder = figures_dir(profile)
    folder.mkdir(parents=True, exist_ok=True)
    png = folder / f"{name}.png"
    drawn = io.BytesIO()
    with mpl.rc_context(dict(STYLE)):
        fig.savefig(drawn, format="png")
        nothing = {"Creator": None, "Producer": None, "CreationDate": None}
        fig.savefig(folder / f"{name}.pdf", metadata=nothing)
    dpi = STYLE["savefig.dpi"]
    _few_colours(drawn).save(png, optimize=True, dpi=(dpi, dpi))
    text = data.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    (folder / f"{name}.csv").write_text(text, encoding="utf-8", newline="\n")
    _show(png.read_bytes(), f"{name}.png")


def _few_colours(drawn: io.BytesIO) -> Image.Image:
    """At most 144 colours: a third of the bytes, in the repository and in each notebook."""
    with Image.open(drawn) as full:
        # The two k-means rounds keep rare colours: a blue letter among thousands of grounds.
        return full.convert("RGB").quantize(144, Image.Quantize.MEDIANCUT, kmeans=2, dither=0)


def _show(png: bytes, name: str) -> None:
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:  # the bytes that were written, and no object's address
        image = base64.b64encode(png).decode()
        display({"image/png": image, "text/plain": name}, raw=True)


def _figure(width: float, height: float) -> Figure:
    fig = Figure(figsize=(width, height), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.06, h_pad=0.07)  # the default cuts two-line titles
    return fig


# ------------------------------------------------------------------------------ pictures and words
def _picture(ax: Axes, picture: np.ndarray) -> None:
    """The picture over the unit square, row 0 at the top, without axes."""
    ax.imshow(np.asarray(picture), extent=(0, 1, 1, 0))
    ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    _bare(ax)


def _bare(ax: Axes) -> None:
    """No ticks and no frame; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _patches(ax: Axes, board: Sequence[int], kept: Sequence[int]) -> None:
    """Cover what is dropped and frame what is kept, so that it reads without colour."""
    rows, columns = board
    veil = np.ones((rows * columns, 4))
    veil[:, 3] = VEIL
    veil[np.asarray(kept, dtype=int), 3] = 0
    ax.imshow(veil.reshape(rows, columns, 4), extent=(0, 1, 1, 0))
    if len(kept) == rows * columns:
        return
    for token in kept:
        row, column = divmod(int(token), columns)
        ax.add_patch(
            Rectangle(
                (column / columns, row / rows), 1 / columns, 1 / rows, fill=False, ec=INK, lw=0.7
            )
        )


def _map(ax: Axes, board: Sequence[int], values: Sequence[float]) -> None:
    """One number per token as a map over the picture; dark is 0, its brightest is written below."""
    values = np.asarray(values, dtype=float)
    ax.imshow(values.reshape(board), cmap=MAP, vmin=0)
    _bare(ax)
    ax.set_xlabel(f"0 to {values.max():.2f}", fontsize=8)


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"


def split_question(question: str) -> tuple[str, str]:
    """The question proper and its answer-format sentence, which starts at "Answer"."""
    head, found, tail = question.partition(" Answer ")
    return (head, f"Answer {tail}") if found else (question, "")


def _wrapped(question: str, width: int) -> str:
    return "\n".join(textwrap.wrap(f"“{split_question(question)[0]}”", width))


def _need(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")


@styled
def same_picture_two_questions(picture: np.ndarray, watched: pd.DataFrame) -> Figure:
    """What each method keeps of one picture for each question: clear and framed is kept.

    picture (h, w, 3) uint8; watched: rows of `observation.watch`, one per question (rows of panels)
    and method (columns, in the frame's order). Under each panel: the answer given, right or wrong.
    """
    _need(watched, ("question", "answer", "label", "prediction", "right", "kept", "board"))
    questions, labels = watched["question"].unique(), watched["label"].unique()
    fig = _figure(1.35 + 1.6 * len(labels), 1.95 * len(questions) + 0.35)
    grid = fig.subplots(
        len(questions), 1 + len(labels), squeeze=False, width_ratios=(0.85, *[1] * len(labels))
    )
    for line, (question, (side, *panels)) in enumerate(zip(questions, grid, strict=True)):
        rows = watched[watched["question"] == question].set_index("label")
        side.axis("off")
        asked = _wrapped(question, 13) + f"\n\n(answer: {rows['answer'].iloc[0]})"
        side.text(0, 0.5, asked, va="center", fontsize=10, transform=side.transAxes)
        for ax, label in zip(panels, labels, strict=True):
            row = rows.loc[label]
            _picture(ax, picture)
            _patches(ax, row["board"], row["kept"])
            ax.set_xlabel(f"“{row['prediction']}”: {_verdict(row['right'])}")
            if line == 0:
                n_visual = row["board"][0] * row["board"][1]
                ax.set_title(f"{label}\n{len(row['kept'])} of {n_visual} patches", fontsize=9)
    return fig


@styled
def pipeline(
    picture: np.ndarray, steps: pd.DataFrame, words: Sequence[str], watched: pd.Series, head: int
) -> Figure:
    """The steps of QViD with the tensors of one run, from the picture to the answer.

    steps: `observation.steps`, of which M, σ and V² are those of `head`; words (N_q,); watched: a
    row of `observation.watch` (kept, board, prediction, right). Source: QViD, figure 2.
    """
    board, kept = watched["board"], watched["kept"]
    of = {step: part.pivot(index="row", columns="token", values="value")
          for step, part in steps.groupby("step")}  # fmt: skip
    fig = _figure(WIDTH + 1, 4.9)
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.3, 1))
    seen, product = top.subplots(1, 2, width_ratios=(1, 2.7))
    _picture(seen, picture)
    _lattice(seen, board)
    seen.set_title(f"1  picture: {board[0] * board[1]} tokens")
    limit = float(of["interaction"].abs().to_numpy().max())
    shown = product.imshow(of["interaction"], cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    product.plot(kept, [-1.0] * len(kept), "v", color=INK, ms=4, clip_on=False)
    product.set_ylim(len(words) - 0.5, -0.5)
    product.set_title(f"2  M = Q Kᵀ, head {head + 1}  (▼ kept in the end)", pad=14)
    product.set_yticks(range(len(words)), words, fontsize=7.5)
    product.set_xlabel("visual token, row by row of the picture")
    product.spines[:].set_visible(False)
    top.colorbar(shown, ax=product, label="M (no unit)", pad=0.01)

    panels = bottom.subplots(1, 6, width_ratios=(1.25, 1, 1, 1, 1.25, 1.25))
    sigma = of["sigma"].iloc[:, 0]
    panels[0].bar(sigma.index, sigma / sigma.iloc[0], color=BLUE, width=0.75)
    panels[0].set(title="3  M = U Σ Vᵀ", xlabel="mode k", ylabel="σₖ / σ₁", box_aspect=1)
    for ax, (mode, values) in zip(panels[1:4], of["participation"].iterrows(), strict=False):
        _map(ax, board, values)
        ax.set_title(f"V² of mode {mode}", fontsize=9)
    score = of["score"].iloc[0]
    _map(panels[4], board, score)
    panels[4].set_title("4  score = Σ V²")
    panels[4].set_xlabel(f"mean over heads,\n0 to {score.max():.2f}", fontsize=8)
    _picture(panels[5], picture)
    _patches(panels[5], board, kept)
    panels[5].set_title(f"5  best {len(kept)}")
    said = f"answer “{watched['prediction']}”:\n{_verdict(watched['right'])}"
    panels[5].set_xlabel(said, fontsize=8)
    return fig


def _lattice(ax: Axes, board: Sequence[int]) -> None:
    for line in range(1, board[0]):
        ax.axhline(line / board[0], color="white", lw=0.6)
    for line in range(1, board[1]):
        ax.axvline(line / board[1], color="white", lw=0.6)


# -------------------------------------------------------------------------------------- spectra
LINES = {
    "shuffled": {"color": VERMILION, "ls": "--", "label": "M's entries shuffled (mean)"},
    "random factors": {"color": INK, "ls": ":", "label": "random Q Kᵀ (mean)"},
}


def spectrum_curves(spectra: pd.DataFrame) -> pd.DataFrame:
    """What the spectrum figures plot, from the long frame of `observation.spectra`.

    Rows: suite, stands_for, curve, sample, mode, relative. `curve` is "sample" (one question, mean
    over heads), "mean", "lowest head" and "highest head" (of the heads' means over questions),
    "shuffled" and "random factors" (means). Means end at the mode that every question still has.
    """
    _need(spectra, ("suite", "stands_for", "sample", "curve", "head", "mode", "relative"))
    frames = []
    for (suite, kin), part in spectra.groupby(["suite", "stands_for"], sort=False):
        common = part.groupby("sample")["mode"].max().min()
        real = part[part["curve"] == "interaction"]
        each = real.groupby(["sample", "mode"], sort=False)["relative"].mean().reset_index()
        short = part[part["mode"] <= common]
        heads = short[short["curve"] == "interaction"].groupby(["mode", "head"])["relative"]
        heads = heads.mean().groupby("mode")
        curves = [
            each.assign(curve="sample"),
            heads.mean().reset_index().assign(curve="mean"),
            heads.min().reset_index().assign(curve="lowest head"),
            heads.max().reset_index().assign(curve="highest head"),
        ]
        for name in LINES:
            null = short[short["curve"] == name].groupby("mode")["relative"].mean()
            curves.append(null.reset_index().assign(curve=name))
        frames.append(pd.concat(curves).assign(suite=suite, stands_for=kin))
    columns = ["suite", "stands_for", "curve", "sample", "mode", "relative"]
    return pd.concat(frames, ignore_index=True)[columns]


def _draw_spectrum(ax: Axes, curves: pd.DataFrame) -> None:
    def at(name: str) -> pd.DataFrame:
        return curves[curves["curve"] == name]

    for place, (_, one) in enumerate(at("sample").groupby("sample", sort=False)):
        label = None if place else "one question (mean over heads)"
        ax.plot(one["mode"], one["relative"], color=SKY, lw=0.7, alpha=0.55, label=label)
    low, high = at("lowest head"), at("highest head")
    ax.fill_between(
        low["mode"], low["relative"], high["relative"], color=BLUE, alpha=0.22, lw=0,
        label="range over heads",
    )  # fmt: skip
    ax.plot(at("mean")["mode"], at("mean")["relative"], color=BLUE, lw=2, label="mean")
    for name, line in LINES.items():
        ax.plot(at(name)["mode"], at(name)["relative"], lw=1.4, **line)
    ax.set_yscale("log")
    ax.margins(x=0.02)
    ax.xaxis.get_major_locator().set_params(integer=True)


@styled
def spectrum(curves: pd.DataFrame) -> Figure:
    """σ_k/σ_1 of one suite on a logarithmic axis, beside matrices without structure.

    curves: `spectrum_curves`. Source: QViD, figure 3a; the two baselines are ours.
    """
    fig = _figure(WIDTH, 3.9)
    ax = fig.subplots()
    _draw_spectrum(ax, curves)
    ax.set(xlabel="mode k", ylabel="σₖ / σ₁ (no unit)")
    ax.set_title(f"{curves['suite'].iloc[0]}, stands for {curves['stands_for'].iloc[0]}")
    _legend_below(fig, *ax.get_legend_handles_labels())
    return fig


@styled
def spectrum_by_suite(curves: pd.DataFrame) -> Figure:
    """`spectrum`, one panel per suite on common axes. Source: QViD, figure 5."""
    suites = list(curves.groupby(["suite", "stands_for"], sort=False))
    columns = min(3, len(suites))
    lines = -(-len(suites) // columns)
    fig = _figure(WIDTH, 2.25 * lines + 0.4)
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, ((suite, kin), part) in zip(axes.flat, suites, strict=False):
        _draw_spectrum(ax, part)
        ax.set_title(f"{suite} ({kin})", fontsize=9)
    for ax in axes.flat[len(suites) :]:
        ax.axis("off")
    for ax in axes[-1]:
        ax.set_xlabel("mode k")
    for ax in axes[:, 0]:
        ax.set_ylabel("σₖ / σ₁ (no unit)")
    _legend_below(fig, *axes.flat[0].get_legend_handles_labels())
    return fig


def _legend_below(fig: Figure, handles: Sequence, labels: Sequence[str]) -> None:
    fig.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)


# ------------------------------------------------------------------------------ words of a question
def _word_bars(ax: Axes, scores: pd.DataFrame, rank: int) -> None:
    """Dominant part as a full bar, residual as a hatched one on top; the line is an equal share."""
    x = scores["place"].to_numpy()
    ax.bar(x, scores["dominant"], width=0.78, color=BLUE, label="dominant")
    ax.bar(
        x, scores["residual"], bottom=scores["dominant"], width=0.78, color="white", ec=PALE,
        hatch="///", lw=0.6, label="residual",
    )  # fmt: skip
    share = scores["dominant"].mean()
    ax.axhline(share, color=INK, ls="--", lw=1, label="dominant, if all words were alike")
    ax.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(-0.6, len(x) - 0.4))
    ax.set_ylabel(f"score, rank {rank}", fontsize=8)
    _word_ticks(ax, scores["word"])


def _word_ticks(ax: Axes, words: Sequence[str]) -> None:
    size = 8 if len(words) <= 20 else 7
    ax.set_xticks(range(len(words)), list(words), rotation=90, fontsize=size)
    ax.tick_params(axis="x", length=0)


@styled
def query_tokens(scores: pd.DataFrame, by_rank: pd.DataFrame, rank: int) -> Figure:
    """Dominant and residual score of each word of one question, and what is not tied to them.

    scores: rows of `observation.word_scores` for one sample at `rank`; by_rank: its
    `observation.word_ranks`. Upper panel: the paper's two scores. Middle: the dominant score at
    other ranks. Lower: how much of Σ M² each word's row holds. Source: QViD, figure 3b (upper
    panel); the others are ours.
    """
    fig = _figure(WIDTH, 5.0)
    bars, ranks, loud = fig.subplots(3, 1, sharex=True, height_ratios=(1.5, 1.1, 0.7))
    _word_bars(bars, scores, rank)
    bars.set_ylabel(f"score at rank {rank}\n(Σ U², 0 to 1)")
    bars.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderaxespad=0.3)
    table = by_rank.pivot(index="rank", columns="place", values="dominant")
    shown = ranks.imshow(table, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    ranks.set_yticks(range(len(table)), table.index)
    ranks.set_ylabel("rank r")
    ranks.spines[:].set_visible(False)
    fig.colorbar(shown, ax=ranks, label="dominant score", pad=0.01)
    loud.bar(scores["place"], 100 * scores["loudness"], width=0.78, color=GREY)
    loud.set_ylabel("share of\nΣ M² (%)")
    _word_ticks(loud, scores["word"])
    for ax in (bars, ranks):
        ax.tick_params(labelbottom=False)
    ranks.tick_params(length=0)
    return fig


@styled
def components(
    pictures: Mapping[str, np.ndarray], scores: pd.DataFrame, curves: pd.DataFrame, rank: int
) -> Figure:
    """Picture, words with their scores and spectrum for several questions, one row each.

    pictures: by sample; scores: `observation.word_scores`; curves: `component_curves`.
    Source: QViD, figure 6.
    """
    samples = list(scores["sample"].unique())
    fig = _figure(WIDTH + 1, 1.95 * len(samples) + 0.3)
    grid = fig.subplots(len(samples), 3, squeeze=False, width_ratios=(1, 3.3, 1.5))
    for line, (sample, (left, middle, right)) in enumerate(zip(samples, grid, strict=True)):
        mine = scores[scores["sample"] == sample]
        _picture(left, pictures[sample])
        left.set_title(f"{mine['suite'].iloc[0]}\n({mine['stands_for'].iloc[0]})", fontsize=8)
        _word_bars(middle, mine, rank)
        lines = curves[curves["sample"] == sample]
        low, high = (lines[lines["curve"] == f"{end} head"] for end in ("lowest", "highest"))
        right.fill_between(low["mode"], low["relative"], high["relative"], color=BLUE, alpha=0.22)
        mean = lines[lines["curve"] == "mean"]
        right.plot(mean["mode"], mean["relative"], color=BLUE, marker="o", ms=2)
        null = lines[lines["curve"] == "shuffled"]
        right.plot(null["mode"], null["relative"], lw=1.2, **LINES["shuffled"])
        right.set_yscale("log")
        right.set_ylabel("σₖ / σ₁")
        if line == len(samples) - 1:
            right.set_xlabel("mode k")
    handles, labels = grid[0][1].get_legend_handles_labels()
    more = [grid[0][2].lines[0], grid[0][2].lines[1]]
    _legend_below(
        fig, handles + more, [*labels, "σₖ/σ₁, mean and range of heads", "M's entries shuffled"]
    )
    return fig


def component_curves(spectra: pd.DataFrame) -> pd.DataFrame:
    """The spectra of single questions: sample, curve ("mean", "lowest head", "highest head" and
    "shuffled", its mean over heads), mode, relative."""
    frames = []
    for name in ("interaction", "shuffled"):
        heads = spectra[spectra["curve"] == name].groupby(["sample", "mode"], sort=False)
        heads = heads["relative"]
        kinds = {"mean": heads.mean(), "lowest head": heads.min(), "highest head": heads.max()}
        if name == "shuffled":
            kinds = {"shuffled": kinds["mean"]}
        frames += [values.reset_index().assign(curve=curve) for curve, values in kinds.items()]
    return pd.concat(frames, ignore_index=True)[["sample", "curve", "mode", "relative"]]


@styled
def query_token_examples(
    pictures: Mapping[str, np.ndarray], scores: pd.DataFrame, rank: int
) -> Figure:
    """More questions with the scores of their words, in two columns. Source: QViD, figure 8."""
    samples = list(scores["sample"].unique())
    lines = -(-len(samples) // 2)
    fig = _figure(WIDTH + 1.4, 1.75 * lines + 0.3)
    grid = fig.subplots(lines, 4, squeeze=False, width_ratios=(1, 2.6, 1, 2.6))
    panels = grid.reshape(-1, 2)
    for sample, (left, right) in zip(samples, panels, strict=False):
        mine = scores[scores["sample"] == sample]
        _picture(left, pictures[sample])
        left.set_title(f"{mine['suite'].iloc[0]}\n({mine['stands_for'].iloc[0]})", fontsize=8)
        _word_bars(right, mine, rank)
    for ax in panels[len(samples) :].flat:
        ax.axis("off")
    _legend_below(fig, *panels[0][1].get_legend_handles_labels())
    return fig


# --------------------------------------------------------------------- score maps (notebook 02)
TITLES = {  # where a method's label says more than a panel needs
    "variation": "V²Drop's score", "sparsevlm_in_place": "SparseVLM",
}  # fmt: skip
CURVES = {  # method -> colour, marker, line: no two share marker and line
    "qvid": (BLUE, "o", "-"),
    "per_head_max": (SKY, "s", "-"),
    "qvid_rope": (PURPLE, "D", "-"),
    "leverage_qr": (INK, "+", "-"),
    "column_norm": (VERMILION, "v", "--"),
    "sigma_weighted": (ORANGE, "x", "--"),
    "fastv": (ORANGE, "^", "-"),
    "last_attention": (GREEN, "<", "--"),
    "v2drop": (PURPLE, "P", "-"),
    "variation": (VERMILION, "X", ":"),
    "stride": (PALE, "d", "-."),
    "random": (GREY, "o", ":"),
}


def _title(method: str) -> str:
    return TITLES.get(method) or (METHODS[method].label if method in METHODS else method)


def _legend_row(fig: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)


def _curve(method: str) -> dict:
    colour, marker, line = CURVES.get(method, (INK, "*", "-"))
    return {"color": colour, "marker": marker, "ls": line, "ms": 5, "label": _title(method)}


@styled
def score_maps(pictures: Mapping[str, np.ndarray], maps: pd.DataFrame) -> Figure:
    """Score of every visual token over the picture, one row per question, one column per method.

    pictures: by sample; maps: `runner.score_maps`. A map runs from its own lowest
    score (dark) to its highest (bright); what is kept is framed. Source: QViD, figures 1 and 7.
    """
    _need(maps, ("sample", "question", "answer", "method", "row", "column", "score", "kept"))
    samples, methods = maps["sample"].unique(), maps["method"].unique()
    fig = _figure(WIDTH + 0.2, 1.36 * len(samples) + 0.3)
    widths = (0.95, 1, *[1] * len(methods))
    axes = fig.subplots(len(samples), len(widths), squeeze=False, width_ratios=widths)
    for line, (sample, (side, seen, *panels)) in enumerate(zip(samples, axes, strict=True)):
        mine = maps[maps["sample"] == sample]
        side.axis("off")
        asked = _wrapped(mine["question"].iloc[0], 15) + f"\n(answer: {mine['answer'].iloc[0]})"
        side.text(0, 0.5, asked, va="center", fontsize=8, transform=side.transAxes)
        _picture(seen, pictures[sample])
        if line == 0:
            seen.set_title("picture", fontsize=9)
        for ax, method in zip(panels, methods, strict=True):
            own = mine[mine["method"] == method]
            _score_map(ax, pictures[sample], own)
            if line == 0:
                ax.set_title(_title(method), fontsize=9)
    return fig


def _score_map(ax: Axes, picture: np.ndarray, own: pd.DataFrame) -> None:
    """The map over a grey picture, kept patches framed, the answer below."""
    board = (own["row"].max() + 1, own["column"].max() + 1)
    values, score = np.zeros(board), own["score"] - own["score"].min()
    values[own["row"], own["column"]] = score / max(score.max(), 1e-12)
    grey = np.asarray(picture).mean(-1) / 255
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    ax.imshow(values, cmap=MAP, vmin=0, vmax=1, alpha=0.72, extent=(0, 1, 1, 0))
    for row, column in own.loc[own["kept"], ["row", "column"]].to_numpy():
        corner = (column / board[1], row / board[0])
        size = (1 / board[1], 1 / board[0])
        ax.add_patch(Rectangle(corner, *size, fill=False, ec="white", lw=0.8))
    _bare(ax)
    said = own.iloc[0]
    ax.set_xlabel(f"“{said['prediction']}”: {_verdict(said['right'])}", fontsize=8)


# --------------------------------------------------------------------- accuracy over keep and rank
@styled
def over_keep(averages: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> Figure:
    """Mean over suites in % of the full model, over the visual tokens kept; bars are 95 %.

    averages: `runner.averages`, one row per method and keep; panels: title -> methods. A staged
    method stands at its mean over layers, as the papers label it; all others after one cut.
    """
    _need(averages, ("method", "keep", "all", "all_stderr"))
    keeps = sorted(averages.loc[averages["method"] != "full", "keep"].unique())
    fig = _figure(WIDTH, 3.9)
    for ax, (title, methods) in zip(
        fig.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        _full_line(ax)
        shift = np.linspace(-0.8, 0.8, len(methods)) if len(methods) > 1 else [0]
        for method, by in zip(methods, shift, strict=True):
            own = averages[averages["method"] == method].sort_values("keep")
            bars = 1.96 * own["all_stderr"].to_numpy(float)
            keep = own["keep"].to_numpy(float) + by
            ax.errorbar(keep, own["all"], bars, elinewidth=0.9, lw=1.3, **_curve(method))
        ax.set(title=title, xlabel="visual tokens kept")
        ax.set_xticks(keeps)
        ax.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    fig.axes[0].set_ylabel("mean over suites (% of full)")
    return fig


def _full_line(ax: Axes) -> None:
    ax.axhline(100, color=INK, lw=1, ls=(0, (6, 2)), label="full, all tokens")


@styled
def over_rank(joined: pd.DataFrame) -> Figure:
    """Avg over the number of modes that vote, ours and the paper's, one colour per budget.

    joined: the Avg rows of `runner.beside(..., 6)` whose rank is a count. Source: QViD, Table 6.
    """
    _need(joined, ("budget_pct", "rank", "paper_pct_of_full", "measured_pct_of_full", "stderr"))
    fig = _figure(WIDTH * 0.72, 3.4)
    ax = fig.subplots()
    _full_line(ax)
    marks = zip((VERMILION, GREEN, BLUE), "vso", strict=True)
    for (budget, own), (colour, marker) in zip(joined.groupby("budget_pct"), marks, strict=False):
        own, look = own.sort_values("rank"), {"color": colour, "marker": marker, "ms": 5}
        bars = 1.96 * own["stderr"]
        ours = {**look, "label": f"ours, {budget:.1f} % kept"}
        theirs = {**look, "label": f"paper, {budget:.1f} % kept", "mfc": "white", "ls": ":"}
        ax.errorbar(own["rank"], own["measured_pct_of_full"], bars, elinewidth=0.9, lw=1.3, **ours)
        ax.plot(own["rank"], own["paper_pct_of_full"], lw=1.1, **theirs)
    ax.set_xscale("log", base=2)
    ranks = sorted(joined["rank"].unique())
    ax.set_xticks(ranks, [f"{r:.0f}" for r in ranks])
    ax.set(xlabel="modes that vote, r", ylabel="mean over suites (% of full)")
    ax.legend(fontsize=7.5, loc="lower right")
    return fig


# --------------------------------------------------------------------- layer sweep (notebook 03)
@styled
def layer_sweep(averages: pd.DataFrame) -> Figure:
    """Mean over suites in % of the full model, by the layer of the cut, one panel per budget.

    averages: `runner.averages_by_layer`; bands are 95 %. Where no suite says something, points are
    hollow. Source: QViD, Table 4.
    """
    _need(averages, ("method", "keep", "layer", "all", "all_stderr", "loud"))
    keeps = sorted(averages["keep"].unique(), reverse=True)
    fig = _figure(WIDTH + 0.4, 3.1)
    for ax, keep in zip(
        fig.subplots(1, len(keeps), sharey=True, squeeze=False)[0], keeps, strict=True
    ):
        _full_line(ax)
        for method, own in averages[averages["keep"] == keep].groupby("method", sort=False):
            own, look = own.sort_values("layer"), _curve(method)
            x, value, half = own["layer"].astype(float), own["all"], 1.96 * own["all_stderr"]
            ax.fill_between(x, value - half, value + half, color=look["color"], alpha=0.15, lw=0)
            ax.plot(x, value, lw=1.4, **look)
            mute = own["loud"] == 0
            look |= {"mfc": "white", "ls": "", "label": None}
            ax.plot(x[mute], value[mute], **look)
        ax.set_title(f"keep {keep}")
        ax.set_xlabel("layer of the cut")
        ax.set_xticks(range(0, int(averages["layer"].max()) + 1, 2))
    fig.axes[0].set_ylabel("mean over suites (% of full)")
    _legend_row(fig, fig.axes[0])
    return fig


@styled
def layer_cost(averages: pd.DataFrame) -> Figure:
    """The same sweep at what it costs: mean visual tokens per layer, one panel per method.

    averages: `runner.averages_by_layer`; a line is a budget, its first point a cut at the
    first layer, each next point a layer later. Points above one another cost the same.
    """
    _need(averages, ("method", "keep", "layer", "mean_tokens", "all"))
    methods = list(averages["method"].unique())
    fig = _figure(WIDTH + 0.4, 3.3)
    looks = list(zip((BLUE, GREEN, VERMILION), "osv", strict=True))
    for ax, method in zip(
        fig.subplots(1, len(methods), sharey=True, squeeze=False)[0], methods, strict=True
    ):
        _full_line(ax)
        own = averages[averages["method"] == method]
        keeps = sorted(own["keep"].unique(), reverse=True)
        for keep, (colour, marker) in zip(keeps, looks, strict=False):
            line = own[own["keep"] == keep].sort_values("layer")
            x, value = line["mean_tokens"].astype(float), line["all"].astype(float)
            ax.plot(x, value, color=colour, marker=marker, ms=4, lw=1.2, label=f"keep {keep}")
        ax.set_title(_title(method))
        ax.set_xlabel("mean visual tokens per layer")
    fig.axes[0].set_ylabel("mean over suites (% of full)")
    _legend_row(fig, fig.axes[0])
    return fig


@styled
def layer_sweep_by_suite(accuracies: pd.DataFrame, least: float) -> Figure:
    """Accuracy of each suite by the layer of the cut at one budget, full beside.

    accuracies: the accuracy rows of `runner.summary` (benchmark, method, layer, value, stderr).
    The band is less than `least` points lost: where chance is in it, the suite says nothing.
    """
    _need(accuracies, ("benchmark", "method", "layer", "value", "stderr"))
    suites = list(accuracies.groupby("benchmark", sort=False))
    fig = _figure(WIDTH, 4.4)
    axes = fig.subplots(2, -(-len(suites) // 2), sharex=True, sharey=True, squeeze=False)
    for ax, (suite, part) in zip(axes.flat, suites, strict=False):
        full = float(part.loc[part["method"] == "full", "value"].iloc[0])
        ax.axhline(full, color=INK, lw=1, ls=(0, (6, 2)), label="full, all tokens")
        label = f"less than {least:.0f} points lost"
        ax.axhspan(full - least, full, color=PALE, alpha=0.25, lw=0, label=label)
        for method, own in part[part["method"] != "full"].groupby("method", sort=False):
            own = own.sort_values("layer")
            x, bars = own["layer"].astype(float), 1.96 * own["stderr"]
            look = {**_curve(method), "ms": 4}
            ax.errorbar(x, own["value"], bars, elinewidth=0.8, lw=1.2, **look)
        ax.set_title(f"{suite} ({PAPER_BENCHMARKS.get(suite, suite)})", fontsize=9)
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes[-1]:
        ax.set_xlabel("layer of the cut")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    _legend_row(fig, fig.axes[0])
    return fig
