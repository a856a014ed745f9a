"""Figures of notebook 01 about words: which of a question stand in the leading modes of M."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .base import (
    BLUE,
    GREY,
    INK,
    MAP,
    SKY,
    WIDTH,
    headline,
    legend_below,
    new_figure,
    styled,
)
from .pictures import picture_on
from .spectra import KINDS

#: Colour of each class of words of a question.
CLASSES = {"name": BLUE, "other word": SKY, "answer format": GREY}


def word_bars(ax: Axes, scores: pd.DataFrame, rank: int) -> None:
    """Dominant score of each word, coloured by its class; the line is an equal share.

    The residual score is 1 - dominant, and so is not drawn.
    """
    x = scores["place"].to_numpy()
    classes = scores["word_class"] if "word_class" in scores else ["other word"] * len(x)
    for name, colour in CLASSES.items():
        own = np.flatnonzero(np.asarray(classes) == name)
        if len(own):
            values = scores["dominant"].to_numpy()[own]
            ax.bar(x[own], values, width=0.78, color=colour, label=name)
    share = scores["dominant"].mean()
    ax.axhline(share, color=INK, ls="--", lw=1, label="if all words were alike")
    ax.set(ylim=(0, 1), yticks=(0, 0.5, 1), xlim=(-0.6, len(x) - 0.4))
    ax.set_ylabel(f"dominant, rank {rank}", fontsize=8)
    _word_ticks(ax, scores["word"])


def _word_ticks(ax: Axes, words: Sequence[str]) -> None:
    size = 8 if len(words) <= 20 else 7
    ax.set_xticks(range(len(words)), list(words), rotation=90, fontsize=size)
    ax.tick_params(axis="x", length=0)


def _leading(scores: pd.DataFrame) -> str:
    """Whose words lead: for one question which, for more in how many a name does."""
    top = scores.loc[scores.groupby("sample", sort=False)["dominant"].idxmax()]
    if len(top) == 1:
        words = scores.sort_values("dominant", ascending=False)["word"].head(3)
        return "Largest in the leading modes: " + ", ".join(f"“{word}”" for word in words)
    if "word_class" not in top:
        return "Each word's part in the leading modes of M"
    named_first = int((top["word_class"] == "name").sum())
    return (f"In {named_first} of {len(top)} questions a word that names what is asked about leads "
            "the dominant modes")  # fmt: skip


@styled
def query_tokens(scores: pd.DataFrame, by_rank: pd.DataFrame, rank: int) -> Figure:
    """Dominant score of each word of one question, at this rank and others, and its energy.

    scores: rows of `low_rank.word_scores` for one sample at `rank`; by_rank: its
    `low_rank.word_ranks`. Upper panel: the paper's dominant score (its residual is 1 minus it).
    Middle: at other ranks below N_q, where it is 1 for all. Lower: how much of Σ M² each word's row
    holds. Source: QViD, figure 3b (upper panel); the others are ours.
    """
    fig = new_figure(WIDTH, 5.2)
    bars, ranks, energy = fig.subplots(3, 1, sharex=True, height_ratios=(1.5, 1.1, 0.7))
    word_bars(bars, scores, rank)
    bars.set_ylabel(f"dominant, rank {rank}\n(Σ U², 0 to 1)")
    table = by_rank.pivot(index="rank", columns="place", values="dominant")
    some = table[(table < 1 - 1e-6).any(axis=1)]
    table = some if len(some) else table
    shown = ranks.imshow(table, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    ranks.set_yticks(range(len(table)), table.index)
    ranks.set_ylabel("rank r")
    ranks.spines[:].set_visible(False)
    fig.colorbar(shown, ax=ranks, label="dominant score", pad=0.01)
    energy.bar(scores["place"], 100 * scores["loudness"], width=0.78, color=GREY)
    energy.set_ylabel("share of\nΣ M² (%)")
    _word_ticks(energy, scores["word"])
    for ax in (bars, ranks):
        ax.tick_params(labelbottom=False)
    ranks.tick_params(length=0)
    legend_below(fig, *bars.get_legend_handles_labels())
    return headline(fig, _leading(scores))


@styled
def components(
    pictures: Mapping[str, np.ndarray], scores: pd.DataFrame, curves: pd.DataFrame, rank: int
) -> Figure:
    """Picture, words with their scores and spectrum for several questions, one row each.

    pictures: by sample; scores: `low_rank.word_scores`; curves: `component_curves`.
    Source: QViD, figure 6.
    """
    samples = list(scores["sample"].unique())
    fig = new_figure(WIDTH + 1, 1.95 * len(samples) + 0.7)
    grid = fig.subplots(len(samples), 3, squeeze=False, width_ratios=(1, 3.3, 1.5))
    for sample, (left, middle, right) in zip(samples, grid, strict=True):
        mine = scores[scores["sample"] == sample]
        _asked(left, pictures[sample], mine)
        word_bars(middle, mine, rank)
        at = {name: part for name, part in curves[curves["sample"] == sample].groupby("curve")}
        low, high = at["lowest head"], at["highest head"]
        right.fill_between(low["mode"], low["relative"], high["relative"], color=BLUE, alpha=0.22,
                           label="range of heads")  # fmt: skip
        mean, (colour, line, _, label) = at["mean"], KINDS["shuffled"]
        right.plot(mean["mode"], mean["relative"], color=BLUE, marker="o", ms=2, label="σₖ/σ₁")
        null = at["shuffled"]
        right.plot(null["mode"], null["relative"], lw=1.2, color=colour, ls=line, label=label)
        right.set_yscale("log")
        right.set_ylabel("σₖ / σ₁")
    grid[-1][2].set_xlabel("mode k")
    _one_legend(fig)
    return headline(fig, _leading(scores))


def _asked(ax: Axes, picture: np.ndarray, scores: pd.DataFrame) -> None:
    picture_on(ax, picture)
    ax.set_title(f"{scores['suite'].iloc[0]}\n({scores['stands_for'].iloc[0]})", fontsize=8)


def _one_legend(fig: Figure) -> None:
    """Every name of every panel once."""
    pairs = [pair for ax in fig.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    once = {label: handle for handle, label in reversed(pairs)}
    labels = [label for label in dict.fromkeys(label for _, label in pairs)]
    legend_below(fig, [once[label] for label in labels], labels)


@styled
def query_token_examples(
    pictures: Mapping[str, np.ndarray], scores: pd.DataFrame, rank: int
) -> Figure:
    """More questions with the scores of their words, in two columns. Source: QViD, figure 8."""
    samples = list(scores["sample"].unique())
    lines = -(-len(samples) // 2)
    fig = new_figure(WIDTH + 1.4, 1.75 * lines + 0.7)
    grid = fig.subplots(lines, 4, squeeze=False, width_ratios=(1, 2.6, 1, 2.6))
    panels = grid.reshape(-1, 2)
    for sample, (left, right) in zip(samples, panels, strict=False):
        mine = scores[scores["sample"] == sample]
        _asked(left, pictures[sample], mine)
        word_bars(right, mine, rank)
    for ax in panels[len(samples) :].flat:
        ax.axis("off")
    _one_legend(fig)
    return headline(fig, _leading(scores))
