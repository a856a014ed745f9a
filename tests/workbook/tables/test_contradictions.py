"""What the papers say against themselves and their peers, as far as it can be computed.

The list that readers see is in data/paper/README.md; a number that changes there changes here.
"""

import pytest

from qvid_utils.paths import papers_numbers
from qvid_utils.workbook.tables import schema as results

SIX = ["GQA", "SQA", "TextVQA", "POPE", "MME", "MMB"]
PEERS = {"peers_visionzip": 26, "peers_fastv": 20, "peers_fastv_rerun": 2, "peers_pdrop": 6}
LAYERS = 32


def values(frame, method, keep):
    rows = frame[(frame.method == method) & (frame.keep == keep)]
    return rows.set_index("benchmark").value


def average(row, full, over=SIX):
    return sum(100 * row[b] / full[b] for b in over) / len(over)


@pytest.fixture(scope="module")
def first():
    return results.paper(1)


@pytest.fixture(scope="module")
def full(first):
    return values(first, "full", 576)


# ---------------------------------------------------------------- the peers' own rows


@pytest.mark.parametrize("name", PEERS)
def test_peers_obey_the_schema_and_are_written_canonically(name, tmp_path):
    path = papers_numbers() / f"{name}.csv"
    frame = results.read(path)
    assert len(frame) == PEERS[name] and set(frame.table) == {name}
    assert frame.printed.astype(float).tolist() == frame.value.tolist()
    assert frame.source.str.startswith("paper (").all()
    copy = results.write(frame, tmp_path / "copy.csv", order="given")
    assert copy.read_bytes() == path.read_bytes()


def test_peers_are_read_together():
    assert len(results.peers()) == sum(PEERS.values())
    assert set(results.peers().table) == set(PEERS)


def test_visionzips_own_row_at_64_is_above_qvids(first, full):
    """And not at 192 and 128. On the same six benchmarks, with QViD's unpruned row for both."""
    own = results.peers().query("table == 'peers_visionzip' and model == 'LLaVA-1.5-7B'")
    found = {
        keep: (average(values(own, "visionzip", keep), full),
               average(values(first, "qvid", keep), full))
        for keep in (192, 128, 64)
    }  # fmt: skip
    assert found == {
        192: pytest.approx((97.66, 98.38), abs=0.005),
        128: pytest.approx((96.20, 96.37), abs=0.005),
        64: pytest.approx((92.85, 90.43), abs=0.005),
    }


def test_svd_prunes_64_is_below_visionzips_on_both_benchmarks():
    own = results.peers().query("table == 'peers_visionzip'")
    zipped, svd = values(own, "visionzip", 64), values(results.paper("svd_1"), "svd_prune", 64)
    assert {b: (zipped[b], svd[b]) for b in ("GQA", "TextVQA")} == {
        "GQA": (55.1, 53.77), "TextVQA": (55.5, 55.14)}  # fmt: skip


def test_fastv_rerun_is_above_the_quoted_row(first):
    again = results.peers().query("table == 'peers_fastv_rerun'").set_index("benchmark").value
    quoted = values(first, "fastv", 192)
    gains = {b: round(again[b] - quoted[b], 2) for b in ("GQA", "SQA")}
    assert gains == {"GQA": 3.88, "SQA": 1.76}  # at 171 tokens in the mean, fewer than 192


# ---------------------------------------------------------------- QViD against itself


def test_hired_is_low_for_want_of_ocr_tokens(first, full):
    """TextVQA alone takes HiRED from 96.0 to 93.6 of full at 192: from third place to fifth."""
    others = [b for b in SIX if b != "TextVQA"]
    ranks = {}
    for name, over in (("six", SIX), ("without", others)):
        rows = {m: average(values(first, m, 192), full, over)
                for m in set(first[first.keep == 192].method)}  # fmt: skip
        order = sorted(rows, key=rows.get, reverse=True)
        ranks[name] = (order.index("hired") + 1, round(rows["hired"], 1))
    assert ranks == {"six": (5, 93.6), "without": (3, 96.0)}
    shares = {m: values(first, m, 192)["TextVQA"] / full["TextVQA"] for m in ("hired", "fastv")}
    assert shares["hired"] < shares["fastv"] - 0.08  # below a method that it beats elsewhere


