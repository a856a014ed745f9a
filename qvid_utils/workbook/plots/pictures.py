"""Figures of pictures: what is kept of them, QViD step by step, and score maps."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .base import BLUE, INK, MAP, WIDTH, headline, named, need, new_figure, styled

VEIL = 0.8  # how much of a dropped patch is covered


def picture_on(ax: Axes, picture: np.ndarray) -> None:
    """The picture over the unit square, row 0 at the top, without axes."""
    ax.imshow(np.asarray(picture), extent=(0, 1, 1, 0))
    ax.set(xlim=(0, 1), ylim=(1, 0), aspect="equal")
    _bare(ax)


def _bare(ax: Axes) -> None:
    """No ticks and no frame; labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def veil_of(board: Sequence[int], kept: Sequence[int]) -> np.ndarray:
    """White over what is dropped, nothing over what is kept: (rows, columns, 4)."""
    rows, columns = board
    veil = np.ones((rows * columns, 4))
    veil[:, 3] = VEIL
    veil[np.asarray(kept, dtype=int), 3] = 0
    return veil.reshape(rows, columns, 4)


def patches_on(ax: Axes, board: Sequence[int], kept: Sequence[int]) -> None:
    """Cover what is dropped and frame what is kept, so that it reads without colour."""
    ax.imshow(veil_of(board, kept), extent=(0, 1, 1, 0))
    if len(kept) < board[0] * board[1]:
        _frames(ax, board, (divmod(int(token), board[1]) for token in kept), INK)


def _frames(ax: Axes, board: Sequence[int], cells, colour: str) -> None:
    size = (1 / board[1], 1 / board[0])
    for row, column in cells:
        corner = (column / board[1], row / board[0])
        ax.add_patch(Rectangle(corner, *size, fill=False, ec=colour, lw=0.7))


def map_on(ax: Axes, board: Sequence[int], values: Sequence[float], said: str = "") -> None:
    """One number per token as a map over the picture; dark is 0, its brightest is written below."""
    values = np.asarray(values, dtype=float)
    ax.imshow(values.reshape(board), cmap=MAP, vmin=0)
    _bare(ax)
    ax.set_xlabel(f"{said}0 to {values.max():.2f}", fontsize=8)


def verdict(right: bool) -> str:
    """An answer in a word."""
    return "right" if right else "wrong"


def split_question(question: str) -> tuple[str, str]:
    """The question proper and its answer-format sentence, which starts at "Answer"."""
    head, found, tail = question.partition(" Answer ")
    return (head, f"Answer {tail}") if found else (question, "")


def wrapped(question: str, width: int) -> str:
    """The question proper in quotation marks, in lines of `width`."""
    return "\n".join(textwrap.wrap(f"“{split_question(question)[0]}”", width))


@styled
def same_picture_two_questions(picture: np.ndarray, watched: pd.DataFrame) -> Figure:
    """What each method keeps of one picture for each question: clear and framed is kept.

    picture (h, w, 3) uint8; watched: rows of `low_rank.watch`, one per question (rows of panels)
    and method (columns, in the frame's order). Under each panel: the answer given, right or wrong;
    above: how many patches are kept for all of the questions.
    """
    need(watched, ("question", "answer", "label", "prediction", "right", "kept", "board"))
    questions, labels = watched["question"].unique(), watched["label"].unique()
    fig = new_figure(1.35 + 1.6 * len(labels), 2.0 * len(questions) + 0.6)
    grid = fig.subplots(
        len(questions), 1 + len(labels), squeeze=False, width_ratios=(0.85, *[1] * len(labels))
    )
    both = {}
    for label, rows in watched.groupby("label", sort=False):
        n_visual = int(np.prod(rows["board"].iloc[0]))
        kept = len(rows["kept"].iloc[0])
        if kept < n_visual:
            both[label] = (len(set.intersection(*map(set, rows["kept"]))), kept)
    for line, (question, (side, *panels)) in enumerate(zip(questions, grid, strict=True)):
        rows = watched[watched["question"] == question].set_index("label")
        side.axis("off")
        asked = wrapped(question, 13) + f"\n\n(answer: {rows['answer'].iloc[0]})"
        side.text(0, 0.5, asked, va="center", fontsize=10, transform=side.transAxes)
        for ax, label in zip(panels, labels, strict=True):
            row = rows.loc[label]
            picture_on(ax, picture)
            patches_on(ax, row["board"], row["kept"])
            ax.set_xlabel(f"“{row['prediction']}”: {verdict(row['right'])}")
            if line == 0:
                kept = f"{len(row['kept'])} of {int(np.prod(row['board']))} patches"
                more = f"\nkept for both: {both[label][0]}" if label in both else "\n"
                ax.set_title(f"{label}\n{kept}{more}", fontsize=9)
    said = ", ".join(f"{label} {n} of {kept}" for label, (n, kept) in both.items())
    return headline(fig, f"Patches kept for both questions: {said}")


