"""The embedded Qwen2-VL as its user meets it: stock classes load it, any size, pruning matters."""

import io
from dataclasses import replace

import graft
import numpy as np
import pandas as pd
import pytest
import qwen
import sized
import torch
import world
from oracle import check_decoded, check_hidden
from PIL import Image
from transformers import AutoConfig, Qwen2VLForConditionalGeneration
from twins import embedded

from qvid_utils import pruned
from qvid_utils.algebra.cuts import Cut
from qvid_utils.families import family_of
from qvid_utils.methods import METHODS
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks import TINY, suite
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate

FOLDER = DATA / "tiny" / "qwen2_vl"
LEAST = 0.75  # of the questions of a suite
EXACT = 1e-4  # in float32, logits of about 20
PRUNING = ("qvid", "v2drop", "random")


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/qwen2_vl")


def ask(processor, questions: list[str], pictures: list[Image.Image]) -> dict:
    texts = []
    for question in questions:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": parts}]
        texts.append(
            processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        )
    return processor(text=texts, images=pictures, padding=True, return_tensors="pt")


@pytest.fixture(scope="module")
def batch(loaded):
    """A caption of a wide picture, and a question about a large one: 96 and 196 visual tokens."""
    rows = suite(sized.NAME).samples.drop_duplicates("split").set_index("split")
    pictures = [
        Image.open(io.BytesIO(rows.loc[size, "image"]["bytes"])) for size in ("64x96", "112x112")
    ]
    return ask(loaded[1], ["Describe the picture.", rows.loc["112x112", "question"]], pictures)


def test_stock_classes_load_it_without_code_of_ours(loaded):
    model = Qwen2VLForConditionalGeneration.from_pretrained(FOLDER)
    assert model.dtype == torch.bfloat16 and loaded[0].dtype == torch.float32
    assert type(loaded[1]).__name__ == "Qwen2VLProcessor"
    assert loaded[1].tokenizer.padding_side == "left" and loaded[1].chat_template


def test_it_is_small_and_half_precision_on_disk():
    from safetensors import safe_open

    path = FOLDER / "model.safetensors"
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}


def test_it_has_what_sets_its_family_apart(loaded):
    """Grouped queries, biases on the keys that training moved, three axes, merged patches."""
    config = AutoConfig.from_pretrained(FOLDER)
    text = config.text_config
    assert (text.num_attention_heads, text.num_key_value_heads) == (4, 2)
    assert text.num_hidden_layers == len(graft.LAYERS)
    assert len(text.rope_parameters["mrope_section"]) % 3 == 0
    assert config.vision_config.spatial_merge_size == 2
    for layer in loaded[0].model.language_model.layers:
        assert layer.self_attn.k_proj.bias.abs().max() > 0
    assert config.model_type == "qwen2_vl" and not config.tie_word_embeddings


@pytest.mark.parametrize(("width", "height", "grid"), [(96, 96, (12, 12)), (112, 80, (10, 14))])
def test_a_picture_keeps_its_own_size(loaded, width, height, grid):
    model, processor = loaded
    inputs = ask(processor, ["Is there a star?"], [Image.new("RGB", (width, height))])
    visual = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert visual == grid[0] * grid[1]
    assert family_of(model).grid(model.config, visual, inputs) == (1, *grid)


def test_the_committed_processor_is_the_one_of_the_code(loaded):
    """Words and sizes: what `qwen` makes is what the folder holds."""
    said = f"Is there a letter K? A. red B. blue {world.CHOICE_TAIL} <|im_end|>"
    assert loaded[1].tokenizer(said)["input_ids"] == qwen.tokenizer()(said)["input_ids"]
    assert loaded[1].chat_template == qwen.CHAT_TEMPLATE
    noise = np.random.default_rng(0).integers(0, 256, (88, 104, 3), dtype=np.uint8)
    made, stored = (
        p(images=[Image.fromarray(noise)], return_tensors="pt")
        for p in (qwen.image_processor(), loaded[1].image_processor)
    )
    assert torch.equal(made["pixel_values"], stored["pixel_values"])


