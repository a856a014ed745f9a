"""Loading: folder, embedded name, hub id; what is wrong with a checkpoint in one sentence."""

import functools
import json
import pickle
import shutil
import struct

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, PreTrainedConfig
from twins import BOTH, PROCESSOR, STAR, TALK, ask, image_processor_of, twin

import qvid_utils.models.checkpoint as files
import qvid_utils.models.load as models
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.models.ask import ask as ask_model
from qvid_utils.models.ask import unknown_words
from qvid_utils.models.load import LoadError, load
from qvid_utils.models.processors import processor_from
from qvid_utils.prune import pruned

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    twin().save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_a_folder_loads_and_knows_its_question(checkpoint):
    model, processor = load(checkpoint)
    assert not model.training and model.dtype == torch.float32 and model.device.type == "cpu"
    assert processor.tokenizer.padding_side == "left"
    assert torch.equal(model(**ask(STAR)).logits, twin()(**ask(STAR)).logits)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": STAR.words}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    picture = torch.randint(0, 255, (3, 24, 24), dtype=torch.uint8)
    inputs = processor(images=picture, text=text, return_tensors="pt")
    with pruned(model, "qvid", 5) as trace:
        out = model.generate(**inputs, max_new_tokens=3)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3
    assert len(trace.cuts[0].kept) == 5 and trace.cuts[0].n_query == 6


def picture(seed=0, size=(20, 30)):
    noise = numpy.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=numpy.uint8)
    return Image.fromarray(noise)


def conversation(*words, pictures=1, video=None):
    shown = [{"type": "image", "image": picture(i)} for i in range(pictures)]
    shown += [{"type": "video", "path": video}] if video else []
    text = [{"type": "text", "text": word} for word in words]
    return [{"role": "user", "content": shown + text}]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request, tmp_path_factory):
    """A checkpoint of each family, as a user has it: weights, processor, tokenizer, template."""
    where = tmp_path_factory.mktemp(request.param)
    twin(request.param).save_pretrained(where)
    image_processor_of(request.param).save_pretrained(where)
    return where


def test_every_family_goes_from_a_folder_to_an_answer(folder):
    model, processor = load(folder)
    more = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(conversation(STAR.words), return_tensors="pt", **more)
    family = FAMILIES[model.config.model_type]
    n_visual = sum(block.tokens for block in family.blocks(model.config, inputs))
    with pruned(model, "qvid", 5) as trace:
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        again = model.generate(**inputs, max_new_tokens=3, num_beams=2)
    assert out.shape[1] == again.shape[1] == inputs["input_ids"].shape[1] + 3
    first = trace.cuts[0]
    assert (first.n_visual, len(first.kept), first.n_query) == (n_visual, 5, 6)
    with pruned(model, "qvid", n_visual):
        same = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(same, model.generate(**inputs, max_new_tokens=3, do_sample=False))


def test_every_family_takes_a_ragged_batch_from_its_processor(folder):
    model, processor = load(folder)
    render = functools.partial(processor.apply_chat_template, add_generation_prompt=True)
    asked = [conversation(BOTH.words, pictures=2), conversation(STAR.words),
             conversation(TALK.words, pictures=0)]  # fmt: skip
    pictures = [[picture(0), picture(1)], [picture(0)], []]
    inputs = processor(
        images=pictures, text=[render(one) for one in asked], padding=True, return_tensors="pt"
    )
    with pruned(model, "qvid", 5) as trace:
        together = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        for row, one in enumerate(asked):
            if pictures[row]:
                alone = processor(images=[pictures[row]], text=[render(one)], return_tensors="pt")
                out = model.generate(**alone, max_new_tokens=3, do_sample=False)
                assert torch.equal(out[0, -3:], together[row, -3:])
    assert [(cut.call, cut.row) for cut in trace.cuts] == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert torch.equal(trace.cuts[0].kept, trace.cuts[2].kept)
    assert torch.equal(trace.cuts[1].kept, trace.cuts[3].kept)


