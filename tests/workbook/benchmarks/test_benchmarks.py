"""Suites, their scorers by hand-made cases, and what tables and verdicts are made of."""

import numpy as np
import pandas as pd
import pytest

from qvid_utils.workbook.benchmarks import TINY, Suite, base, crowded, score, scoring, suite
from qvid_utils.workbook.benchmarks.base import PAPER_BENCHMARKS
from qvid_utils.workbook.benchmarks.prompts import picture
from qvid_utils.workbook.tables import beside_paper, conclusions, report
from qvid_utils.workbook.tables.wide import wide_table


def asked(answers, *, split="", group="", picture=None, metric="accuracy", name="tiny_gqa"):
    """A suite whose questions have these answers."""
    n = len(answers)
    return Suite(name, PAPER_BENCHMARKS.get(name, "?"), metric, pd.DataFrame({
        "id": [f"{name}/{i}" for i in range(n)], "picture": picture or [f"p{i}" for i in range(n)],
        "image": None, "question": "?", "answer": answers, "kind": "",
        "split": split, "group": group,
    }))  # fmt: skip


def answered(one, words, **cell):
    """Records of one cell: the suite's questions with these answers."""
    cell = {"method": "full", "variant": "", "keep": None, "layer": None, "rank": None} | cell
    frame = one.samples.rename(columns={"id": "sample"}).drop(columns="image")
    frame = frame.assign(suite=one.name, prediction=words, **cell)
    right = [scoring.right(*pair) for pair in zip(words, frame["answer"], strict=True)]
    frame = frame.assign(score=np.array(right, float), mean_tokens=float(cell["keep"] or 144))
    return frame.astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})


def records_of(*cells):
    return pd.concat(cells, ignore_index=True)


# ---------------------------------------------------------------- scorers


def test_accuracy_takes_the_word_without_case_or_space():
    one = asked(["red", "A", "no", "red"])
    assert score(one, answered(one, ["Red ", "B", "no", "red blue"])) == {"accuracy": 50}


def test_pope_is_the_mean_f1_of_its_splits():
    """random: one hit, one false alarm, one miss, F1 = 2/4; popular: all right, F1 = 1."""
    one = asked(["yes", "no", "yes", "no", "yes"], split=["random"] * 3 + ["popular"] * 2,
                metric="pope")  # fmt: skip
    found = score(one, answered(one, ["yes", "yes", "no", "no", "yes"]))
    assert found == {"f1": pytest.approx(75), "accuracy": pytest.approx(60)}


def test_pope_counts_another_word_as_a_miss():
    one = asked(["yes", "yes", "no"], split="random", metric="pope")
    found = score(one, answered(one, ["yes", "red", "red"]))
    assert found == {"f1": pytest.approx(100 * 2 / 3), "accuracy": pytest.approx(100 / 3)}


def test_pope_without_a_yes_on_either_side_is_zero():
    one = asked(["no", "no"], split="random", metric="pope")
    assert score(one, answered(one, ["no", "no"])) == {"f1": 0, "accuracy": 100}


def test_mme_adds_accuracy_and_pairs_per_category():
    """count: 3 of 4 right and 1 of 2 pairs, 75 + 50; reasoning: all right, 200."""
    one = asked(["yes", "no"] * 3, split=["count"] * 4 + ["reasoning"] * 2,
                group=["a", "a", "b", "b", "c", "c"], metric="mme")  # fmt: skip
    found = score(one, answered(one, ["yes", "no", "yes", "yes", "yes", "no"]))
    assert {k: round(v, 6) for k, v in found.items()} == {
        "points": 325, "perception": 125, "cognition": 200, "accuracy": round(500 / 6, 6),
    }  # fmt: skip


def test_mme_without_a_category_leaves_its_sum_out():
    one = asked(["yes", "no"], split="count", group="a", metric="mme")
    assert list(score(one, answered(one, ["yes", "no"]))) == ["points", "perception", "accuracy"]


def test_circular_wants_all_turns_of_a_question():
    one = asked(list("ABCD") * 2, group=["a"] * 4 + ["b"] * 4, metric="circular")
    found = score(one, answered(one, list("ABCDABCA")))
    assert found == {"circular": 50, "accuracy": 87.5}


def test_order_of_the_records_does_not_matter():
    one = asked(list("ABCD") * 2, group=["a"] * 4 + ["b"] * 4, metric="circular")
    records = answered(one, list("ABCDABCA"))
    assert score(one, records.iloc[::-1]) == score(one, records)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1]], ids=["missing", "double"])
def test_score_wants_each_question_once(rows):
    one = asked(["red"] * 3)
    with pytest.raises(ValueError, match="needs each once"):
        score(one, answered(one, ["red"] * 3).iloc[rows])


