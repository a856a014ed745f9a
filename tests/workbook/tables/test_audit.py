"""What tables leave out: origins, peers' own rows, budgets, errors; and leads by a direct count."""

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import answered, asked, records_of

from qvid_utils.workbook.benchmarks import TINY, suite
from qvid_utils.workbook.tables import paper_audit as audit
from qvid_utils.workbook.tables import paper_tables as tables
from qvid_utils.workbook.tables import report
from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.report import normalised

ONE = ["1", "2a", "10", "11", "13", "14", "15"]


def test_six_of_fourteen_benchmarks_have_a_stand_in():
    found = audit.stand_ins(ONE, [suite(name) for name in TINY]).set_index("benchmark")
    assert len(found) == 14 and (found["suite"] != "").sum() == 6
    assert found.loc["POPE", "suite"] == "tiny_pope" and found.loc["POPE", "tables"] == "1, 2a, 15"
    assert found.loc["MME", "tables"] == "1, 2a, 15"  # its two halves in 2a are MME
    assert found.loc["COCO", "suite"] == "" and pd.isna(found.loc["COCO", "asked"])


def test_one_row_of_table_1_is_its_authors():
    found = audit.origins("1").set_index("method")
    assert found.loc["qvid", "whose"] == "its authors' run"
    assert (found["whose"] == "quoted from V2Drop").sum() == 6
    assert found.loc["hired"][["rows", "numbers"]].tolist() == [2, 14]
    assert found["numbers"].sum() == len(results.paper(1))


def test_visionzip_stands_above_qvid_at_64_only():
    rows = audit.ranking().set_index(["keep", "method"])
    assert rows.loc[(64, "visionzip"), "place"] == 1 and rows.loc[(64, "qvid"), "place"] == 2
    assert rows.loc[(128, "qvid"), "place"] == rows.loc[(192, "qvid"), "place"] == 1
    assert rows["printed"].isna().sum() == 3  # VisionZip's
    off = (rows["printed"] - rows["six"]).abs()
    assert off.idxmax() == (192, "qvid") and off.max() == pytest.approx(0.278, abs=1e-3)


def test_leaving_textvqa_out_is_leaving_it_out():
    """HiRED at 192 by hand: the mean of five shares of Table 1."""
    shares = [58.7 / 61.9, 68.4 / 69.5, 82.8 / 85.9, 1737 / 1862, 62.8 / 64.6]
    row = audit.ranking().set_index(["keep", "method"]).loc[(192, "hired")]
    assert row["five"] == pytest.approx(100 * np.mean(shares))
    same = audit.ranking(without=[]).set_index(["keep", "method"])
    assert same["five"].equals(same["six"].rename("five"))


def test_mean_tokens_by_hand():
    frame = audit.mean_tokens([64], layer=3, layers=32, whole=576)
    assert frame.loc[0].tolist() == [64, 112, 1.75]


def test_table_15_by_hand():
    row = audit.errors().set_index(["keep", "benchmark"]).loc[(64, "GQA")]
    assert row["plain"] == pytest.approx(100 * (0.522 * 0.478 / 12578) ** 0.5)
    assert row["lead"] == pytest.approx(1.7)
    assert row["ratio"] == pytest.approx(1.7 / (0.4441**2 + 0.4451**2) ** 0.5)
    mme = audit.errors().query("benchmark == 'MME'")
    assert mme[["plain", "lead_stderr", "ratio"]].isna().all().all()


def test_a_table_without_counterpart_has_an_empty_column():
    frame = audit.printed_only("11")
    assert frame["measured"].isna().all() and len(frame) == len(results.paper(11))
    assert frame["budget"].tolist()[:2] == [100.0, 33.3]


# ---------------------------------------------------------------- of our records


def cell(one, words, method, keep=None):
    return answered(one, words, method=method, keep=keep, layer=1 if keep else None,
                    rank=16.0 if method == "qvid" else None)  # fmt: skip