def test_without_torchvision_a_video_names_the_extra(folder, tmp_path):
    _, processor = load(folder)
    if not hasattr(processor, "video_token") or hasattr(processor, "video_processor"):
        return  # has no videos, or can read them
    says = pytest.raises(Unavailable, match="extra `video` and the torchvision that is made for")
    with says:
        processor(text="x", videos=[numpy.zeros((2, 24, 24, 3))])
    with says:
        processor.apply_chat_template(
            conversation("x", pictures=0, video="none.mp4"), tokenize=True
        )
    text = processor.apply_chat_template(conversation("x", pictures=0, video="none.mp4"))
    assert processor.video_token in text  # the template itself is no matter of pixels
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == type(processor).__name__
    assert "video_processor" not in saved
    config = AutoConfig.from_pretrained(folder)
    again = processor_from(str(tmp_path), config)
    assert again.to_dict() == processor.to_dict()


@pytest.mark.parametrize(
    ("free", "dtype", "match"),
    [
        (1_000_000, None, "needs about 0.0 GiB on cpu in float32.*dtype='bfloat16' .* would fit"),
        (1_000, None, "no dtype here would fit .*another device=.* or a smaller checkpoint"),
        (1_000, "bfloat16", "in bfloat16, 0.0 GiB are free; no dtype here would fit"),
    ],
)
def test_too_large_a_model_is_said_before_it_is_read(checkpoint, monkeypatch, free, dtype, match):
    monkeypatch.setattr(files, "free_memory", lambda device: free)
    read = []
    monkeypatch.setattr(
        models.AutoModelForImageTextToText, "from_pretrained", lambda *a, **k: read.append(1)
    )
    with pytest.raises(LoadError, match=match) as caught:
        load(checkpoint, dtype=dtype)
    assert not read and "\n" not in str(caught.value)


def test_the_estimate_is_what_the_weights_take(monkeypatch):
    """LLaVA-1.5-7B: 7.06 thousand million numbers, 26.3 GiB in float32, 13.2 GiB in bfloat16."""
    monkeypatch.setattr(files, "free_memory", lambda device: 20 * 2**30)
    said = pytest.raises(LoadError, match=r"about 26.3 GiB .* 20.0 GiB are free; .*\(13.2 GiB\)")
    with said:
        files.check_memory("x", LlavaConfig(), torch.float32, torch.device("cpu"))
    files.check_memory("x", LlavaConfig(), torch.bfloat16, torch.device("cpu"))


def test_free_memory_is_less_than_there_is():
    free = files.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert files.free_memory(torch.device("meta")) is None


