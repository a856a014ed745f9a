"""Interval figures that compare methods: standings, ranks, pairs of cells, leads, shares."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ...methods import GROUPS
from ..benchmarks.base import FULL, PAPER_BENCHMARKS
from .base import (
    BLUE,
    DASHES,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    WIDTH,
    headline,
    legend_below,
    named,
    need,
    new_figure,
    styled,
)
from .graphs import EDGE, intervals, marks, rows_of, verdict_colours

COLOURS = dict(zip(GROUPS, (BLUE, VERMILION, PURPLE, GREY), strict=True))
MARKS = dict(zip(GROUPS, ("o", "s", "D", "^"), strict=True))
#: Reading of a budget -> what the figures call it; hollow is the first.
READINGS = {"label": "equal nominal budget", "mean": "equal mean tokens"}
BASELINES = {"fewer_frames": "Fewer frames", "first_frame": "First frame alone"}
# What `video.per_frame` and `video.in_frames` add to a name, and to a label.
ENDINGS = {"_per_frame": "per frame", "_in_frames": "no class tokens"}
SUITES = ((BLUE, "o"), (ORANGE, "s"), (INK, "D"))  # colour and marker of each suite


@styled
def methods_by_group(standings: pd.DataFrame) -> Figure:
    """Mean over suites of every method, one panel per budget, methods grouped by place of the cut.

    standings: as `ranking.standings` gives it, of the methods and budgets to draw. Filled: at equal
    mean tokens; hollow: at an equal nominal budget. Bars are 95 % over pictures. A budget that a
    method cannot meet has no point.
    """
    need(standings, ("reading", "budget", "group", "method", "value", "stderr"))
    pairs = _grouped(standings)
    order = [method for _, method in pairs]
    budgets = sorted(standings["budget"].unique(), reverse=True)
    fig = new_figure(WIDTH, 0.19 * len(order) + 1.6)
    axes = fig.subplots(1, len(budgets), sharey=True, sharex=True, squeeze=False)[0]
    for ax, budget in zip(axes, budgets, strict=True):
        for reading, shift in (("label", -0.2), ("mean", 0.2)):
            part = standings[(standings["budget"] == budget) & (standings["reading"] == reading)]
            part = part.dropna(subset=["value"]).assign(
                low=lambda f: f["value"] - EDGE * f["stderr"],
                high=lambda f: f["value"] + EDGE * f["stderr"],
            )
            for group, own in part.groupby("group"):
                intervals(ax, own, order, value="value", name="method", colour=COLOURS[group],
                          marker=MARKS[group], hollow=reading == "label", shift=shift)  # fmt: skip
        rows_of(ax, [named(name) for name in order], ["QViD"], 7 if len(order) > 12 else 8)
        for at in range(1, len(pairs)):
            if pairs[at][0] != pairs[at - 1][0]:
                ax.axhline(at - 0.5, color=INK, lw=0.6)
        ax.axvline(100, color=INK, lw=0.8, ls="--")
        ax.set_title(f"{budget} tokens")
    axes[len(axes) // 2].set_xlabel("mean over suites (% of full)")
    there = [group for group in GROUPS if group in set(standings["group"])]
    handles = marks(*((group, COLOURS[group], MARKS[group], False) for group in there),
                    (f"hollow: {READINGS['label']}", INK, "o", True),
                    (f"filled: {READINGS['mean']}", INK, "o", False))  # fmt: skip
    legend_below(fig, handles, [one.get_label() for one in handles], 3)
    least = standings[standings["budget"] == budgets[-1]]
    places = least.assign(rank=least.groupby("reading")["value"].rank(ascending=False))
    own = places[places["method"] == "qvid"].set_index("reading")["rank"]
    of = places.groupby("reading")["value"].count()
    said = [f"{own[r]:.0f} of {of[r]} at {name}" for r, name in READINGS.items() if r in own]
    return headline(fig, f"With {budgets[-1]} tokens QViD is number " + ", ".join(said))


def _grouped(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(group, method) from the bottom up: groups in their order, each by its mean, best on top."""
    last = frame[frame["reading"] == "label"]
    size = last.groupby("method")["value"].mean()
    pairs = frame[["group", "method"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(pairs, key=lambda one: (-GROUPS.index(one[0]), size.get(one[1], 0)))


@styled
def rank_intervals(ranks: pd.DataFrame) -> Figure:
    """The place of each method at one budget under both readings: a line from one to the other.

    ranks: rows of one budget of `ranking.ranks`; 1 is the best; upright bars are 95 %. QViD is in
    colour. A method that cannot meet the budget as a mean has no line.
    """
    need(ranks, ("reading", "budget", "group", "method", "rank", "low", "high"))
    if ranks["budget"].nunique() != 1:
        raise ValueError(f"ranks of budgets {sorted(ranks['budget'].unique())}: give one budget")
    wide = ranks.pivot(index="method", columns="reading", values=["rank", "low", "high"])
    fig = new_figure(WIDTH, 0.17 * len(wide) + 1.0)
    ax = fig.subplots()
    for method, row in wide.iterrows():
        bright = method == "qvid"
        style = {"color": BLUE if bright else PALE, "zorder": 3 if bright else 2}
        shown = [(x, name) for x, name in enumerate(READINGS) if pd.notna(row.get(("rank", name)))]
        x = [x for x, _ in shown]
        ax.plot(x, [row["rank", name] for _, name in shown], "o-", ms=4, lw=2 if bright else 1,
                **style)  # fmt: skip
        for at, name in shown if bright else ():
            ax.vlines(at, row["low", name], row["high", name], lw=4, alpha=0.35, **style)
    for at, (name, side) in enumerate(zip(READINGS, ("right", "left"), strict=True)):
        for place, method in enumerate(wide["rank"][name].dropna().sort_values().index):
            text = f"{named(method)}  " if side == "right" else f"  {named(method)}"
            weight = "bold" if method == "qvid" else "normal"
            ax.text(at, place + 1, text, ha=side, va="center", fontsize=6.8, fontweight=weight)
    ax.set(xlim=(-0.75, 1.75), ylim=(len(wide) + 0.7, 0.3), xticks=range(len(READINGS)),
           ylabel="place (1: most right answers)")  # fmt: skip
    ax.set_xticklabels(READINGS.values())
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0)
    own, budget = wide.loc["qvid", "rank"], ranks["budget"].iloc[0]
    return headline(fig, f"{budget} tokens: QViD is number {own['label']:.0f} at equal nominal "
                         f"budget and {own['mean']:.0f} at equal mean tokens")  # fmt: skip


@styled
def gains(rows: pd.DataFrame, label: str) -> Figure:
    """Differences of pairs of cells with their intervals, one panel per budget.

    rows: `ranking.gains`; label: what right means. Blue is better, orange worse; a hollow grey
    point's interval holds zero. A name without a pair at a budget has no row there.
    """
    need(rows, ("name", "budget", "difference", "low", "high"))
    budgets = rows["budget"].unique()
    most = rows.groupby("budget")["name"].nunique().max()
    fig = new_figure(WIDTH + 0.6, 0.24 * most + 1.5)
    axes = fig.subplots(1, len(budgets), sharex=True, squeeze=False)[0]
    whole = list(rows["name"].unique())[::-1]
    same = rows.groupby("budget")["name"].nunique().nunique() == 1
    for n, (ax, budget) in enumerate(zip(axes, budgets, strict=True)):
        own = rows[rows["budget"] == budget]
        names = [name for name in whole if name in set(own["name"])]
        colours, hollow = verdict_colours(own)
        intervals(ax, own, names, value="difference", name="name", colour=colours, hollow=hollow)
        rows_of(ax, names, size=7.5)
        if same and n:
            ax.set_yticklabels([])
        ax.axvline(0, color=INK, lw=0.8)
        ax.set_title(f"{budget} tokens")
    axes[len(axes) // 2].set_xlabel(label)
    handles = marks(("better", BLUE, "o", False), ("worse", ORANGE, "o", False),
                    ("not clear: the interval holds zero", GREY, "o", True))  # fmt: skip
    legend_below(fig, handles, [one.get_label() for one in handles])
    better, worse = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    return headline(fig, f"Of {len(rows)} pairs {better} are clearly better, {worse} clearly worse")


@styled
def leads(paper: pd.DataFrame, ours: pd.DataFrame, name: str = "QViD") -> Figure:
    """How far one method leads each other one, theirs and ours, a panel for each share of tokens.

    paper: budget_pct, method, lead (difference of Avg, in % of the unpruned model), whose; ours:
    budget_pct, method, lead, low, high. Filled: measured with 95 % interval; hollow: printed.
    """
    need(paper, ("budget_pct", "method", "lead", "whose"))
    need(ours, ("budget_pct", "method", "lead", "low", "high"))
    budgets = sorted({*paper["budget_pct"], *ours["budget_pct"]}, reverse=True)
    middle = paper[paper["budget_pct"] == budgets[len(budgets) // 2]].sort_values("lead")
    order = middle["method"].tolist()
    order += [m for m in dict.fromkeys([*paper["method"], *ours["method"]]) if m not in order]
    fig = new_figure(WIDTH + 0.6, 0.34 * len(order) + 1.8)
    axes = fig.subplots(1, len(budgets), sharey=True, sharex=True, squeeze=False)[0]
    own_paper = paper["whose"].str.contains("own paper")
    for ax, budget in zip(axes, budgets, strict=True):
        ax.axvline(0, color=INK, lw=0.9)
        for rows, colour, marker, hollow, shift in (
            (ours, BLUE, "o", False, 0.14), (paper[~own_paper], VERMILION, "D", True, -0.16),
            (paper[own_paper], ORANGE, "s", True, -0.16),
        ):  # fmt: skip
            intervals(ax, rows[rows["budget_pct"] == budget], order, value="lead", name="method",
                      colour=colour, marker=marker, hollow=hollow, shift=shift)  # fmt: skip
        rows_of(ax, [_printed(method) for method in order])
        ax.set_title(f"{budget:.1f} % kept")
    axes[len(axes) // 2].set_xlabel(f"{name} minus the other: Avg, in % of each side's own full "
                                    "model")  # fmt: skip
    handles = marks(("measured here, 95 % interval", BLUE, "o", False),
                    ("printed in Table 1", VERMILION, "D", True),
                    ("its own paper's row", ORANGE, "s", True))  # fmt: skip
    legend_below(fig, handles, [one.get_label() for one in handles])
    both = ours.merge(paper[~own_paper], on=["budget_pct", "method"], suffixes=("", "_paper"))
    if both.empty:
        return headline(fig, f"How far {name} leads here, and in print")
    far = both.loc[(both["lead"] - both["lead_paper"]).abs().idxmax()]
    ahead = int((both["low"] > 0).sum())
    return headline(
        fig, f"{name} leads clearly in {ahead} of {len(both)} pairs here; farthest from print: "
        f"{_printed(far['method'])} at {far['budget_pct']:.1f} % ({far['lead']:+.1f} here, "
        f"{far['lead_paper']:+.1f} printed)")  # fmt: skip


def _printed(method: str) -> str:
    return f"{named(method)} (ours)" if method == "random" else named(method)


@styled
def accuracy_at_shares(table: pd.DataFrame, chance: Mapping[str, float]) -> Figure:
    """Accuracy and its 95 % interval, a panel for each share of the tokens, a line for each method.

    table: `video.by_method` of all types of questions together; chance: by suite, in %. A line
    across each panel is the full model (dashed) and chance (dotted) of a suite. Methods stand in
    the order of their mean over all shares and suites.
    """
    need(table, ("suite", "share", "method", "value", "low", "high"))
    pruned = table[table["share"] < 100]
    shares = sorted(pruned["share"].unique(), reverse=True)
    order = pruned.groupby("method")["value"].mean().sort_values().index.tolist()
    fig = new_figure(WIDTH, 0.26 * len(order) + 1.9)
    axes = fig.subplots(1, len(shares), sharex=True, sharey=True, squeeze=False)[0]
    suites = table["suite"].unique().tolist()
    for ax, share in zip(axes, shares, strict=True):
        for n, (suite, (colour, marker)) in enumerate(zip(suites, SUITES, strict=False)):
            mine = table[table["suite"] == suite]
            full = mine.loc[mine["method"] == FULL, "value"].iloc[0]
            ax.axvline(full, color=colour, lw=1, ls=(0, DASHES))
            ax.axvline(chance[suite], color=colour, lw=1, ls=":")
            intervals(ax, mine[mine["share"] == share], order, value="value", name="method",
                      colour=colour, marker=marker, shift=0.14 - 0.28 * n)  # fmt: skip
        rows_of(ax, [video_name(method) for method in order], ["QViD"])
        ax.set(title=f"{share:g} % of the tokens", xlabel="accuracy (%)", xlim=(0, 102))
    kin = {suite: PAPER_BENCHMARKS.get(suite, STANDS_FOR.get(suite, "")) for suite in suites}
    titles = [f"{suite} ({kin[suite]})" if kin[suite] else suite for suite in suites]
    kinds = zip(titles, SUITES, strict=False)
    handles = marks(*((title, *kind, False) for title, kind in kinds))
    axes[0].plot([], [], color=GREY, lw=1, ls=(0, DASHES), label="full model")
    axes[0].plot([], [], color=GREY, lw=1, ls=":", label="chance")
    more, words = axes[0].get_legend_handles_labels()
    legend_below(fig, [*handles, *more], [*titles, *words])
    best = pruned.groupby("method")["value"].mean()
    first = order[-1]
    text = f"{video_name(first)} has the highest mean accuracy, {best[first]:.0f} %"
    if "fewer_frames" in best:
        text += f"; fewer frames at the same tokens have {best['fewer_frames']:.0f} %"
    return headline(fig, text)


#: Embedded video suite -> the published benchmark that it stands for.
STANDS_FOR = {"tiny_mvbench": "MVBench", "tiny_videomme": "VideoMME"}


def video_name(method: str) -> str:
    """A method's label, or what `video` makes of it."""
    for ending, words in ENDINGS.items():
        if method.endswith(ending):
            return f"{named(method.removesuffix(ending))}, {words}"
    return BASELINES.get(method) or named(method)
