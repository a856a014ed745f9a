"""Side-by-side measuring: bookkeeping under a clock of our own, small models, the command."""

import time

import pandas as pd
import pytest
import torch
from twins import twin

from qvid_utils.families import family_of
from qvid_utils.prune import cutting as pruning
from qvid_utils.workbook.cli import main as qvid_utils
from qvid_utils.workbook.cli import timing as command
from qvid_utils.workbook.cost import flops, grids
from qvid_utils.workbook.cost.cases import (
    Case,
    Run,
    cases_of,
    infeasible,
    measure,
    operations,
    run,
    where_run,
)
from qvid_utils.workbook.cost.grids import beside_single_runs, least
from qvid_utils.workbook.cost.parts import PARTS, parts
from qvid_utils.workbook.cost.rounds import clock_of, interleaved, paired, peak_bytes, spread
from qvid_utils.workbook.cost.scores import as_results, compare
from qvid_utils.workbook.cost.workloads import config_of, make, prompt_for
from qvid_utils.workbook.tables.schema import read


def main(arguments) -> int:
    """The exit status of `measure`, however it ends."""
    try:
        return qvid_utils(["measure", *arguments])
    except SystemExit as end:
        return end.code


def ticks():
    """A clock that is one second later at each reading."""
    now = iter(range(10**6))
    return lambda: float(next(now))


# --- rounds ------------------------------------------------------------------------------------


def test_median_and_quartiles_by_hand():
    s = spread([5.0, 1.0, 2.0, 9.0])  # sorted 1 2 5 9: quartiles at places 0.75 and 2.25
    assert (s.median, s.low, s.high, s.n) == (3.5, 1.75, 6.0, 4)
    assert spread([7.0]).low == spread([7.0]).high == 7.0
    with pytest.raises(ValueError, match="run at least one round"):
        spread([])


def test_ratios_are_taken_within_a_round():
    # the machine is ten times slower in the second round, and the ratio does not see it
    s = paired([4.0, 40.0, 6.0], [2.0, 20.0, 2.0])
    assert (s.median, s.high) == (2.0, 2.5)
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])


def test_rounds_are_interleaved_turned_and_warmed_up():
    order = []
    tasks = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    found = interleaved(tasks, rounds=2, warm_up=1)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert found == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}
    with pytest.raises(ValueError, match="rounds=0, warm_up=1: give 1 or more"):
        interleaved(tasks, 0)


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')", reason="reads /proc")
def test_peak_memory_sees_what_is_gone_again():
    def task():
        torch.ones(8 * 2**20).sum()  # 32 MiB

    assert 30 * 2**20 < peak_bytes(task, "cpu") < 60 * 2**20
    assert peak_bytes(lambda: None, "cpu") < 2**21
    assert peak_bytes(lambda: None, "meta") is None


# --- cells -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def small(request):
    model = twin(request.param)
    side = {"side": 4} if request.param == "qwen2_vl" else {}
    return model, prompt_for(model, words=12, questions=6, batch=2, **side)


def test_the_prompt_is_what_it_says(small):
    model, prompt = small
    ids = prompt.inputs["input_ids"]
    assert ids.shape == (2, prompt.n_visual + prompt.n_text) and prompt.n_text == 12
    assert (ids == model.config.image_token_id).sum(1).tolist() == [16, 16] == [prompt.n_visual] * 2
    assert int(prompt.query.sum()) == 6 and not (ids[0] == 4)[prompt.query].any()
    assert sum(prompt.blocks) == (16 if model.config.model_type == "llava" else 64)


def test_a_run_is_cut_where_it_says(small):
    """A clock of ticks: start, language model in and out, first token, then each token."""
    model, prompt = small
    found = run(model, prompt, Case("full"), 3, clock=ticks())
    assert found == Run(first=3.0, prefill=1.0, score=0.0, steps=(1.0, 1.0))
    assert [found.until(n) for n in (1, 2, 3)] == [3.0, 4.0, 5.0]
    hooks = family_of(model).part(model, "language")._forward_pre_hooks
    assert len(hooks) == 0


def test_the_score_has_a_clock_of_its_own_where_wanted(small):
    model, prompt = small
    (cell,) = cases_of(["qvid"], [5])
    found = run(model, prompt, cell, 1, clock=ticks(), exact_score=True)
    # two rows: each reads the clock before and after; the prefill holds these four readings
    assert (found.score, found.prefill, found.first) == (2.0, 5.0, 7.0)
    assert pruning.perf_counter() > 100 and not found.steps


