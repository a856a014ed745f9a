"""`check --device`: its parts at the smallest size on the CPU, going on, failing, refusing."""

import json

import pandas as pd
import pytest
import torch

from qvid_utils.workbook.cli import check_parts, main

SMALL = ["--device", "cpu", "--divide", "32", "--layers", "2", "--limit", "1", "--rounds", "1"]


def check(folder, *more):
    return main(["check", *SMALL, "--out", str(folder), *more])


@pytest.fixture
def one_twin(monkeypatch):
    """The oracles that another process would run; the tests of theirs are test_on_device.py."""
    found = pd.DataFrame([{"name": "keep-all", "fine": True, "skipped": False, "seconds": 0.1}])
    monkeypatch.setattr(check_parts, "_pytest", lambda *_: found)


def test_four_parts_at_the_smallest_size_and_nothing_twice(tmp_path, one_twin, capsys, monkeypatch):
    parts = "oracles,score,models,grid"
    assert check(tmp_path, "--parts", parts) == 0
    for part in parts.split(","):
        assert len(pd.read_csv(tmp_path / f"{part}.csv"))
    timed = pd.read_csv(tmp_path / "models.csv")
    assert timed["keep"].tolist() == [576, 192]
    assert timed["bound"].is_monotonic_increasing and (timed["of_bound"] > 0).all()
    answers = pd.read_csv(tmp_path / "oracles.csv")
    assert answers["fine"].all() and answers["same_pct"].dropna().eq(100).all()
    page = (tmp_path / "check.md").read_text()
    assert all(f"## {part}" in page for part in parts.split(",")) and "FAILED" not in page
    before = torch.get_num_threads()
    monkeypatch.setattr(check_parts, "compare", lambda *_, **__: pytest.fail("measured again"))
    assert check(tmp_path, "--parts", "score") == 0
    assert "done before" in capsys.readouterr().out and torch.get_num_threads() == before


def test_a_step_that_fails_is_told_stops_no_other_and_is_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(check_parts, "_answers", lambda *_: 1 / 0)
        broken.setattr(check_parts, "_pytest", lambda *_: pd.DataFrame([{"fine": True}]))
        assert check(tmp_path, "--parts", "oracles") == 1
    page = (tmp_path / "check.md").read_text()
    assert "FAILED** oracles--tiny-llava: ZeroDivisionError" in page and "1 steps" in page
    right = pd.DataFrame([{"name": "again", "fine": True}])
    monkeypatch.setattr(check_parts, "_answers", lambda *_: right)
    assert check(tmp_path, "--parts", "oracles") == 0
    assert "FAILED" not in (tmp_path / "check.md").read_text()


def test_what_is_wrong_on_the_device_is_the_exit_status(tmp_path, monkeypatch):
    wrong = pd.DataFrame([{"name": "keep-all", "fine": False}])
    monkeypatch.setattr(check_parts, "_pytest", lambda *_: wrong)
    monkeypatch.setattr(check_parts, "_answers", lambda *_: wrong.assign(fine=True))
    assert check(tmp_path, "--parts", "oracles") == 1


@pytest.mark.parametrize("known", [{"divide": 8}, {"torch": "1.0"}])
def test_results_of_another_setting_are_not_mixed(tmp_path, known, capsys):
    (tmp_path / "settings.json").write_text(json.dumps(known))
    assert check(tmp_path) == 2
    assert "give another --out" in capsys.readouterr().err


def test_an_unknown_part_and_a_missing_device_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        check(tmp_path, "--parts", "scores")
    assert "scores: choose of oracles, score, models" in capsys.readouterr().err
    assert main(["check", "--device", "cuda:77", "--out", str(tmp_path)]) == 2
    assert "cuda:77" in capsys.readouterr().err and not (tmp_path / "settings.json").exists()


@pytest.mark.full
def test_every_part_with_its_own_processes(tmp_path):
    """The twins' oracles and a notebook, as on a GPU: a minute."""
    assert check(tmp_path) == 0
    assert pd.read_csv(tmp_path / "notebooks.csv")["fine"].all()
