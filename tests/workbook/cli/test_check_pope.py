"""200 questions on one GPU: the range to expect, and the whole command on a small random LLaVA."""

import re
import shutil

import published_samples as samples
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from qvid_utils.models.load import load
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks.published import published
from qvid_utils.workbook.cli import main as qvid_utils
from qvid_utils.workbook.cli import pope
from qvid_utils.workbook.cli.pope import expected, report
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate


def test_the_range_is_the_papers_value_and_its_error_at_n():
    """85.9: √(0.859 · 0.141 / 200) = 2.461 %; 80.8 ± 0.4141 of 9,000: · √45 = 2.778 of 200."""
    frame = expected(200)
    assert frame["paper"].tolist() == [85.9, 80.8]
    assert frame["stderr"].tolist() == pytest.approx([2.4608, 2.7779], abs=5e-4)
    assert frame["low"].tolist() == pytest.approx([81.077, 75.355], abs=2e-3)
    assert frame["high"].tolist() == pytest.approx([90.723, 86.245], abs=2e-3)


def test_the_whole_set_has_the_printed_error_and_no_range_passes_100():
    assert expected(9000).loc["qvid", "stderr"] == pytest.approx(0.4141)
    assert expected(4)["high"].max() == 100
    with pytest.raises(ValueError, match=r"1 question\(s\): a range needs at least two"):
        expected(1)


def main(options) -> int:
    """The exit status of `check pope`, however it ends."""
    try:
        return qvid_utils(["check", "pope", *options])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A LLaVA of the embedded shape with random weights, which answers with one word and stops, and
    24 questions in POPE's schema."""
    root = tmp_path_factory.mktemp("files")
    embedded, _ = load("tiny/llava")
    torch.manual_seed(1)
    made = LlavaForConditionalGeneration(embedded.config)
    made.lm_head.weight.data.zero_()  # all words alike: the first one wins, and it ends the answer
    made.generation_config.eos_token_id = 0
    shutil.copytree(DATA / "tiny" / "llava", root / "model")
    made.save_pretrained(root / "model")
    asked = samples.ROWS["pope"]
    rows = [row | {"question_id": str(6 * turn + i), "image": samples.picture(turn)}
            for turn in range(4) for i, row in enumerate(asked)]  # fmt: skip
    samples.write("pope", root / "pope", rows)
    return root


def given(files, tmp_path, *more):
    places = ["--model", str(files / "model"), "--data", str(files / "pope")]
    return [*places, "--store", str(tmp_path / "store"), *more]


def test_the_command_from_files_to_verdict(files, tmp_path, capsys):
    assert main(given(files, tmp_path, "--questions", "6")) == 1  # random weights: outside
    said = capsys.readouterr().out
    assert "6 questions, cpu, torch.float32" in said
    assert "Answer the question using a single word or phrase." in said
    lines = re.findall(r"^  (full|qvid): .*: (inside|OUTSIDE)$", said, re.MULTILINE)
    assert lines == [("full", "OUTSIDE"), ("qvid", "OUTSIDE")]
    assert "the picture: 144 visual tokens per prompt; LLaVA-1.5 has 576" in said
    assert "counts after layer 1; the mean over the layers is 27 tokens" in said
    assert re.search(r"qvid minus full, accuracy: .* McNemar's p .*; the paper: -5.1", said)
    assert re.search(r"12 answers in \d+ s, [\d.]+ per second", said)


def test_the_same_command_asks_nothing_twice(files, tmp_path, capsys, monkeypatch):
    few = given(files, tmp_path, "--questions", "4")
    main(few)
    first = capsys.readouterr().out.split("the range")[1].split("answers in")[0]
    monkeypatch.setattr("qvid_utils.workbook.run.asker.Asker.ask", None)  # asking would fail
    main(few)
    assert capsys.readouterr().out.split("the range")[1].split("answers in")[0] == first


def test_a_run_as_good_as_the_papers_is_inside(files):
    """12 of 14 right is 85.7 % for full; for qvid 11 of 14."""
    rows = published("pope", files / "pope", limit=14)
    model, processor = load(str(files / "model"))
    records = evaluate(model, processor, [rows], [Cell(), Cell("qvid", 16)])
    flip = {"yes": "No.", "no": "Yes, it is."}
    wrong = {"full": 2, "qvid": 3}
    for method, count in wrong.items():
        mine = records.index[records["method"] == method]
        said = records.loc[mine, "answer"].tolist()
        said[:count] = [flip[word] for word in said[:count]]
        records.loc[mine, "prediction"] = said
    frame = report(records, rows).set_index("method")
    assert frame["accuracy"].tolist() == pytest.approx([100 * 12 / 14, 100 * 11 / 14])
    assert frame["inside"].all() and (frame["other"] == 0).all()
    records.loc[records["method"] == "qvid", "prediction"] = "no"
    worse = report(records, rows).set_index("method")
    assert worse["inside"].to_dict() == {"full": True, "qvid": False}
    assert worse.loc["qvid", "yes"] == 0
    # POPE's script reads every other word as yes: right half the time, and still no result
    records["prediction"] = "maybe"
    other = report(records, rows).set_index("method")
    assert (other["other"] == 100).all() and other["F1"].min() > 60 and not other["inside"].any()


@pytest.mark.parametrize(
    "more, says",
    [(["--data", "nowhere"], "pope: there is no folder nowhere"),
     (["--model", "no/such"], "no/such"),
     (["--questions", "0"], "--questions: 0: give 2 or more"),
     (["--dtype", "half a float"], "dtype")],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_sentence(more, says, files, tmp_path, capsys):
    assert main(given(files, tmp_path, *more)) == 2
    told = capsys.readouterr().err
    assert "check" in told.split(": ")[0] and says in told and "Traceback" not in told


def test_the_budget_is_the_same_share_of_another_model(files):
    model, _ = load(str(files / "model"))
    assert pope._keep(model) == 16  # 64 of 576 as of 144
