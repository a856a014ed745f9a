"""Figures of notebook 01: how singular values fall, which words lead, which places are kept."""

import pandas as pd
import seaborn.objects as so
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .base import (
    BLUE,
    INK,
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

#: Curve -> colour, line, width and what the legend says.
KINDS = {
    "sample": (SKY, "-", 0.6, "one question (mean over heads)"),
    "mean": (BLUE, "-", 2, "mean"),
    "shuffled": (VERMILION, "--", 1.4, "M's entries shuffled (mean)"),
    "random factors": (INK, ":", 1.4, "random Q Kᵀ (mean)"),
}
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
