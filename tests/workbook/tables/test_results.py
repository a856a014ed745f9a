"""The results layer: schema, averages, ours beside theirs, intervals, saved tables."""

import numpy as np
import pandas as pd
import pytest

from qvid_utils.workbook.benchmarks.base import PAPER_BENCHMARKS
from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.beside_paper import average_rows, beside_paper
from qvid_utils.workbook.tables.statistics import paired_bootstrap


def row(method="full", keep=144, benchmark="tiny_gqa", value=80.0, **more):
    return {"table": "table07", "model": "tiny/llava", "method": method, "keep": keep,
            "benchmark": benchmark, "metric": "accuracy", "value": value, "unit": "%",
            "source": "measured", **more}  # fmt: skip


def tiny(values=((80.0, 60.0), (60.0, 45.0)), **more) -> pd.DataFrame:
    """Two methods (full at 144, qvid at 16 of 144) on two suites."""
    methods = (("full", 144), ("qvid", 16))
    return pd.DataFrame([
        row(m, k, b, v, n=500, stderr=2.0, **more)
        for (m, k), pair in zip(methods, values, strict=True)
        for b, v in zip(("tiny_gqa", "tiny_pope"), pair, strict=True)
    ])  # fmt: skip


# ---- schema


def test_read_gives_back_what_write_was_given(tmp_path):
    frame = pd.DataFrame([row(value=0.1 + 0.2, rank=0.9), row("qvid", 16, rank=8, layer=0)])
    back = results.read(results.write(frame, tmp_path / "new" / "a.csv"))
    assert tuple(back.columns) == results.COLUMNS
    assert back.value.tolist() == [0.1 + 0.2, 80.0]
    assert back["rank"].tolist() == [0.9, 8.0]
    assert back.layer.isna().tolist() == [True, False] and back.layer[1] == 0
    assert back.variant.tolist() == ["", ""]


def test_write_is_byte_stable_and_free_of_row_order(tmp_path):
    frame = pd.DataFrame([row("qvid", 16, rank=8), row(), row("fastv", 16)])
    a = results.write(frame, tmp_path / "a.csv").read_bytes()
    b = results.write(frame[::-1], tmp_path / "b.csv").read_bytes()
    assert a == b and b"\r" not in a and a.endswith(b"\n")
    assert b",8,tiny_gqa," in a  # a whole rank has no decimal point
    given = results.read(results.write(frame, tmp_path / "c.csv", order="given"))
    assert given.method.tolist() == ["qvid", "full", "fastv"]


def test_float32_survives_the_file(tmp_path):
    frame = pd.DataFrame([row()]).assign(value=np.array([0.1], dtype="float32"))
    back = results.read(results.write(frame, tmp_path / "a.csv"))
    assert np.float32(back.value[0]) == np.float32(0.1)


