"""How the Video-LLaVA grows: its decoder starts as the LLaVA-OneVision's, its tower is taught."""

from dataclasses import replace

import clips
import grow_onevision as course
import grow_video_llava as grow
import numpy as np
import onevision
import onevision_decoder
import pytest
import torch
import train
import video_llava
from PIL import Image
from transformers import (
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    VideoLlavaForConditionalGeneration,
)

from qvid_utils import load
from qvid_utils.families import family_of
from qvid_utils.families.layout import frames_of
from qvid_utils.paths import DATA

SHORT = {"tower": 2, "tower_batch": 3, "language": 3, "clips": 3, "questions": 2, "save": 1}
FAST = replace(grow.PRESETS["cpu"], **SHORT)
OURS = {word: i for i, word in enumerate(video_llava.vocabulary())}


@pytest.fixture(scope="module")
def teacher():
    """A LLaVA-OneVision before its training: the LLaVA's decoder, biases and newline of its own."""
    torch.manual_seed(0)
    folder = DATA / "tiny" / "llava"
    llava = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    made = LlavaOnevisionForConditionalGeneration(onevision.config()).eval()
    course.graft(llava, made, 0)
    with torch.no_grad():
        made.model.image_newline.normal_()
        for layer in made.model.language_model.layers:
            layer.self_attn.k_proj.bias.normal_()
    return made.requires_grad_(False)


@pytest.fixture
def model(teacher):
    torch.manual_seed(1)
    made = VideoLlavaForConditionalGeneration(video_llava.config()).eval()
    grow.graft(teacher, made)
    return made


# ------------------------------------------------------------------------------- words and frames
def test_words_have_the_teachers_ids_and_the_papers_form():
    theirs = onevision.vocabulary()
    changed = {old: new for old, new in zip(theirs, OURS, strict=True) if old != new}
    assert changed == {**onevision_decoder.SAME, "system": "\n"}
    words = video_llava.tokenizer()
    chat = [{"role": "user", "content": [{"type": "text", "text": "What flashes?"},
                                         {"type": "video"}]}]  # fmt: skip
    text = words.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "USER: <video>\nWhat flashes? ASSISTANT:"
    told = words.convert_ids_to_tokens(words(text)["input_ids"])
    assert told == ["<s>", "USER:", "<video>", "\n", "What", "flashes", "?", "ASSISTANT:"]
    assert words.padding_side == "left"
    assert words.decode([OURS["star"], OURS["</s>"]], skip_special_tokens=True) == "star"


def test_frames_become_seventeen_tokens_each_without_torchvision(caplog):
    """Pixels in [-1, 1]; a wide frame is shrunk and cropped to its middle, as Video-LLaVA's own
    video processor does; pictures have no class token."""
    processor = video_llava.processor()
    rng = np.random.default_rng(0)
    film = [Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(3)]
    with caplog.at_level("WARNING"):
        inputs = processor(text=["USER: <video>\nWhat flashes? ASSISTANT:"], videos=[film])
    assert not caplog.records
    pixels = inputs["pixel_values_videos"]
    assert pixels.shape == (1, 3, 3, 64, 64)
    middle = torch.from_numpy(np.asarray(film[2])[:, 16:80].copy()).movedim(-1, 0)
    assert torch.allclose(pixels[0, 2], middle / 127.5 - 1, atol=1e-5)
    visual = inputs["input_ids"] == OURS["<video>"]
    assert int(visual.sum()) == 3 * 17
    blocks = family_of(VideoLlavaForConditionalGeneration(video_llava.config())).blocks(
        video_llava.config(), inputs
    )
    want = [place for t in range(3) for place in (-1, *[t] * 16)]  # the class token shows no place
    assert frames_of(blocks).tolist() == want
    inputs = processor(text=["USER: <image>\nIs there a star? ASSISTANT:"], images=[film[0]])
    assert int((inputs["input_ids"] == OURS["<image>"]).sum()) == 16


# ------------------------------------------------------------------------------------- the graft
@torch.no_grad()
def test_the_decoder_starts_as_the_teachers(teacher, model):
    """Any stream through both, biases included; the line break stands where the newline stood."""
    stream = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    ours, theirs = (m.model.language_model(inputs_embeds=stream) for m in (model, teacher))
    assert torch.allclose(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-5)
    assert torch.equal(model.lm_head.weight, teacher.lm_head.weight)
    words, old = (m.get_input_embeddings().weight for m in (model, teacher))
    assert torch.equal(words[OURS["\n"]], teacher.model.image_newline)
    others = [i for word, i in OURS.items() if word != "\n"]
    assert torch.equal(words[others], old[others])


def test_another_decoder_is_refused(teacher, model):
    text = replace_layers(video_llava.config(), 8)
    with pytest.raises(ValueError, match=r"the decoders differ: \['layers.8"):
        grow.graft(teacher, VideoLlavaForConditionalGeneration(text))


def replace_layers(config, number):
    config.text_config.num_hidden_layers = number
    return config


@torch.no_grad()
def test_the_tower_is_taught_the_teachers_cells_and_their_mean(teacher):
    """From whole pictures, what the teacher's own forward gives for their middle."""
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = grow.taught(teacher, pixels)
    middle = pixels[:, :, 16:80, 16:80]
    own = teacher.model.get_video_features(middle[None], vision_feature_layer=-1).pooler_output
    own = own[:, :-1] if own.shape[1] == 33 else own  # the newline
    cells = own.reshape(2, 16, 128)
    assert torch.allclose(wanted[:, 1:], cells, atol=1e-4)
    assert torch.allclose(wanted[:, 0], cells.mean(1), atol=1e-4)