def pair(words=("yes", "no", "no", "no")):
    """Four questions, a picture each: full right on all, qvid on 3, random on `words`."""
    one = asked(["yes", "no", "yes", "no"])
    full = cell(one, ["yes", "no", "yes", "no"], "full")
    ours = cell(one, ["yes", "no", "yes", "yes"], "qvid", 16)
    return one, records_of(full, ours, cell(one, list(words), "random", 16))


def test_a_lead_is_the_difference_of_the_averages_and_its_error_is_paired():
    """qvid 3 of 4, random 3 of 4, each wrong once on another question: per question the difference
    is 0, 0, 1, -1; its error is the standard deviation over √4, in % of a full score of 100."""
    one, records = pair()
    row = audit.leads(records, [one]).iloc[0]
    spread = np.std([0, 0, 100, -100], ddof=1) / 2
    assert (row["lead"], row["stderr"]) == (0, pytest.approx(spread))
    assert row["high"] == pytest.approx(1.96 * spread) and row["n"] == 4


def test_the_same_answers_differ_by_nothing():
    one, records = pair(("yes", "no", "yes", "yes"))
    row = audit.leads(records, [one]).iloc[0]
    assert row["lead"] == row["stderr"] == 0


def test_leads_agree_with_the_averages():
    one, records = pair(("no", "yes", "no", "no"))
    average = normalised(records, [one]).set_index("method")["value"]
    lead = audit.leads(records, [one])["lead"].item()
    assert lead == pytest.approx(average["qvid"] - average["random"])
    with pytest.raises(ValueError, match="no record of method='svd_prune' at keep=16"):
        audit.leads(records, [one], "svd_prune")


def test_errors_over_questions_and_over_pictures():
    """Two pictures of two questions each, one picture all right, one all wrong."""
    one = asked(["yes", "no", "yes", "no"], picture=["a", "a", "b", "b"])
    records = records_of(cell(one, ["yes", "no", "no", "yes"], "qvid", 16))
    row = audit.own_errors(records, [one]).iloc[0]
    assert row["plain"] == pytest.approx(100 * np.std([1, 1, 0, 0], ddof=1) / 2)
    assert row["over_pictures"] == pytest.approx(50) and row["pictures"] == 2


def in_shares():
    """`pair` at 25 %, and at 50 % all of qvid right and random as before; no counts at all."""
    one, records = pair()
    cells = [records.assign(retention_pct=float("nan"))[records["method"] == "full"]]
    for share in (25.0, 50.0):
        cells.append(records[records["method"] != "full"].assign(retention_pct=share, keep=pd.NA))
    frame = records_of(*cells).astype({"keep": "Int64"})
    best = (frame["method"] == "qvid") & (frame["retention_pct"] == 50)
    frame.loc[best, "prediction"] = frame.loc[best, "answer"]
    frame.loc[best, "score"] = 1.0
    return one, frame


def test_leads_at_shares_are_those_of_their_own_share():
    one, records = in_shares()
    found = audit.leads(records, [one])
    assert found[["retention_pct", "method", "lead"]].to_numpy().tolist() == [
        [25.0, "random", 0.0], [50.0, "random", 25.0],
    ]  # fmt: skip
    assert found["keep"].isna().all()
    some = records[(records["method"] != "qvid") | (records["retention_pct"] != 50)]
    with pytest.raises(ValueError, match="no record of method='qvid' at retention_pct=50.0"):
        audit.leads(some, [one])
    mixed = records_of(records, pair()[1][lambda f: f["method"] != "full"])
    assert audit.leads(mixed, [one])["keep"].dropna().tolist() == [16]


def test_errors_at_shares_are_those_of_their_own_share():
    one, records = in_shares()
    found = audit.own_errors(records, [one]).set_index(["method", "retention_pct"])
    assert found["plain"][("qvid", 50.0)] == 0 and found["accuracy"][("qvid", 50.0)] == 100
    assert found["plain"][("qvid", 25.0)] == pytest.approx(100 * np.std([1, 1, 1, 0], ddof=1) / 2)
    assert found["plain"][("full", 100.0)] == 0


