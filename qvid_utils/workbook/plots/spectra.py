"""Figures of notebook 01: how singular values fall, which words lead, which places are kept."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .base import (
    BLUE,
    GREY,
    INK,
    MAP,
    ORANGE,
    SKY,
    VERMILION,
    WIDTH,
    headline,
    legend_below,
    look,
    named,
    need,
    new_figure,
    styled,
)
from .graphs import drawn
from .pictures import picture_on

#: Curve -> colour, line, width and what the legend says.
KINDS = {
    "sample": (SKY, "-", 0.6, "one question (mean over heads)"),
    "mean": (BLUE, "-", 2, "mean"),
    "shuffled": (VERMILION, "--", 1.4, "M's entries shuffled (mean)"),
    "random factors": (INK, ":", 1.4, "random Q Kᵀ (mean)"),
}
#: Colour of each class of words of a question.
CLASSES = {"name": BLUE, "other word": SKY, "answer format": GREY}
TENTH = 0.1


def spectrum_curves(spectra: pd.DataFrame) -> pd.DataFrame:
    """What the spectrum figures plot, from the long frame of `low_rank.spectra`.

    Rows: suite, stands_for, curve, sample, mode, relative. `curve` is "sample" (one question, mean
    over heads), "mean", "lowest head" and "highest head" (of the heads' means over questions),
    "shuffled" and "random factors" (means). Means end at the mode that every question still has.
    """
    need(spectra, ("suite", "stands_for", "sample", "curve", "head", "mode", "relative"))
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
        for name in ("shuffled", "random factors"):
            null = short[short["curve"] == name].groupby("mode")["relative"].mean()
            curves.append(null.reset_index().assign(curve=name))
        frames.append(pd.concat(curves).assign(suite=suite, stands_for=kin))
    columns = ["suite", "stands_for", "curve", "sample", "mode", "relative"]
    return pd.concat(frames, ignore_index=True)[columns]


@styled
def spectrum(curves: pd.DataFrame) -> Figure:
    """σ_k/σ_1 on a logarithmic axis, beside matrices without structure; one panel per suite.

    curves: `spectrum_curves`. Source: QViD, figure 3a (one suite) and 5; the two baselines are
    ours.
    """
    need(curves, ("suite", "stands_for", "curve", "sample", "mode", "relative"))
    shown = curves.assign(panel=curves["suite"] + " (" + curves["stands_for"] + ")")
    shown = shown.reset_index(drop=True)
    panels, ends = shown["panel"].unique(), {"low": "lowest head", "high": "highest head"}
    for name, curve in ends.items():
        shown[name] = shown["relative"].where(shown["curve"] == curve)
        shown[name] = shown.groupby(["panel", "mode"])[name].transform("max")
    shown["unit"] = shown["sample"].fillna("").astype(str) + shown["curve"]
    drawn_lines = shown[~shown["curve"].isin(ends.values())]
    scales = {
        name: so.Nominal({curve: kind[i] for curve, kind in KINDS.items()}, order=list(KINDS))
        for i, name in enumerate(("color", "linestyle", "linewidth"))
    }
    plot = so.Plot(drawn_lines, x="mode", y="relative", color="curve", linestyle="curve",
                   linewidth="curve", group="unit")  # fmt: skip
    plot = plot.facet("panel", order=panels, wrap=3)
    plot = plot.add(so.Line(), legend=False).scale(**scales)
    lines = -(-len(panels) // 3)
    size = (WIDTH, 2.25 * lines + 0.9) if len(panels) > 1 else (WIDTH, 3.9)
    fig = drawn(plot.label(x="mode k", y="σₖ / σ₁ (no unit)"), *size)
    for ax, (_, part) in zip(fig.axes, shown.groupby("panel", sort=False), strict=False):
        band = part[part["curve"] == "mean"]
        ax.set_yscale("log")
        ax.fill_between(band["mode"], band["low"], band["high"], color=BLUE, alpha=0.22, lw=0)
        ax.xaxis.get_major_locator().set_params(integer=True)
    handles = [Line2D([], [], color=c, ls=line, lw=w, label=label)
               for c, line, w, label in KINDS.values()]  # fmt: skip
    handles.append(Patch(color=BLUE, alpha=0.22, lw=0, label="range over heads"))
    legend_below(fig, handles, [handle.get_label() for handle in handles], 3)
    at = dict(tuple(shown.groupby("curve")))
    return headline(fig, _fall(at["mean"], at["shuffled"]))


def _fall(mean: pd.DataFrame, null: pd.DataFrame) -> str:
    """By which mode σ has fallen to a tenth, here and without structure."""

    def first(part: pd.DataFrame) -> tuple[int, bool]:
        below = part.loc[part["relative"] < TENTH, "mode"]
        return (int(below.min()), True) if len(below) else (int(part["mode"].max()), False)

    here = [first(part) for _, part in mean.groupby("panel")]
    there = [first(part) for _, part in null.groupby("panel")]
    modes = sorted({mode for mode, fell in here if fell})
    if len(modes) == 0:
        return "The singular values of M do not fall to a tenth of the first"
    said = f"mode {modes[0]}" if len(modes) == 1 else f"modes {modes[0]} to {modes[-1]}"
    text = f"The singular values of M fall to a tenth of the first by {said}"
    if any(fell for _, fell in there):
        others = sorted(mode for mode, fell in there if fell)
        return f"{text}, those of its shuffled entries by mode {others[0]} at the earliest"
    return f"{text}, those of its shuffled entries not within {min(mode for mode, _ in there)}"


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


@styled
def by_place(attention: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Attention received by a token's place in the prompt, and how often rules keep each place.

    attention: `svd_prune.attention_by_place`; chosen: `svd_prune.chosen_by_place`, a line per
    method, mean over eight neighbours. Source: SVD-Prune, figure 1 (upper two); the third is ours.
    """
    need(attention, ("place", "picture", "raw", "per_attender"))
    need(chosen, ("method", "place", "kept"))
    fig = new_figure(WIDTH, 6.4)
    axes = fig.subplots(3, 1, sharex=True)
    titles = ("mean over all tokens of the prompt", "mean over the tokens that can attend")
    for ax, name, heading in zip(axes, ("raw", "per_attender"), titles, strict=False):
        for picture, colour, marker, label in ((True, BLUE, "o", "picture"),
                                               (False, ORANGE, "^", "text")):  # fmt: skip
            own = attention[attention["picture"] == picture]
            ax.plot(own["place"], own[name], marker, ms=3, color=colour, label=label)
        ax.axhline(1, color=INK, lw=0.8)
        ax.set_ylabel("attention received\n(picture's mean = 1)")
        ax.set_title(heading, fontsize=9)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[1].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, loc="upper right", ncols=2)
    for method, own in chosen.groupby("method", sort=False):
        own = own.sort_values("place")
        smooth = own["kept"].rolling(8, center=True, min_periods=4).mean()
        colour, _, line = look(method)
        axes[2].plot(own["place"], 100 * smooth, color=colour, ls=line, label=named(method))
    axes[2].set(xlabel="place in the prompt (the first visual token is 0)", ylabel="kept (%)")
    axes[2].set_title("what is kept, mean over eight neighbours", fontsize=9)
    legend_below(fig, *axes[2].get_legend_handles_labels())
    return headline(fig, _early(attention))


def _early(attention: pd.DataFrame) -> str:
    """How much more the first quarter of the picture receives than the last, counted both ways."""
    own = attention[attention["picture"]].sort_values("place")
    n = max(1, len(own) // 4)
    ratios = [own[name].head(n).mean() / own[name].tail(n).mean() for name in
              ("raw", "per_attender")]  # fmt: skip
    return (f"The first quarter of the picture receives {ratios[0]:.1f} times the attention of the "
            f"last; {ratios[1]:.1f} times, counted per token that can attend")  # fmt: skip
