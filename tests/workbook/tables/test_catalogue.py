"""The methods table: complete, and right about which family carries which method."""

import functools

import pytest
import torch
from twins import STAR, ask, built

from qvid_utils import load, pruned
from qvid_utils.algebra.cuts import Staged, at
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.methods import GROUPS, METHODS, method
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.tables import methods as catalogue

TABLE = catalogue.catalogue()
FLOORS = {"random", "stride", "pooling", "downsampling"}


def row(name):
    (found,) = TABLE[TABLE["method"] == name].to_dict("records")
    return found


def test_every_method_and_every_absent_work_has_a_row():
    assert TABLE["method"].tolist() == [*METHODS, "", ""]
    assert TABLE["work"].tolist()[-2:] == ["IVTP", "LLaVA-Mini"]
    rest = catalogue.departures()
    assert rest["method"].tolist() == [*METHODS, "IVTP", "LLaVA-Mini"]
    assert rest["departures"].str.len().min() > 0 and "not implemented" in rest.iloc[-1, -1]


def test_rows_by_hand():
    qvid = row("qvid")
    assert qvid["score"].startswith("Participation in the top `rank` query–vision modes of each")
    assert (qvid["where"], qvid["needs"], qvid["merges"]) == ("layer 3 of 32", "question", "no")
    assert (qvid["count"], qvid["families"]) == ("exact", "all")
    sparse = row("sparsevlm")
    assert (sparse["where"], sparse["needs"]) == ("layers 3, 7, 16 of 32", "text")
    assert (sparse["count"], sparse["merges"]) == ("mean over layers", "yes")
    assert "Qwen" not in sparse["families"] and "LLaVA-OneVision" in sparse["families"]
    assert row("trim")["needs"] == "question, text tower" and row("trim")["families"] == "LLaVA-1.5"
    assert row("visionzip")["needs"] == "class token"
    assert row("visionzip")["where"] == "before the language model"
    assert row("holov")["merges"] == "no" and row("tome")["where"] == "inside the vision tower"
    assert row("dart")["count"] == "exact, or the code's own"
    assert row("random")["venue"] == "floor" and row("qvid_rope")["venue"] == "ours"


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_families_are_those_whose_models_run_it(name, family):
    """`refusal` says what `pruned` does. Twins are too shallow for stages: one cut stands in."""
    chosen = METHODS[name]
    if isinstance(chosen.schedule, Staged):
        chosen = method(name, schedule=at(8))
    says = catalogue.refusal(METHODS[name], FAMILIES[family])
    if name in ("trim", "cdpruner") and family == "llava":
        assert says == ""
        model, processor, suites = with_clip()
        inputs = prompts(processor, suites[0].head(1).samples.head(1), model.device)
        with torch.inference_mode(), pruned(model, chosen, 16) as trace:
            model(**inputs)
        assert trace.cuts
        return
    inputs = ask(STAR, model_type=family)
    if says:
        # of one picture the engine learns only in the forward pass that it is no plain grid
        kind = ValueError if says.startswith("line breaks") else Unavailable
        with pytest.raises(kind), pruned(built(family), chosen, 4):
            built(family)(**inputs)
    else:
        with torch.inference_mode(), pruned(built(family), chosen, 4) as trace:
            built(family)(**inputs)
        assert trace.cuts


@functools.cache
def with_clip():
    return *load("tiny/llava"), runner.setting("tiny")[2]


def test_the_page_holds_both_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "figures_dir", lambda profile: tmp_path)
    monkeypatch.setattr("qvid_utils.workbook.tables.schema.figures_dir", lambda profile: tmp_path)
    catalogue.store("tiny")
    page = (tmp_path / "methods.md").read_text(encoding="utf-8")
    page = "\n".join(" ".join(line.split()) for line in page.splitlines())
    assert page.count("\n|:---") == 2 and "| IVTP | ECCV 2024 |" in page
    assert all(f"| {name} |" in page for name in METHODS)
    assert METHODS["sparsevlm"].departures.split(".")[0] in page
    assert max(map(len, page.splitlines()[2].split("|"))) < 40
    fastv = next(line for line in page.splitlines() if line.startswith("| fastv |"))
    assert fastv.endswith("| https://arxiv.org/abs/2403.06764 | chen2024fastv |")
    before = (tmp_path / "methods.md").read_text(encoding="utf-8")
    catalogue.store("tiny")
    assert (tmp_path / "methods.md").read_text(encoding="utf-8") == before


def test_what_is_not_published_under_its_name_is_ours():
    ours = {n for n in METHODS if row(n)["venue"] == "ours" and not n.endswith("_received")}
    assert ours == {
        "qvid_rope", "qvid_adaptive", "qvid_head_weighted", "sparsevlm_in_place", "variation",
        "last_attention", "svd_prune_per_frame",
    }  # fmt: skip
    assert all(row(name)["venue"] == "ours" for name in METHODS if name.endswith("_received"))


def test_groups_of_the_comparison():
    found = {name: METHODS[name].group for name in METHODS}
    assert set(found.values()) == set(GROUPS)
    assert {n for n, place in found.items() if place == "floors"} == FLOORS
    assert {n for n, place in found.items() if place == "ours"} == {
        "qvid_adaptive", "qvid_head_weighted",
    }  # fmt: skip
    inside = {n for n, place in found.items() if place == "in the language model"}
    assert {"qvid", "fastv", "sparsevlm", "pyramiddrop", "v2drop"} <= inside
    assert not {"tome", "divprune", "svd_prune", "trim"} & inside