def test_two_passes_are_both_in_the_prefill(small):
    model, prompt = small
    layers, seen = family_of(model).part(model, "layers"), []
    (cell,) = cases_of(["qvid:two_pass"], [5])
    hook = layers[0].register_forward_hook(lambda *_: seen.append(clock()))
    clock = ticks()
    try:
        found = run(model, prompt, cell, 1, clock=clock)
    finally:
        hook.remove()
    assert len(seen) == 2 and found.prefill == 3.0  # both passes read the clock inside it
    assert (cell.variant, cell.key) == ("two_pass", "qvid two_pass 5")


def test_a_table_of_cells(small, tmp_path):
    model, prompt = small
    cells = cases_of(["qvid", "variation"], [5])
    frame = measure(model, prompt, cells, name="twin", lengths=[1, 3], rounds=3, clock=ticks())
    assert set(frame.method) == {"full", "qvid", "variation"}  # full is added for the ratios
    one = frame[frame.method == "qvid"].set_index("metric")
    assert one.value["first_token"] == one.value["latency_1"] == 3000.0  # ms
    assert one.value["latency_3"] == 5000.0 and one.value["throughput_3"] == 2 / 5
    assert one.value["decode"] == 1000.0 and one.value["speedup_3"] == 1.0
    assert {"first_token_q1", "scoring", "scoring_q3"} <= set(one.index)
    assert one.n["first_token"] == 3 and one.n["decode"] == 6 and one.loc["decode", "rank"] == 16
    text = model.config.get_text_config()
    width = 2 * 4 * 2 * text.num_key_value_heads * 16  # K and V, float32, two rows, 16 a head
    depth = text.num_hidden_layers
    long, short = prompt.n_visual + 12, 5 + 12
    layer = max(1, round(3 * depth / 32))
    expected = width * (layer * long + (depth - layer) * short)
    assert round(one.value["kv_cache"] * 1e9) == expected
    assert one.loc["decode", "mean_tokens"] == (layer * 16 + (depth - layer) * 5) / depth
    assert one.value["compute"] < frame[frame.method == "full"].set_index("metric").value["compute"]
    assert frame.source.str.match(r"measured \(torch .*sdpa, batch 2").all()


def test_scoring_is_part_of_the_operations(small):
    model, prompt = small
    costs = {c.key: operations(model.config, prompt, c) for c in
             [Case("full"), *cases_of(["qvid", "qvid:two_pass", "random"], [5])]}  # fmt: skip
    assert costs["full"].scoring == costs["random 5"].scoring == 0 < costs["qvid 5"].scoring
    assert costs["qvid 5"].layers == costs["random 5"].layers
    depth, words = model.config.get_text_config().num_hidden_layers, 12
    from qvid_utils.workbook.cost.flops import decoder_of

    more = costs["qvid two_pass 5"].layers - costs["qvid 5"].layers
    assert more == 2 * round(3 * depth / 32) * decoder_of(model.config).layer(5 + words)


def test_what_a_schedule_cannot_reach_is_named_with_its_floor():
    model = twin(layers=32)
    cells = cases_of(["full", "v2drop", "qvid"], [1, 8])
    found = infeasible(model, cells, 16)
    assert [cell.key for cell in found] == ["v2drop 1"]
    assert "all 16 tokens run through the first 3" in found[cells[1]]


def test_cells_are_refused_in_a_sentence(small):
    model, prompt = small
    with pytest.raises(ValueError, match="unknown method 'qvib': did you mean qvid"):
        cases_of(["qvib"], [1])
    with pytest.raises(ValueError, match="reading='thrice': allowed are in_place, two_pass"):
        cases_of(["qvid:thrice"], [1])
    with pytest.raises(ValueError, match="full, qvid 5, qvid 5: give each of them once"):
        measure(model, prompt, cases_of(["qvid", "qvid"], [5]), name="twin")
    with pytest.raises(ValueError, match="lengths=.0.: give output lengths of 1 token or more"):
        measure(model, prompt, [], name="twin", lengths=[0])


# --- workloads ---------------------------------------------------------------------------------


