"""The figures of notebooks 02 and 03: what is drawn is what the frame says, and nothing is cut."""

import numpy as np
import pandas as pd
import pytest
from test_figures import is_hidden_tick, texts

from qvid_utils.workbook.plots import accuracy as figures
from qvid_utils.workbook.plots import pictures

RNG = np.random.default_rng(0)
SAMPLES = ("tiny_gqa/0", "tiny_mmb/1")
PICTURES = {name: RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8) for name in SAMPLES}
KEEPS = (48, 32, 16)


def make_maps():
    """Scores 0..8 on a board of 3 × 3, the two highest kept."""
    rows = [
        (sample, "What color is it? Answer the question using a single word.", "red", method,
         said, said == "red", token // 3, token % 3, float(token), token > 6)
        for sample in SAMPLES
        for method, said in (("qvid", "red"), ("variation", "blue"))
        for token in range(9)
    ]  # fmt: skip
    columns = ["sample", "question", "answer", "method", "prediction", "right", "row", "column"]
    return pd.DataFrame(rows, columns=[*columns, "score", "kept"])


def make_averages(methods=("qvid", "column_norm", "random"), layers=(1,)):
    """all = 100 - keep distance - layer distance, so that every point is known."""
    rows = [
        (method, keep, layer, layer * 144 / 12 + keep, 90.0 - n + keep / 16 + layer, 1.0, layer < 3)
        for n, method in enumerate(methods)
        for keep in KEEPS
        for layer in layers
    ]
    columns = ["method", "keep", "layer", "mean_tokens", "all", "all_stderr", "loud"]
    return pd.DataFrame(rows, columns=columns).astype({"layer": "Int64", "loud": int})


def make_ranks():
    rows = [(budget, rank, 60.0 + rank, 70.0 + rank + budget / 10, 2.0)
            for budget in (11.1, 22.2, 33.3) for rank in (1.0, 4.0, 16.0)]  # fmt: skip
    names = ["budget_pct", "rank", "paper_pct_of_full", "measured_pct_of_full", "stderr"]
    return pd.DataFrame(rows, columns=names)


def make_accuracies():
    rows = [(suite, "full", pd.NA, 95.0, 1.0) for suite in ("tiny_gqa", "tiny_pope", "tiny_sqa")]
    rows += [(suite, method, layer, 60.0 + 3 * layer, 2.0)
             for suite in ("tiny_gqa", "tiny_pope", "tiny_sqa")
             for method in ("qvid", "random") for layer in range(12)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["benchmark", "method", "layer", "value", "stderr"])
    return frame.astype({"layer": "Int64"})


FIGURES = {
    "maps": lambda: pictures.score_maps(PICTURES, make_maps()),
    "keep": lambda: figures.over_keep(make_averages(), {"one": ["qvid"], "two": ["random"]}),
    "rank": lambda: figures.over_rank(make_ranks()),
    "layers": lambda: figures.layer_sweep(make_averages(("qvid", "random"), range(12))),
    "cost": lambda: figures.layer_cost(make_averages(("qvid", "random"), range(12))),
    "suites": lambda: figures.layer_sweep_by_suite(make_accuracies(), 15),
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


def test_maps_frame_what_is_kept_and_judge_the_answer():
    fig = FIGURES["maps"]()
    panels = [ax for ax in fig.axes if ax.patches]
    assert [len(ax.patches) for ax in panels] == [2] * 4
    shown = panels[0].images[1].get_array()
    assert np.allclose(shown, np.arange(9).reshape(3, 3) / 8)
    words = texts(fig)
    assert "“red”: right\n0 to 8" in words and "“blue”: wrong\n0 to 8" in words
    assert "V²Drop's score" in words
    assert fig.get_suptitle().endswith("the others keep: V²Drop's score 100 %")


def test_a_map_of_equal_scores_is_drawn():
    assert pictures.score_maps(PICTURES, make_maps().assign(score=1.0))


def test_over_keep_draws_every_budget_of_every_method():
    fig = figures.over_keep(make_averages(), {"both": ["qvid", "random"]})
    (ax,) = fig.axes
    found = [list(one.get_ydata()) for one in ax.lines]
    assert [92.0, 93.0, 94.0] in found and [90.0, 91.0, 92.0] in found
    assert ax.get_xticks().tolist() == [16, 32, 48]
    names = [text.get_text() for text in fig.legends[0].texts]
    assert names == ["QViD", "Random", "full model"]
    bars = [part for c in ax.collections for part in c.get_segments()]
    assert sorted(np.ptp(part[:, 1]) for part in bars) == pytest.approx([2 * 1.96] * 6)


def test_layers_without_a_word_are_hollow():
    fig = FIGURES["layers"]()
    ax = fig.axes[0]
    assert [93.0 + layer for layer in range(12)] in [list(one.get_ydata()) for one in ax.lines]
    assert figures.MUTE in [text.get_text() for text in fig.legends[0].texts]
    hollow = [one for one in ax.lines if one.get_markerfacecolor() == "white"]
    assert hollow[0].get_xdata().tolist() == list(range(3, 12))


def test_cost_is_drawn_over_mean_tokens():
    drawn = [list(one.get_xdata()) for one in FIGURES["cost"]().axes[0].lines]
    assert [16 + 12.0 * layer for layer in range(12)] in drawn


def test_the_band_is_fifteen_points_below_full():
    fig = FIGURES["suites"]()
    (band,) = fig.axes[0].patches
    assert "less than 15 points lost" in [text.get_text() for text in fig.legends[0].texts]
    assert (band.get_y(), band.get_height()) == (80.0, 15.0)
    assert "tiny_gqa (GQA)" in texts(fig)


def test_ranks_of_paper_and_ours_are_both_there():
    fig = FIGURES["rank"]()
    assert [61.0, 64.0, 76.0] in [list(one.get_ydata()) for one in fig.axes[0].lines]
    names = {text.get_text() for text in fig.legends[0].texts}
    assert names >= {"ours, 33.3 % kept", "paper, 11.1 % kept"}
    assert fig.get_suptitle() == "At 11.1 % kept rank 16 is best here, rank 16 in the paper"


@pytest.mark.parametrize("name", ["over_rank", "layer_sweep", "layer_cost"])
def test_a_frame_without_a_column_is_named(name):
    with pytest.raises(ValueError, match="lacks the columns"):
        getattr(figures, name)(pd.DataFrame({"x": [1]}))
