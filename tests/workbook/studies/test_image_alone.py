"""The stored run of notebook 07, its rank over τ, and where attention falls."""

import numpy as np
import pandas as pd
import pytest
import torch
from twins import embedded

from qvid_utils.methods import method
from qvid_utils.models.load import load
from qvid_utils.prune import observed
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.run.cell import Cell, grid
from qvid_utils.workbook.studies import svd_prune as image_alone
from qvid_utils.workbook.tables.stored import stored


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


# ---------------------------------------------------------------- cells and records


def test_cells_have_a_name_each_and_the_rows_of_table_1():
    every = [*image_alone.cells(), *image_alone.tau_cells()]
    names = [tuple(cell.labels.values()) for cell in every]
    assert len(set(names)) == len(names) == 133
    methods = {cell.labels["method"] for cell in every}
    assert {"full", "svd_prune", *image_alone.AS_PUBLISHED} <= methods
    kinds = {(c.labels["method"], c.labels["variant"]) for c in image_alone.cells()}
    assert ("qvid", "positions=original") in kinds and ("visionzip", "") in kinds
    # 192, 128, 64, 32 and 16 of 576 as of 144
    assert [4 * keep for keep in image_alone.KEEPS] == [192, 128, 64, 32, 16]


def table():
    rows = [("full", None, ""), ("svd_prune", 16, "positions=contiguous"),
            ("svd_prune", 16, "positions=original"), ("visionzip", 16, ""),
            ("divprune", 16, "positions=contiguous"),
            ("svd_prune", 16, "tau=0.5, center=False, positions=original"),
            ("svd_prune", 16, "tau=0.5, center=True, positions=original"),
            ("svd_prune", 16, "tau=0.5, center, positions=original")]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "keep", "variant"])


def test_records_are_told_apart_by_positions():
    found = image_alone.at_positions(table(), "contiguous")
    assert found["method"].tolist() == ["full", "svd_prune", "visionzip", "divprune"]
    assert set(found["variant"]) == {""}
    found = image_alone.at_positions(table(), "original")
    assert found["method"].tolist() == ["full", "svd_prune"]
    found = image_alone.as_published(table())
    assert found["method"].tolist() == ["full", "svd_prune", "visionzip"]
    with pytest.raises(ValueError, match="positions='kept': it must be 'contiguous' or 'original'"):
        image_alone.at_positions(table(), "kept")


def test_records_of_the_sweep_say_tau_and_centring():
    labels = [cell.labels for cell in image_alone.tau_cells(keeps=[16], taus=[0.5, 0.9])]
    frame = image_alone.tau_of(pd.concat([table(), pd.DataFrame(labels)]).reset_index(drop=True))
    mine = frame.iloc[-4:][["tau", "center"]].to_numpy().tolist()
    assert mine == [[0.5, False], [0.9, False], [0.5, True], [0.9, True]]
    assert frame["method"].eq("svd_prune").all() and len(frame) == 7


def test_the_stored_run_is_of_todays_questions_and_cells():
    records = stored("tiny", image_alone.FOLDER)
    asked = {tuple(c.labels[k] for k in ("method", "variant"))
             for c in (*image_alone.cells(), *image_alone.tau_cells())}  # fmt: skip
    assert set(zip(records["method"], records["variant"], strict=True)) == asked


# ---------------------------------------------------------------- τ and its rank


def test_the_rank_is_that_of_the_patches_that_the_method_scores(loaded):
    model, processor = loaded
    one = suite("tiny_gqa").head(2)
    found = image_alone.ranks(model, processor, [one], taus=(0.5, 0.9))
    with observed(model, "patches", layer=0) as seen, torch.inference_mode():
        inputs = prompts(processor, one.samples.head(1), model.device)
        model(**inputs, logits_to_keep=1)
    F = seen[0]["patches"].double().numpy()
    for center in (False, True):
        energy = np.linalg.svd(F - F.mean(0) * center, compute_uv=False) ** 2
        share = np.cumsum(energy) / energy.sum()
        wanted = [int((share < tau).sum()) + 1 for tau in (0.5, 0.9)]
        mine = found[(found["center"] == center) & (found["picture"] == found["picture"].iloc[0])]
        assert mine["rank"].tolist() == wanted and set(mine["of"]) == {144}


# ---------------------------------------------------------------- attention by place


def test_attention_is_that_of_the_map(loaded):
    model, processor = loaded
    one = suite("tiny_gqa").samples.head(1)
    found = image_alone.attention_by_place(model, processor, one)
    eager, _ = load("tiny/llava", attention="eager")
    inputs = prompts(processor, one, "cpu")
    with torch.inference_mode():
        maps = eager(**inputs, output_attentions=True).attentions
    a = torch.stack([layer[0].mean(0) for layer in maps]).mean(0).double().numpy()
    visual = (inputs["input_ids"][0] == model.config.image_token_id).numpy()
    size = len(visual)
    raw = np.array([sum(a[i, j] for i in range(size)) / size for j in range(size)])
    fair = np.array([a[j:, j].mean() for j in range(size)])
    assert found["raw"].to_numpy() == pytest.approx(raw / raw[visual].mean(), rel=1e-4)
    assert found["per_attender"].to_numpy() == pytest.approx(fair / fair[visual].mean(), rel=1e-4)
    assert found["place"].iloc[0] == -int(visual.argmax()) and found["picture"].sum() == 144


def test_the_kernel_is_put_back_also_after_an_error(loaded):
    model, processor = loaded
    kernel = model.config._attn_implementation
    image_alone.attention_by_place(model, processor, suite("tiny_gqa").samples.head(1))
    assert model.config._attn_implementation == kernel != "eager"
    broken = suite("tiny_gqa").samples.head(1).assign(image=[{}])
    with pytest.raises(ValueError, match="its picture cannot be read"):
        image_alone.attention_by_place(model, processor, broken)
    assert model.config._attn_implementation == kernel


def test_what_is_kept_by_place_adds_up_to_the_budget(loaded):
    few = suite("tiny_gqa").samples.head(3)
    found = image_alone.chosen_by_place(*loaded, few, ["svd_prune", "random"], 16)
    assert found.groupby("method")["kept"].sum().to_dict() == {
        "svd_prune": pytest.approx(16), "random": pytest.approx(16)}  # fmt: skip
    assert set(found["place"]) == set(range(144))


# ---------------------------------------------------------------- the command


def test_the_command_stores_what_the_notebook_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(image_alone, "RUNS", tmp_path)
    shares = [image_alone.same_share(k, embedded("tiny/llava")[0]) for k in image_alone.KEEPS]
    assert shares == list(image_alone.KEEPS)  # of 144; the same shares of another model
    few = [Cell(), *grid(["svd_prune"], [16], positions="original")]
    monkeypatch.setattr(image_alone, "cells", lambda keeps: few)
    monkeypatch.setattr(image_alone, "tau_cells", lambda keeps: [])
    options = ["--stored", "svd_prune", "--limit", "2", "--out", str(tmp_path / "out")]
    assert main(["run", *options]) == 0
    records = stored("tiny", tmp_path / "out")
    assert set(records["method"]) == {"full", "svd_prune"} and len(records) >= 24
    assert method("svd_prune").params["tau"] == 0.9
