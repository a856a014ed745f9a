"""The embedded Video-LLaVA as its user meets it: stock classes load it, films, pruning matters."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import masked
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, VideoLlavaForConditionalGeneration
from transformers.utils import is_torchvision_available

from qvid_utils import load, pruned, video
from qvid_utils.benchmarks import TINY_VIDEO, video_suite
from qvid_utils.benchmarks.observation import prompts
from qvid_utils.families import family_of
from qvid_utils.families.layout import frames_of
from qvid_utils.methods import METHODS
from qvid_utils.paths import DATA
from qvid_utils.runner import Cell, evaluate
from qvid_utils.schedules import Cut
from qvid_utils.tiny import video_llava

FOLDER = DATA / "tiny" / "video_llava"
LEAST = 0.85  # of the questions of a type
EXACT = 1e-4  # in float32, logits of about 20
PRUNING = ("qvid", "fastv", "v2drop", "random")


@pytest.fixture(scope="module")
def loaded():
    return load("tiny/video_llava")


def some(name: str, frames: int, number: int):
    """Questions about clips of one length, spread over the suite."""
    part = next(
        p for p in video.lengths(video_suite(name)) if p.samples.image[0]["frames"] == frames
    )
    rows = part.samples.iloc[:: max(1, len(part.samples) // number)].head(number)
    return dataclasses.replace(part, samples=rows.reset_index(drop=True))


@pytest.fixture(scope="module")
def batch(loaded):
    """Two questions of unlike length about clips of eight frames: 136 visual tokens each."""
    rows = some("tiny_mvbench", 8, 60).samples
    rows = rows.assign(words=rows["question"].str.split().map(len)).sort_values("words")
    inputs = prompts(loaded[1], rows.iloc[[0, -1]], "cpu")
    assert not inputs["attention_mask"].all()  # the shorter one is padded
    return inputs


def test_stock_classes_load_it_without_code_of_ours(loaded):
    model = VideoLlavaForConditionalGeneration.from_pretrained(FOLDER)
    assert model.dtype == torch.bfloat16 and loaded[0].dtype == torch.float32
    assert type(loaded[1]).__name__ == "VideoLlavaProcessor"
    assert loaded[1].tokenizer.padding_side == "left" and loaded[1].chat_template


def test_it_is_small_and_half_precision_on_disk():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12e6
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}


def test_it_has_what_sets_its_family_apart(loaded):
    """Class tokens, features of the last layer but one, a Llama, whose biases training moved."""
    config = AutoConfig.from_pretrained(FOLDER)
    assert (config.model_type, config.text_config.model_type) == ("video_llava", "llama")
    assert config.vision_config.model_type == "clip_vision_model"
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.text_config.attention_bias and not config.tie_word_embeddings
    for layer in loaded[0].model.language_model.layers:
        assert layer.self_attn.k_proj.bias.abs().max() > 0
        assert layer.self_attn.o_proj.bias.abs().max() > 0


def test_a_frame_is_a_class_token_and_sixteen_patches(loaded):
    model, processor = loaded
    inputs = prompts(processor, some("tiny_videomme", 16, 1).samples, "cpu")
    assert inputs["pixel_values_videos"].shape == (1, 16, 3, 64, 64)
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == 16 * 17
    placed = frames_of(family_of(model).blocks(model.config, inputs))
    assert placed.tolist() == [t for n in range(16) for t in (-1, *[n] * 16)]


def test_the_committed_processor_is_the_one_of_the_code(loaded):
    """Words and sizes: what `qvid_utils.tiny.video_llava` makes is what the folder holds."""
    said = "USER: <video>\nWhat color does the letter K become? A. red B. blue ASSISTANT:"
    own = video_llava.processor()
    assert loaded[1].tokenizer(said)["input_ids"] == own.tokenizer(said)["input_ids"]
    assert loaded[1].chat_template == video_llava.CHAT_TEMPLATE
    noise = np.random.default_rng(0).integers(0, 256, (2, 72, 90, 3), dtype=np.uint8)
    film = [Image.fromarray(frame) for frame in noise]
    if not is_torchvision_available():
        shown = [p.video_processor([film])["pixel_values_videos"] for p in (own, loaded[1])]
        assert torch.equal(*shown)


def test_the_model_of_table_12_is_this_one():
    model, _, suites = video.setting("tiny", "12")
    assert model.config.model_type == "video_llava"
    assert [one.name for one in suites] == list(TINY_VIDEO)


# ------------------------------------------------------------------------------------ what it can
def test_it_answers_and_random_pruning_hurts(loaded):
    """Far above chance, and far worse with a tenth of the tokens, or a frame, drawn at random."""
    one = some("tiny_videomme", 8, 60)
    records = evaluate(*loaded, [one], [Cell(), Cell("random", 14)])
    right = records.groupby("method")["score"].mean()
    first = evaluate(*loaded, [video.with_frames(one, 1)], [Cell()])["score"].mean()
    assert right["full"] >= LEAST and right["full"] - max(right["random"], first) > 0.2, right


def test_it_answers_every_type_of_question(loaded):
    for name, frames, number in (("tiny_mvbench", 8, 120), ("tiny_videomme", 4, 40)):
        records = evaluate(*loaded, [some(name, frames, number)], [Cell()])
        assert (records.groupby("kind")["score"].mean() >= LEAST).all(), name


def test_the_stored_answers_come_again(loaded):
    """Some questions of every length: unpruned, what QViD keeps at a tenth, and the baselines."""
    stored = video.stored("tiny", table="12")
    suites = [some("tiny_mvbench", 8, 12), some("tiny_videomme", 16, 6)]
    suites = [one.only(set(one.samples["id"]) & set(stored["sample"])) for one in suites]
    records = video.evaluate_shares(*loaded, suites, ["qvid"], (10.0,))
    columns = ["sample", "method", "variant", "share"]
    both = records.merge(stored, on=columns, suffixes=("", "_stored"), validate="one_to_one")
    assert len(both) == len(records) >= 12 * 4
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
    assert len(trace.cuts) == 4 and all(len(c.kept) == c.n_visual == 136 for c in trace.cuts)


@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNING)
def test_dropping_is_hiding_and_the_cache_is_recomputing(loaded, batch, name):
    """Two questions in one batch; an answer of eight words, decoded on the shortened cache."""
    model = loaded[0]
    more = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with pruned(model, name, 34) as trace:
        logits = model(**batch).logits
    expected, alive = masked(model, batch, trace.cuts)
    for row, here in enumerate(alive):
        assert (logits[row, -int(here.sum()) :] - expected[row, here]).abs().max() <= EXACT
    with pruned(model, name, 34) as trace:
        out = model.generate(**batch, **more, return_dict_in_generate=True, output_logits=True)
    expected, _ = masked(model, batch, trace.cuts, out.sequences)
    start = batch["input_ids"].shape[1] - 1
    assert (torch.stack(out.logits, 1) - expected[:, start : start + 8]).abs().max() <= EXACT
    plain = model(**batch).logits[:, -1]
    assert (logits[:, -1] - plain).abs().max() > 100 * EXACT  # and it does change the answer


@torch.inference_mode()
@pytest.mark.parametrize("name", [*PRUNING, "svd_prune", "visionzip", "prumerge"])
def test_a_row_of_a_batch_is_the_row_alone(loaded, batch, name):
    """The same tokens stay and the same logits come, also where the class tokens' attention or
    merged tokens decide."""
    model = loaded[0]
    with pruned(model, name, 34) as both:
        logits = model(**batch).logits[:, -1]
    for row in range(2):
        real = batch["attention_mask"][row].bool()
        alone = {name: values[row : row + 1] for name, values in batch.items()}
        for words in ("input_ids", "attention_mask"):
            alone[words] = alone[words][:, real]
        with pruned(model, name, 34) as single:
            got = model(**alone).logits[0, -1]
        mine = [cut for cut in both.cuts if cut.row == row]
        for ours, theirs in zip(mine, single.cuts, strict=True):
            assert torch.equal(ours.kept, theirs.kept)
        assert (got - logits[row]).abs().max() <= EXACT