def test_configurations_have_7b_proportions():
    llava, qwen = config_of("llava").text_config, config_of("qwen2_vl").text_config
    assert (llava.hidden_size, llava.num_hidden_layers, llava.intermediate_size) == (
        4096,
        32,
        11008,
    )
    assert (qwen.hidden_size, qwen.num_hidden_layers, qwen.intermediate_size) == (3584, 28, 18944)
    assert (qwen.num_attention_heads, qwen.num_key_value_heads, len(qwen.layer_types)) == (
        28,
        4,
        28,
    )
    clip, vit = config_of("llava").vision_config, config_of("qwen2_vl").vision_config
    assert (clip.hidden_size, clip.num_attention_heads, clip.intermediate_size) == (1024, 16, 4096)
    assert (vit.embed_dim, vit.num_heads, vit.depth) == (1280, 16, 32)
    small = config_of("qwen2_vl", layers=5, tower=1, divide=4)
    text = small.text_config
    assert (text.hidden_size, text.num_attention_heads, text.num_key_value_heads) == (896, 7, 1)
    assert small.vision_config.hidden_size == 896 and small.vision_config.depth == 1
    assert (small.vision_config.embed_dim, small.vision_config.num_heads) == (320, 4)
    with pytest.raises(ValueError, match="divide=3: 28 heads, 4 key heads, width 3584"):
        config_of("qwen2_vl", divide=3)
    with pytest.raises(ValueError, match="kind='gpt': choose one of .*llava.*qwen2_vl"):
        config_of("gpt")


def test_a_divided_model_runs():
    model = make(config_of("llava", layers=2, tower=1, divide=32), torch.float32)
    found = run(model, prompt_for(model), *cases_of(["qvid"], [16]), 2, clock=ticks())
    assert found.prefill == 1.0 and found.steps == (1.0,)


def test_prompts_are_refused_in_a_sentence():
    model = twin()
    with pytest.raises(ValueError, match="questions=11: give 1 to 10 of the 12 text tokens"):
        prompt_for(model, words=12, questions=11)
    with pytest.raises(ValueError, match="side=3: a picture of LLaVA always has 16 tokens"):
        prompt_for(model, side=3)
    with pytest.raises(ValueError, match="model_type='video_llava': prompts are made for llava"):
        prompt_for(twin("video_llava"))


# --- the score alone, and the command ------------------------------------------------------------


def test_the_score_beside_the_printed_recipe():
    (row,) = compare([(6, 40)], heads=3, head_dim=16, rank=4, rounds=2)
    assert (row["n_query"], row["n_visual"]) == (6, 40) and row["qr_ms"] > 0
    assert row["leverage_error"] < 1e-12 and 0 < row["ridge_error"] < 1e-6
    for name in ("leverage", "ridge"):
        assert row[f"{name}_x_low"] <= row[f"{name}_x"] <= row[f"{name}_x_high"]
    found = as_results(pd.DataFrame([row]), 3, 4, 2, {"device": "cpu", "source": "measured"})
    count = found.groupby("method").metric.nunique().to_dict()
    assert count == {"form": 1, "leverage": 5, "qr": 1, "ridge": 5}