# ---------------------------------------------------------------- standard errors


def test_the_error_of_a_mean_is_the_usual_one():
    hits = np.array([1.0, 0, 0, 1, 1, 1, 0])
    ratio = scoring.Ratio(100, hits, np.ones(7))
    assert scoring.error_of(scoring.pull_of([ratio], range(7))) == pytest.approx(
        100 * hits.std(ddof=1) / 7**0.5
    )


def test_questions_of_one_picture_count_as_one():
    """Every question doubled on its picture: the same error, not a smaller one."""
    hits = np.array([1.0, 0, 0, 1, 1, 1, 0])
    once = scoring.Ratio(100, hits, np.ones(7))
    twice = scoring.Ratio(100, hits.repeat(2), np.ones(14))
    pulls = scoring.pull_of([once], range(7)), scoring.pull_of([twice], np.arange(7).repeat(2))
    assert scoring.error_of(pulls[0]) == pytest.approx(scoring.error_of(pulls[1]))


@pytest.mark.parametrize("metric", ["pope", "mme", "circular"])
def test_the_error_is_that_of_leaving_pictures_out(metric):
    """Against the jackknife over pictures: the same number to first order."""
    rng = np.random.default_rng(0)
    n = 240
    group = [f"g{i // 4}" for i in range(n)]
    split = [("count", "reasoning")[i // 4 % 2] for i in range(n)]
    one = asked(["yes", "no"] * (n // 2), split=split, group=group, metric=metric,
                picture=[f"p{i // 4}" for i in range(n)])  # fmt: skip
    flip = rng.random(n) < 0.2
    words = np.where(flip, "no", one.samples["answer"])
    records = answered(one, words.tolist())
    ratios = base.metrics(one, records)
    headline = next(iter(ratios))
    error = scoring.error_of(scoring.pull_of(ratios[headline], records["picture"]))
    left = []
    for name in records["picture"].unique():
        kept = records[records["picture"] != name].reset_index(drop=True)
        left.append(scoring.value_of(scoring.SCORERS[metric](kept)[headline]))
    jackknife = np.sqrt((len(left) - 1) * np.var(left))
    assert error == pytest.approx(jackknife, rel=0.05)


# ---------------------------------------------------------------- suites


@pytest.mark.parametrize("name", TINY)
def test_the_embedded_suites_are_whole(name):
    one = suite(name)
    assert len(one.samples) >= 500 and one.stands_for == PAPER_BENCHMARKS[name]
    best = score(one, answered(one, one.samples["answer"].tolist()))
    assert next(iter(best.values())) == pytest.approx(1000 if name == "tiny_mme" else 100)
    assert picture(one.samples["image"].iloc[0], "x").size == (96, 96)


def test_an_unknown_suite_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'tiny_gqa'"):
        suite("tiny_gpa")


def test_a_broken_picture_is_named():
    with pytest.raises(ValueError, match="sample 'tiny_gqa/7': its picture cannot be read"):
        picture({"bytes": b"no picture", "path": ""}, "tiny_gqa/7")


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda f: f.drop(columns="group"), "lacks the columns"),
        (lambda f: f.iloc[:0], "no question"),
        (lambda f: f.iloc[[0, 0]], "twice"),
    ],
)
def test_a_bad_suite_is_refused(spoil, says):
    with pytest.raises(ValueError, match=says):
        Suite("mine", "mine", "accuracy", spoil(asked(["a", "b"]).samples))


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="known: .*'pope'"):
        Suite("mine", "mine", "f7", asked(["a"]).samples)


@pytest.mark.parametrize("name", ["tiny_mme", "tiny_mmb", "tiny_gqa"])
def test_a_draw_keeps_groups_whole_and_is_repeatable(name):
    one = suite(name)
    drawn = one.head(10, seed=3)
    whole = one.samples["group"].value_counts()
    assert 10 <= len(drawn.samples) < 14
    for group, size in drawn.samples["group"].value_counts().items():
        assert group == "" or size == whole[group]
    assert drawn.samples["id"].tolist() == one.head(10, seed=3).samples["id"].tolist()
    assert drawn.samples["id"].tolist() != one.head(10, seed=4).samples["id"].tolist()


def test_a_draw_of_nothing_is_refused_and_of_all_is_the_suite():
    one = suite("tiny_gqa")
    assert one.head(None) is one and one.head(10_000) is one
    with pytest.raises(ValueError, match="limit=0"):
        one.head(0)


