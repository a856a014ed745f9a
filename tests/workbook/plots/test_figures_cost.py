"""Figures of notebook 04: what is drawn is the frame's, and nothing overlaps the panel."""

import pandas as pd
import pytest

from qvid_utils.workbook.plots import cost as figures_cost
from qvid_utils.workbook.plots.accuracy import over_cost
from qvid_utils.workbook.plots.base import LOOKS
from qvid_utils.workbook.plots.cost import growth, where_time_goes


def test_bars_are_stacked_in_the_order_of_the_parts():
    rows = [("a", "vision", 2.0, 4.0), ("a", "above", 3.0, 3.0), ("a", "decode", 5.0, 0.0),
            ("b", "vision", 1.0, 2.0), ("b", "scoring", 0.5, 1.0)]  # fmt: skip
    fig = where_time_goes(pd.DataFrame(rows, columns=["label", "part", "ms", "gflop"]))
    bars, rates = fig.axes
    drawn = [(b.get_x(), b.get_width()) for b in bars.patches if b.get_width() > 0]
    assert drawn == [(0, 2.0), (0, 1.0), (1.0, 0.5), (2.0, 3.0), (5.0, 5.0)]
    points = {x for line in rates.lines for x in line.get_xdata()}
    assert points == {2000.0, 1000.0}  # 4 GFLOP in 2 ms; decode without a count has no point


def test_growth_draws_every_line_and_the_proportion():
    scoring = pd.DataFrame(
        [(q, n, r, n * q / 10) for q in (8, 40) for n in (144, 576) for r in ("leverage", "qr")],
        columns=["n_query", "n_visual", "route", "ms"],
    )
    prefill = pd.DataFrame({"n_visual": [144, 576], "what": "unpruned", "tflops": [1.0, 5.0]})
    left, right = growth(scoring, prefill).axes
    assert len(left.lines) == 5 and len(right.lines) == 2
    assert left.lines[-1].get_ydata()[0] == pytest.approx(scoring["ms"].min())
    x, y = left.lines[-1].get_data()
    assert y[1] / y[0] == pytest.approx(x[1] / x[0]) == 4


def test_accuracy_over_cost():
    cells = pd.DataFrame({
        "method": ["full", "qvid", "qvid", "random"], "keep": [144, 48, 16, 16],
        "gflops": [1.8, 0.9, 0.7, 0.7], "all": [100.0, 99, 93, 50], "all_stderr": 1.0,
    })  # fmt: skip
    labels = ("GFLOPs", "mean")
    fig = over_cost(cells, "gflops", "all", labels, "all_stderr")
    (ax,) = fig.axes
    names = [text.get_text() for text in fig.legends[0].texts]
    assert names == ["QViD", "Random", "full model"]
    assert [0.7, 0.9] in [list(one.get_xdata()) for one in ax.lines]  # in the order of cost
    said = [text.get_text() for text in ax.texts]
    assert said[:3] == ["16", "48", "16"] and said[3].startswith("unpruned: 1.8")
    assert ax.get_xlim()[1] < 1
    whose = dict(zip(("QViD", "Random"), [LOOKS["qvid"][0], LOOKS["random"][0]], strict=True))
    assert [text.get_color() for text in ax.texts[:3]] == [whose["QViD"]] * 2 + [whose["Random"]]
    assert fig.get_suptitle() == "At 16 tokens: QViD 93 %, Random 50 % of the full model"
    with pytest.raises(ValueError, match="gflops"):
        over_cost(cells.drop(columns="gflops"), "gflops", "all", labels)


def test_every_part_has_a_look_of_its_own():
    looks = list(figures_cost.PARTS.values())
    assert len({colour for _, colour, *_ in looks}) == len({name for name, *_ in looks}) == 5


def test_no_two_curves_share_marker_and_line():
    looks = {(marker, line) for name, (_, marker, line) in LOOKS.items() if name != "pdrop"}
    assert len(looks) == len(LOOKS) - 1  # pdrop is the papers' name of PyramidDrop
