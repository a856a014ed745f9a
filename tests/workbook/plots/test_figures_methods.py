"""The figures of all methods: what is drawn is what the frame says, and nothing is cut off."""

import numpy as np
import pandas as pd
import pytest
from test_figures import is_hidden_tick, texts

from qvid_utils.methods import METHODS
from qvid_utils.workbook.plots import methods as figures_methods
from qvid_utils.workbook.studies.equal_budgets import COMPARED

BUDGETS = (48, 32, 16)


def make_standings():
    rows = [
        (reading, budget, METHODS[name].group, name, 90.0 - place + budget / 16 - 5 * late, 1.0)
        for late, reading in enumerate(("label", "mean"))
        for budget in BUDGETS
        for place, name in enumerate(COMPARED)
    ]
    frame = pd.DataFrame(rows, columns=["reading", "budget", "group", "method", "value", "stderr"])
    unmet = (frame["method"] == "v2drop") & (frame["reading"] == "mean") & (frame["budget"] == 16)
    frame.loc[unmet, ["value", "stderr"]] = float("nan")
    return frame


def make_ranks():
    rows = [
        (reading, 16, METHODS[name].group, name, place + 1.0, place + 0.5, place + 2.0)
        for reading in ("label", "mean")
        for place, name in enumerate(COMPARED if reading == "label" else COMPARED[1:])
    ]
    columns = ["reading", "budget", "group", "method", "rank", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def make_gains():
    rows = [("adaptive rank", b, 2.0, 1.0, 3.0) for b in BUDGETS]
    rows += [("DivPrune to 36 first", b, -2.0, -5.0, 1.0) for b in BUDGETS[1:]]
    return pd.DataFrame(rows, columns=["name", "budget", "difference", "low", "high"])


FIGURES = {
    "methods": lambda: figures_methods.methods_by_group(make_standings()),
    "ranks": lambda: figures_methods.rank_intervals(make_ranks()),
    "gains": lambda: figures_methods.gains(make_gains(), "accuracy points"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name, tmp_path):
    fig = FIGURES[name]()
    fig.savefig(tmp_path / "x.png", dpi="figure")
    for text in fig.findobj(lambda artist: hasattr(artist, "get_text")):
        if text.get_text().strip() and text.get_visible() and not is_hidden_tick(text, fig):
            box = text.get_window_extent()
            assert box.x0 > -1 and box.x1 < fig.bbox.x1 + 1, text
            assert box.y0 > -1 and box.y1 < fig.bbox.y1 + 1, text


def points(ax):
    """(x, y, hollow) of every point of a panel."""
    kinds = [c for c in ax.collections if c.get_offsets().size and not hasattr(c, "get_segments")]
    return [
        (float(x), float(y), tuple(face[:3]) == (1.0, 1.0, 1.0))
        for kind in kinds
        for (x, y), face in zip(
            kind.get_offsets(), np.resize(kind.get_facecolors(), (len(kind.get_offsets()), 4)),
            strict=True,
        )
    ]  # fmt: skip


def test_every_method_has_a_hollow_and_a_filled_point():
    fig = FIGURES["methods"]()
    found = {ax.get_title(): points(ax) for ax in fig.axes}
    assert [len(found[f"{b} tokens"]) for b in BUDGETS] == [2 * len(COMPARED)] * 2 + [
        2 * len(COMPARED) - 1  # V²Drop cannot meet a mean of 16
    ]
    hollow = [x for x, _, empty in found["48 tokens"] if empty]
    filled = [x for x, _, empty in found["48 tokens"] if not empty]
    assert sorted(hollow) == sorted(93.0 - place for place in range(len(COMPARED)))
    assert sorted(filled) == sorted(88.0 - place for place in range(len(COMPARED)))


def test_rows_stand_by_group_and_the_best_on_top():
    fig = FIGURES["methods"]()
    labels = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert labels[-1] == "QViD" and set(labels[:4]) == {
        METHODS[name].label for name in ("random", "stride", "pooling", "downsampling")
    }
    hollow = {round(y + 0.2): x for x, y, empty in points(fig.axes[0]) if empty}
    assert hollow[len(labels) - 1] == 93.0 and len(hollow) == len(labels)


def test_ranks_go_from_one_reading_to_the_other():
    fig = FIGURES["ranks"]()
    (ax,) = fig.axes
    ends = sorted(tuple(one.get_ydata()) for one in ax.lines)
    assert len(ends) == len(COMPARED) and ends[-1] == (len(COMPARED), len(COMPARED) - 1)
    assert (1.0,) in ends  # QViD has no place as a mean
    assert texts(fig).count("  " + METHODS[COMPARED[1]].label) == 1
    with pytest.raises(ValueError, match="give one budget"):
        figures_methods.rank_intervals(pd.concat([make_ranks(), make_ranks().assign(budget=32)]))


def test_gains_are_hollow_where_the_interval_holds_zero():
    fig = FIGURES["gains"]()
    assert [ax.get_title() for ax in fig.axes] == [f"{b} tokens" for b in BUDGETS]
    assert points(fig.axes[0]) == [(2.0, 0, False)]  # no row for what has no pair there
    assert sorted(points(fig.axes[2])) == [(-2.0, 0, True), (2.0, 1, False)]
    assert "accuracy points" in texts(fig)
    named = [text.get_text() for text in fig.legends[0].texts]
    assert named == ["better", "worse", "not clear: the interval holds zero"]
    assert fig.get_suptitle() == "Of 5 pairs 3 are clearly better, 0 clearly worse"


@pytest.mark.parametrize("name", ["methods_by_group", "rank_intervals"])
def test_a_frame_without_a_column_is_named(name):
    with pytest.raises(ValueError, match="lacks the columns"):
        getattr(figures_methods, name)(pd.DataFrame({"x": [1]}))
