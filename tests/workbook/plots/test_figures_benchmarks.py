"""The figures of notebooks 06 and 07: what is drawn is what the frame says, and nothing is cut."""

import numpy as np
import pandas as pd
import pytest
from test_figures import is_hidden_tick, line, texts

from qvid_utils.workbook.plots import methods, spectra, svd_prune

METHODS = ("visionzip", "v2drop", "pdrop", "random")
BUDGETS = (33.3, 22.2, 11.1)


def make_leads():
    theirs = [(b, m, float(n) - 1, "its authors' own paper" if m == "visionzip" else "quoted")
              for b in BUDGETS for n, m in enumerate(METHODS[:3])]  # fmt: skip
    ours = [(b, m, 10.0 + n, 8.0 + n, 12.0 + n) for b in BUDGETS for n, m in enumerate(METHODS[1:])]
    return (
        pd.DataFrame(theirs, columns=["budget_pct", "method", "lead", "whose"]),
        pd.DataFrame(ours, columns=["budget_pct", "method", "lead", "low", "high"]),
    )


def make_tau():
    rows = [(keep, tau, center, 50 + 40 * tau + keep / 10, 2.0)
            for keep in (48, 16, 4) for tau in (0.3, 0.9) for center in (False, True)]  # fmt: skip
    ranks = [(tau, center, 2.0, 1.0, 4.0) for tau in (0.3, 0.9) for center in (False, True)]
    return (
        pd.DataFrame(rows, columns=["keep", "tau", "center", "all", "all_stderr"]),
        pd.DataFrame(ranks, columns=["tau", "center", "median", "low", "high"]),
    )


def make_tokens():
    rows = [(m, keep, 60.0 + keep, 1.0) for m in ("svd_prune", "random") for keep in (48, 16, 4)]
    return pd.DataFrame(rows, columns=["method", "keep", "all", "all_stderr"])


def make_places():
    places = np.arange(-2, 20)
    picture = (places >= 0) & (places < 16)
    raw = 1.5 - places / 40
    attention = pd.DataFrame(
        {"place": places, "picture": picture, "raw": raw, "per_attender": raw / 2}
    )
    kept = pd.DataFrame({"method": "qvid", "place": range(16), "kept": 0.25})
    return attention, kept


def two_panels():
    return svd_prune.over_tokens({"a": make_tokens(), "b": make_tokens()}, ["svd_prune", "random"])


FIGURES = {
    "leads": lambda: methods.leads(*make_leads()),
    "tau": lambda: svd_prune.over_tau(*make_tau()),
    "tokens": two_panels,
    "place": lambda: spectra.by_place(*make_places()),
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
    """Places of the points of each kind, in the order in which they are drawn."""
    kinds = [c for c in ax.collections if c.get_offsets().size and not hasattr(c, "get_segments")]
    return [sorted(kind.get_offsets()[:, 0].tolist()) for kind in kinds]


def test_leads_are_drawn_theirs_and_ours():
    axes = FIGURES["leads"]().axes
    assert [ax.get_title() for ax in axes] == ["33.3 % kept", "22.2 % kept", "11.1 % kept"]
    ours, printed, own = points(axes[0])
    assert ours == [10.0, 11.0, 12.0] and printed == [0.0, 1.0]  # v2drop, pdrop
    assert own == [-1.0]  # VisionZip's own paper
    assert "leads clearly in 6 of 6 pairs here" in axes[0].figure.get_suptitle()
    assert {"VisionZip", "V²Drop", "PyramidDrop"} <= set(texts(axes[0].figure))


def test_tau_has_a_column_for_each_centring_and_the_rank_below():
    axes = FIGURES["tau"]().axes
    drawn = {c.get_label(): c.lines[0].get_ydata().tolist() for c in axes[0].containers}
    assert drawn["keep 48"] == pytest.approx([66.8, 90.8])
    assert line(axes[2], "rank k, median").get_ydata().tolist() == [2.0, 2.0]


def test_tokens_are_drawn_for_each_method():
    ax = FIGURES["tokens"]().axes[0]
    drawn = [list(one.get_ydata()) for one in ax.lines]
    assert drawn.count([64.0, 76.0, 108.0]) == 2
    assert [text.get_text() for text in ax.texts] == ["Random", "SVD-Prune"]
    assert ax.get_xticks().tolist() == [4, 16, 48]


def test_places_of_picture_and_text_are_told_apart():
    axes = FIGURES["place"]().axes
    assert len(line(axes[0], "picture").get_xdata()) == 16
    assert line(axes[1], "text").get_ydata().tolist() == pytest.approx(
        [(1.5 - p / 40) / 2 for p in (-2, -1, 16, 17, 18, 19)]
    )
    assert line(axes[2], "QViD").get_ydata().tolist() == pytest.approx([25.0] * 16)


@pytest.mark.parametrize("draw", [methods.leads, svd_prune.over_tau, spectra.by_place])
def test_a_frame_without_a_column_is_named(draw):
    empty = pd.DataFrame({"x": [1]})
    with pytest.raises(ValueError, match="lacks the columns"):
        draw(empty, empty)
