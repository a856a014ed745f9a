"""The runner on a few questions of the embedded suites, against plain loops over single ones."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from twins import embedded

from qvid_utils import pruned
from qvid_utils.families import Unavailable
from qvid_utils.methods import METHODS, RULES, Method
from qvid_utils.workbook.benchmarks import Suite, suite, video_suite
from qvid_utils.workbook.benchmarks.prompts import picture, prompts
from qvid_utils.workbook.run import asker
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import Cell, grid
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.look import look
from qvid_utils.workbook.run.shared_layers import layers_once
from qvid_utils.workbook.studies import cell_lists
from qvid_utils.workbook.tables import report
from qvid_utils.workbook.tables.stored import store, stored

CELLS = [Cell("random", 16), Cell(), Cell("qvid", 16), Cell("fastv", 32), Cell("v2drop", 48),
         Cell("qvid", 16, 5, {"rank": 2, "query": "content"})]  # fmt: skip
NAMES = ("tiny_gqa", "tiny_mmb")


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


@pytest.fixture(scope="module")
def suites():
    return [suite(name).head(4) for name in NAMES]


@pytest.fixture(scope="module")
def records(loaded, suites):
    return evaluate(*loaded, suites, CELLS, batch_size=3)


def prompt(processor, row):
    content = [
        {"type": "image", "image": picture(row.image, row.id)},
        {"type": "text", "text": row.question},
    ]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip


# ---------------------------------------------------------------- before a run


def refuse(*_, **__):
    pytest.fail("the model was asked")


@pytest.mark.parametrize("cell", [Cell(), Cell("qvid", 8), Cell("qvid", share=33.3)], ids=str)
@pytest.mark.parametrize("media", ["image", "video"])
def test_videos_are_refused_by_a_model_of_pictures(cell, media, loaded, monkeypatch):
    """By what the suite says of itself, and by what its questions hold."""
    monkeypatch.setattr(asker, "prompts", refuse)
    one = dataclasses.replace(video_suite("tiny_mvbench"), media=media)
    with pytest.raises(ValueError, match="LLaVA-1.5 takes no videos; those that do: ") as told:
        evaluate(*loaded, [suite("tiny_gqa"), one], [cell])
    assert told.value.__notes__ == ["suite tiny_mvbench"]


def test_a_picture_without_a_visual_token_is_an_error(loaded, suites, monkeypatch):
    """A chat template that leaves the picture out; words alone are asked as they are."""
    model, processor = loaded

    def blind(processor, rows, device):
        rows = rows.itertuples() if hasattr(rows, "itertuples") else rows
        texts = [f"USER: {row.question} ASSISTANT:" for row in rows]
        return processor(text=texts, padding=True, return_tensors="pt").to(device)

    monkeypatch.setattr(asker, "prompts", blind)
    says = r"sample 'tiny_gqa/\d+': its picture has no visual token in the prompt; look whether the"
    with pytest.raises(ValueError, match=says):
        evaluate(model, processor, suites[:1], [Cell()])
    with pytest.raises(ValueError, match=says):
        look(model, processor, suites[0].samples, [Cell("qvid", 8)])
    words = suites[0].samples.assign(image=[[] for _ in range(4)])
    told = evaluate(model, processor, [dataclasses.replace(suites[0], samples=words)], [Cell()])
    assert told["mean_tokens"].tolist() == [0.0] * 4


def test_an_unknown_kernel_is_refused_before_a_run(loaded, suites, monkeypatch):
    monkeypatch.setattr(asker, "prompts", refuse)
    monkeypatch.setenv("QVID_KERNEL", "foo")
    with pytest.raises(ValueError, match="QVID_KERNEL=foo: give torch .the default. or triton"):
        evaluate(*loaded, suites, [Cell("qvid", 8)])


def test_a_suite_that_is_there_twice_is_refused(loaded, suites):
    with pytest.raises(ValueError, match="suite 'tiny_gqa' is there twice: each is asked once"):
        evaluate(*loaded, [suites[0], suites[0]], [Cell("qvid", 16)])


def test_answers_that_are_not_read_are_told(loaded, suites, monkeypatch):
    one = dataclasses.replace(suite("tiny_pope").head(40), metric="pope")
    answers, said = iter(["yes", "no"] * 19 + ["the", ""]), asker.Asker.ask

    def ask(self, task, ids):
        return [r | {"prediction": next(answers)} for r in said(self, task, ids)]

    monkeypatch.setattr(asker.Asker, "ask", ask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(*loaded, [one], [Cell()])
    answers = iter(["yes", "no"] * 18 + ["the", "", "", ""])
    with pytest.warns(UserWarning, match="tiny_pope, full: 10 % of the answers are not read, such"):
        evaluate(*loaded, [one], [Cell()])


# ---------------------------------------------------------------- answers


def test_records_equal_a_plain_loop_over_single_questions(loaded, suites, records):
    """No batch, no shared pictures, no shared layers: the same answers."""
    model, processor = loaded
    for number, cell in enumerate(CELLS):
        mine = records.iloc[number * 8 : number * 8 + 8].set_index("sample")
        for row in (row for one in suites for row in one.samples.itertuples()):
            inputs = prompt(processor, row)
            options = {"max_new_tokens": asker.NEW_TOKENS, "do_sample": False}
            if cell.method is None:
                ids, tokens = model.generate(**inputs, **options), 144
            else:
                with pruned(
                    model, cell.method, cell.keep, layer=cell.layer, **cell.params
                ) as trace:
                    ids = model.generate(**inputs, **options)
                (tokens,) = trace.mean_tokens
            new = ids[0, inputs["input_ids"].shape[1] :]
            said = processor.decode(new, skip_special_tokens=True).strip()
            assert mine.loc[row.id, "prediction"] == said
            assert mine.loc[row.id, "mean_tokens"] == tokens
            assert mine.loc[row.id, "score"] == float(said.lower() == row.answer.lower())


def test_records_name_their_cells(records):
    cells = records[["method", "variant", "keep", "layer", "rank"]].drop_duplicates()
    assert cells["method"].tolist() == ["random", "full", "qvid", "fastv", "v2drop", "qvid"]
    assert cells["variant"].tolist() == [""] * 5 + ["query=content"]
    assert cells["layer"].tolist() == [1, pd.NA, 1, 1, pd.NA, 5]
    assert cells["rank"].fillna(0).tolist() == [0, 0, 16, 0, 0, 2]
    assert records["mean_tokens"][16] == (144 + 11 * 16) / 12


def test_two_runs_are_equal_whatever_the_order_and_the_batches(loaded, suites, records):
    again = evaluate(*loaded, suites[::-1], CELLS[::-1], batch_size=50)
    key = ["method", "variant", "keep", "layer", "rank", "sample"]
    order = {"by": key, "ignore_index": True}
    pd.testing.assert_frame_equal(again.sort_values(**order), records.sort_values(**order))


def test_keeping_everything_is_the_full_model(loaded, suites):
    """Without the full cell, so that nothing of it can be remembered."""
    whole = evaluate(*loaded, suites, [Cell("qvid", 144)])
    full = evaluate(*loaded, suites, [Cell()])
    assert whole["prediction"].tolist() == full["prediction"].tolist()
    assert (whole["mean_tokens"] == 144).all()


def test_column_norm_and_sigma_weighted_answer_alike(loaded, suites):
    found = evaluate(*loaded, suites, grid(["column_norm", "sigma_weighted"], [48, 16]))
    said = found.pivot(index="sample", columns=["method", "keep"], values="prediction")
    assert said["column_norm"].equals(said["sigma_weighted"])


def test_limit_draws_the_same_whole_groups_for_every_cell(loaded):
    found = evaluate(*loaded, [suite("tiny_mme")], CELLS[:2], limit=3, seed=1)
    assert found["group"].value_counts().tolist() == [4, 4]  # two pairs, in two cells
    drawn = suite("tiny_mme").head(3, 1).samples["id"]
    assert set(found["sample"]) == set(drawn)


# ---------------------------------------------------------------- failures


def broken(one: Suite, place: int) -> Suite:
    samples = one.samples.copy()
    samples.at[place, "image"] = {"bytes": b"", "path": ""}
    return Suite(one.name, one.stands_for, one.metric, samples)


def test_a_broken_picture_stops_the_run_with_its_id(loaded, suites):
    with pytest.raises(ValueError, match=suites[0].samples["id"][2]):
        evaluate(*loaded, [broken(suites[0], 2)], CELLS[:1])


def test_a_failing_cell_names_its_samples(loaded, suites):
    def fails(scores, keep):
        raise ZeroDivisionError("no")

    cell = Cell(Method("breaks", RULES["stride"], select=fails), 16)
    with pytest.raises(ZeroDivisionError) as caught:
        evaluate(*loaded, suites[:1], [Cell(), cell])
    (note,) = caught.value.__notes__
    assert "'breaks'" in note and all(name in note for name in suites[0].samples["id"])
    assert not any("forward" in vars(layer) for layer in loaded[0].model.language_model.layers)


@pytest.mark.parametrize(
    "cell, says",
    [
        (lambda: Cell("qvidd", 16), "did you mean qvid"),
        (lambda: Cell("qvid"), "give both to prune"),
        (lambda: Cell(keep=16), "give both to prune"),
        (lambda: Cell(layer=3), "no layer"),
        (lambda: Cell("random", 16, None, {"rank": 4}), "no rank"),
    ],
)
def test_a_bad_cell_is_refused_when_it_is_made(cell, says):
    with pytest.raises(ValueError, match=says):
        cell()


def test_two_cells_of_one_name_are_refused(loaded, suites):
    with pytest.raises(ValueError, match="two cells are called.*'keep': 16"):
        evaluate(*loaded, suites, [Cell("qvid", 16), Cell("qvid", 16)])


def test_a_budget_below_the_floor_leaves_the_cell_out(loaded, suites):
    with pytest.warns(UserWarning, match="v2drop.*left out.*can reach"):
        found = evaluate(*loaded, suites[:1], [Cell("v2drop", 8), Cell("qvid", 8)], batch_size=2)
    assert found["method"].unique().tolist() == ["qvid"] and len(found) == 4


def test_cells_of_a_batch_are_asked_together(loaded, suites, monkeypatch):
    """Twelve cells: one pass that scores, one batch for each length; staged ones run alone."""
    model, processor = loaded
    sizes, generate = [], type(model).generate

    def counting(self, *args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", counting)
    cells = [*grid(["qvid", "column_norm", "fastv", "random"], [48, 32, 16]), Cell("v2drop", 48)]
    found = evaluate(model, processor, suites[:1], cells)
    assert sorted(sizes) == [4, 4, 16, 16, 16] and len(found) == 13 * 4
    monkeypatch.undo()
    alone = [evaluate(model, processor, suites[:1], [cell]) for cell in cells]
    pd.testing.assert_frame_equal(found, pd.concat(alone, ignore_index=True))


# ---------------------------------------------------------------- shared layers


def test_remembered_layers_change_no_bit(loaded, suites):
    """Logits of cells at several layers, each with and without what the full prompt left."""
    model, processor = loaded
    inputs = prompts(processor, suites[0].samples, model.device)
    cells = [("qvid", 16, 4), ("random", 48, 1), ("qvid", 144, 2), ("stride", 16, 0)]
    with torch.inference_mode():
        alone = []
        for name, keep, layer in cells:
            with pruned(model, name, keep, layer=layer):
                alone.append(model(**inputs).logits)
        with layers_once(model):
            model(**inputs)
            for (name, keep, layer), want in zip(cells, alone, strict=True):
                with pruned(model, name, keep, layer=layer):
                    assert torch.equal(model(**inputs).logits, want)


def test_remembered_layers_are_not_computed_again(loaded, suites):
    model, processor = loaded
    inputs = prompts(processor, suites[0].samples, model.device)
    layers, ran = model.model.language_model.layers, []
    hooks = [layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
             for i, layer in enumerate(layers)]  # fmt: skip
    with torch.inference_mode(), layers_once(model):
        model(**inputs)
        ran.clear()
        with pruned(model, "stride", 16, layer=4):
            model(**inputs)
    for hook in hooks:
        hook.remove()
    assert ran == list(range(4, 12))


def test_another_prompt_of_the_same_shape_is_not_mixed_up(loaded, suites):
    model, processor = loaded
    rows = suites[1].samples
    one, two = (prompts(processor, rows.iloc[[i]], model.device) for i in (0, 0))
    two["pixel_values"] = two["pixel_values"].flip(-1)
    with torch.inference_mode():
        want = model(**two).logits
        with layers_once(model):
            first = model(**one).logits
            assert torch.equal(model(**two).logits, want) and not torch.equal(first, want)


def test_shared_layers_do_not_nest_and_leave_nothing(loaded):
    model, _ = loaded
    with (
        layers_once(model),
        pytest.raises(RuntimeError, match="do not nest"),
        layers_once(model),
    ):
        pass
    assert not any("forward" in vars(layer) for layer in model.model.language_model.layers)


# ---------------------------------------------------------------- cells, profiles, storage


def test_every_rule_is_among_the_scoring_cells(loaded):
    methods = {cell.labels["method"] for cell in cell_lists.scoring_cells(loaded[0].config)}
    used = {METHODS[name].rule.name for name in methods if name in METHODS} | methods
    assert set(METHODS) <= methods and set(RULES) <= used


def test_the_stored_cells_are_different_and_hold_both_notebooks(loaded):
    cells = cell_lists.stored_cells(loaded[0].config)
    names = [tuple(cell.labels.values()) for cell in cells]
    assert len(set(names)) == len(names)
    layers = {cell.layer for cell in cells if cell.method == "qvid"}
    assert layers == {None, 0, *range(2, 12)}


def test_profiles(loaded, monkeypatch, tmp_path):
    model, _, suites = runner.setting("tiny")
    assert len(suites) == 6 and model.config.image_seq_length == 144
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="profile='paper' needs llava-hf/llava-1.5-7b-hf, gqa"):
        runner.setting("paper")
    with pytest.raises(ValueError, match="must be one of tiny, paper"):
        runner.setting("large")


def test_stored_records_come_back(records, suites, tmp_path):
    table, answers = store(records, suites, tmp_path, "tiny_llava")
    back = stored("tiny", tmp_path)
    pd.testing.assert_frame_equal(back[records.columns], records, check_dtype=False)
    long = report.summary(records, suites)
    assert len(pd.read_csv(table)) == len(long)
    before = table.read_bytes(), answers.read_bytes()
    store(back, suites, tmp_path, "tiny_llava")
    assert (table.read_bytes(), answers.read_bytes()) == before
    other, _ = store(records, suites, tmp_path, "other", model="tiny/other")
    named = pd.read_csv(other)
    assert set(named["table"]) == {"other"} and set(named["model"]) == {"tiny/other"}


@pytest.mark.parametrize("column", ["question", "answer"])
def test_stored_answers_to_other_questions_are_refused(records, suites, tmp_path, column):
    with pytest.raises(ValueError, match="no stored run"):
        stored("tiny", tmp_path)
    samples = suites[0].samples.copy()
    samples.loc[samples["id"] == records["sample"][0], column] = "changed"
    was = [dataclasses.replace(suites[0], samples=samples), *suites[1:]]
    store(records, was, tmp_path, "tiny_llava")
    with pytest.raises(ValueError, match=f"another question than {records['sample'][0]!r}"):
        stored("tiny", tmp_path)


def test_score_maps_show_what_was_kept(loaded, suites, records):
    cells = grid(["qvid", "random"], [16])
    maps = look(*loaded, suites[0].samples, cells)
    assert len(maps) == 4 * 2 * 144 and maps["row"].max() == maps["column"].max() == 11
    for (sample, method), one in maps.groupby(["sample", "method"]):
        best = one["score"].sort_values(ascending=False, kind="stable").index[:16]
        assert set(one.index[one["kept"]]) == set(best)
        mine = records[(records["sample"] == sample) & (records["method"] == method)]
        assert one["prediction"].iloc[0] == mine["prediction"].iloc[0]
    assert np.array_equal(maps["row"] * 12 + maps["column"], maps["token"])