# -------------------------------------------------------------------------------------- training
def test_training_sees_what_the_model_sees(model):
    """Packed questions on precomputed tokens, and the model's own forward on the prompt that its
    chat template and processor write."""
    rng = np.random.default_rng(1)
    drawn = [clips.draw_clip(rng, 4) for _ in range(2)]
    films = [clips.render(clip, rng) for clip in drawn]
    processor = video_llava.processor()
    packed = course.pack(
        drawn, rng, 2, processor.tokenizer, options=True, turn=grow.VIDEO_LLAVA.turn
    )
    frames = course.scaled(np.stack(films))
    with torch.no_grad(), course.packed_kernels(model):
        seen = course.tokens_of(model, frames.flatten(0, 1)).unflatten(0, (2, 4)).flatten(1, 2)
        out, prefix = course.decoded(model, seen, packed.ids)
        got = model.lm_head(out.last_hidden_state[:, prefix:]).unflatten(1, packed.ids.shape[1:])
    assert prefix == 2 + 4 * 17 + 1
    for b in range(2):
        for q in range(2):
            asked = packed.target[b, q] >= 0
            end = int(asked.nonzero()[0]) + 1  # after "ASSISTANT:"
            words = processor.tokenizer.decode(packed.ids[b, q, : end - 1])
            film = [Image.fromarray(frame) for frame in films[b]]
            chat = [{"role": "user", "content": [{"type": "video", "video": film},
                                                 {"type": "text", "text": words}]}]  # fmt: skip
            inputs = processor.apply_chat_template(
                chat,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
            assert inputs["input_ids"][0, prefix:].tolist() == packed.ids[b, q, :end].tolist()
            with torch.no_grad():
                want = model(**inputs).logits[0, -1]
            assert torch.allclose(got[b, q, end - 1], want, atol=1e-4)
            answer = packed.ids[b, q, end].item()
            assert packed.target[b, q, asked].tolist() == [answer, OURS["</s>"]]


def test_the_class_token_tells_no_cell(model, teacher, tmp_path, monkeypatch):
    """What the readers are asked of a frame is asked of its 16 patches, which come last."""
    seen, asked, tokens_of = [], [], course.tokens_of

    def watched(model, frames):
        seen.append(tokens_of(model, frames))
        return seen[-1]

    def told(reader, hidden, there):
        asked.append((hidden, there["kind"]))
        return hidden.sum() * 0, torch.zeros(())

    monkeypatch.setattr(course, "tokens_of", watched)
    monkeypatch.setattr(course, "told_by_tokens", told)
    run(model, teacher, tmp_path, None, replace(FAST, seen_layer=0))  # the stream as it comes in
    assert len(asked) == FAST.language
    for tokens, (hidden, kind) in zip(seen[FAST.tower :], asked, strict=True):
        patches = tokens[:, 1:].reshape(*kind.flatten(1).shape, -1)
        assert torch.equal(hidden, patches.to(hidden.dtype))


def run(model, teacher, folder, until, preset=FAST):
    device = torch.device("cpu")
    grow.train_tower(model, teacher, preset, 0, folder, device, grow.VIDEO_LLAVA)
    model.model.video_tower.requires_grad_(False)
    grow.train_language(model, None, preset, 0, folder, device, until, grow.VIDEO_LLAVA)


def test_both_stages_resume_to_the_same_weights(teacher, tmp_path):
    """Stopped after the second step, and run through: one result; what is saved answers a question
    about a film. Its checkpoints are not those of the LLaVA-OneVision in the same folder."""

    def grown(folder, stops):
        folder.mkdir()
        for until in stops:
            torch.manual_seed(0)
            made = VideoLlavaForConditionalGeneration(video_llava.config()).eval()
            grow.graft(teacher, made)
            torch.manual_seed(1)
            run(made, teacher, folder, until)
        return made

    whole, parts = grown(tmp_path / "a", [None]), grown(tmp_path / "b", [2, None])
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"video_llava_tower.pt", "video_llava_language.pt"}
    own = dict(whole.named_parameters())
    for name, weight in parts.named_parameters():
        assert name.startswith("model.image_tower") or torch.equal(weight, own[name]), name
    start = teacher.model.language_model.layers[0].mlp.up_proj.weight
    assert not torch.equal(own["model.language_model.layers.0.mlp.up_proj.weight"], start)
    grow.save(whole, tmp_path)
    folder = tmp_path / "video_llava"
    assert (folder / "model.safetensors").stat().st_size < 12e6
    model, processor = load(folder)
    towers = model.model.image_tower, model.model.video_tower
    for ours, theirs in zip(*(tower.parameters() for tower in towers), strict=True):
        assert torch.equal(ours, theirs)
    film = [Image.new("RGB", (64, 64), shade) for shade in ("red", "blue")]
    inputs = processor(text=["USER: <video>\nWhat flashes? ASSISTANT:"], videos=[film])
    assert model.generate(**inputs, max_new_tokens=1).shape[1] == 2 + 34 + 1 + 4 + 1


def test_the_command_knows_the_family():
    assert train.GROWN["video_llava"] == "grow_video_llava"
    assert set(grow.PRESETS) == set(train.PRESETS)
