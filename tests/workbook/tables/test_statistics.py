"""Errors, McNemar and comparisons against direct computations; the errors of QViD's Table 15."""

from itertools import product
from math import comb

import numpy as np
import pandas as pd
import pytest

from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.statistics import (
    holm,
    mcnemar,
    paired,
    paired_bootstrap,
    plain_error,
    points,
)


def test_the_plain_error_of_yes_and_no_is_the_binomial_one():
    hits = np.array([1.0] * 30 + [0] * 70)
    assert plain_error(hits) == pytest.approx(100 * (0.3 * 0.7 / 99) ** 0.5)
    assert plain_error(hits) == pytest.approx(100 * np.std(hits, ddof=1) / 10)
    with pytest.raises(ValueError, match=r"1 score\(s\): a standard error needs at least two"):
        plain_error([1])
    with pytest.raises(ValueError, match="finite"):
        plain_error([1, np.nan])


def test_table_15_prints_plain_errors_of_gqa():
    """√(p(1-p)/12578), to 0.3 %; POPE's are those of an F1 and up to a tenth larger."""
    frame = results.paper(15)
    rows = frame[frame.benchmark == "GQA"]
    for row in rows.itertuples():
        right = round(row.value * 125.78)
        hits = np.repeat([1.0, 0.0], [right, 12578 - right])
        assert plain_error(hits) == pytest.approx(row.stderr, rel=3e-3)
    assert len(rows) == 6


def test_mcnemar_by_hand():
    """8 questions differ, 7 for a: 2 · (C(8,7) + C(8,8)) / 2^8 = 18/256."""
    a = [1] * 5 + [1] * 7 + [0] + [0] * 3
    b = [1] * 5 + [0] * 7 + [1] + [0] * 3
    found = mcnemar(a, b)
    assert (found.both, found.only_a, found.only_b, found.neither) == (5, 7, 1, 3)
    assert found.p == pytest.approx(18 / 256)
    assert mcnemar(b, a).p == pytest.approx(18 / 256)


@pytest.mark.parametrize("only_a, only_b", list(product(range(6), range(6))))
def test_mcnemar_is_the_sum_over_coins(only_a, only_b):
    a = np.repeat([1, 0, 1], [only_a, only_b, 2])
    b = np.repeat([0, 1, 1], [only_a, only_b, 2])
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar(a, b).p == pytest.approx(min(1, 2 * tail))


@pytest.mark.parametrize(
    "a, b, says",
    [
        ([1], [1, 0], "a has 1 answers and b 2"),
        ([], [], "a has 0 answers"),
        ([0.5], [1], "takes right and wrong"),
        ([np.nan], [1], "finite"),
    ],
)
def test_mcnemar_refuses(a, b, says):
    with pytest.raises(ValueError, match=says):
        mcnemar(a, b)


def records(n=60, soft=False):
    rng = np.random.default_rng(0)
    parts = []
    for method, share in (("full", 0.9), ("qvid", 0.8), ("random", 0.5)):
        # both questions of a picture alike, so that pictures are what varies
        score = (rng.random(n // 2) < share).repeat(2).astype(float) * (0.9 if soft else 1)
        parts.append(pd.DataFrame({
            "suite": "s", "sample": [f"s/{i}" for i in range(n)],
            "picture": [f"p{i // 2}" for i in range(n)], "method": method,
            "keep": None if method == "full" else 16, "score": score,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True).astype({"keep": "Int64"})


def test_two_cells_are_compared_on_the_same_questions():
    frame = records()
    shuffled = frame.sample(frac=1, random_state=1)
    named = {"method": "qvid", "keep": 16}, {"method": "random"}
    (row,) = paired(shuffled, *named, by=["suite"]).to_dict("records")
    x, y = (frame[frame.method == m].score.to_numpy() for m in ("qvid", "random"))
    assert row["difference"] == pytest.approx(100 * (x.mean() - y.mean()))
    assert row["low"] < row["difference"] < row["high"] and row["n"] == 60
    assert (row["only_a"], row["only_b"]) == ((x > y).sum(), (x < y).sum())
    assert row["mcnemar"] == mcnemar(x, y).p
    # the interval against a direct bootstrap over pictures
    rng = np.random.default_rng(3)
    each = 100 * (x - y).reshape(30, 2).mean(1)
    draws = each[rng.integers(0, 30, (4000, 30))].mean(1)
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=2)


def test_soft_scores_have_no_mcnemar():
    found = paired(records(soft=True), {"method": "qvid"}, {"method": "full", "keep": None})
    assert found["mcnemar"].isna().all() and found["low"].notna().all()


def test_a_comparison_refuses_what_does_not_pair():
    frame = records()
    with pytest.raises(ValueError, match="no record of method='tome'; run"):
        paired(frame, {"method": "tome"}, {"method": "full"})
    with pytest.raises(ValueError, match="no column 'budget'"):
        paired(frame, {"budget": 3}, {"method": "full"})
    with pytest.raises(ValueError, match="were not asked the same of suite='s'"):
        paired(frame.iloc[1:], {"method": "full"}, {"method": "qvid"}, ["suite"])
    with pytest.raises(ValueError, match="names several cells"):
        paired(frame, {"keep": 16}, {"method": "full"})


def test_a_paired_difference_by_hand():
    """Pictures x (a, b) and y (c): differences 1, 0, 1, mean 2/3; a draw of x alone has 1/2, of y
    alone 1, so none is at or below zero."""
    ours = pd.DataFrame({"score": [1.0, 0, 1], "picture": list("xxy")}, index=list("abc"))
    theirs = pd.DataFrame({"score": [0.0, 0, 0], "picture": list("xxy")}, index=list("abc"))
    found = points(ours, theirs)
    assert found == {
        "a": pytest.approx(200 / 3), "b": 0, "difference": pytest.approx(200 / 3),
        "low": 50, "high": 100, "p": pytest.approx(2 / 2001), "only_a": 2, "only_b": 0,
        "mcnemar": 0.5, "n": 3, "pictures": 2,
    }  # fmt: skip
    assert points(theirs, ours)["difference"] == pytest.approx(-200 / 3)


def test_without_a_second_cell_every_other_one_is_compared():
    frame = records()
    found = paired(frame, {"method": "full"}, cell=["method", "keep"])
    assert found[["method", "keep"]].to_numpy().tolist() == [["qvid", 16], ["random", 16]]
    one = paired(frame, {"method": "full"}, {"method": "random"}).iloc[0]
    assert found.iloc[1][one.index].tolist() == one.tolist()
    assert paired(frame[frame["keep"].notna()], {"method": "qvid"}, by=["suite", "keep"])[
        "method"].tolist() == ["random"]  # fmt: skip
    with pytest.raises(ValueError, match="method='qvid' at keep=16 names several cells"):
        paired(pd.concat([frame, frame]).dropna(), {"method": "qvid"}, by=["keep"])


def test_p_agrees_with_the_interval_and_holm_with_the_textbook():
    """Holm (1979): .01, .04, .03 of three become .03, .06, .06."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, np.nan, 0.7]) == pytest.approx([1, np.nan, 1], nan_ok=True)
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.1, 0.2):
        a, b = rng.normal(shift, 1, 200), rng.normal(0, 1, 200)
        _, low, high, p = paired_bootstrap(a, b)
        assert (p < 0.05) == (low > 0 or high < 0)