@styled
def pipeline(
    picture: np.ndarray, steps: pd.DataFrame, words: Sequence[str], watched: pd.Series, head: int
) -> Figure:
    """The steps of QViD with the tensors of one run, from the picture to the answer.

    steps: `low_rank.steps`, of which M, σ and V² are those of `head`; words (N_q,); watched: a
    row of `low_rank.watch` (kept, board, prediction, right). Source: QViD, figure 2.
    """
    board, kept = watched["board"], watched["kept"]
    of = {step: part.pivot(index="row", columns="token", values="value")
          for step, part in steps.groupby("step")}  # fmt: skip
    fig = new_figure(WIDTH + 1, 5.2)
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.3, 1))
    _interaction(top, picture, of["interaction"], words, board, kept, head)
    panels = bottom.subplots(1, 6, width_ratios=(1.25, 1, 1, 1, 1.25, 1.25))
    sigma = of["sigma"].iloc[:, 0]
    panels[0].bar(sigma.index, sigma / sigma.iloc[0], color=BLUE, width=0.75)
    panels[0].set(title="3  M = U Σ Vᵀ", xlabel="mode k", ylabel="σₖ / σ₁", box_aspect=1)
    for ax, (mode, values) in zip(panels[1:4], of["participation"].iterrows(), strict=False):
        map_on(ax, board, values)
        ax.set_title(f"V² of mode {mode}", fontsize=9)
    map_on(panels[4], board, of["score"].iloc[0], "mean over heads,\n")
    panels[4].set_title("4  score = Σ V²")
    picture_on(panels[5], picture)
    patches_on(panels[5], board, kept)
    panels[5].set_title(f"5  best {len(kept)}")
    said = f"answer “{watched['prediction']}”:\n{verdict(watched['right'])}"
    panels[5].set_xlabel(said, fontsize=8)
    tokens = board[0] * board[1]
    text = f"QViD from {tokens} visual tokens to {len(kept)}; the maps are dark at 0"
    return headline(fig, text)


def _interaction(fig, picture, matrix, words, board, kept, head) -> None:
    """The picture in patches, and beside it M with a colour bar."""
    seen, product = fig.subplots(1, 2, width_ratios=(1, 2.7))
    picture_on(seen, picture)
    for line in range(1, board[0]):
        seen.axhline(line / board[0], color="white", lw=0.6)
    for line in range(1, board[1]):
        seen.axvline(line / board[1], color="white", lw=0.6)
    seen.set_title(f"1  picture: {board[0] * board[1]} tokens")
    limit = float(matrix.abs().to_numpy().max())
    shown = product.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    product.plot(kept, [-1.0] * len(kept), "v", color=INK, ms=4, clip_on=False)
    product.set_ylim(len(words) - 0.5, -0.5)
    product.set_title(f"2  M = Q Kᵀ, head {head + 1}  (▼ kept in the end)", pad=14)
    product.set_yticks(range(len(words)), words, fontsize=7.5)
    product.set_xlabel("visual token, row by row of the picture")
    product.spines[:].set_visible(False)
    fig.colorbar(shown, ax=product, label="M (no unit)", pad=0.01)


@styled
def score_maps(pictures: Mapping[str, np.ndarray], maps: pd.DataFrame) -> Figure:
    """Score of every visual token over the picture, one row per question, one column per method.

    pictures: by sample; maps: `evaluate.score_maps`. A map runs from its own lowest score (dark) to
    its highest (bright), both written below it; what is kept is framed. Source: QViD, figures 1
    and 7.
    """
    need(maps, ("sample", "question", "answer", "method", "row", "column", "score", "kept"))
    samples, methods = maps["sample"].unique(), maps["method"].unique()
    fig = new_figure(WIDTH + 0.6, 1.5 * len(samples) + 0.75)
    widths = (0.95, 1, *[1] * len(methods))
    axes = fig.subplots(len(samples), len(widths), squeeze=False, width_ratios=widths)
    for line, (sample, (side, seen, *panels)) in enumerate(zip(samples, axes, strict=True)):
        mine = maps[maps["sample"] == sample]
        side.axis("off")
        asked = wrapped(mine["question"].iloc[0], 15) + f"\n(answer: {mine['answer'].iloc[0]})"
        side.text(0, 0.5, asked, va="center", fontsize=8, transform=side.transAxes)
        picture_on(seen, pictures[sample])
        if line == 0:
            seen.set_title("picture", fontsize=9)
        for ax, method in zip(panels, methods, strict=True):
            _score_map(ax, pictures[sample], mine[mine["method"] == method])
            if line == 0:
                ax.set_title(named(method), fontsize=9)
    bar = fig.colorbar(ScalarMappable(cmap=MAP), ax=axes, shrink=0.6, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(("lowest\nscore", "highest"), fontsize=7.5)
    return headline(fig, _shared(maps))


def _shared(maps: pd.DataFrame) -> str:
    """How much of what the first method keeps the others keep, too."""
    kept = maps[maps["kept"]]
    sets = {key: set(zip(part["row"], part["column"], strict=True))
            for key, part in kept.groupby(["method", "sample"], sort=False)}  # fmt: skip
    first, *rest = maps["method"].unique()
    shares = {}
    for method in rest:
        pairs = [(sets.get((first, s), set()), sets.get((method, s), set()))
                 for s in maps["sample"].unique()]  # fmt: skip
        whole = sum(len(mine) for mine, _ in pairs)
        shares[named(method)] = sum(len(mine & its) for mine, its in pairs) / max(whole, 1)
    said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
    return f"Of the patches that {named(first)} keeps, the others keep: {said}"


def _score_map(ax: Axes, picture: np.ndarray, own: pd.DataFrame) -> None:
    """The map over a grey picture, kept patches framed, the answer and the range below."""
    board = (own["row"].max() + 1, own["column"].max() + 1)
    low, high = own["score"].min(), own["score"].max()
    values = np.zeros(board)
    values[own["row"], own["column"]] = (own["score"] - low) / max(high - low, 1e-12)
    grey = np.asarray(picture).mean(-1) / 255
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
    ax.imshow(values, cmap=MAP, vmin=0, vmax=1, alpha=0.72, extent=(0, 1, 1, 0))
    _frames(ax, board, own.loc[own["kept"], ["row", "column"]].to_numpy(), "white")
    _bare(ax)
    said = own.iloc[0]
    text = f"“{said['prediction']}”: {verdict(said['right'])}\n{low:.2g} to {high:.2g}"
    ax.set_xlabel(text, fontsize=8)
