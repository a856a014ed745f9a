"""The embedded video models as their user meets them: stock classes load them, films, pruning
matters, and every oracle holds."""

import dataclasses
from dataclasses import replace

import numpy as np
import onevision
import pytest
import torch
import video_llava
from oracle import check_decoded, check_hidden
from PIL import Image
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

from qvid_utils import load, pruned
from qvid_utils.algebra.cuts import Cut
from qvid_utils.families import family_of
from qvid_utils.families.layout import frames_of
from qvid_utils.methods import METHODS
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks import TINY_VIDEO, video_suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.look import look
from qvid_utils.workbook.studies import video, video_run

LEAST = 0.85  # of the questions of a type, all of them (`python -m qvid_utils run --stored video`)
EXACT = 1e-4  # in float32, logits of about 20
PRUNING = ("qvid", "fastv", "v2drop", "random")


# family: its table in the paper, its processor's class, visual tokens of 8 and of 16 frames, the
# module that makes its parts
MODELS = {
    "llava_onevision": ("2b", "LlavaOnevisionProcessor", {8: 129, 16: 257}, onevision),
    "video_llava": ("12", "VideoLlavaProcessor", {8: 136, 16: 272}, video_llava),
}
SAID = {
    "llava_onevision": "<|im_start|>user <video>\nWhat color does the letter K become? A. red "
    "B. blue<|im_end|><|im_start|>assistant\n",
    "video_llava": "USER: <video>\nWhat color does the letter K become? A. red B. blue ASSISTANT:",
}