@pytest.mark.parametrize("keep, mean", [(64, 112), (128, 170), (192, 228)])
def test_a_budget_counts_after_layer_3_while_others_count_the_mean(keep, mean):
    assert (3 * 576 + (LAYERS - 3) * keep) / LAYERS == mean


def test_table_8_counts_a_second_pass():
    """Savings of all 32 layers per dropped token, and 3 layers on top: not 29 layers in place."""
    frame = results.paper(8)
    total = frame[(frame.method == "qvid") & (frame.metric == "total_compute")]
    whole = 8.86
    for keep, compute in zip(total.keep, total.value, strict=True):
        saved = {64: 7.17, 128: 6.27, 192: 5.38}[keep]  # the appendix' own figures
        per_token = saved / (576 - keep)
        assert per_token == pytest.approx(0.0140, abs=5e-5)  # the text rounds it to 0.01
        assert compute - (whole - saved) == pytest.approx(whole * 3 / LAYERS, abs=0.015)


def test_a_rule_of_the_ablation_beats_qvid_at_two_budgets():
    frame = results.paper(7)
    frame = frame[frame.benchmark == "Avg"].set_index(["method", "keep"]).value
    pairs = {k: (frame["per_head_max", k], frame["qvid", k]) for k in (64, 128, 192)}
    assert pairs == {64: (92.0, 91.1), 128: (96.6, 96.5), 192: (98.1, 98.5)}


def test_v2drop_is_above_qvid_on_mmmu_pro_at_two_ratios():
    frame = results.paper(11).set_index(["method", "retention_pct"]).value
    ahead = [r for r in (33.3, 22.2, 11.1) if frame["v2drop", r] > frame["qvid", r]]
    assert ahead == [33.3, 22.2]


def test_pruned_qvid_is_said_to_hallucinate_less_than_the_full_model():
    """Table 13: qAcc 12.7 at every budget, above the unpruned 12.3."""
    frame = results.paper(13)
    rows = frame[frame.metric == "qAcc"].set_index(["method", "keep"]).value
    assert rows["full", 576] == 12.3 and {rows["qvid", k] for k in (64, 128, 192)} == {12.7}


def test_table_15_errors_are_not_all_those_of_their_means():
    """POPE's error of V2Drop at 64 is a ninth above that of 75.1 % of 9,000; MME's is no points."""
    frame = results.paper(15).set_index(["method", "keep", "benchmark"])
    for method, keep, above in (("v2drop", 64, 1.109), ("qvid", 64, 0.997)):
        row = frame.loc[(method, keep, "POPE")]
        share = row.value / 100
        plain = 100 * (share * (1 - share) / 9000) ** 0.5
        assert row.stderr / plain == pytest.approx(above, abs=1e-3)
    mme = frame.xs("MME", level="benchmark").stderr
    assert mme.max() < 0.04  # 1,187 pairs of a score of 2,800 cannot be known to a thirtieth of one


# ---------------------------------------------------------------- SVD-Prune against itself


def test_svd_prunes_kernel_time_exceeds_its_latency():
    rows = results.paper("svd_3").query("keep == 16").set_index("metric").value
    assert rows["kernel_time"] > 1.5 * rows["latency"]


def test_svd_prunes_gqa_falls_once():
    rows = results.paper("svd_1").query("method == 'svd_prune' and benchmark == 'GQA'")
    at = rows.set_index("keep").value
    assert [round(at[128] - at[64], 2), round(at[64] - at[32], 2)] == [4.93, 0.25]


def test_svd_prunes_flops_are_multiply_adds_of_two_matrices():
    """32 (4nd² + 2n²d + 2ndm) with n = K + 50 and two of LLaMA's three feed-forward matrices."""
    frame = results.paper("svd_2")
    rows = frame[frame.metric == "llm_compute"]
    for keep, printed in zip(rows.keep, rows.value, strict=True):
        n, d, m = keep + 50, 4096, 11008
        count = LAYERS * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m) / 1e12
        assert printed == pytest.approx(count, abs=0.004)
        third = LAYERS * n * d * m / 1e12
        assert third > 0.2 * printed


def test_sparsevlm_at_64_is_two_rows():
    svd = values(results.paper("svd_1"), "sparsevlm", 64)
    qvid = values(results.paper(1), "sparsevlm", 64)
    assert {b: (svd[b], qvid[b]) for b in ("GQA", "TextVQA")} == {
        "GQA": (53.7, 52.7), "TextVQA": (53.4, 51.8)}  # fmt: skip