# ---------------------------------------------------------------- a table's methods


class Config:
    image_seq_length = 144

    def get_text_config(self):
        return type("text", (), {"num_hidden_layers": 12})()


def row(method, keep=16, layer=1, rank=None, variant=""):
    return {"method": method, "keep": keep, "layer": layer, "rank": rank, "variant": variant}


def test_methods_are_taken_as_their_sources_have_them():
    frame = pd.DataFrame([
        row("full", None, None), row("qvid", rank=16), row("qvid", rank=8), row("qvid", 16, 3, 16),
        row("qvid", rank=16, variant="query=content"), row("fastv"), row("fastervlm", layer=0),
        row("pyramiddrop", 32, None), row("v2drop", layer=None), row("column_norm"),
        row("qvid", 40, 1, 16),
    ]).astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})  # fmt: skip
    names = results.paper(1)["method"].unique()
    found = tables.as_printed(frame, names, [48, 32, 16], Config())
    assert found[["method", "keep"]].fillna(-1).to_numpy().tolist() == [
        ["full", -1], ["qvid", 16], ["v2drop", 16], ["pdrop", 32], ["hired", 16], ["fastv", 16],
    ]  # fmt: skip


def test_a_table_in_shares_is_filled_by_shares():
    frame = pd.DataFrame([
        row("full", None, None), row("qvid", rank=16), row("pyramiddrop", 16, None),
        *(row("qvid", None, layer, 16) | {"retention_pct": share}
          for share in (25.0, 50.0) for layer in (1, 3)),
        row("pyramiddrop", None, None) | {"retention_pct": 50.0},
    ]).astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})  # fmt: skip
    found = tables.as_printed(frame, ["qvid", "pdrop"], [], Config(), [50.0, 11.1])
    shown = found[["method", "retention_pct", "layer"]].fillna(-1).to_numpy().tolist()
    assert shown == [["full", -1, -1], ["qvid", 50, 1], ["pdrop", 50, -1]]
    both = tables.as_printed(frame, ["qvid"], [16], Config(), [25.0])
    assert both["keep"].fillna(0).tolist() == [0, 16, 0]
    counts = tables.as_printed(frame.drop(columns="retention_pct"), ["qvid"], [16], Config(), [25])
    assert counts["keep"].fillna(0).tolist() == [0, 16]


def test_hired_under_its_own_name_goes_first():
    frame = pd.DataFrame([row("full", None, None), row("hired", layer=0),
                          row("fastervlm", layer=0, variant="")])  # fmt: skip
    found = tables.as_printed(frame.astype({"rank": "float64"}), ["hired"], [16], Config())
    assert found["method"].tolist() == ["full", "hired"]


# ---------------------------------------------------------------- a table whose full row is lost


def test_a_table_without_averages_gets_one_from_the_full_row_that_is_given():
    """SVD-Prune at 192 of 576, by hand: (59.88 / 61.9 + 57.24 / 58.2) / 2."""
    suites = [asked(["yes", "no"], name=name) for name in ("tiny_gqa", "tiny_textvqa")]
    said = {"full": (None, ["yes", "no"]), "svd_prune": (48, ["yes", "yes"])}
    cells = [cell(one, words, name, keep) for one in suites for name, (keep, words) in said.items()]
    records = records_of(*cells)
    svd, first = results.paper("svd_1"), results.paper(1)
    full = first[(first["method"] == "full") & first["benchmark"].isin(["GQA", "TextVQA"])]
    full = full.assign(table=svd["table"].iloc[0], source=svd["source"].iloc[0])
    found = report.beside(records, suites, pd.concat([full, svd], ignore_index=True))
    found = found.set_index(["method", "budget_pct", "benchmark"])
    row = found.loc[("svd_prune", 33.3, "Avg")]
    assert row["paper_pct_of_full"] == pytest.approx(50 * (59.88 / 61.9 + 57.24 / 58.2))
    assert row["measured_pct_of_full"] == pytest.approx(50)