# ------------------------------------------------------------------------------------ what it can
def test_it_answers_and_random_pruning_hurts(loaded):
    """Far above chance on every suite, and far worse with a ninth of the tokens drawn at random."""
    suites = [suite(name).head(14) for name in TINY]
    records = evaluate(*loaded, suites, [Cell(), Cell("random", 16)])
    right = records.groupby(["method", "suite"])["score"].mean().unstack(0)
    assert (right["full"] > LEAST).all(), right
    assert right["full"].mean() - right["random"].mean() > 0.15, right


def test_it_reads_pictures_of_several_sizes(loaded):
    """Sizes that it was trained on; a guess is right about two times in seven."""
    some = suite(sized.NAME)
    known = some.samples[some.samples["split"].isin(["64x96", "96x64", "80x96", "96x80"])]
    records = evaluate(*loaded, [some.only(known["id"][::6])], [Cell()])
    assert (records.groupby("split")["score"].mean() >= LEAST).all()


def test_it_tells_what_is_in_a_picture(loaded):
    """Of the things in ten pictures it names most with their colours, and little that is not."""
    some = suite("tiny_captions")
    records = evaluate(*loaded, [some.head(10)], [Cell()])
    truth = records["answer"].map(lambda text: set(text.split(" and ")))
    said = records["prediction"].map(lambda text: set(text.strip().split(" and ")))
    both = sum(len(a & b) for a, b in zip(truth, said, strict=True))
    assert both / truth.map(len).sum() >= 0.6, records[["answer", "prediction"]]
    assert both / said.map(len).sum() >= 0.6, records[["answer", "prediction"]]


def test_the_stored_answers_come_again(loaded):
    """Five questions of each suite, unpruned and with a ninth of the tokens that QViD keeps."""
    stored = pd.read_parquet(DATA / "measured" / "tiny_qwen2_vl_answers.parquet")
    suites = []
    for name in TINY:
        ids = stored.loc[stored["suite"] == name, "sample"].unique()
        suites.append(suite(name).only(ids).head(5))
    records = evaluate(*loaded, suites, [Cell(), Cell("qvid", 16)])
    columns = ["sample", "method", "keep"]
    was = stored.astype(dict.fromkeys(("sample", "method", "prediction"), str))
    was = was.assign(keep=was["keep"].astype("Int64"))
    both = records.merge(was, on=columns, suffixes=("", "_stored"), validate="one_to_one")
    assert len(both) == len(records) >= 60
    assert (both["prediction"] == both["prediction_stored"]).mean() >= 0.98


# ------------------------------------------------------------------------------------ the oracles
@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNING)
def test_keeping_everything_changes_no_bit(loaded, batch, name):
    def everything(keep, n_visual, n_layers, layer=None):
        return (Cut(2, n_visual), Cut(5, n_visual))

    method = replace(METHODS[name], schedule=everything)
    logits = loaded[0](**batch).logits
    with pruned(loaded[0], method, 16) as trace:
        assert torch.equal(loaded[0](**batch).logits, logits)
    assert len(trace.cuts) == 4 and all(len(cut.kept) == cut.n_visual for cut in trace.cuts)


@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNING)
def test_dropping_is_hiding_and_the_cache_is_recomputing(loaded, batch, name):
    """Two sizes in one batch; an answer of eight words, decoded on the shortened cache."""
    model = loaded[0]
    with pruned(model, name, 32) as trace:
        logits = model(**batch).logits
    check_hidden(model, batch, trace.cuts, logits, EXACT)
    check_decoded(model, batch, name, 32, EXACT)
    plain = model(**batch).logits[:, -1]
    assert (logits[:, -1] - plain).abs().max() > 100 * EXACT  # and it does change the answer
