"""Runs on a store with the embedded model: resumed, killed, shared."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from twins import embedded

from qvid_utils.methods import METHODS, RULES, Method
from qvid_utils.paths import ROOT
from qvid_utils.workbook.benchmarks import Suite, suite
from qvid_utils.workbook.cli import ask as command
from qvid_utils.workbook.cli import main, parser
from qvid_utils.workbook.run import asker
from qvid_utils.workbook.run import workers as distributed
from qvid_utils.workbook.run.batches import batches_of
from qvid_utils.workbook.run.cell import Cell, grid
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.tables import conclusions, report
from qvid_utils.workbook.tables.failed_questions import scored
from qvid_utils.workbook.tables.wide import wide_table

CELLS = [Cell("random", 16), Cell(), *grid(["qvid"], [48, 16]), Cell("v2drop", 48)]


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


@pytest.fixture(scope="module")
def suites():
    return [suite("tiny_gqa"), suite("tiny_mme")]


@pytest.fixture(scope="module")
def whole(loaded, suites):
    return evaluate(*loaded, suites, CELLS, limit=9, batch_size=4)


def lines(folder) -> list[dict]:
    files = sorted((folder / "cells").glob("*.jsonl"))
    texts = [file.read_text("utf-8").split("\n")[:-1] for file in files]  # but a line cut short
    return [json.loads(line) for text in texts for line in text]


# ---------------------------------------------------------------- resumed


def test_a_store_changes_no_row_whatever_order_and_limit(loaded, suites, whole, tmp_path):
    how = {"limit": 9, "store": tmp_path}
    few = evaluate(*loaded, suites, CELLS[1:3], **how | {"limit": 4}, batch_size=3)
    assert len(few) < len(whole)
    shuffled = evaluate(*loaded, suites, CELLS, **how, batch_size=4, shuffle=True)
    pd.testing.assert_frame_equal(shuffled, whole, check_exact=True)
    written = lines(tmp_path)
    again = evaluate(*loaded, suites, CELLS, **how)
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert lines(tmp_path) == written, "a second run asks nothing"


def test_shuffle_orders_the_batches_by_its_seed():
    samples = suite("tiny_gqa").samples.head(40)
    plain_order = batches_of(samples, 8)
    words = [
        samples.set_index("id")["question"].str.split().str.len()[b].max() for b in plain_order
    ]
    assert words == sorted(words) and [len(b) for b in plain_order] == [8] * 5
    orders = [batches_of(samples, 8, seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(plain_order)


def test_a_record_says_what_was_asked_kept_and_how_long_it_took(loaded, suites, tmp_path):
    found = evaluate(*loaded, suites[:1], CELLS[3:], limit=2, store=tmp_path)
    by_count = {len(r["kept"]): r for r in lines(tmp_path)}
    assert {len(kept) for _, kept in by_count[1]["kept"]} == {16}
    assert [layer for layer, _ in by_count[3]["kept"]] == [1, 6, 8], "v2drop's three cuts"
    for record in lines(tmp_path):
        assert len(record["prompt"]) == 16 and 0 < record["seconds"] < 60 and record["answer"]
    assert len({record["prompt"] for record in lines(tmp_path)}) == 2, "one for each question"
    assert len(found) == 4


def test_cells_that_differ_in_name_alone_are_asked_once(loaded, suites, tmp_path):
    cells = [Cell("qvid", 16), Cell("qvid", 16, None, {"query": "question"})]
    found = evaluate(*loaded, suites[:1], cells, limit=3, store=tmp_path)
    assert len(found) == 6 and len(lines(tmp_path)) == 3


def cli(folder, *more, group=False) -> subprocess.Popen:
    options = ["--store", folder, "--methods", "qvid", "random", "--keeps", "16", "--limit", "12"]
    options += ["--suites", "tiny_gqa", "--batch-size", "1", "--workers", "1", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "qvid_utils", "run", *map(str, options)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=group,
    )  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("workers, batches", [("1", 3), ("2", 3), ("2", 0)])
def test_an_interrupted_command_says_so_in_a_sentence(workers, batches, tmp_path):
    """Ctrl-C goes to all processes of a terminal at once; what was stored stays."""
    run = cli(tmp_path, "--workers", workers, "--limit", 400, group=True)
    ends = time.monotonic() + 120
    while len(lines(tmp_path)) < batches and time.monotonic() < ends:
        time.sleep(0.01)
    time.sleep(0 if batches else 3)
    os.killpg(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in told
    assert told.strip().splitlines()[-1] == "run: interrupted; what was stored stays"
    assert batches <= len(lines(tmp_path)) < 1200


@pytest.mark.full
def test_the_command_killed_three_times_ends_with_the_same_table(loaded, tmp_path):
    moments, seen = random.Random(0), []
    for _ in range(3):
        run, before = cli(tmp_path), len(lines(tmp_path))
        while len(lines(tmp_path)) < before + 2 and run.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL
        seen.append(lines(tmp_path))
    assert 0 < len(seen[0]) < len(seen[1]) < len(seen[2]) < 36
    pair = [cli(tmp_path), cli(tmp_path, "--shuffle")]
    told = [run.communicate(timeout=240)[1] for run in pair]
    assert [run.returncode for run in pair] == [0, 0], told
    assert all(record in lines(tmp_path) for part in seen for record in part)
    assert (
        len({(r["sample"], str(r["kept"])) for r in lines(tmp_path)}) == len(lines(tmp_path)) == 36
    )
    cells = [Cell(), *grid(["qvid", "random"], [16])]
    one = [suite("tiny_gqa")]
    want = report.summary(evaluate(*loaded, one, cells, limit=12), one)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["value"].tolist() == pytest.approx(want["value"].tolist())
    assert table["model"].unique() == ["tiny/llava"]


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "options, says",
    [
        (["--methods", "qvidd"], "did you mean qvid"),
        (["--suites", "tiny_gqaa"], "did you mean 'tiny_gqa'"),
        (["--keeps", "16"], "--keeps goes with --methods"),
        (["--profile", "paper"], "profile='paper' needs llava-hf/llava-1.5-7b-hf, gqa"),
        (["--methods", "random", "--ranks", "4"], "no rank"),
    ],
)
def test_bad_options_are_told_before_anything_runs(options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["run", *options, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


def stopped(options, folder, capsys):
    """What the command line prints when the run stops, and with which code it ends."""
    code = main(["run", *options, "--store", str(folder), "--workers", "1"])
    return code, capsys.readouterr().err.strip().splitlines()[-2:]


ONE_CELL = ["--methods", "qvid", "--keeps", "16", "--no-full", "--suites", "tiny_gqa", "--limit",
            "1"]  # fmt: skip
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("fault", [CUDA, CPU], ids=["of the card", "of the machine"])
def test_memory_that_runs_out_in_a_sample_is_told_with_the_sample(
    fault, tmp_path, capsys, monkeypatch
):
    def ask(self, task, ids):
        raise type(fault)(str(fault))

    monkeypatch.setattr(asker.Asker, "ask", ask)
    code, (says, where) = stopped(ONE_CELL, tmp_path, capsys)
    assert code == 1 and str(fault) in says
    sample = suite("tiny_gqa").head(1).samples["id"].item()
    assert where.startswith("suite tiny_gqa, cell ") and where.endswith(f"sample {sample}")


def test_cells_that_fail_on_a_cluster_are_told_in_a_sentence(tmp_path, capsys, monkeypatch):
    """The driver's gathering, with a cluster that only has the two calls that it makes."""
    broken = torch.OutOfMemoryError("out of memory")
    broken.add_note("suite tiny_gqa, cell {}, sample tiny_gqa/7")

    def get(job):
        if job == "bad":
            raise broken

    ray = SimpleNamespace(wait=lambda jobs: (jobs[:1], jobs[1:]), get=get)

    def on_ray(plan, **how):
        distributed._gather(ray, {"good": "one", "bad": "two"}, progress=False)

    monkeypatch.setattr(command, "on_ray", on_ray)
    code, (*_, says) = stopped([*ONE_CELL, "--ray"], tmp_path, capsys)
    assert code == 1 and says.endswith(
        "1 of 2 cells failed, the others are stored; first two: OutOfMemoryError: out of memory "
        "(suite tiny_gqa, cell {}, sample tiny_gqa/7)"
    )


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path, monkeypatch):
    def in_processes(plan, workers, **how):
        raise RuntimeError("open pictures_once first")

    monkeypatch.setattr(command, "in_processes", in_processes)
    with pytest.raises(RuntimeError, match="open pictures_once first"):
        main(["run", *ONE_CELL, "--store", str(tmp_path)])


