"""The embedded model as its user meets it: stock classes load it, it answers, pruning matters."""

import json

import numpy as np
import pytest
import torch
import train
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPModel
from twins import embedded

from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks import TINY, suite
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate

FOLDER = DATA / "tiny" / "llava"


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


def test_stock_classes_load_it_without_code_of_ours():
    model = AutoModelForImageTextToText.from_pretrained(FOLDER)
    processor = AutoProcessor.from_pretrained(FOLDER)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.chat_template and processor.tokenizer.padding_side == "left"


def test_its_shape_is_the_one_that_the_methods_need():
    config = json.loads((FOLDER / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert text["num_hidden_layers"] == 12 and vision["num_hidden_layers"] >= 7
    assert (vision["image_size"] // vision["patch_size"]) ** 2 == 144


@pytest.mark.parametrize("name", ["llava", "clip"])
def test_it_is_small_and_half_precision_on_disk(name):
    from safetensors import safe_open

    path = DATA / "tiny" / name / "model.safetensors"
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds <= {torch.bfloat16, torch.float16, torch.int64}


def test_load_gives_float32_on_a_cpu(loaded):
    assert loaded[0].dtype == torch.float32 and not loaded[0].training


def test_it_answers_and_random_pruning_hurts(loaded):
    """Far above chance on every suite, and far worse with a ninth of the tokens drawn at random."""
    suites = [suite(name).head(14) for name in TINY]
    records = evaluate(*loaded, suites, [Cell(), Cell("random", 16)])
    right = records.groupby(["method", "suite"])["score"].mean().unstack(0)
    assert (right["full"] > LEAST).all(), right
    assert right["full"].mean() - right["random"].mean() > 0.15, right


LEAST = 0.75


def test_the_clip_pair_matches_captions_to_pictures():
    rng = np.random.default_rng(5)
    scenes, pixels = train.pictures(rng, 16)
    clip, processor = clip_pair()
    said = [train.caption(scene, rng) for scene in scenes]
    words = processor(text=said, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = clip(pixel_values=pixels, **words).logits_per_image.argmax(1)
    assert (found == torch.arange(16)).float().mean() >= 0.5


def test_the_text_tower_reads_every_word():
    clip, processor = clip_pair()
    said = ["a purple letter Z", "a purple letter Z and a red star", "a red star"]
    words = processor(text=said, padding=True, return_tensors="pt")
    with torch.inference_mode():
        read = torch.nn.functional.normalize(clip.text_model(**words).pooler_output, dim=-1)
    assert (read @ read.T - torch.eye(3)).max() < 0.99


def clip_pair():
    folder = DATA / "tiny" / "clip"
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return clip, AutoProcessor.from_pretrained(folder)
