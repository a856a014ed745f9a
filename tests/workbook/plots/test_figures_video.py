"""Film strips and the spread over time: what is drawn is what was kept."""

import numpy as np
import pandas as pd
import pytest
from test_figures import is_hidden_tick

from qvid_utils.workbook.plots import methods as figures_methods
from qvid_utils.workbook.plots import video as figures_video

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


def made_table():
    values = {("full", 100.0): 90, ("qvid", 25.0): 80, ("qvid", 10.0): 70,
              ("fewer_frames", 25.0): 40, ("fewer_frames", 10.0): 30}  # fmt: skip
    rows = [
        {"suite": suite, "share": share, "method": method, "value": value + more,
         "low": value + more - 5, "high": value + more + 3}
        for suite, more in (("s", 0), ("t", 2))
        for (method, share), value in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drawn():
    return {
        "strip": figures_video.film_strip(FILMS, made_strips()),
        "shares": figures_methods.accuracy_at_shares(made_table(), {"s": 25.0, "t": 33.0}),
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
    fig.savefig("/dev/null", format="png", dpi="figure")
    for text in fig.findobj(lambda artist: hasattr(artist, "get_text")):
        if text.get_text().strip() and text.get_visible() and not is_hidden_tick(text, fig):
            box = text.get_window_extent()
            assert box.x0 > -1 and box.x1 < fig.bbox.x1 + 1, text
            assert box.y0 > -1 and box.y1 < fig.bbox.y1 + 1, text


def test_a_frame_without_a_column_is_named():
    with pytest.raises(ValueError, match=r"the frame lacks the columns \['spot'\]"):
        figures_video.film_strip(FILMS, made_strips().drop(columns="spot"))


def test_a_panel_for_each_share_and_a_line_for_each_method():
    fig = drawn()["shares"]
    left, right = fig.axes
    assert [left.get_title(), right.get_title()] == ["25 % of the tokens", "10 % of the tokens"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["Fewer frames", "QViD"]
    points = [c.get_offsets() for c in left.collections if not hasattr(c, "get_segments")]
    found = {tuple(np.round(place, 2)) for part in points for place in part.data}
    assert found == {(80, 1.14), (40, 0.14), (82, 0.86), (42, -0.14)}
    bars = [part for c in left.collections if hasattr(c, "get_segments") for part in
            c.get_segments()]  # fmt: skip
    assert [75, 83] in [part[:, 0].tolist() for part in bars]
    names = [text.get_text() for text in fig.legends[0].texts]
    assert names == ["s", "t", "full model", "chance"]
    ends = [(line.get_xdata(), line.get_linestyle()) for line in left.lines]
    upright = {(x[0], style) for x, style in ends if len(x) == 2 and x[0] == x[1]}
    assert upright == {(90, "--"), (25.0, ":"), (92, "--"), (33.0, ":")}


def test_labels_of_what_video_makes():
    named = [
        figures_methods.video_name(f"qvid{ending}") for ending in ("", "_per_frame", "_in_frames")
    ]
    assert named == ["QViD", "QViD, per frame", "QViD, no class tokens"]
    assert figures_methods.video_name("fewer_frames") == "Fewer frames"
