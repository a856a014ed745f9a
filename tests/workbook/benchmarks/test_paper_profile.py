"""The profile "paper" finds its files, or says what is missing; records say whose they are."""

import shutil
from types import SimpleNamespace

import published_samples as samples
import pytest
import torch
from test_benchmarks import answered, asked

from qvid_utils import paths
from qvid_utils.families import Unavailable
from qvid_utils.workbook.benchmarks import paper_profile, suite
from qvid_utils.workbook.benchmarks.paper_profile import (
    CHECKPOINT,
    SUITES,
    described,
    here,
    name_of,
)
from qvid_utils.workbook.cli import Parser, ask
from qvid_utils.workbook.cli.run import add_options
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.tables import report
from qvid_utils.workbook.tables import schema as results

TINY = paths.DATA / "tiny" / "llava"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder as `fetch --to` fills it; the embedded model stands in for the checkpoint."""
    monkeypatch.setenv(paper_profile.FILES, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    for name in SUITES:
        samples.write(name, tmp_path / name)
    shutil.copytree(TINY, tmp_path / CHECKPOINT.replace("/", "--"))
    suite.cache_clear()  # it would know another test's files
    yield tmp_path
    suite.cache_clear()


def test_the_six_benchmarks_are_those_of_table_1():
    printed = [b for b in results.paper(1)["benchmark"].unique() if b != "Avg"]
    stands = [paper_profile.benchmark(name).stands_for for name in SUITES]
    assert stands == printed


def test_what_is_there_is_found(files):
    assert all(here(name) for name in (CHECKPOINT, *SUITES))
    assert not here("ai2d") and not here("Qwen/Qwen2-VL-7B-Instruct")
    (files / "pope" / "data" / "test-00000-of-00001.parquet").unlink()
    (files / CHECKPOINT.replace("/", "--") / "model.safetensors").unlink()
    assert not here("pope") and not here(CHECKPOINT)


def test_the_profile_runs_and_its_records_say_which_model(files):
    model, processor, suites = runner.setting("paper")
    assert [one.name for one in suites] == list(SUITES)
    few = [one for one in suites if one.name in ("pope", "gqa")]
    cells = [Cell(), Cell("qvid", 16)]
    records = runner.evaluate(model, processor, few, cells)
    assert set(records["model"]) == {CHECKPOINT} and set(records["device"]) == {"cpu"}
    rows = report.summary(records, few)
    assert set(rows["model"]) == {CHECKPOINT} and set(rows["dtype"]) == {"float32"}
    records["prediction"] = records["answer"]  # the embedded model scores 0 on some of them
    # the paper's model on the paper's benchmarks: numbers stand beside numbers, and are subtracted
    beside = report.beside(records, few, 1)
    shown = beside[(beside["benchmark"] == "GQA") & (beside["method"] == "full")]
    assert {"paper", "measured", "difference"} <= set(beside)
    assert shown["difference"].item() == shown["measured"].item() - 61.9
    assert "unread" not in beside or not beside["unread"].gt(0).any()
    # garbage is a yes to POPE's script, nothing to lmms-eval, and told as unread
    records.loc[records["suite"] == "pope", "prediction"] = "maybe"
    pope = report.beside(records, few, 1).query("benchmark == 'POPE' and measured.notna()")
    assert len(pope) == 2 and pope["measured"].gt(60).all()
    assert pope["unread"].tolist() == [100, 100] and pope["lmms_eval"].tolist() == [0, 0]


def test_the_runners_command_takes_the_profiles_model_and_benchmarks(files):
    parser = Parser()
    add_options(parser)
    given = ["--profile", "paper", "--methods", "qvid", "--keeps", "64"]
    plan, *_ = ask._plan(parser.parse_args(given))
    assert plan.suites == SUITES and plan.model == str(files / CHECKPOINT.replace("/", "--"))
    assert paper_profile.named(plan.model) == CHECKPOINT


def test_what_is_missing_is_named_in_one_sentence(files):
    shutil.rmtree(files / "gqa")
    shutil.rmtree(files / CHECKPOINT.replace("/", "--"))
    with pytest.raises(Unavailable, match=f"profile='paper' needs {CHECKPOINT}, gqa, which are"):
        runner.setting("paper")


def test_a_spoilt_file_is_no_missing_one(files):
    (files / "gqa" / SUITES[0]).mkdir()
    weights = files / CHECKPOINT.replace("/", "--") / "config.json"
    weights.write_text("{")
    with pytest.raises(Exception) as told:
        runner.setting("paper")
    assert "are not on this machine" not in str(told.value)


def model_of(name, dtype=torch.float32):
    return SimpleNamespace(
        config=SimpleNamespace(_name_or_path=str(name)), dtype=dtype, device=torch.device("cpu")
    )


def test_names_of_models(tmp_path):
    assert name_of(model_of(TINY)) == "tiny/llava"
    assert name_of(model_of("llava-hf/llava-1.5-7b-hf")) == "llava-hf/llava-1.5-7b-hf"
    folder = tmp_path / "Qwen--Qwen2-VL-7B-Instruct"
    folder.mkdir()
    assert name_of(model_of(folder)) == "Qwen/Qwen2-VL-7B-Instruct"
    assert name_of(SimpleNamespace(config=SimpleNamespace())) == "SimpleNamespace"


def test_records_of_the_embedded_model_stay_as_they_are():
    frame = suite("tiny_pope").samples.head(2)
    assert described(frame, model_of(TINY)) is frame
    told = described(frame, model_of(TINY, torch.float16))
    assert told["dtype"].unique().tolist() == ["float16"]
    assert told["model"].unique().tolist() == ["tiny/llava"]


def test_a_row_of_two_runs_is_refused():
    one = asked(["yes", "no"])
    both = answered(one, ["yes", "no"]).assign(model=["a", "b"])
    with pytest.raises(ValueError, match=r"several runs, \{'model': \['a', 'b'\]\}: summarise"):
        report.summary(both, [one])
