"""What the runner adds to an answer, measured against a bare loop that answers alike."""

import overhead
import pytest

from qvid_utils.workbook.run.cell import Cell


@pytest.fixture(scope="module")
def work():
    """Two narrow layers, 576 visual tokens, answers of three words."""
    return overhead.workload(divide=32, layers=2, questions=2, tokens=3)


RUNS = {"full": [Cell()], "both": [Cell(), Cell("random", 64, 1)]}


def test_both_sides_answer_alike_and_at_full_length(work, tmp_path):
    for cells in RUNS.values():
        plain = overhead.bare(work, cells)
        assert plain == overhead.runner(work, cells, tmp_path / "store")
        assert len(plain) == 2 * len(cells) and all(plain)
    assert (tmp_path / "store" / "cells").is_dir(), "the runner keeps a store"


def test_the_runner_begins_anew_and_a_start_asks_nothing(work, tmp_path, monkeypatch):
    asked, real = [], type(work.model).generate
    monkeypatch.setattr(
        type(work.model), "generate", lambda *a, **o: asked.append(1) or real(*a, **o)
    )
    counts = []
    for side in (overhead.runner, overhead.runner, overhead.again):
        asked.clear()
        side(work, RUNS["full"], tmp_path / "store")
        counts.append(len(asked))
    assert counts == [2, 2, 0]


def test_what_is_added_is_the_ratio_within_each_round(work, monkeypatch):
    """By a clock of our own: bare rounds take 4, 2, 8 s, the runner's 5, 3, 8 after a start of 1, 1
    and 2 s: 25, 50 and 0 %."""
    spent = [0.0]
    turns = {"bare": iter([9, 4, 2, 8]), "runner": iter([9, 6, 4, 10]), "again": iter([9, 1, 1, 2])}

    def side(name):
        def ask(work, cells, *more):
            spent[0] += next(turns[name])
            return ["red", "red"]

        return ask

    for name in turns:
        monkeypatch.setattr(overhead, name, side(name))
    (row,) = overhead.compared(work, {"full": [Cell()]}, 3, lambda: spent[0]).to_dict("records")
    assert row["answers"] == 2 and (row["bare (s)"], row["runner (s)"]) == (2, 2.5)
    assert row["start (s)"] == 1
    assert (row["low"], row["added %"], row["high"]) == pytest.approx((12.5, 25, 37.5))


def test_other_answers_are_no_comparison(work, monkeypatch):
    monkeypatch.setattr(overhead, "runner", lambda work, cells, folder: ["blue", "red"])
    with pytest.raises(RuntimeError, match="full: the runner and the bare loop do not answer alik"):
        overhead.compared(work, {"full": [Cell()]}, 1, lambda: 0.0)


def test_the_runners_own_time_is_told_without_a_model(capsys):
    assert overhead.main(["--own", "5"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("5 questions: ") and "ms of the processor for an answer" in told


def test_the_command_prints_three_runs(capsys):
    options = "--divide 32 --layers 2 --questions 1 --tokens 2 --rounds 1 --cpu-time"
    assert overhead.main(options.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines if "qvid" in line or "full" in line]
    assert "added %" in lines[0] and len(lines) == 4
    with pytest.raises(SystemExit):
        overhead.main(["--divide", "3"])
    assert "divide=3" in capsys.readouterr().err
