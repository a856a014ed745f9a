"""Film strips and the spread over time: what is drawn is what was kept."""

import numpy as np
import pandas as pd
import pytest
from test_figures import is_hidden_tick

from qvid_utils import figures_video

FILMS = {name: np.full((3, 8, 8, 3), 90, np.uint8) for name in ("a", "b")}
KEPT = {("a", "qvid"): (0, 5, 11), ("a", "random"): (2, 3), ("b", "qvid_per_frame"): (1, 4, 8)}


def made_strips():
    rows = [
        {"sample": sample, "method": method, "token": token, "frame": token // 4,
         "spot": token % 4, "kept": token in kept, "answer": "B", "prediction": "C",
         "right": False, "question": "What flashes? A. star B. K C. ring D. heart Answer with "
         "the option's letter from the given choices directly."}
        for (sample, method), kept in KEPT.items()
        for token in range(12)
    ]  # fmt: skip
    line_break = {**rows[0], "token": 12, "frame": -1, "spot": 0, "kept": False}
    return pd.DataFrame([*rows, line_break])


def made_spread():
    values = {"qvid": (50.0, 30.0, 20.0), "qvid_per_frame": (33.3, 33.3, 33.3)}
    return pd.DataFrame(
        [
            {"method": method, "frame": t, "of_kept": value}
            for method, line in values.items()
            for t, value in enumerate(line)
        ]
    )


def drawn():
    return {
        "strip": figures_video.film_strip(FILMS, made_strips()),
        "time": figures_video.kept_over_time(made_spread(), 100 / 3),
    }


def test_a_strip_frames_what_is_kept_of_each_frame():
    fig = drawn()["strip"]
    grid = np.array(fig.axes).reshape(3, 4)
    for line, kept in zip(grid, KEPT.values(), strict=True):
        for t, ax in enumerate(line[1:]):
            corners = {(round(2 * p.get_y()), round(2 * p.get_x())) for p in ax.patches}
            here = {divmod(token - 4 * t, 2) for token in kept if token // 4 == t}
            assert corners == here
            veil = ax.images[1].get_array()[..., 3]
            assert {tuple(spot) for spot in np.argwhere(veil == 0)} == here
    said = [line[0].texts[0].get_text() for line in grid]
    assert "QViD: “C”, wrong\n3 of 13 tokens" in said[0] and "(B)" in said[0]
    assert "flashes" in said[0] and "flashes" not in said[1]  # one question, asked once
    assert "QViD, per frame: “C”, wrong\n3 of 12 tokens" in said[2] and "flashes" in said[2]


def test_the_spread_is_the_numbers_given():
    ax = drawn()["time"].axes[0]
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines["QViD"]) == [50, 30, 20] and lines["an even budget"][0] == 100 / 3
    assert "QViD, per frame" in lines and ax.get_ylabel() == "share of the kept tokens (%)"


@pytest.mark.parametrize("name", ["strip", "time"])
def test_nothing_is_cut_off(name):
    fig = drawn()[name]
    fig.savefig("/dev/null", format="png")
    for text in fig.findobj(lambda artist: hasattr(artist, "get_text")):
        if text.get_text().strip() and text.get_visible() and not is_hidden_tick(text, fig):
            box = text.get_window_extent()
            assert box.x0 > -1 and box.x1 < fig.bbox.x1 + 1, text
            assert box.y0 > -1 and box.y1 < fig.bbox.y1 + 1, text


def test_a_frame_without_a_column_is_named():
    with pytest.raises(ValueError, match=r"the frame lacks the columns \['spot'\]"):
        figures_video.film_strip(FILMS, made_strips().drop(columns="spot"))