@pytest.mark.parametrize(("change", "words"), [
    ({"accuracy": 1}, "unknown column.*accuracy"),
    ({"value": "high"}, "value='high' in row 0 is not a number"),
    ({"value": float("inf")}, "not finite"),
    ({"value": None}, "value is empty in row 0"),
    ({"metric": ""}, "metric is empty"),
    ({"keep": 16.5}, "keep=16.5.*whole number"),
    ({"n": -1}, "negative"),
    ({"rank": 2.5}, "rank=2.5"),
    ({"rank": 0}, "rank=0"),
    ({"retention_pct": 111}, "retention_pct=111"),
    ({"source": "guessed"}, "'paper' or 'measured'"),
])  # fmt: skip
def test_bad_rows_are_refused(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        results.write(pd.DataFrame([{**row(), **change}]), tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


def test_missing_column_and_duplicate_key_are_refused():
    with pytest.raises(ValueError, match=r"missing column.*metric"):
        results.tidy(pd.DataFrame([row()]).drop(columns="metric"))
    with pytest.raises(ValueError, match="duplicate key.*method=full"):
        results.tidy(pd.DataFrame([row(value=1.0), row(value=2.0)]))
    results.tidy(pd.DataFrame([row(seed=0), row(seed=1)]))


def test_read_names_the_file_and_the_fault(tmp_path):
    path = results.write(tiny(), tmp_path / "ours.csv")
    text = path.read_text()
    for bad, words in [
        ("", "ours.csv: the header differs"),
        (text.replace("metric", "measure", 1), "ours.csv: the header differs.*measure"),
        (text.replace("80.0", "80,0"), "ours.csv: row .* has 22 cells"),
        (text.replace("80.0", "eighty"), "ours.csv: value='eighty'"),
    ]:
        path.write_text(bad)
        with pytest.raises(ValueError, match=words):
            results.read(path)


def test_paper_takes_several_spellings_and_lists_the_known():
    for name in ("2a", "2A", "table02a", "table2a", " 2a "):
        assert set(results.paper(name).table) == {"table02a"}
    assert set(results.paper(10).table) == {"table10"}
    for name in ("svd_1", "svd 1", "svd_table01"):
        assert set(results.paper(name).table) == {"svd_table01"}
    for name in (2, "16", "fig. 3", ""):
        with pytest.raises(ValueError, match="known are svd_table01, .*table15"):
            results.paper(name)


# ---- Avg


def test_normalised_by_hand():
    out = average_rows(tiny())
    assert out.value.tolist() == [100.0, 75.0]  # 60/80 and 45/60
    assert set(out.benchmark) == {"Avg"} and set(out.metric) == {"normalised"}
    assert average_rows(tiny(((80, 60), (60, 30))), over=["tiny_pope"]).value[1] == 50.0


def test_normalised_uses_the_full_model_of_the_same_setting():
    two = pd.concat([tiny(seed=0), tiny(((40.0, 30.0), (40.0, 30.0)), seed=1)])
    assert average_rows(two).value.tolist() == [100.0, 75.0, 100.0, 100.0]


@pytest.mark.parametrize(("change", "words"), [
    (lambda f: f[f.method != "full"], "no row of method 'full' for tiny_gqa"),
    (lambda f: f.drop(3), r"qvid \(keep=16\) has no value for \['tiny_pope'\]"),
    (lambda f: f.assign(value=0.0), "scores 0"),
    (lambda f: pd.concat([f, f.assign(metric="f1")]), "metrics .*accuracy.*f1"),
])  # fmt: skip
def test_normalised_refuses_what_it_cannot_average(change, words):
    with pytest.raises(ValueError, match=words):
        average_rows(change(tiny()))


def test_normalised_names_an_unknown_benchmark():
    with pytest.raises(ValueError, match="no benchmark .*POPE"):
        average_rows(tiny(), over=["POPE"])


# ---- beside the paper


def cell(frame, method, benchmark, budget=11.1):
    at = (frame.method == method) & (frame.benchmark == benchmark) & (frame.budget_pct == budget)
    assert at.sum() == 1
    return frame[at].iloc[0]


def test_stand_ins_are_compared_in_percent_of_their_full_model():
    out = beside_paper(tiny(), 7)
    assert "difference" not in out.columns
    got = cell(out, "qvid", "GQA")
    assert got.paper_pct_of_full == pytest.approx(100 * 52.2 / 61.9)
    assert got.measured_pct_of_full == 75.0
    assert (got.paper, got.measured) == (52.2, 60.0)
    assert got.stderr == 2.0 * 100 / 80 and got.n == 500 and got.unit == "% of full"
    assert (got.keep_paper, got.keep_measured) == (64, 16)
    assert (got.suite, got.metric) == ("tiny_gqa", "accuracy")


def test_average_is_taken_over_what_both_have():
    out = beside_paper(tiny(), 7)
    got = cell(out, "qvid", "Avg over common")
    assert got.measured_pct_of_full == 75.0
    assert got.paper_pct_of_full == pytest.approx(50 * (52.2 / 61.9 + 80.8 / 85.9))
    printed = cell(out, "qvid", "Avg")
    assert printed.paper_pct_of_full == 91.1 and np.isnan(printed.measured_pct_of_full)


def test_same_model_and_benchmarks_give_a_difference():
    ours = results.paper(7)
    ours = ours.assign(source="measured", value=ours.value - 0.5, printed="")
    out = beside_paper(ours.assign(model="llava-hf/llava-1.5-7b-hf"), 7)
    assert out.difference.tolist() == pytest.approx([-0.5] * 78)
    assert out.paper.tolist() == results.paper(7).value.tolist()  # and in the printed order
    one_stand_in = ours.assign(benchmark=ours.benchmark.replace("GQA", "tiny_gqa"))
    assert "difference" not in beside_paper(one_stand_in, 7)
    assert "difference" not in beside_paper(ours.assign(model="tiny/llava"), 7)


def test_rows_of_one_side_stay():
    ours = pd.concat([tiny(), pd.DataFrame([row("random", 16, value=40.0)])])
    out = beside_paper(ours, 7)
    assert np.isnan(cell(out, "random", "GQA").paper_pct_of_full)
    assert cell(out, "random", "GQA").measured_pct_of_full == 50.0
    assert np.isnan(cell(out, "per_head_max", "GQA").measured_pct_of_full)
    block = out[(out.budget_pct == 11.1) & (out.benchmark == "GQA")].method.tolist()
    assert block == ["column_norm", "sigma_weighted", "per_head_max", "qvid", "random"]


def test_ranks_meet_ranks_only_where_the_table_sweeps_them():
    ranks = [row("qvid", 16, b, v, rank=r) for r, v in ((1, 20.0), (16, 60.0))
             for b in ("tiny_gqa", "tiny_pope")]  # fmt: skip
    ours = pd.concat([tiny()[:2].assign(rank=3), pd.DataFrame(ranks)])
    out = beside_paper(ours, 6)
    at = (out.method == "qvid") & (out.benchmark == "GQA") & (out.budget_pct == 11.1)
    got = out[at].set_index("rank").measured_pct_of_full
    assert got[1] == 25.0 and got[16] == 75.0 and got[[2, 4, 8]].isna().all()
    assert cell(out, "full", "GQA", 100.0).measured_pct_of_full == 100.0  # its rank says nothing
    with pytest.raises(ValueError, match="several measured rows for qvid at 11.1 %"):
        beside_paper(ours, 7)


def test_budgets_meet_by_share_or_by_order():
    ours = pd.concat([tiny(), tiny()[2:].assign(keep=48), tiny()[2:].assign(keep=32)])
    ours = ours.replace({"tiny_gqa": "MVBench", "tiny_pope": "VideoMME"})
    ours = pd.concat([ours[:2], ours[2:].assign(retention_pct=lambda f: 20.0 + f.keep)])
    out = beside_paper(ours, "2b", by="order")
    got = out[(out.method == "qvid") & (out.benchmark == "MVBench")]
    assert got.keep_measured.tolist() == [48, 32, 16]
    assert got.budget_pct.tolist() == [33.3, 22.2, 11.1]
    apart = beside_paper(ours, "2b")
    assert apart[apart.method == "qvid"].measured_pct_of_full.notna().sum() == 9
    assert apart[apart.keep_measured == 48].paper_pct_of_full.isna().all()
    with pytest.raises(ValueError, match="as many budgets"):
        beside_paper(ours[ours.keep != 48], "2b", by="order")


def test_two_metrics_of_one_suite_need_a_choice():
    other = tiny()[tiny().benchmark == "tiny_pope"].assign(metric="f1", value=50.0)
    both = pd.concat([tiny(), other])
    with pytest.raises(ValueError, match="POPE was measured as .*accuracy.*f1"):
        beside_paper(both, 7)
    for name in ("POPE", "tiny_pope"):
        out = beside_paper(both, 7, metrics={name: "f1"})
        assert cell(out, "qvid", "POPE").measured_pct_of_full == 100.0
        assert cell(out, "qvid", "POPE").metric == "f1"
    with pytest.raises(ValueError, match="no 'F1'"):
        beside_paper(both, 7, metrics={"POPE": "F1"})


@pytest.mark.parametrize(("change", "words"), [
    (lambda f: f[:0], "no measured rows"),
    (lambda f: f.assign(model=["a", "a", "b", "b"]), "model = .*one at a time"),
    (lambda f: f[f.method != "full"].assign(retention_pct=11.1), "measured has no row of method"),
    (lambda f: f[f.method != "full"], "of how many"),
    (lambda f: f.assign(keep=None), "no budget for qvid"),
    (lambda f: f.drop(columns="unit"), "missing column"),
])  # fmt: skip
def test_beside_paper_says_what_is_wrong(change, words):
    with pytest.raises(ValueError, match=words):
        beside_paper(change(tiny()), 7)


def test_units_must_agree():
    ours = results.paper(7).assign(model="LLaVA-1.5-7B", source="measured", unit="share")
    with pytest.raises(ValueError, match="'%' in the paper and in 'share'"):
        beside_paper(ours, 7)


def test_relative_metrics_are_not_taken_as_a_share_again():
    ours = results.paper("svd_3").assign(model="tiny/llava", source="measured", printed="")
    out = beside_paper(ours[ours.metric != "vram_saving"], "svd_3").set_index("metric")
    assert out.loc["latency_ratio", "paper_pct_of_full"] == 4.18
    assert out.loc["latency_ratio", "unit"] == "x"
    assert out.loc["vram"].paper_pct_of_full.tolist()[1] == pytest.approx(100 * 13.82 / 14.11)
    assert np.isnan(out.loc["vram_saving", "paper_pct_of_full"])


def test_every_suite_stands_for_a_benchmark_of_tables_1_11_and_14():
    printed = {b for table in (1, 11, 14) for b in results.paper(table).benchmark} - {"Avg"}
    assert set(PAPER_BENCHMARKS.values()) == printed


# ---- uncertainty


def yes_no(n=400, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.5
    return np.stack([np.where(rng.random(n) < 0.8, truth, ~truth), truth], axis=1)


def test_interval_is_seeded_and_covers():
    a, b = yes_no(500, 3)[:, 0], yes_no(500, 4)[:, 0]
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)
    assert paired_bootstrap(a, b) != paired_bootstrap(a, b, seed=1)
    difference, low, high, p = paired_bootstrap(a, b)
    assert difference == pytest.approx(a.mean() - b.mean()) and 0 < p <= 1
    assert low < difference < high
    half = 1.96 * np.std(a.astype(float) - b, ddof=1) / np.sqrt(500)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    narrow = paired_bootstrap(a, b, confidence=0.5)
    assert low < narrow[1] < narrow[2] < high


def test_pairing_matters():
    """Two methods that miss the same samples differ by little, whatever their own spread."""
    base = yes_no(500, 5)[:, 0].astype(float)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:20]] = 1
    _, low, high, _ = paired_bootstrap(better, base)
    assert low > 0 and high - low < 2 * base.std(ddof=1) / np.sqrt(500)


