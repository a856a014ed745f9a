"""Standings, ranks, gains and the papers' order, on records small enough to count by hand."""

import numpy as np
import pandas as pd
import pytest

from qvid_utils.workbook.benchmarks import Suite
from qvid_utils.workbook.studies import ranking as standing
from qvid_utils.workbook.studies.equal_budgets import Entry

N = 40  # questions, two to a picture


def records():
    """full 40 right; qvid 30 (keep 4: 20); divprune 20, the same as qvid at 4; v2drop none."""
    right = {
        ("full", 144, None, ""): np.ones(N),
        ("qvid", 16, 1, ""): np.arange(N) < 30,
        ("qvid", 4, 1, ""): np.arange(N) < 20,
        ("qvid", 10, None, "after divprune 72"): np.arange(N) < 25,
        ("divprune", 16, 0, ""): np.arange(N) < 20,
        ("v2drop", 16, None, "lists=scaled"): np.zeros(N),
    }
    rows = [
        {"suite": "tiny_gqa", "sample": f"q{i}", "picture": i // 2, "kind": "", "split": "",
         "group": f"q{i}", "question": f"{i}?", "answer": "yes", "method": method,
         "variant": variant, "keep": None if method == "full" else keep, "layer": layer,
         "rank": 16.0 if method == "qvid" else None, "prediction": "yes" if hit else "no",
         "score": float(hit), "mean_tokens": float(144 if method == "full" else 16)}
        for (method, keep, layer, variant), hits in right.items()
        for i, hit in enumerate(hits)
    ]  # fmt: skip
    kinds = {"keep": "Int64", "layer": "Int64", "rank": "float64"}
    return pd.DataFrame(rows).astype(kinds)


def suites():
    samples = pd.DataFrame({
        "id": [f"q{i}" for i in range(N)], "picture": [i // 2 for i in range(N)], "image": None,
        "question": [f"{i}?" for i in range(N)], "answer": "yes", "kind": "", "split": "",
        "group": [f"q{i}" for i in range(N)],
    })  # fmt: skip
    return [Suite("tiny_gqa", "GQA", "accuracy", samples)]


ASKED = [
    Entry("label", 16, "qvid", 16, "", 1), Entry("label", 16, "divprune", 16, "", 0),
    Entry("label", 16, "v2drop", 16, "scaled"),
    Entry("mean", 16, "qvid", 4, "", 1), Entry("mean", 16, "divprune", 16, "", 0),
    Entry("mean", 16, "v2drop", None, floor="at least 40"),
]  # fmt: skip


def line(frame, reading, method):
    (found,) = frame[(frame["reading"] == reading) & (frame["method"] == method)].to_dict("records")
    return found


def test_standings_by_hand():
    table = standing.standings(records(), suites(), ASKED)
    assert len(table) == 6
    label = line(table, "label", "divprune")
    assert (label["value"], label["difference"], label["group"]) == (
        50.0, 25.0, "before the language model",
    )  # fmt: skip
    assert label["low"] > 0 and line(table, "label", "qvid")["value"] == 75.0
    mean = line(table, "mean", "divprune")
    assert (mean["value"], mean["difference"], mean["low"], mean["high"]) == (50, 0, 0, 0)
    own = line(table, "mean", "qvid")
    assert (own["value"], own["asked_keep"], np.isnan(own["difference"])) == (50.0, 4, True)
    gone = line(table, "mean", "v2drop")
    assert np.isnan(gone["value"]) and gone["floor"] == "at least 40"


def test_ranks_share_places_and_know_how_sure_they_are():
    asked = [entry for entry in ASKED if entry.keep is not None]
    table = standing.ranks(records(), asked, draws=500)
    assert [line(table, "label", m)["rank"] for m in ("qvid", "divprune", "v2drop")] == [1, 2, 3]
    last = line(table, "label", "v2drop")
    assert (last["accuracy"], last["low"], last["high"]) == (0.0, 3.0, 3.0)
    tie = line(table, "mean", "qvid")
    assert (tie["rank"], tie["low"], tie["high"]) == (1.5, 1.5, 1.5)


def test_ranks_of_near_methods_overlap():
    """Twenty right each, of other questions: either may come first."""
    frame = records()
    mine = (frame["method"] == "divprune").to_numpy()
    frame.loc[mine, "score"] = frame.loc[mine, "score"].to_numpy()[::-1]
    asked = [entry for entry in ASKED if entry.reading == "mean" and entry.keep is not None]
    table = standing.ranks(frame, asked, draws=500)
    assert (table["low"] == 1).all() and (table["high"] == 2).all()


def test_gains_of_pairs():
    both = {"method": "qvid", "variant": "after divprune 72", "keep": 10}, {"method": "qvid",
            "keep": 4, "layer": 1}  # fmt: skip
    (row,) = standing.gains(records(), {"first": {16: both}}).to_dict("records")
    assert (row["name"], row["budget"], row["a"], row["b"], row["n"]) == (
        "first", 16, 62.5, 50.0, N,
    )  # fmt: skip
    assert row["difference"] == 12.5 and 0 <= row["low"] < 12.5 < row["high"]


@pytest.mark.parametrize(
    "named, says",
    [
        ({"method": "qvid", "keep": 5}, "no record"),
        ({"method": "qvid", "keep": 10}, "no record"),  # but one behind another cut
        ({"method": "qvid", "layer": 1}, "several cells"),
    ],
)
def test_a_pair_must_name_one_cell(named, says):
    with pytest.raises(ValueError, match=says):
        standing.gains(records(), {"x": {16: (named, {"method": "qvid", "keep": 4})}})


def paper(rows):
    columns = ["method", "keep", "benchmark", "value"]
    return pd.DataFrame(rows, columns=columns)


def test_paper_order_names_the_leader_and_what_happens_here(monkeypatch):
    """The paper: divprune ahead of qvid by 3 and of v2drop by 5; here qvid leads by 25."""
    printed = paper([
        ("divprune", 64, "GQA", 60.0), ("qvid", 64, "GQA", 57.0), ("v2drop", 64, "GQA", 55.0),
        ("divprune", 64, "VQA", 60.0), ("qvid", 64, "VQA", 57.0), ("v2drop", 64, "VQA", 55.0),
        ("qvid", 192, "GQA", 60.0), ("pdrop", 64, "GQA", 1.0), ("full", 576, "GQA", 62.0),
    ])  # fmt: skip
    monkeypatch.setattr(standing.results, "paper", lambda table: printed)
    asked = [entry for entry in ASKED if entry.reading == "label"]
    table = standing.paper_order(records(), suites(), asked, "any").set_index(["ahead", "behind"])
    assert len(table) == 3  # pdrop and 192 tokens were not measured
    row = table.loc[("divprune", "qvid")]
    assert (row["keep"], row["paper"], row["difference"]) == (16, 3.0, -25.0)
    assert row["here"] == "other way" and table.loc[("qvid", "v2drop"), "here"] == "same way"


def test_paper_order_takes_the_printed_average(monkeypatch):
    printed = paper([
        ("divprune", 64, "GQA", 60.0), ("divprune", 64, "Avg", 90.0),
        ("qvid", 64, "GQA", 50.0), ("qvid", 64, "Avg", 92.0),
    ])  # fmt: skip
    monkeypatch.setattr(standing.results, "paper", lambda table: printed)
    asked = [entry for entry in ASKED if entry.reading == "label"]
    (row,) = standing.paper_order(records(), suites(), asked, "any").to_dict("records")
    assert (row["ahead"], row["paper"], row["here"]) == ("qvid", 2.0, "same way")