def test_dtype_and_kernel(checkpoint):
    model, _ = load(checkpoint, dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16
    assert model.config.get_text_config()._attn_implementation == "eager"
    for bad in ("bf17", "Tensor", 16):
        with pytest.raises(ValueError, match="give a torch dtype"):
            load(checkpoint, dtype=bad)
    with pytest.raises(ValueError, match="attention='flash': choose one of sdpa"):
        load(checkpoint, attention="flash")


@pytest.mark.parametrize("device", ["gpu", "cuda:77", 3.5])
def test_a_device_that_is_not_there(checkpoint, device):
    with pytest.raises(ValueError, match=f"device={device!r} cannot be used here; there is cpu"):
        load(checkpoint, device=device)


def test_flash_attention_without_the_package_says_so(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise ImportError("FlashAttention2 has been toggled on, but flash_attn is not installed")

    monkeypatch.setattr(models.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(Unavailable, match="flash-attn package.*attention='sdpa'"):
        load(checkpoint, attention="flash_attention_2")


def test_a_processor_that_needs_another_package_names_it(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise ImportError("X requires the Torchvision library but it was not found. Go there")

    monkeypatch.setattr(models, "processor_from", fail)
    with pytest.raises(Unavailable, match="processor files need a package .*Torchvision library"):
        load(checkpoint)


def test_embedded_names_lie_in_the_data_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", tmp_path)
    shutil.copytree(checkpoint, tmp_path / "tiny" / "mine")
    model, _ = load("tiny/mine")
    assert model.config.model_type == "llava"
    shutil.copytree(checkpoint, tmp_path / "tiny" / "tower")  # no model that answers
    change(model_type="clip")(tmp_path / "tiny" / "tower")
    with pytest.raises(LoadError, match="no embedded model of that name; there is tiny/mine$"):
        load("tiny/yours")


def test_shards_are_read(checkpoint, tmp_path):
    model = twin()
    model.save_pretrained(tmp_path, max_shard_size="400KB")
    PROCESSOR.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and load(tmp_path)
    shards[1].unlink()
    with pytest.raises(LoadError, match=f"{shards[1].name} is missing"):
        load(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(LoadError, match="is no valid index"):
        load(tmp_path)


def cut(size):
    def spoil(folder):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[:size])

    return spoil


def change(**values):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return spoil


def deep(part, **values):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        config[part] |= values
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def edit_weights(change):
    def spoil(folder):
        weights = load_file(folder / WEIGHTS)
        name = next(n for n in weights if "layers.3" in n and "q_proj" in n)
        change(weights, name)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


NESTED = b"[" * 200_000  # deeper than a reader goes


def header(**values):
    """Another entry in a weights file's header, which says where a tensor lies."""

    def spoil(folder):
        data = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        told = json.loads(data[8 : 8 + size])
        told[next(name for name in told if name != "__metadata__")] |= values
        made = json.dumps(told).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + data[8 + size :])

    return spoil


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (remove("config.json"), "is no checkpoint: it has no config.json"),
        (write("config.json", b"{"), "no valid JSON"),
        (write("config.json", b"[]"), "no valid JSON"),
        (remove(WEIGHTS), "model.safetensors is missing"),
        (cut(0), "cut short"),
        (cut(5), "cut short"),
        (cut(1000), "cut short"),
        (cut(-1), "cut short"),
        (cut(200_000), "cut short"),
        (header(data_offsets=[0]), "cut short or no safetensors file"),
        (header(data_offsets=[0, -4]), "cut short or no safetensors file"),
        (header(shape=[10**18]), "cut short or no safetensors file"),
        (write(WEIGHTS, struct.pack("<Q", 2**62) + b"{"), "cut short or no safetensors file"),
        (write(WEIGHTS, struct.pack("<Q", len(NESTED)) + NESTED), "cut short or no safetensors"),
        (write("config.json", NESTED), "no valid JSON"),
        (write(INDEX, NESTED), "is no valid index"),
        (write("tokenizer.json", NESTED), "processor files cannot be used"),
        (deep("text_config", num_hidden_layers=10**9), "names 1000000000 layers .num_hidden"),
        (deep("vision_config", num_hidden_layers=1e9), "names 1000000000.0 layers"),
        (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (edit_weights(lambda w, n: w.pop(n)), "1 weights are missing .*q_proj"),
        (edit_weights(lambda w, n: w.update({n: w[n][:3].clone()})), "another shape.*q_proj"),
        (change(model_type="gpt2"), "model_type 'gpt2'; supported are .*llava"),
        (change(model_type=None), "model_type None; supported"),
        (
            remove("processor_config.json"),
            "load image processor.*has no preprocessor_config.json; copy",
        ),
        (write("tokenizer.json", b"{}"), "processor files cannot be used .KeyError"),
        (write("tokenizer.json", b"[]"), "processor files cannot be used .TypeError"),
        (write(INDEX, b"[]"), "is no valid index"),
        (write(INDEX, b'{"weight_map": {"a": 3}}'), "is no valid index"),
        (deep("text_config", num_hidden_layers=3), "layers that config.json does not know.*layers"),
        (deep("vision_config", num_hidden_layers=1), "does not know.*vision_tower.*layers.1"),
        (deep("text_config", num_attention_heads=3), "its config.json cannot be used .*multiple"),
        (remove("tokenizer.json"), "processor files cannot be used.*has no tokenizer.json"),
    ],
)
def test_a_broken_checkpoint_is_one_clear_sentence(broken, spoil, match):
    spoil(broken)
    with pytest.raises(LoadError, match=match) as caught:
        load(broken)
    assert "\n" not in str(caught.value) and "copy" in str(caught.value)


def test_a_relative_that_cannot_be_pruned_says_why(broken):
    change(model_type="gemma3")(broken)
    with pytest.raises(Unavailable, match="gemma3 lets the tokens of a picture .*both directions"):
        load(broken)


def test_what_processor_files_lack_comes_from_the_configuration(tmp_path):
    """Folders of 2024: no chat template, no patch size, no strategy, no count of class tokens."""
    twin("video_llava").save_pretrained(tmp_path)
    image_processor_of("video_llava").save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kept))
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "chat_template.jinja").unlink()
    model, processor = load(tmp_path)
    assert processor.patch_size == 6 and processor.num_additional_image_tokens == 1
    assert processor.vision_feature_select_strategy == "default"
    chat = conversation(STAR.words)
    more = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(chat, return_tensors="pt", **more)
    with pruned(model, "qvid", 5) as trace:
        model(**inputs)
    assert (trace.cuts[0].n_visual, trace.cuts[0].n_query) == (16, 6)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"patch_size": None, "vision_feature_select_strategy": None},
        {"patch_size": 6, "vision_feature_select_strategy": "default"},
    ],
)
def test_a_llava_processor_without_its_settings(broken, told):
    file = broken / "processor_config.json"
    old = json.loads(file.read_text())
    kept = {"image_processor": old["image_processor"], "processor_class": "LlavaProcessor"}
    file.write_text(json.dumps(kept | told))
    _, processor = load(broken)
    text = processor.image_token + " what"
    ids = processor(images=[picture()], text=[text], return_tensors="pt")["input_ids"]
    assert int((ids == 4).sum()) == 16


