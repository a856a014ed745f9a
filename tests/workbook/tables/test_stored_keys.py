"""What a stored answer is an answer of: question, picture, model, method; and `run --rekey`."""

import dataclasses
import shutil

import pandas as pd
import pytest
from twins import embedded

from qvid_utils.methods import METHODS
from qvid_utils.methods.scoring import Rule
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.definition import definition
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.studies import stored_runs, video_run
from qvid_utils.workbook.tables import stored as module
from qvid_utils.workbook.tables.stored import MEASURED, store, stored


@pytest.fixture
def run(tmp_path):
    one = suite("tiny_gqa")
    cells = [Cell(), Cell("qvid", 16, None, {"query": "content", "rank": 8}), Cell("v2drop", 48),
             Cell("qvid", 16, before=("divprune", 72, {"positions": "original"})),
             Cell("qvid", 24, shared=True)]  # fmt: skip
    records = evaluate(*embedded("tiny/llava"), [one], cells, limit=4)
    return store(records, [one], tmp_path, "tiny_llava")[1]


def changed(run, **columns):
    pd.read_parquet(run).assign(**columns).to_parquet(run)


def refused(run, says):
    with pytest.raises(
        ValueError, match=f"tiny_llava_answers.parquet {says}.*run --rekey asks one"
    ):
        stored("tiny", run.parent)


def test_every_answer_carries_question_picture_weights_and_method(run):
    told = pd.read_parquet(run).astype({"definition": "object", "method": "object"})
    assert told["asked"].nunique() == 4 and told["weights"].nunique() == 1
    cells = told.drop_duplicates(["method", "variant", "keep"]).set_index("keep")["definition"]
    assert cells[24] == definition(METHODS["qvid"]) and cells[48] == definition(METHODS["v2drop"])
    assert sorted(map(len, cells[16])) == [12, 25] and len(stored("tiny", run.parent)) == 20


def test_other_pictures_are_refused(run, monkeypatch):
    rows = suite("tiny_gqa").samples.copy()
    asked = pd.read_parquet(run)["sample"].iloc[0]
    other = rows[rows["picture"] != rows.set_index("id").loc[asked, "picture"]].iloc[0]
    rows["image"] = [other["image"] if i == asked else image
                     for i, image in zip(rows["id"], rows["image"], strict=True)]  # fmt: skip
    monkeypatch.setattr(
        module, "suite_of", lambda name: dataclasses.replace(suite(name), samples=rows)
    )
    refused(run, f"answers another question than '{asked}' of today, or one about another picture")


def test_other_weights_are_refused(run, tmp_path, monkeypatch):
    shutil.copytree(DATA / "tiny" / "llava", tmp_path / "data" / "tiny" / "llava")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    assert len(stored("tiny", run.parent)) == 20, "where it lies is no part of it"
    (tmp_path / "data" / "tiny" / "llava" / "chat_template.jinja").write_text("{{ 1 }}")
    refused(run, "is of other weights than those of tiny/llava today")


def test_another_default_of_a_method_is_refused(run, monkeypatch):
    monkeypatch.setitem(METHODS, "v2drop", dataclasses.replace(METHODS["v2drop"], query="content"))
    refused(run, "is of another 'v2drop' than that of today")


def test_a_method_that_is_gone_and_one_before_are_refused(run, monkeypatch):
    other = dataclasses.replace(METHODS["divprune"], positions="original")
    monkeypatch.setitem(METHODS, "divprune", other)
    refused(run, "is of another 'qvid' than that of today")
    changed(run, method="gone")
    refused(run, "is of another 'gone' than that of today")


def test_a_run_without_keys_is_refused_and_rekeyed(run, capsys):
    before = stored("tiny", run.parent)
    told = pd.read_parquet(run)
    told.drop(columns=["weights", "definition"]).assign(asked=0).to_parquet(run)
    refused(run, "carries no weights")
    assert main(["run", "--rekey", str(run)]) == 0
    assert "4 of 4 answers asked again are the same, of 20" in capsys.readouterr().out
    pd.testing.assert_frame_equal(stored("tiny", run.parent), before)


def test_a_run_whose_answers_are_others_stays_refused(run, capsys):
    told = pd.read_parquet(run).astype({"prediction": "object"})
    told.loc[told["method"] == "v2drop", "prediction"] = "nothing"
    told.drop(columns="weights").to_parquet(run)
    held = run.read_bytes()
    assert main(["run", "--rekey", "--out", str(run.parent)]) == 1
    says = capsys.readouterr().err
    assert "1 of 4 answers are others today, the first that of v2drop" in says
    assert "'nothing' is stored; make the run anew" in says and run.read_bytes() == held


def test_a_definition_is_content_and_no_place():
    found = {name: definition(one) for name, one in METHODS.items()}
    assert len(set(found.values())) == len(found), "no two methods are one"
    qvid, rule = METHODS["qvid"], METHODS["qvid"].rule
    same = dataclasses.replace(qvid, label="other words", source="somewhere", venue="ours")
    assert definition(same) == found["qvid"]

    def moved(*evidence, **params):
        return rule.function(*evidence, **params)

    other = Rule(rule.name, moved, rule.sees, rule.params, rule.source)
    assert definition(dataclasses.replace(qvid, rule=other)) != found["qvid"]


@pytest.mark.parametrize("path", stored_runs.runs_in(), ids=lambda path: path.stem)
def test_the_stored_runs_are_of_today(path):
    """They carry their keys; `python -m qvid_utils run --rekey` gives them those of today."""
    told = pd.read_parquet(path)
    assert {"asked", "weights", "definition"} <= set(told)
    name = path.name.removesuffix("_answers.parquet")
    if "share" in told:
        table = {f"tiny{end}": table for table, end in video_run.RUN.items()}[name]
        video_run.stored("tiny", table=table)
    else:
        stored("tiny", path.parent, name.removeprefix("tiny_"))
    assert path.is_relative_to(MEASURED)
