"""Cells whose budget is a share of each prompt's visual tokens, on pictures of several sizes."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sized
import torch
from twins import BOTH, DOTS, STAR, ask, embedded, twin

from qvid_utils import pruned
from qvid_utils.algebra.cuts import count_at
from qvid_utils.families.calls import pictures_once
from qvid_utils.models.load import config_of
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.cli import ask as command
from qvid_utils.workbook.cli import main, parser
from qvid_utils.workbook.run import asker
from qvid_utils.workbook.run.cell import Cell, grid
from qvid_utils.workbook.run.checks import check_cell, check_run
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.grid import Grid, visual_counts
from qvid_utils.workbook.run.look import look
from qvid_utils.workbook.run.plain import key_of
from qvid_utils.workbook.run.shared_layers import layers_once
from qvid_utils.workbook.run.store import Store
from qvid_utils.workbook.tables import beside_paper, conclusions, report
from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.stored import store, stored

SIZES = ("64x96", "80x96", "112x96", "112x112")  # 96, 120, 168 and 196 visual tokens


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/qwen2_vl")


@pytest.fixture(scope="module")
def pictures():
    """Two questions of each of four sizes."""
    one = suite(sized.NAME)
    rows = one.samples[one.samples["split"].isin(SIZES)].groupby("split").head(2)
    return one.only(rows["id"])


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "share, n_visual, count",
    [
        (33.3, 391, 130),  # 130.203
        (11.1, 16, 2),  # 1.776
        (11.1, 4, 1),  # 0.444, and one stays
        (50, 5, 2),  # 2.5: a half goes to the even count
        (50, 7, 4),  # 3.5
        (29, 100, 29),  # 29.0 exactly, where 0.29 · 100 is less
        (100, 37, 37),
        (1e-9, 37, 1),
    ],
)
def test_a_share_of_a_count(share, n_visual, count):
    assert count_at(share, n_visual) == count and type(count_at(share, n_visual)) is int


@pytest.mark.parametrize("share", [0, -1, 100.1, float("nan"), float("inf")])
def test_a_share_is_a_percentage(share):
    for asked in (lambda: count_at(share, 9), lambda: Cell("qvid", share=share)):
        with pytest.raises(ValueError, match=r"share=\S+: give a percentage in \(0, 100\]"):
            asked()


@pytest.mark.parametrize("share", [True, "11.1", [11.1]])
def test_a_share_is_a_number(share):
    with pytest.raises(TypeError, match="share=.*: give a percentage of the visual tokens"):
        Cell("qvid", share=share)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"method": "qvid", "keep": 16, "share": 11.1}, "keep=16 and share=11.1: give one"),
        ({"method": "qvid", "share": 11.1, "shared": True}, "share is a count, give it as keep"),
        ({"share": 11.1}, "give both to prune"),
        ({"method": "qvid"}, "or share in place of keep"),
    ],
)
def test_a_bad_cell_is_refused_when_it_is_made(given, says):
    with pytest.raises(ValueError, match=says):
        Cell(**given)


# ---------------------------------------------------------------- cells


def test_each_prompt_has_its_own_count():
    cell = Cell("qvid", share=11.1)
    assert cell.budget([36, 64, 100, 144]) == [4, 7, 11, 16]  # 3.996, 7.104, 11.1, 15.984
    assert cell.budget([144, 144]) == 16 and cell.budget([143, 144]) == 16
    (chosen, keeps, options) = cell.asked([36, 144])
    assert (chosen.name, keeps, options) == ("qvid", [4, 16], {})
    late = Cell("qvid", None, 4, before=("divprune", 40), share=11.1)
    assert [stage[1:] for stage in late.asked([36, 144])] == [(40, {}), ([4, 16], {"layer": 4})]


def test_names_and_keys_hold_the_share():
    shares = [Cell("qvid", share=s) for s in (11.1, 16, 16.0, np.float64(16))] + [Cell("qvid", 16)]
    assert [c.labels["retention_pct"] for c in shares] == [11.1, 16.0, 16.0, 16.0, None]
    assert [c.labels["keep"] for c in shares] == [None] * 4 + [16]
    assert shares[0].labels["variant"] == "" and shares[0].words == ["qvid", "share=11.1", "16"]
    keys = [key_of(cell.parts) for cell in shares]
    assert len(set(keys)) == 3 and keys[1] == keys[2] == keys[3]
    assert shares[4].parts.keys() == {"method", "keep", "layer"}, "as before there were shares"
    assert pickle.loads(pickle.dumps(shares[0])).share == 11.1


def test_a_grid_has_counts_and_shares():
    cells = grid(["qvid", "random"], [16], [None, 3], shares=[25.0], query="content")[4:]
    assert [(c.method, c.keep, c.share, c.layer) for c in cells] == [
        ("random", 16, None, None), ("random", 16, None, 3),
        ("random", None, 25.0, None), ("random", None, 25.0, 3),
    ]  # fmt: skip


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_a_grid_answers_shares_as_each_cell_alone(model_type):
    """Two prompts of 16 visual tokens and one of 28: the counts are 4, 4, 7 and 5, 5, 9."""
    model, inputs = twin(model_type), ask(STAR, DOTS, BOTH, model_type=model_type)
    counts = visual_counts(model, inputs)
    assert counts == [16, 16, 28]
    new = {"max_new_tokens": 3, "do_sample": False}
    cells = [Cell(n, None, at, share=s) for n in ("qvid", "random", "divprune")
             for at in (None, 3) for s in (25.0, 33.0)]  # fmt: skip
    sizes, original = [], Grid._batch
    with torch.no_grad(), pictures_once(model), layers_once(model):
        made = Grid(model, inputs, **new)
        asked = [cell.asked(counts) for cell in cells]
        assert asked[0][1] == [4, 4, 7] and asked[1][1] == [5, 5, 9]
        assert all(map(made.shares, asked))
        made._batch = lambda batch: sizes.append(len(batch)) or original(made, batch)
        found = dict(made.together(asked))
    # at layers 1 and 3 two rules together, by counts; divprune numbers positions anew
    assert sorted(sizes) == [1, 1, 1, 1, 2, 2, 2, 2]
    for number, cell in enumerate(cells):
        with (
            torch.no_grad(),
            pruned(model, cell.method, [*asked[number][1]], layer=cell.layer) as t,
        ):
            ids = model.generate(**inputs, **new)[:, inputs["input_ids"].shape[1] :]
        assert torch.equal(found[number].ids, ids), cell.labels
        assert found[number].mean_tokens == t.mean_tokens
        assert [c.kept.tolist() for c in found[number].cuts] == [c.kept.tolist() for c in t.cuts]


def test_what_the_grid_leaves_to_single_runs():
    model, inputs = twin("qwen2_vl"), ask(STAR, DOTS, BOTH, model_type="qwen2_vl")
    with pictures_once(model), layers_once(model):
        made = Grid(model, inputs)
        assert made.shares(("qvid", [4, 4, 7])) and made.shares(("qvid", (4, 4, 28)))
        bad = ([4, 4], [4, 4, 29], [4, 17, 7], [4, 4, True], [4, 4, 7.0], [])
        assert not any(made.shares(("qvid", keeps)) for keeps in bad)
        assert not made.shares(("v2drop", [9, 9, 16]))


METHODS = ("qvid", "divprune", "v2drop")


@pytest.fixture(scope="module")
def records(loaded, pictures):
    cells = [Cell(), *grid(METHODS, [], shares=(50.0, 33.3)), Cell("random", 16)]
    return evaluate(*loaded, [pictures], cells, batch_size=3)


def test_a_share_cell_is_the_same_counts_asked_by_hand(loaded, pictures, records):
    """Question by question, alone, with the count worked out from the size of its picture."""
    model, processor = loaded
    for row in pictures.samples.itertuples():
        height, width = map(int, row.split.split("x"))
        n_visual = height * width // 64  # a token for 8 x 8 pixels
        inputs = prompts(
            processor, pictures.samples[pictures.samples["id"] == row.id], model.device
        )
        mine = records[records["sample"] == row.id].set_index(["method", "retention_pct"])
        assert mine.loc[[("full", np.nan)], "mean_tokens"].item() == n_visual
        for name in METHODS:
            for share in (50.0, 33.3):
                keep = round(n_visual * share / 100)
                with torch.inference_mode(), pruned(model, name, keep) as trace:
                    ids = model.generate(**inputs, max_new_tokens=2, do_sample=False)
                said = processor.decode(
                    ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
                )
                found = mine.loc[(name, share)]
                assert found["prediction"] == said.strip()
                assert found["mean_tokens"] == trace.mean_tokens[0]
                assert abs(found["mean_tokens"] - keep) < 1 or name == "qvid"


def test_records_hold_shares_or_counts(records):
    cells = records[["method", "keep", "retention_pct"]].drop_duplicates()
    pairs = zip(
        cells["method"], cells["keep"].fillna(0), cells["retention_pct"].fillna(0), strict=True
    )
    assert list(pairs) == [
        ("full", 0, 0), ("qvid", 0, 50), ("qvid", 0, 33.3), ("divprune", 0, 50),
        ("divprune", 0, 33.3), ("v2drop", 0, 50), ("v2drop", 0, 33.3), ("random", 16, 0),
    ]  # fmt: skip
    assert records["retention_pct"].dtype == "float64"


def test_without_shares_nothing_is_new(loaded, pictures):
    found = evaluate(*loaded, [pictures.head(2)], [Cell(), Cell("random", 16)])
    assert "retention_pct" not in found
    assert list(conclusions.averages(found, [pictures], [])) == [
        "method", "variant", "keep", "layer", "rank", "mean_tokens", "all", "all_stderr",
        "speaking", "speaking_stderr", "n",
    ]  # fmt: skip


def test_a_run_goes_on_where_it_was(loaded, pictures, records, tmp_path):
    cells = [Cell(), *grid(METHODS, [], shares=(50.0, 33.3)), Cell("random", 16)]
    with Store(tmp_path) as store:
        evaluate(*loaded, [pictures], cells[1:3], limit=3, batch_size=2, store=store)
        half = {path.name: path.stat().st_size for path in store.cells.glob("*.jsonl")}
        assert sorted(name.rsplit("-", 2)[0] for name in half) == [
            "tiny_sizes_qvid_share=33.3_16", "tiny_sizes_qvid_share=50.0_16",
        ]  # fmt: skip
        whole = evaluate(*loaded, [pictures], cells, batch_size=3, store=store)
        pd.testing.assert_frame_equal(whole, records)
        lines = [path.read_text().splitlines() for path in store.cells.glob("*.jsonl")]
        assert [len(one) for one in lines] == [8] * 8, "each question once in each cell"
    assert all(size for size in half.values())


def never(*told):
    raise AssertionError("a question was asked")


@pytest.mark.parametrize(
    "model_type, cell, says, note",
    [
        ("llava", Cell("qvid", share=50, before=("divprune", 4)), "keep=8: the prompt has 4",
         "share=50 is of all 16 tokens of the prompt"),
        ("llava", Cell("qvid", 12, before=("divprune", 4)), "keep=12: the prompt has 4", "cell {"),
        ("qwen2_vl", Cell("qvid", 12, before=("divprune", 4)), "keep=12: the prompt has 4",
         "cell {"),
    ],
)  # fmt: skip
def test_a_cut_before_that_leaves_too_few_is_refused_before_a_run(
    model_type, cell, says, note, monkeypatch
):
    monkeypatch.setattr(asker.Asker, "ask", never)
    with pytest.raises(ValueError, match=f"method 'qvid' after the others: {says}") as left:
        evaluate(twin(model_type), None, [suite("tiny_gqa")], [cell], limit=1)
    assert left.value.__notes__[0].startswith(note)


@pytest.mark.parametrize(
    "model_type, cell",
    [
        ("llava", Cell("qvid", share=25, before=("divprune", 4))),  # 4 of 16, and 4 are left
        ("llava", Cell("qvid", 12, before=("random", 4, {"layer": 3}))),  # its own cut comes first
        ("llava", Cell("qvid", 20, before=("divprune", 24))),  # of prompts with two pictures
        ("llava", Cell("v2drop", share=1, before=("divprune", 12))),  # left out with a warning
        ("qwen2_vl", Cell("qvid", share=50, before=("divprune", 4))),  # of prompts with up to 8
    ],
)
def test_a_cut_before_that_leaves_enough_is_not_refused(model_type, cell):
    check_cell(twin(model_type), cell)


def test_a_share_below_a_staged_methods_floor_is_named(loaded, pictures):
    with pytest.warns(UserWarning, match=r"left out: share=1.5 \(% of a prompt's .*\): keep="):
        found = evaluate(*loaded, [pictures.head(1)], [Cell("v2drop", share=1.5)])
    assert found.empty
    with pytest.warns(UserWarning, match="left out: keep=2: cuts at"):
        evaluate(*loaded, [pictures.head(1)], [Cell("v2drop", 2)])


def test_score_maps_keep_each_pictures_share(loaded, pictures):
    maps = look(*loaded, pictures.samples, [Cell("qvid", share=25.0)])
    kept = maps.groupby("sample")["kept"].agg(["size", "sum"])
    assert sorted(set(kept.itertuples(index=False, name=None))) == [
        (96, 24), (120, 30), (168, 42), (196, 49),
    ]  # fmt: skip


# ---------------------------------------------------------------- tables


def test_tables_have_the_share_and_no_count(records, pictures):
    shares = records[records["keep"].isna()]
    long = report.summary(shares, [pictures])
    assert long["keep"].isna().all()
    budgets = long.groupby("method")["retention_pct"].unique().map(sorted).to_dict()
    assert budgets == {"full": [100], **dict.fromkeys(METHODS, [33.3, 50])}
    both = report.summary(records, [pictures])  # with a count among them, the full model has one
    assert set(both.loc[both["method"] == "full", "keep"]) == {(96 + 120 + 168 + 196) // 4}
    average = conclusions.averages(shares, [pictures], [])
    assert average["retention_pct"].tolist() == [100, 50, 33.3, 50, 33.3, 50, 33.3]


def test_a_stored_run_comes_back(records, pictures, tmp_path):
    table, answers = store(records, [pictures], tmp_path, "tiny_qwen2_vl")
    back = stored("tiny", tmp_path, "qwen2_vl")
    pd.testing.assert_frame_equal(back[records.columns.drop(["model", "device", "dtype"])],
                                  records.drop(columns=["model", "device", "dtype"]),
                                  check_dtype=False)  # fmt: skip
    assert "retention_pct" in results.read(table)


def made(said: dict) -> pd.DataFrame:
    """Records of eight questions about eight pictures: {(method, share): "10110…"}, 1 is right."""
    rows = [
        {"suite": "tiny_gqa", "sample": f"s{i}", "picture": f"p{i}", "group": "", "kind": "",
         "split": "", "method": method, "variant": "", "keep": None, "retention_pct": share,
         "layer": None if method == "full" else 1, "rank": 16.0 if method == "qvid" else None,
         "prediction": letter, "answer": "1", "score": float(letter), "mean_tokens": 90.0}
        for (method, share), letters in said.items() for i, letter in enumerate(letters)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"keep": "Int64", "layer": "Int64", "retention_pct": float})


SAID = {
    ("full", None): "11111111", ("qvid", 33.3): "11111110", ("qvid", 11.11): "11110000",
    ("random", 33.3): "11000000", ("random", 11.11): "10000000",
}  # fmt: skip


@pytest.fixture
def gqa():
    one = suite("tiny_gqa")
    samples = one.samples.head(8).assign(
        id=[f"s{i}" for i in range(8)], picture=[f"p{i}" for i in range(8)]
    )
    return type(one)(one.name, one.stands_for, one.metric, samples)


def test_ours_meet_the_papers_rows_by_the_share(gqa):
    long = report.summary(made(SAID), [gqa])
    met = beside_paper.beside_paper(long, "2a").set_index(["method", "budget_pct", "benchmark"])
    paper = results.paper("2a").set_index(["method", "retention_pct", "benchmark"])["value"]
    for share, ours in ((33.3, 87.5), (11.1, 50.0)):
        line = met.loc[("qvid", share, "GQA")]
        assert line["measured_pct_of_full"] == ours
        theirs = 100 * paper["qvid", share, "GQA"] / paper["full", 100, "GQA"]
        assert line["paper_pct_of_full"] == pytest.approx(theirs)
    assert np.isnan(met.loc[("qvid", 22.2, "GQA"), "measured_pct_of_full"])


def test_differences_and_verdicts_go_by_the_share(gqa):
    records = made(SAID)
    pairs = conclusions.differences(records, ["tiny_gqa"])
    # 7 of 8 against 2, and 4 of 8 against 1
    assert pairs.set_index("retention_pct")["difference"].to_dict() == {33.3: 62.5, 11.11: 37.5}
    joined = pd.DataFrame([
        {"method": m, "rank": np.nan, "budget_pct": b, "keep_measured": pd.NA, "paper": p,
         "measured": v, "benchmark": "Avg"}
        for b, ours, theirs in ((33.3, 99, 90), (11.1, 95, 97)) for m, p, v in
        (("qvid", ours, 80.0), ("random", theirs, 60.0))
    ]).astype({"keep_measured": "Int64"})  # fmt: skip
    found = conclusions.verdicts(joined, pairs).set_index("retention_pct")
    assert found["points"].to_dict() == {33.3: 62.5, 11.1: 37.5}
    assert found["here"].to_dict() == {33.3: "same way", 11.1: "other way"}
    with pytest.raises(ValueError, match="no record of method='qvid', .* at retention_pct=11.11"):
        conclusions.differences(
            made({k: v for k, v in SAID.items() if k != ("qvid", 11.11)}), ["tiny_gqa"]
        )


def test_a_suite_speaks_at_a_ninth_of_its_tokens(gqa):
    says = conclusions.says_something(made(SAID))
    assert says[["random", "loss"]].to_numpy().tolist() == [[12.5, 87.5]] and says["speaks"].all()


def test_two_runs_are_compared_share_by_share(gqa):
    live, stored = made(SAID), made(SAID | {("qvid", 33.3): "00000000"})
    found = conclusions.agreement(live, stored).set_index(["method", "retention_pct"])
    assert len(found) == 5
    assert found.loc[("qvid", 33.3), ["live", "stored"]].tolist() == [87.5, 0]
    assert found.loc[("qvid", 11.11), ["live", "stored", "same"]].tolist() == [50, 50, 100]
    counts = stored.drop(columns="retention_pct")
    assert conclusions.agreement(live, counts[counts["method"] == "full"])["method"].tolist() == [
        "full"
    ]


def test_failures_are_counted_for_their_share(gqa):
    records = made(SAID)
    records["failed"] = ""
    at = (records["method"] == "random") & (records["retention_pct"] == 11.11)
    records.loc[at & records["sample"].isin(["s6", "s7"]), "failed"] = "no"
    long = report.summary(records, [gqa]).query("metric == 'failed'")
    assert long[["method", "retention_pct", "value"]].to_numpy().tolist() == [["random", 11.11, 2]]
    joined = report.beside(records, [gqa], made_table())
    told = joined.set_index(["method", "budget_pct", "benchmark"])["failed"]
    assert told["random", 11.1, "GQA"] == 2 and told.sum() == 4  # and in the average


def made_table() -> pd.DataFrame:
    rows = [
        {"table": "t", "model": "M", "method": m, "retention_pct": b, "benchmark": "GQA",
         "metric": "score", "value": v, "unit": "%", "source": "paper"}
        for m, b, v in (("full", 100, 60), ("qvid", 33.3, 59), ("random", 33.3, 50),
                        ("qvid", 11.1, 55), ("random", 11.1, 40))
    ]  # fmt: skip
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- the command


def asked(*options: str) -> list[tuple]:
    chosen = parser().parse_args(["run", "--methods", "qvid", "--no-full", *options])
    cells = command._cells(chosen, config_of("tiny/llava"))
    return [(cell.keep, cell.share, cell.chosen.params["rank"]) for cell in cells]


def test_the_command_takes_shares_beside_keeps():
    assert asked("--shares", "33.3", "11.1") == [(None, 33.3, 16), (None, 11.1, 16)]
    assert asked("--shares", "10", "--keeps", "48") == [(48, None, 16), (None, 10, 16)]
    assert [keep for keep, *_ in asked()] == [48, 32, 16]
    assert asked("--shares", "10", "--ranks", "4", "8") == [(None, 10, 4), (None, 10, 8)]


def test_the_command_runs_shares(loaded, tmp_path, capsys):
    options = ["--model", "tiny/qwen2_vl", "--methods", "random", "--shares", "33.3", "--suites",
               "tiny_sizes", "--limit", "2", "--workers", "1"]  # fmt: skip
    options += ["--store", str(tmp_path)]
    assert main(["run", *options]) == 0
    rows = results.read(tmp_path / "table.csv")
    assert set(rows["method"]) == {"full", "random"} and rows["keep"].isna().all()
    assert set(rows.loc[rows["method"] == "random", "retention_pct"]) == {33.3}
    assert "33.3" in capsys.readouterr().out
    assert main(["run", *options, "--dry-run"]) == 0
    assert "tiny_sizes random share=33.3: 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--shares", "120"], ["--shares", "0"]])
def test_the_command_refuses_what_is_no_share(wrong, capsys):
    assert main(["run", "--methods", "qvid", *wrong]) == 2
    assert "give a percentage in (0, 100]" in capsys.readouterr().err


def test_shares_need_methods(capsys):
    assert main(["run", "--shares", "10"]) == 2
    assert "--shares goes with --methods" in capsys.readouterr().err


# ---------------------------------------------------------------- budgets above the prompts


def test_a_budget_above_every_prompt_is_refused_before_a_question(
    loaded, pictures, records, monkeypatch
):
    monkeypatch.setattr(asker.Asker, "ask", never)
    counts = records[records["method"] == "full"]["mean_tokens"].astype(int)
    few, most = counts.min(), counts.max()
    for keep, on_error, says in [
        (most + 1, "record", f"keep={most + 1}: no prompt of tiny_sizes has more than {most} visu"),
        (
            few + 1,
            "stop",
            rf"keep={few + 1}: sample 'tiny_sizes/\d+' has {few} visual tokens; keep",
        ),
    ]:
        with pytest.raises(ValueError, match=says) as told:
            evaluate(*loaded, [pictures], [Cell(), Cell("qvid", keep)], on_error=on_error)
        assert told.value.__notes__[0].startswith("cell {'method': 'qvid'")
    check_run(*loaded, [pictures], [Cell("qvid", few + 1)], "record")
    check_run(*loaded, [pictures], [Cell("qvid", few), Cell("qvid", share=90.0)])