def test_processors_can_be_pickled(folder):
    _, processor = load(folder)
    again = pickle.loads(pickle.dumps(processor))
    assert type(again) is type(processor) and again.to_dict() == processor.to_dict()
    text = f"{processor.image_token} {STAR.words}"
    given = {"images": [picture()], "text": [text], "return_tensors": "pt"}
    one, two = processor(**given), again(**given)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"mm_vision_tower": "x"}, "LLaVA's own code.* such as llava-hf/llava-1.5-7b-hf$"),
        (
            {"mm_vision_tower": "x", "architectures": ["LlavaQwenForCausalLM"]},
            "llava-onevision.*-hf$",
        ),
        ({"mm_video_tower": "x"}, "such as LanguageBind/Video-LLaVA-7B-hf$"),
        ({"model_type": "llava_qwen"}, "LLaVA's own code"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            r"quantised \(awq\).*llava-1.5-7b-hf$",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, r"is quantised \(gptq\)"),
        ({"quantization_config": {"load_in_4bit": True}}, r"is quantised \(no method named\)"),
    ],
)
def test_a_checkpoint_of_another_kind_names_the_one_to_load(broken, told, match):
    change(**told)(broken)
    (broken / WEIGHTS).rename(broken / "pytorch_model-00001-of-00001.bin")
    with pytest.raises(LoadError, match=match):
        load(broken)


def test_a_model_of_plain_transformers_finds_its_folders_template(tmp_path):
    """The template of older folders lies in chat_template.json, where a tokenizer does not look."""
    twin().save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pruned(model, "qvid", 4) as trace:
        model(**ask(STAR))
    assert trace.cuts[0].n_query == 14