@pytest.fixture(scope="module", params=MODELS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(family):
    return load(f"tiny/{family}")


def folder_of(family):
    return DATA / "tiny" / family


def some(name: str, frames: int, number: int):
    """Questions about clips of one length, spread over the suite."""
    part = next(
        p for p in video.lengths(video_suite(name)) if p.samples.image[0]["frames"] == frames
    )
    rows = part.samples.iloc[:: max(1, len(part.samples) // number)].head(number)
    return dataclasses.replace(part, samples=rows.reset_index(drop=True))


@pytest.fixture(scope="module")
def batch(loaded):
    """Two questions of unlike length about clips of eight frames."""
    rows = some("tiny_mvbench", 8, 60).samples
    rows = rows.assign(words=rows["question"].str.split().map(len)).sort_values("words")
    inputs = prompts(loaded[1], rows.iloc[[0, -1]], "cpu")
    assert not inputs["attention_mask"].all()  # the shorter one is padded
    return inputs


def test_stock_classes_load_it_without_code_of_ours(loaded, family):
    model = AutoModelForImageTextToText.from_pretrained(folder_of(family))
    assert type(model) is type(loaded[0]) and model.config.model_type == family
    assert model.dtype == torch.bfloat16 and loaded[0].dtype == torch.float32
    assert type(loaded[1]).__name__ == MODELS[family][1]
    assert loaded[1].tokenizer.padding_side == "left" and loaded[1].chat_template


def test_it_is_small_and_half_precision_on_disk(family):
    assert sum(path.stat().st_size for path in folder_of(family).iterdir()) <= 12e6
    with safe_open(folder_of(family) / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}


def test_a_video_llava_has_what_sets_its_family_apart():
    """Class tokens, features of the last layer but one, a Llama, whose biases training moved."""
    config = AutoConfig.from_pretrained(folder_of("video_llava"))
    assert (config.model_type, config.text_config.model_type) == ("video_llava", "llama")
    assert config.vision_config.model_type == "clip_vision_model"
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.text_config.attention_bias and not config.tie_word_embeddings
    model, _ = load("tiny/video_llava")
    for layer in model.model.language_model.layers:
        assert layer.self_attn.k_proj.bias.abs().max() > 0
        assert layer.self_attn.o_proj.bias.abs().max() > 0


def test_a_onevision_has_what_sets_its_family_apart():
    """A SigLIP tower without a class token, pooled frames, a Qwen2, a line break that was moved."""
    config = AutoConfig.from_pretrained(folder_of("llava_onevision"))
    assert (config.model_type, config.text_config.model_type) == ("llava_onevision", "qwen2")
    assert config.vision_config.model_type == "siglip_vision_model"
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-1, "full")
    model, _ = load("tiny/llava_onevision")
    assert model.model.image_newline.abs().max() > 0
    for layer in model.model.language_model.layers:
        assert layer.self_attn.k_proj.bias.abs().max() > 0


def test_a_frame_is_its_visual_tokens(loaded, family):
    """Sixteen patches after a class token; sixteen pooled ones, and one line break for the clip."""
    model, processor = loaded
    inputs = prompts(processor, some("tiny_videomme", 16, 1).samples, "cpu")
    assert inputs["pixel_values_videos"].shape == (1, 16, 3, 64, 64)
    number = int((inputs["input_ids"] == model.config.video_token_id).sum())
    assert number == MODELS[family][2][16]
    placed = frames_of(family_of(model).blocks(model.config, inputs)).tolist()
    if family == "video_llava":
        assert placed == [t for n in range(16) for t in (-1, *[n] * 16)]
    else:
        assert placed == [*(n for n in range(16) for _ in range(16)), -1]


def test_the_committed_processor_is_the_one_of_the_code(loaded, family):
    """Words and sizes: what the code makes is what the folder holds."""
    made = MODELS[family][3]
    own = made.processor()
    assert (
        loaded[1].tokenizer(SAID[family])["input_ids"] == own.tokenizer(SAID[family])["input_ids"]
    )
    assert loaded[1].tokenizer.unk_token_id not in own.tokenizer(SAID[family])["input_ids"]
    assert loaded[1].chat_template == made.CHAT_TEMPLATE
    noise = np.random.default_rng(0).integers(0, 256, (2, 72, 90, 3), dtype=np.uint8)
    film = [Image.fromarray(frame) for frame in noise]
    if family == "video_llava" and not is_torchvision_available():
        shown = [p.video_processor([film])["pixel_values_videos"] for p in (own, loaded[1])]
        assert torch.equal(*shown)


def test_the_model_of_its_table_is_this_one(family):
    model, _, suites = video.setting("tiny", MODELS[family][0])
    assert model.config.model_type == family
    assert [one.name for one in suites] == list(TINY_VIDEO)


# ------------------------------------------------------------------------------------ what it can
def test_it_answers_and_random_pruning_hurts(loaded):
    """Far above chance, and far worse with a tenth of the tokens, or a frame, drawn at random."""
    one = some("tiny_videomme", 8, 30)
    records = evaluate(*loaded, [one], [Cell(), Cell("random", 14)])
    right = records.groupby("method")["score"].mean()
    first = evaluate(*loaded, [video.with_frames(one, 1)], [Cell()])["score"].mean()
    assert right["full"] >= LEAST and right["full"] - max(right["random"], first) > 0.2, right


def test_it_answered_every_type_of_question(family):
    """In the stored run, on all questions; the next test asks some again."""
    stored = video_run.stored("tiny", table=MODELS[family][0])
    full = stored[stored["method"] == "full"]
    assert len(full) == sum(len(video_suite(name).samples) for name in TINY_VIDEO)
    assert (full.groupby(["suite", "kind"])["score"].mean() >= LEAST).all()


def test_the_stored_answers_come_again(loaded, family):
    """Some questions of every length: unpruned, what QViD keeps at a tenth, and the baselines."""
    table = MODELS[family][0]
    stored, least = video_run.stored("tiny", table=table), min(video.SHARES[table])
    suites = [some("tiny_mvbench", 8, 6), some("tiny_videomme", 16, 3)]
    suites = [one.only(set(one.samples["id"]) & set(stored["sample"])) for one in suites]
    records = video.evaluate_shares(*loaded, suites, ["qvid"], (least,))
    columns = ["sample", "method", "variant", "share"]
    both = records.merge(stored, on=columns, suffixes=("", "_stored"), validate="one_to_one")
    assert len(both) == len(records) >= 6 * 4
    assert (both["prediction"] == both["prediction_stored"]).mean() >= 0.98


def test_in_frames_spends_nothing_on_what_shows_no_place(loaded, family):
    """One budget over the clip: QViD's own tokens but for class tokens and line breaks, whose room
    the next best take."""
    rows = some("tiny_mvbench", 8, 4).samples
    cells = [Cell("qvid", share=15.0), Cell(video.in_frames("qvid"), share=15.0)]
    shown = look(*loaded, rows, cells)
    kept = shown[shown["kept"]]
    own, other = (kept[kept["method"] == name] for name in ("qvid", "qvid_in_frames"))
    assert len(own) == len(other) and (other["frame"] >= 0).all()
    assert family == "llava_onevision" or (own["frame"] < 0).any()
    placed = own[own["frame"] >= 0][["sample", "token"]]
    assert len(placed.merge(other, on=["sample", "token"])) == len(placed)


# ------------------------------------------------------------------------------------ the oracles
@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNING)
def test_keeping_everything_changes_no_bit(loaded, batch, family, name):
    def everything(keep, n_visual, n_layers, layer=None):
        return (Cut(2, n_visual), Cut(5, n_visual))

    method = replace(METHODS[name], schedule=everything)
    logits = loaded[0](**batch).logits
    with pruned(loaded[0], method, 16) as trace:
        assert torch.equal(loaded[0](**batch).logits, logits)
    assert len(trace.cuts) == 4 and {len(c.kept) for c in trace.cuts} == {MODELS[family][2][8]}


@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNING)
def test_dropping_is_hiding_and_the_cache_is_recomputing(loaded, batch, name):
    """Two questions in one batch; an answer of eight words, decoded on the shortened cache."""
    model = loaded[0]
    # as `generate` counts them: shifted ones, the default where a row is padded, turn by other
    # float32 angles, which moves logits by some 1e-4
    place = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with pruned(model, name, 34) as trace:
        logits = model(**batch, position_ids=place).logits
    check_hidden(model, batch, trace.cuts, logits, EXACT)
    check_decoded(model, batch, name, 34, EXACT)
    plain = model(**batch).logits[:, -1]
    assert (logits[:, -1] - plain).abs().max() > 100 * EXACT  # and it does change the answer


@torch.inference_mode()
@pytest.mark.parametrize("name", [*PRUNING, "svd_prune", "visionzip", "prumerge"])
def test_a_row_of_a_batch_is_the_row_alone(loaded, batch, family, name):
    """The same tokens stay and the same logits come, also where the class tokens' attention or
    merged tokens decide."""
    model = loaded[0]
    if family == "llava_onevision":  # no class token: their adaptation by the attention received
        name = {"visionzip": "visionzip_received", "prumerge": "prumerge_received"}.get(name, name)
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