def test_the_command_prints_and_stores(tmp_path, capsys):
    out = tmp_path / "deep" / "times.csv"
    shape = ["models", "--model", "llava-1.5-7b", "--divide", "32", "--layers", "4"]
    code = main([*shape, "--methods", "full,qvid", "--keep", "16", "--rounds", "1",
                 "--lengths", "1,2", "--out", str(out)])  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0 and "speedup_first_token" in said and str(out) in said
    stored = read(out)
    assert set(stored.model) == {"llava-1.5-7b layers 4 width/32 (random weights)"}
    assert {"first_token", "latency_2", "kv_cache", "compute"} <= set(stored.metric)
    assert main(["scores", "--heads", "2", "--queries", "4", "--visual", "9", "--rounds", "1"]) == 0
    assert "ridge_x_low" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["models", "--model", "tiny/llava", "--divide", "2"],
            "--layers and --divide shape random weights",
        ),
        (["models", "--model", "tiny/nothing"], "no embedded model of that name"),
        (["models", "--model", "tiny/llava", "--methods", "qvib"], "unknown method 'qvib'"),
        (
            ["models", "--model", "tiny/llava", "--keep", "9", "--lengths", "0"],
            "--lengths: 0: give 1 or more",
        ),
        (["scores", "--rounds", "0"], "--rounds: 0: give 1 or more"),
        (["scores", "--threads", "0"], "--threads: 0: give 1 or more"),
        (["scores", "--visual", "9,0"], "--visual: 0: give 1 or more"),
        (["models", "--model", "tiny/llava", "--batch", "0"], "--batch: 0: give 1 or more"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said and "measure" in said.split(": ")[0] and said.count("\n") == 1


def test_a_device_that_is_not_there_and_an_unknown_route_are_refused_first(monkeypatch, capsys):
    monkeypatch.setattr(command, "_model", lambda chosen: pytest.fail("a model was made"))
    told = ["models", "--model", "llava-1.5-7b"]
    for device in ("cud", "cuda:99"):  # no such name, and no such GPU
        assert main([*told, "--device", device]) == 2
        sentence = f"measure: device='{device}' cannot be used here; there is cpu"
        assert capsys.readouterr().err.startswith(sentence)
    monkeypatch.setenv("QVID_KERNEL", "foo")
    assert main([*told, "--device", "cpu"]) == 2
    said = "measure: QVID_KERNEL=foo: give torch (the default) or triton\n"
    assert capsys.readouterr().err == said


# --- parts, grids, the processor's clock --------------------------------------------------------


def test_parts_add_up_to_the_answer(small):
    model, prompt = small
    cells = cases_of(["full", "qvid", "fastv"], [5])
    found = parts(model, prompt, cells, name="small", tokens=3, rounds=1, clock=ticks())
    value = found.set_index(["method", "metric"]).value
    # ticks: 0 start, 1 of the run, 2 the language model (3 the run's own), 4 the door, two for the
    # score of each row, then out of the language model, the first token, two more tokens
    names = list(PARTS)
    assert [value["full", name] for name in names] == [2000, 2000, 0, 1000, 2000]
    for name in ("qvid", "fastv"):
        assert [value[name, part] for part in names] == [2000, 2000, 2000, 3000, 2000]
    assert set(found.layer.dropna()) == {1} and found.unit.unique() == ["ms"]
    with pytest.raises(ValueError, match="v2drop 9: parts are told for methods that cut once"):
        parts(model, prompt, cases_of(["v2drop"], [9]), name="small")


def test_a_grid_is_measured_beside_the_same_answers(small):
    model, prompt = small
    found = beside_single_runs(
        model, prompt, ["qvid", "column_norm"], [3, 5], [2, 4], name="small", rounds=1
    )
    assert found.groupby("layer").metric.nunique().tolist() == [6, 6]
    ratio = found.pivot(index="layer", columns="metric", values="value")
    assert (ratio["grid_cost"] * ratio["single"]).to_numpy() == pytest.approx(ratio["grid"])
    # least: two layers shared of eight, then four: by hand from the operations
    n, text, config = prompt.n_visual, prompt.n_text, model.config
    own = sum(flops.prefill(config, [k] * 4, text).total for k in (3, 5))
    once = flops.prefill(config, [n] * 4, text, blocks=prompt.blocks, logits=0).total
    want = (once + 2 * own) / (2 * (own + 2 * once))
    assert least(config, prompt, 4, [3, 5], 2) == pytest.approx(want)


def test_a_grid_that_answers_otherwise_is_an_error(small, monkeypatch):
    model, prompt = small
    monkeypatch.setattr(grids, "_gridded", lambda *_: [torch.zeros(2, 2, dtype=torch.long)] * 2)
    with pytest.raises(RuntimeError, match="the grid answers .* is the answer alone"):
        beside_single_runs(model, prompt, ["qvid"], [3, 5], [2], name="small", rounds=1)


def test_the_processors_clock():
    clock = clock_of("cpu", cpu_time=True)
    began = clock()
    time.sleep(0.2)
    assert clock() - began < 0.1
    assert "processor seconds" in where_run(torch.device("cpu"), clock)["source"]
    assert "processor seconds" not in where_run(torch.device("cpu"), clock_of("cpu"))["source"]
    with pytest.raises(ValueError, match="the work is done on cuda; leave it out"):
        clock_of("cuda", cpu_time=True)


@pytest.mark.parametrize("first", ["parts", "grid"])
def test_the_other_commands_print_and_store(first, tmp_path, capsys):
    more = {"parts": ["--methods", "full,qvid", "--tokens", "2"], "grid": ["--cut", "1,6"]}[first]
    told = [first, "--model", "tiny/llava", "--keep", "16", "--words", "12", "--questions", "6"]
    assert main([*told, *more, "--rounds", "1", "--out", str(tmp_path / "t.csv")]) == 0
    assert {"parts": "below", "grid": "least_cost"}[first] in capsys.readouterr().out
    back = read(tmp_path / "t.csv")
    assert set(back.table) == {first} and back.source.str.startswith("measured (torch").all()