def test_a_question_of_unknown_words_says_so(checkpoint):
    """Without the check the words of an earlier turn, or none, would be the question."""
    model, processor = load(checkpoint)
    said = "does not know a word of the question"
    with pytest.raises(ValueError, match=said + r" \(quel, chien\): ask in words"):
        ask_model(model, processor, picture(), "quel chien")
    assert unknown_words(processor, "what chien ?") == ["chien"]
    chat = [conversation(STAR.words)[0], {"role": "assistant", "content": []}]
    chat[1]["content"] = [{"type": "text", "text": "red"}]
    chat += conversation("quel chien", pictures=0)
    more = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(chat, return_tensors="pt", **more)
    with pytest.raises(ValueError, match=said + r" \(2 unknown"), pruned(model, "qvid", 4):
        model(**inputs)


def test_a_map_of_devices_places_the_parts(checkpoint):
    model, _ = load(checkpoint, device_map="auto")
    assert torch.equal(model(**ask(STAR)).logits, twin()(**ask(STAR)).logits)
    with pytest.raises(ValueError, match="device='cpu' and device_map='auto': give one of them"):
        load(checkpoint, device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="device_map= cannot be used: .*not give any device"):
        load(checkpoint, device_map={"lm_head": "disk"})


@pytest.mark.parametrize("name", ["qvid", "fastv", "divprune", "dart", "sparsevlm"])
def test_layers_that_wait_on_disk_are_pruned_as_those_in_memory(checkpoint, name):
    """Their weights are no tensors between two calls; QViD reads the norm of layer 1."""
    parts = ("vision_tower", "multi_modal_projector", "language_model")
    places = dict.fromkeys((*(f"model.{part}" for part in parts), "lm_head"), "cpu")
    del places["model.language_model"]
    inner = ("embed_tokens", "norm", "rotary_emb", *(f"layers.{i}" for i in range(8)))
    places |= dict.fromkeys((f"model.language_model.{part}" for part in inner), "cpu")
    places |= {f"model.language_model.layers.{i}": "disk" for i in (0, 1, 2)}
    model, _ = load(checkpoint, device_map=places)
    assert model.base_model.language_model.layers[1].self_attn.q_proj.weight.is_meta
    with pruned(model, name, 4) as trace:
        out = model.generate(**ask(STAR), max_new_tokens=3, do_sample=False)
    other = twin()
    with pruned(other, name, 4) as there:
        wanted = other.generate(**ask(STAR), max_new_tokens=3, do_sample=False)
    assert torch.equal(out, wanted) and len(trace.cuts) == len(there.cuts)
    assert all(torch.equal(a.kept, b.kept) for a, b in zip(trace.cuts, there.cuts, strict=True))


def test_weights_in_another_format_are_not_read(broken):
    (broken / WEIGHTS).rename(broken / "pytorch_model.bin")
    with pytest.raises(LoadError, match="other formats are not read, convert them to safetensors"):
        load(broken)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nowhere", "no such folder, and no hub id"),
        ("./owner/name", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_a_name_that_is_nothing(name, match):
    with pytest.raises(LoadError, match=match):
        load(name)


def test_a_file_is_no_folder(checkpoint):
    with pytest.raises(LoadError, match="is a file: give the folder"):
        load(checkpoint / "config.json")


def test_without_a_network_a_hub_id_says_so():
    with pytest.raises(LoadError, match="hub cannot be reached: go online once, or give a local"):
        load("nobody/nothing-of-that-name")


@pytest.mark.parametrize(
    ("error", "match"),
    [
        ("GatedRepoError", "is gated: accept its terms"),
        ("RepositoryNotFoundError", "neither a folder here nor a repository"),
        ("RevisionNotFoundError", "no such revision"),
        ("LocalEntryNotFoundError", "hub cannot be reached"),
    ],
)
def test_what_the_hub_says_in_one_sentence(monkeypatch, error, match):
    kind = getattr(models.hub, error)

    def fail(*_, **__):
        raise OSError("a long story\nin lines") from kind.__new__(kind)

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", fail)
    with pytest.raises(LoadError, match=match) as caught:
        load("owner/name", revision="v2")
    assert "\n" not in str(caught.value)
