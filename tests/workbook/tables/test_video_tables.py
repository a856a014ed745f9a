"""Tables of the video runs, by hand."""

import numpy as np
import pandas as pd
import pytest

from qvid_utils.workbook.tables import video as video_tables

# of four questions on two clips: what the full model, QViD and chance get right at 25 %
SCORES = {"full": (1, 1, 1, 0), "qvid": (1, 1, 0, 0), "random": (0, 1, 0, 0)}


def answers():
    return pd.DataFrame(
        {
            "suite": "s", "sample": f"q{i}", "picture": "ab"[i // 2], "kind": "xy"[i % 2],
            "method": method, "share": 100.0 if method == "full" else 25.0, "score": score,
            "mean_tokens": 8.0 if method == "full" else 3.0 + i,
        }
        for method, scores in SCORES.items()
        for i, score in enumerate(scores)
    )  # fmt: skip


def test_accuracy_by_type_with_errors_over_clips():
    table = video_tables.by_method(answers()).set_index(["kind", "method"])
    assert table.loc[("all", "full"), "value"] == 75 and table.loc[("y", "random"), "value"] == 50
    # clips a, b of the full model are off by ¼·(¼ + ¼) and ¼·(¼ - ¾): error √(2 · 2/64)
    assert np.isclose(table.loc[("all", "full"), "stderr"], 100 * np.sqrt(4 / 64))
    assert table.loc[("all", "qvid"), "mean_tokens"] == 4.5
    row = table.loc[("all", "full")]
    assert np.isclose(row["low"], 75 - 49) and row["high"] == 100  # cut at the end of the scale
    assert table["n"].tolist() == [4] * 3 + [2] * 6


def test_leads_are_paired_over_questions():
    found = video_tables.leads(answers()).set_index("method").loc["random"]
    assert found["difference"] == 25 and found["n"] == 4 and found["clips"] == 2
    assert (found["low"], found["high"]) == (0, 50)  # either clip may be drawn twice
    with pytest.raises(ValueError, match="no record of method='fastv' at suite='s', share=25.0"):
        video_tables.leads(answers(), "fastv")


def test_what_two_questions_keep_in_common():
    """Clip a: one of two tokens; clip b: both; clip c is asked once."""
    kept = {"q0": (1, 2), "q1": (2, 5), "q2": (3, 4), "q3": (4, 3), "q4": (0, 1)}
    shown = pd.DataFrame(
        {"sample": sample, "method": "qvid", "token": token, "kept": token in tokens}
        for sample, tokens in kept.items()
        for token in range(6)
    )
    samples = pd.DataFrame({"id": [*kept], "picture": [*"aabbc"]})
    (row,) = video_tables.in_common(shown, samples).to_dict("records")
    assert row == {"method": "qvid", "common": 75.0, "least": 50.0, "clips": 2}
    with pytest.raises(ValueError, match="no clip is asked two questions"):
        video_tables.in_common(shown[shown["sample"] == "q4"], samples)


def test_leads_at_equal_cost():
    """QViD costs 4 and 6 tokens: a rival with 5 meets its 4, one with 3 meets none."""
    costs = {("qvid", 25.0): 4, ("qvid", 50.0): 6, ("fastv", 25.0): 5, ("random", 25.0): 3}
    right = {("qvid", 25.0): (1, 1), ("qvid", 50.0): (1, 1), ("fastv", 25.0): (0, 1)}
    records = pd.DataFrame(
        {"suite": "s", "sample": f"q{i}", "picture": "ab"[i], "method": method, "share": share,
         "score": right.get((method, share), (0, 0))[i], "mean_tokens": cost}
        for (method, share), cost in costs.items()
        for i in range(2)
    )  # fmt: skip
    (row,) = video_tables.at_cost(records).to_dict("records")
    assert (row["method"], row["own_share"], row["own_tokens"], row["tokens"]) == (
        "fastv",
        25,
        4,
        5,
    )
    assert row["difference"] == 50 and row["n"] == 2 and (row["low"], row["high"]) == (0, 100)
