"""Weights in a scratch folder, and methods timed one after the other into a file."""

import pytest
import torch

from qvid_utils.workbook.cli import main
from qvid_utils.workbook.cost import true_size
from qvid_utils.workbook.cost.true_size import (
    EQUAL_MEAN,
    advance_notice,
    keeps_of_means,
    time_methods,
    weights_on_disk,
)
from qvid_utils.workbook.cost.workloads import config_of, prompt_for


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """LLaVA's proportions at a 32nd, three layers, in files of about 1 MB."""
    scratch, config = tmp_path_factory.mktemp("scratch"), config_of("llava", 3, 1, divide=32)
    patch = pytest.MonkeyPatch()
    patch.setattr(true_size, "SHARD", 2**20)
    with weights_on_disk(config, torch.bfloat16, scratch=scratch) as model:
        (folder,) = scratch.iterdir()
        assert len(list(folder.glob("*.safetensors"))) > 2
        yield model, scratch
    patch.undo()
    assert not list(scratch.iterdir())


def test_every_weight_is_read_as_it_was_written(small):
    model, _ = small
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.bfloat16 and weight.isfinite().all(), name
        if name.endswith("weight") and weight.dim() > 1:
            assert 0.01 < weight.float().std() < 0.03, name
    assert model.model.language_model.norm.weight.eq(1).all()


def test_the_folder_goes_after_an_error_too(tmp_path):
    config = config_of("llava", 1, 1, divide=32)
    with (
        pytest.raises(ZeroDivisionError),
        weights_on_disk(config, torch.float32, scratch=tmp_path),
    ):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_means_over_the_layers_by_hand():
    # 3 of 32 layers have 576: (64·32 - 576·3) / 29 = 11.03; a mean of 32 is below 54
    assert keeps_of_means([192, 64, 32], 576, 32, 3) == [152, 11]


def test_methods_are_timed_once_each_and_the_file_is_whole_after_each(small, tmp_path):
    model, _ = small
    prompt, out, told = prompt_for(model), tmp_path / "times.csv", []
    more = {"name": "small", "rounds": 1, "tell": told.append}
    found = time_methods(model, prompt, ["qvid", EQUAL_MEAN], [300], out, **more)
    rows = found.fillna({"variant": ""}).groupby(["method", "variant", "keep"])["metric"].agg(set)
    assert set(rows.index) == {("full", "", 576), ("qvid", "", 300), ("qvid", "equal mean", 162)}
    assert all({"first_token", "latency_16", "decode"} <= metrics for metrics in rows)
    means = found[found["variant"].eq("equal mean")]["mean_tokens"].unique()
    assert means.tolist() == [300.0]
    assert [line.partition(":")[0] for line in told] == ["qvid", EQUAL_MEAN]
    again = time_methods(model, prompt, ["qvid", "fastv"], [300], out, **more)
    assert told[2] == "qvid: done before" and set(again["method"]) == {"full", "qvid", "fastv"}
    assert again["metric"].eq("first_token").sum() == 4  # the unpruned model once
    with pytest.raises(ValueError, match="holds small, not large: give another --out"):
        time_methods(model, prompt, ["qvid"], [300], out, name="large")


def test_what_it_will_take_is_said_and_what_is_too_large_refused(monkeypatch):
    config = config_of("llava", 1, 1, divide=32)
    said = advance_notice(config, torch.bfloat16, 1e9, 3)
    assert "GB of weights" in said and "minutes" in said
    monkeypatch.setattr(true_size.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 1e6}))
    with pytest.raises(ValueError, match="0.0 GB of disk are free: use --divide"):
        advance_notice(config, torch.bfloat16, 1e9, 3)


def test_the_command_asks_for_what_it_needs(capsys):
    assert main(["measure", "true-size", "--model", "tiny/llava", "--device", "cpu"]) == 2
    assert "give --model llava-1.5-7b or qwen2-vl-7b" in capsys.readouterr().err
