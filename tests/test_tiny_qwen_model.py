"""The embedded Qwen2-VL as its user meets it: stock classes load it, any size, pruning matters."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Qwen2VLForConditionalGeneration

from qvid_utils import load
from qvid_utils.benchmarks import TINY, suite
from qvid_utils.families import family_of
from qvid_utils.paths import DATA
from qvid_utils.runner import Cell, evaluate
from qvid_utils.tiny import graft, qwen, world

FOLDER = DATA / "tiny" / "qwen2_vl"
LEAST = 0.75  # of the questions of a suite


@pytest.fixture(scope="module")
def loaded():
    return load("tiny/qwen2_vl")


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
    inputs = ask(processor, "Is there a star in the picture?", Image.new("RGB", (width, height)))
    visual = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert visual == grid[0] * grid[1]
    assert family_of(model).grid(model.config, visual, inputs) == (1, *grid)


def test_it_reads_pictures_of_other_sizes(loaded):
    """Colours of things in pictures that are wider or higher than those of the suites."""
    model, processor = loaded
    rng, right = np.random.default_rng(8), []
    for size in [(112, 80), (80, 112)] * 20:
        scene = world.draw_scene(rng)
        picture = Image.fromarray(world.render(scene, rng)).resize(size, Image.Resampling.BICUBIC)
        question = world.ask("is_colour", scene, rng)
        inputs = ask(processor, question.text, picture)
        with torch.inference_mode():
            said = model(**inputs).logits[0, -1].argmax()
        right.append(int(said) == graft.WORD[question.answer])
    assert np.mean(right) >= 0.8


def ask(processor, question: str, picture: Image.Image) -> dict:
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": parts}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[picture], return_tensors="pt")


def test_it_answers_and_random_pruning_hurts(loaded):
    """Far above chance on every suite, and far worse with a ninth of the tokens drawn at random."""
    suites = [suite(name).head(40) for name in TINY]
    records = evaluate(*loaded, suites, [Cell(), Cell("random", 16)])
    right = records.groupby(["method", "suite"])["score"].mean().unstack(0)
    assert (right["full"] > LEAST).all(), right
    assert right["full"].mean() - right["random"].mean() > 0.15, right


def test_the_committed_processor_is_the_one_of_the_code(loaded):
    """Words and sizes: what `qvid_utils.tiny.qwen` makes is what the folder holds."""
    said = f"Is there a letter K? A. red B. blue {world.CHOICE_TAIL} <|im_end|>"
    assert loaded[1].tokenizer(said)["input_ids"] == qwen.tokenizer()(said)["input_ids"]
    assert loaded[1].chat_template == qwen.CHAT_TEMPLATE
    noise = np.random.default_rng(0).integers(0, 256, (88, 104, 3), dtype=np.uint8)
    made, stored = (
        p(images=[Image.fromarray(noise)], return_tensors="pt")
        for p in (qwen.image_processor(), loaded[1].image_processor)
    )
    assert torch.equal(made["pixel_values"], stored["pixel_values"])
