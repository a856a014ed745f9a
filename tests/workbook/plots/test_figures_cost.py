"""Figures of notebook 04: what is drawn is the frame's, and nothing overlaps the panel."""

import pandas as pd
import pytest

from qvid_utils.workbook.plots import cost as figures_cost
from qvid_utils.workbook.plots.base import CURVES
from qvid_utils.workbook.plots.cost import (
    accuracy_over_cost,
    growth,
    paper_over_cost,
    where_time_goes,
)


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
    x, y = left.lines[-1].get_data()
    assert y[1] / y[0] == pytest.approx(x[1] / x[0]) == 4


def test_accuracy_over_cost():
    cells = pd.DataFrame({
        "method": ["full", "qvid", "qvid", "random"], "keep": [144, 48, 16, 16],
        "gflops": [1.8, 0.9, 0.7, 0.7], "all": [100.0, 99, 93, 50], "all_stderr": 1.0,
    })  # fmt: skip
    (ax,) = accuracy_over_cost(cells, ["qvid", "random"]).axes
    assert [t.get_text() for t in ax.get_legend().texts] == ["full, all tokens", "QViD", "Random"]
    lines = [list(line.get_xdata()) for line in ax.lines]
    assert [0.7, 0.9] in lines  # in the order of cost
    assert ax.texts[0].get_text().startswith("unpruned: 1.80") and ax.get_xlim()[1] < 1
    points = cells.rename(columns={"gflops": "tflops", "all": "value_avg"})
    (ax,) = paper_over_cost(points).axes
    assert [t.get_text() for t in ax.texts] == ["16", "48", "16"]
    whose = {line.get_label(): line.get_color() for line in ax.lines}
    assert [t.get_color() for t in ax.texts] == [whose["QViD"]] * 2 + [whose["Random"]]
    with pytest.raises(ValueError, match="gflops"):
        accuracy_over_cost(cells.drop(columns="gflops"), ["qvid"])


def test_every_part_has_a_look_of_its_own():
    looks = list(figures_cost.PARTS.values())
    assert len({colour for _, colour, _ in looks}) == len({name for name, *_ in looks}) == 5


def test_no_two_curves_share_marker_and_line():
    looks = [*CURVES.values(), *figures_cost.MORE.values()]
    assert len({(marker, line) for _, marker, line in looks}) == len(looks)
    assert not set(CURVES) & set(figures_cost.MORE)
