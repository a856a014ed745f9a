"""lmms-eval's tasks on local files: what the YAML says once the harness has read it."""

import importlib.util
from pathlib import Path

import published_samples as samples
import pytest
import yaml

from qvid_utils.families import Unavailable
from qvid_utils.workbook.benchmarks.published import BENCHMARKS
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.harness import local_tasks as lmms_local
from qvid_utils.workbook.harness.local_tasks import NOT_HERE, STOCK, task

POST = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def stock(tmp_path):
    """Task files of the harness with what a task says of its data."""
    for path in STOCK.values():
        file = tmp_path / "stock" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"task": file.stem, "dataset_path": "hub/x", "dataset_name": "config",
                "dataset_kwargs": {"token": True}, "test_split": "of the hub",
                "lmms_eval_specific_kwargs": {"default": {"ocr": False}}}  # fmt: skip
        file.write_text(yaml.safe_dump(told))
    return tmp_path / "stock"


def read(text):
    """As the harness reads it: the included task first, then what this one says."""
    own = yaml.safe_load(text)
    return yaml.safe_load(Path(own.pop("include")).read_text()) | own


def test_every_benchmark_is_pointed_or_told_why_not():
    assert set(STOCK) | set(NOT_HERE) == set(BENCHMARKS) and not set(STOCK) & set(NOT_HERE)


@pytest.mark.parametrize("name", STOCK)
def test_a_task_reads_the_local_rows_and_stays_itself(name, stock, tmp_path):
    folder = samples.write(name, tmp_path / "data" / name)
    told = read(task(name, folder, stock))
    assert told["task"] == f"{name}_local" and told["test_split"] == "of the hub"
    assert told["dataset_path"] == "parquet" and told["dataset_name"] is None
    files = told["dataset_kwargs"]["data_files"]
    assert set(files) == set(BENCHMARKS[name].splits)
    assert all(Path(file).is_file() for each in files.values() for file in each)
    options = told["lmms_eval_specific_kwargs"]["default"]
    assert options["ocr"] is (name == "textvqa_ocr")
    if name == "textvqa_ocr":
        assert options["post_prompt"] == POST


def test_json_rows_are_read_as_json(stock, tmp_path):
    folder = samples.write("ai2d", tmp_path / "a folder: with, signs", form="jsonl")
    told = read(task("ai2d", folder, stock))
    assert told["dataset_path"] == "json"
    assert told["dataset_kwargs"]["data_files"]["test"][0].endswith("signs/test.jsonl")


def test_what_cannot_be_is_told(stock, tmp_path):
    with pytest.raises(ValueError, match="gqa: its task reads the pictures from the hub by itself"):
        task("gqa", tmp_path, stock)
    with pytest.raises(ValueError, match="no file of the split 'test'"):
        task("pope", tmp_path, stock)
    samples.write("pope", tmp_path / "pope")
    with pytest.raises(ValueError, match="this lmms-eval has no task file .*pope.yaml"):
        task("pope", tmp_path / "pope", tmp_path)


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(lmms_local.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'qvid-workbook\[lmms\]'"):
        task("pope", tmp_path)


def test_the_command_writes_what_it_can(stock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lmms_local, "_stock", lambda: stock)
    samples.write("pope", tmp_path / "hub" / "pope")
    samples.write("textvqa", tmp_path / "hub" / "textvqa")
    given = ["pope", "gqa", "textvqa_ocr", "--data", str(tmp_path / "hub"), "--to"]
    assert main(["benchmarks", "tasks", *given, str(tmp_path / "tasks")]) == 1
    written = sorted(path.name for path in (tmp_path / "tasks").iterdir())
    assert written == ["pope_local.yaml", "textvqa_ocr_local.yaml"]
    assert "gqa: not written. gqa: its task" in capsys.readouterr().err


@pytest.mark.parametrize("name", STOCK)
def test_the_harness_has_these_tasks(name, tmp_path):
    found = importlib.util.find_spec("lmms_eval")
    if found is None:
        pytest.skip("the extra lmms is not installed")
    folder = samples.write(name, tmp_path / name)
    own = yaml.safe_load(task(name, folder))["include"]
    assert BENCHMARKS[name].hub.split("/")[1] in Path(own).read_text() + "".join(
        path.read_text() for path in Path(own).parent.glob("_default*")
    )