def test_groups_widen_the_interval_of_repeated_samples():
    scores, none = np.repeat(yes_no(50, 6)[:, 0], 10).astype(float), np.zeros(500)
    _, low, high, _ = paired_bootstrap(scores, none)
    _, least, most, _ = paired_bootstrap(scores, none, np.arange(500) // 10)
    assert most - least == pytest.approx((high - low) * np.sqrt(10), rel=0.1)


@pytest.mark.parametrize(("a", "b", "more", "words"), [
    ([1, 0, 1], [1, 0], {}, "a has 3 samples and b 2"),
    (pd.Series([1, 0], index=[0, 1]), pd.Series([1, 0], index=[1, 0]), {}, "unaligned.*index"),
    ([1, np.nan], [1, 0], {}, "a must be a row of finite"),
    ([1], [1], {}, "at least two"),
    ([1, 0], [1, 0], {"confidence": 95}, "confidence=95"),
    ([1, 0], [1, 0], {"draws": 1}, "draws=1"),
    ([1, 0], [1, 0], {"groups": [0]}, "one name for each of the 2"),
    ([1, 0], [1, 0], {"groups": ["a", None]}, "none missing"),
    ([1, 0], [1, 0], {"groups": [0, 0]}, "one group"),
])  # fmt: skip
def test_bootstrap_refuses_bad_samples(a, b, more, words):
    with pytest.raises(ValueError, match=words):
        paired_bootstrap(a, b, **more)


# ---- saved tables


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "figures_dir", lambda profile: tmp_path / profile)
    return tmp_path / "tiny"