def test_half_a_pair_is_refused():
    one = asked(["yes", "no"], split="count", group="a", metric="mme", name="tiny_mme")
    assert one.only(["tiny_mme/0", "tiny_mme/1"]) is one
    with pytest.raises(ValueError, match="only part of 'a'"):
        one.only(["tiny_mme/0"])
    with pytest.raises(ValueError, match="no question 'x'"):
        one.only(["x"])


# ---------------------------------------------------------------- tables


def two_suites(n=40):
    """Two suites of which full, chance and two rules get known shares right."""
    rng = np.random.default_rng(1)
    suites = [
        asked(["red"] * n, name="tiny_gqa", picture=[f"p{i // 2}" for i in range(n)]),
        asked(["yes", "no"] * (n // 2), name="tiny_pope", metric="pope", split="random",
              picture=[f"p{i // 2}" for i in range(n)]),
    ]  # fmt: skip

    def said(one, share):
        wrong = rng.permutation(n) >= share * n
        return np.where(wrong, "wrong", one.samples["answer"]).tolist()

    cells = [({}, (0.95, 1))]
    for keep in (48, 32, 16):
        at = {"keep": keep, "layer": 1}
        cells += [({"method": "random", **at}, (0.4, 0.9))]
        cells += [({"method": "qvid", "rank": 16, **at}, (0.9, 0.95))]
        cells += [({"method": "column_norm", **at}, (0.5, 0.9))]
    parts = []
    for cell, shares in cells:
        for one, share in zip(suites, shares, strict=True):
            parts.append(answered(one, said(one, share), **cell))
    return suites, records_of(*parts)


def test_the_average_is_that_of_results():
    suites, records = two_suites()
    long = report.summary(records, suites)
    headline = long[((long["benchmark"] == "tiny_gqa") | (long["metric"] == "f1"))]
    theirs = beside_paper.average_rows(headline).set_index(["method", "keep"])["value"]
    ours = report.normalised(records, suites).set_index(["method", "keep"])
    pd.testing.assert_series_equal(ours["value"], theirs)
    assert ours.loc[("full", 144), ["value", "stderr"]].tolist() == [100, 0]


def test_the_error_of_the_average_is_that_of_leaving_pictures_out():
    suites, records = two_suites()
    error = report.normalised(records, suites).set_index(["method", "keep"])["stderr"]
    left = []
    for name in records["picture"].unique():
        kept = records[records["picture"] != name]
        less = [one.only(kept["sample"][kept["suite"] == one.name]) for one in suites]
        found = report.normalised(kept, less).set_index(["method", "keep"])["value"]
        left.append(found[("qvid", 16)])
    jackknife = np.sqrt((len(left) - 1) * np.var(left))
    assert error[("qvid", 16)] == pytest.approx(jackknife, rel=0.05)


def test_nothing_is_normalised_by_zero_or_without_the_full_model():
    suites, records = two_suites()
    with pytest.raises(ValueError, match="no records of method 'full'"):
        report.normalised(records[records["method"] != "full"], suites)
    broken = records.assign(prediction=records["prediction"].where(records["method"] != "full", ""))
    with pytest.raises(ValueError, match="scores 0 on GQA"):
        report.normalised(broken, suites)


def test_a_cell_that_missed_questions_is_refused():
    suites, records = two_suites()
    with pytest.raises(ValueError, match="needs each once"):
        report.summary(records.drop(index=records.index[-1]), suites)


def test_says_something_where_chance_loses_fifteen_points():
    suites, records = two_suites()
    says = conclusions.says_something(records).set_index("suite")
    assert says["loss"].tolist() == pytest.approx([55, 10])
    assert says["speaks"].tolist() == [True, False]
    assert says["layer"].tolist() == [1, 1]


def test_says_something_needs_chance_at_a_ninth():
    _, records = two_suites()
    with pytest.raises(ValueError, match="random.* at keep=16"):
        conclusions.says_something(records[(records["keep"] != 16).fillna(True)])
    with pytest.raises(ValueError, match="compares the full model"):
        conclusions.says_something(records[records["method"] != "full"])


def test_averages_show_the_speaking_suites_apart():
    suites, records = two_suites()
    both = conclusions.averages(records, suites, ["tiny_gqa"]).set_index(["method", "keep"])
    assert both.loc[("qvid", 16), "speaking"] == pytest.approx(90 / 0.95)
    assert both.loc[("qvid", 16), "all"] > 90
    assert conclusions.averages(records, suites, [])["speaking"].isna().all()


def test_beside_has_both_sides_and_the_live_run():
    suites, records = two_suites()
    joined = report.beside(records, suites, "3a", records)
    row = joined[(joined["method"] == "qvid") & (joined["budget_pct"] == 11.1)]
    row = row.set_index("benchmark")
    assert row.index.tolist() == ["GQA", "POPE", "Avg printed", "Avg over common"]
    assert row.loc["Avg printed", "paper"] == 91.1
    assert np.isnan(row.loc["Avg printed", "measured"])
    assert row.loc["GQA", "measured_pct_of_full"] == pytest.approx(90 / 0.95)
    assert row.loc["GQA", "paper_pct_of_full"] == pytest.approx(100 * 52.2 / 61.9)
    both = row[["live_pct_of_full", "measured_pct_of_full"]].drop("Avg printed")
    assert (both["live_pct_of_full"] == both["measured_pct_of_full"]).all()
    assert row["stderr"].drop("Avg printed").notna().all() and row.loc["Avg over common", "n"] == 80
    shown = wide_table(joined)
    assert shown[("GQA", "paper")].str.contains(".", regex=False).any()
    heads = list(dict.fromkeys(shown.columns.get_level_values(0)))
    assert heads == ["Avg printed", "Avg over common", "GQA", "POPE"]


def test_differences_are_paired_and_signed():
    suites, records = two_suites()
    found = conclusions.differences(records, ["tiny_gqa"]).set_index(["method", "keep"])
    row = found.loc[("column_norm", 16)]
    assert row["difference"] == pytest.approx(40) and row["low"] > 0 and row["n"] == 40
    twice = records_of(records, records[records["method"] == "qvid"])
    with pytest.raises(ValueError, match="rank=.* at keep=48 names several"):
        conclusions.differences(twice, ["tiny_gqa"])


def test_verdicts_say_whether_the_paper_points_the_same_way():
    suites, records = two_suites()
    joined = report.beside(records, suites, "3a")
    found = conclusions.verdicts(joined, conclusions.differences(records, ["tiny_gqa"]))
    assert found["method"].tolist() == ["column_norm"] * 3
    assert (found["paper"] > 0).all() and set(found["here"]) == {"same way"}
    other = conclusions.verdicts(joined.assign(paper_pct_of_full=-joined["paper_pct_of_full"]),
                            conclusions.differences(records, ["tiny_gqa"]))  # fmt: skip
    assert set(other["here"]) == {"other way"}
    level = conclusions.differences(records, ["tiny_gqa"]).assign(low=-1.0, high=99.0)
    assert set(conclusions.verdicts(joined, level)["here"]) == {"no difference"}


def test_agreement_sees_other_answers_and_other_values():
    suites, records = two_suites()
    some = records[records["sample"].str[-1] < "5"]
    assert conclusions.agreement(some, records)["within"].all()
    lost = some["method"] == "qvid"
    broken = some.assign(score=some["score"].where(~lost, 0.0),
                         prediction=some["prediction"].where(~lost, "?"))  # fmt: skip
    found = conclusions.agreement(broken, records).set_index("method")
    assert not found.loc["qvid", "within"].any() and (found.loc["qvid", "same"] == 0).all()
    assert found.drop("qvid")["within"].all() and (found.drop("qvid")["same"] == 100).all()


def test_agreement_allows_a_perfect_sample_of_a_run_that_is_not():
    """All right among some, one wrong among all: no scatter in the sample, and no disagreement."""
    one = asked(["red"] * 40)
    every = answered(one, ["blue"] + ["red"] * 39)
    (found,) = conclusions.agreement(every.iloc[20:], every).to_dict("records")
    assert found["within"] and found["live"] == 100 and found["stored"] == 97.5


def test_defaults_leave_out_other_ranks_and_variants():
    one = asked(["red"])
    parts = [answered(one, ["red"], method="qvid", keep=16, rank=r, variant=v)
             for r, v in ((16, ""), (4, ""), (16, "query=content"))]  # fmt: skip
    parts += [answered(one, ["red"]), answered(one, ["red"], method="column_norm", keep=16)]
    left = conclusions.defaults(records_of(*parts))
    assert left["method"].tolist() == ["qvid", "full", "column_norm"]
    assert left["rank"].tolist()[0] == 16


def test_crowded_suites_read_by_name_and_their_parts_share_no_picture():
    """Also that all kin of a setting together are the whole file."""
    for name in ("crowded_gqa", "sparse_mvbench"):
        reported, deciding = (suite(n).samples for n in (name, f"{name}_deciding"))
        seen = [{str(image) for image in part["image"]} for part in (reported, deciding)]
        assert len(reported) > 30 and len(deciding) > 15 and not seen[0] & seen[1]
    asked = sum(len(suite(f"crowded_{kin}").samples) for kin in crowded.KIN if kin != "mvbench")
    path = crowded.DATA / "tiny" / "crowded" / "crowded_reported.parquet"
    assert asked == len(pd.read_parquet(path, columns=["id"]))