OWN = """
from qvid_utils import rule
@rule(source="mine")
def quietest_key_of_mine(keys):
    return -keys.float().norm(dim=-1).mean(0)
"""


def test_a_rule_of_ones_own_is_a_method_of_the_command(tmp_path, capsys):
    (tmp_path / "my_rules.py").write_text(OWN, encoding="utf-8")
    options = ["--import", str(tmp_path / "my_rules.py"), "--methods", "quietest_key_of_mine",
               "--keeps", "16", "--suites", "tiny_gqa", "--limit", "2", "--workers", "1",
               "--store", str(tmp_path / "store")]  # fmt: skip
    try:
        assert main(["run", *options]) == 0
    finally:
        RULES.pop("quietest_key_of_mine", None)
    assert "4 answers" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "store" / "table.csv")["method"]) == {
        "full", "quietest_key_of_mine"}  # fmt: skip


@pytest.mark.parametrize(
    "text, says", [(None, "give a Python file with rules"), ("x =", "it fails (SyntaxError:")]
)
def test_a_file_that_is_no_rules_is_refused(text, says, tmp_path, capsys):
    file = tmp_path / "own_rules.py"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert main(["run", "--import", str(file), "--methods", "qvid", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"run: --import {file}: ") and says in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "options, says",
    [
        (["--out", "FILE"], "--out FILE: that is a file, give a folder"),
        (["--store", "FILE"], "--store FILE: that is a file, give a folder"),
        (["--name", "../../x"], "--name ../../x: a name of files is letters, digits and _ . - alo"),
        (["--suites", "tiny_gqa", "tiny_gqa"], "suite 'tiny_gqa' is there twice"),
        (["--keeps", "0"], "--keeps: 0: give 1 or more"),
        (["--control", "noise"], "--control goes with --methods: name some"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(options, says, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = [str(tmp_path / "file") if option == "FILE" else option for option in options]
    own = [] if "--control" in options else ["--methods", "qvid"]
    try:
        code = main(["run", *own, *given])
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err
    assert code == 2 and says.replace("FILE", str(tmp_path / "file")) in told
    assert told.count("\n") == 1


def test_a_dry_run_tells_a_budget_above_every_prompt(tmp_path, capsys):
    options = ["--methods", "qvid", "--keeps", "16", "145", "--suites", "tiny_gqa", "--dry-run"]
    assert main(["run", *options, "--store", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("run: keep=145: no prompt of tiny_gqa has more than 144 visual tokens;")


def test_a_dry_run_says_what_is_there(loaded, tmp_path, capsys):
    evaluate(*loaded, [suite("tiny_gqa")], [Cell("qvid", 16)], limit=3, store=tmp_path)
    asked = ["--store", str(tmp_path), "--methods", "qvid", "--keeps", "16", "32", "--limit", "3"]
    assert main(["run", *asked, "--suites", "tiny_gqa", "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "tiny_gqa full: 0 of 3",
        "tiny_gqa qvid 16 16: 3 of 3",
        "tiny_gqa qvid 32 16: 0 of 3",
    ]


def test_only_the_default_cells_go_to_the_stored_run(tmp_path):
    def where(*options):
        return command._plan(parser().parse_args(["run", *options]))

    plan, out, name = where("--limit", "3")
    assert out.name == "measured" and name == "tiny_llava" and len(plan.cells) > 60
    for options in (["--store", str(tmp_path)], ["--methods", "qvid"], ["--suites", "tiny_gqa"]):
        plan, out, name = where(*options)
        assert name == "table" and str(out) == plan.store
    *_, name = where("--methods", "qvid", "--name", "other")
    assert name == "other"


# ---------------------------------------------------------------- failures


def refusing(scores, keep):
    """Fails for one prompt in a few: a selection that sees what the random rule drew."""
    if int(scores[0]) % 4 == 0:
        raise ZeroDivisionError("no such prompt")
    return METHODS["random"].select(scores, keep)


PICKY = Cell(Method("stride", RULES["random"], select=refusing), 16)  # a name that tables know


@pytest.fixture(scope="module")
def some_failed(loaded, suites):
    return evaluate(
        *loaded, suites, [*CELLS[:2], Cell("qvid", 16), PICKY], limit=9, on_error="record"
    )


def test_failed_samples_are_counted_and_never_scored(some_failed, whole, suites):
    failed = some_failed[some_failed["failed"] != ""]
    assert 0 < len(failed) < 19 and set(failed["method"]) == {"stride"}
    assert failed["score"].isna().all() and failed["prediction"].isna().all()
    assert set(failed["failed"]) == {"ZeroDivisionError: no such prompt"}
    assert set(some_failed.loc[some_failed["method"] == "stride", "layer"]) == {1}, (
        "one cell, not two"
    )
    rest = scored(some_failed)
    assert "failed" not in rest and rest["score"].notna().all()
    assert rest.groupby(["method", "keep"], dropna=False)["sample"].nunique().nunique() == 1
    groups = set(failed["group"]) - {""}
    assert not groups & set(rest["group"]), "a pair goes as a whole"


def test_every_table_says_how_many_failed(some_failed, suites):
    long = report.summary(some_failed, suites)
    told = long[long["metric"] == "failed"]
    counts = some_failed[some_failed["failed"] != ""].groupby("suite").size()
    assert dict(zip(told["benchmark"], told["value"], strict=True)) == counts.to_dict()
    assert set(told["method"]) == {"stride"} and (told["n"] >= 9).all()
    clean = long[long["metric"] != "failed"]
    want = report.summary(scored(some_failed), suites)
    pd.testing.assert_frame_equal(clean.reset_index(drop=True), want)
    names = [one.name for one in suites]
    for table in (
        conclusions.averages(some_failed, suites, names),
        conclusions.differences(some_failed, names),
    ):
        assert table.loc[table["method"] == "stride", "failed"].tolist() == [counts.sum()]
        assert (table.loc[table["method"] != "stride", "failed"] == 0).all()


def test_a_suite_s_verdict_counts_the_failures_of_its_layer(some_failed):
    says = conclusions.says_something(some_failed).set_index("suite")["failed"]
    counts = some_failed[some_failed["failed"] != ""].groupby("suite").size()
    assert says.to_dict() == counts.to_dict()


def test_the_paper_s_tables_count_them_too(some_failed, suites):
    joined = report.beside(some_failed, suites, 7)
    told = joined[(joined["method"] == "stride") & joined["keep_measured"].notna()]
    counts = some_failed[some_failed["failed"] != ""].groupby("suite").size().to_dict()
    total = {"Avg over common": sum(counts.values())}
    assert dict(zip(told["suite"], told["failed"], strict=True)) == counts | total
    assert (joined.loc[joined["method"] == "qvid", "failed"] == 0).all()
    assert "failed" in wide_table(joined).index.names


def test_a_broken_picture_is_recorded_for_every_cell(loaded, suites, tmp_path):
    one = suites[0].head(4)
    samples = one.samples.copy()
    samples.at[2, "image"] = {"bytes": b"", "path": ""}
    broken = Suite(one.name, one.stands_for, one.metric, samples)
    how = {"store": tmp_path, "on_error": "record"}
    found = evaluate(*loaded, [broken], CELLS[:2], **how)
    failed = found[found["failed"] != ""]
    assert failed["sample"].tolist() == [samples["id"][2]] * 2
    assert failed["failed"].str.contains("its picture cannot be read").all()
    with pytest.raises(ValueError, match=samples["id"][2]):
        evaluate(*loaded, [broken], CELLS[:2], store=tmp_path)
    clean = evaluate(*loaded, [one], CELLS[:2])
    both = found.merge(clean, on=["sample", "method"], suffixes=("", "_clean"))
    fine = both["failed"] == ""
    assert np.array_equal(both.loc[fine, "prediction"], both.loc[fine, "prediction_clean"])


def test_what_can_be_known_is_told_before_any_question(loaded, suites, monkeypatch):
    monkeypatch.setattr(loaded[0], "generate", lambda **_: pytest.fail("it was asked"))
    for cell, says in [
        (Cell("qvid", 16, 99), "layer=99"),
        (Cell("v2drop", 48, 3), "an explicit layer"),
    ]:
        with pytest.raises(ValueError, match=says) as caught:
            evaluate(*loaded, suites, [Cell(), cell])
        assert "'method'" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="on_error='skip'"):
        evaluate(*loaded, suites, [Cell()], on_error="skip")
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate(*loaded, suites, [Cell()], batch_size=0)