def test_save_table_writes_three_readable_files(figures):
    frame = pd.DataFrame({"method": ["qvid", "V²|Drop_1"], "value": [0.123456, np.nan],
                          "±": [1.5, -0.0001], "n": pd.array([500, None], "Int64")})  # fmt: skip
    assert results.save_table(frame, "table07_rules", caption="50 % & more") is frame
    assert (figures / "table07_rules.csv").read_text() == (
        "method,value,±,n\nqvid,0.123456,1.5,500\nV²|Drop_1,,-0.0001,\n"
    )
    assert (figures / "table07_rules.md").read_text() == (
        "50 % & more\n\n"
        "| method     |   value |   ± |   n |\n"
        "|:-----------|--------:|----:|----:|\n"
        "| qvid       |   0.123 | 1.5 | 500 |\n"
        "| V²\\|Drop_1 |       – | 0.0 |   – |\n"
    )
    tex = (figures / "table07_rules.tex").read_text()
    assert r"V\textsuperscript{2}|Drop\_1 & -- & 0.0 & -- \\" in tex
    assert r"\begin{tabular}{lrrr}" in tex and r"\caption{50 \% \& more}" in tex
    assert r"\toprule" in tex and r"\label{tab:table07_rules}" in tex


def test_save_table_is_byte_stable_and_flattens_indexes(figures):
    frame = tiny().pivot_table(index="method", columns="benchmark", values=["value", "stderr"])
    results.save_table(frame, "a")
    first = {p.name: p.read_bytes() for p in figures.iterdir()}
    results.save_table(frame, "a")
    assert {p.name: p.read_bytes() for p in figures.iterdir()} == first
    assert first["a.csv"].startswith(b"method,stderr tiny_gqa,") and len(first) == 3
    assert all(b"\r" not in b for b in first.values())


def test_save_table_refuses_names_that_leave_the_folder(figures):
    for name in ("../a", "", "a/b", "ü"):
        with pytest.raises(ValueError, match="name="):
            results.save_table(tiny(), name)


def test_save_table_goes_to_the_profile_it_is_given():
    with pytest.raises(ValueError, match="profile"):
        results.save_table(tiny(), "a", profile="huge")
