"""Loading: folder, embedded name, hub id; what is wrong with a checkpoint in one sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from twins import PROCESSOR, STAR, ask, twin

from qvid_utils import models
from qvid_utils.families import Unavailable
from qvid_utils.models import LoadError, load
from qvid_utils.pruning import pruned

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


def test_dtype_and_kernel(checkpoint):
    model, _ = load(checkpoint, dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16
    assert model.config.get_text_config()._attn_implementation == "eager"
    for bad in ("bf17", "Tensor", 16):
        with pytest.raises(ValueError, match="give a torch dtype"):
            load(checkpoint, dtype=bad)
    with pytest.raises(ValueError, match="attention='flash': choose one of sdpa"):
        load(checkpoint, attention="flash")


def test_flash_attention_without_the_package_says_so(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise ImportError("FlashAttention2 has been toggled on, but flash_attn is not installed")

    monkeypatch.setattr(models.AutoModelForImageTextToText, "from_pretrained", fail)
    with pytest.raises(Unavailable, match="flash-attn package.*attention='sdpa'"):
        load(checkpoint, attention="flash_attention_2")


def test_embedded_names_lie_in_the_data_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "DATA", tmp_path)
    shutil.copytree(checkpoint, tmp_path / "tiny" / "mine")
    model, _ = load("tiny/mine")
    assert model.config.model_type == "llava"
    with pytest.raises(LoadError, match="no embedded model of that name; there is tiny/mine"):
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


def edit_weights(change):
    def spoil(folder):
        weights = load_file(folder / WEIGHTS)
        name = next(n for n in weights if "layers.3" in n and "q_proj" in n)
        change(weights, name)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

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
        (cut(-1), "is truncated: .* bytes; copy it again"),
        (cut(200_000), "is truncated: 200000 of "),
        (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (edit_weights(lambda w, n: w.pop(n)), "1 weights are missing .*q_proj"),
        (edit_weights(lambda w, n: w.update({n: w[n][:3].clone()})), "another shape.*q_proj"),
        (change(model_type="gpt2"), "model_type 'gpt2'; supported are .*llava"),
        (change(model_type=None), "model_type None; supported"),
        (remove("processor_config.json"), "processor files are incomplete"),
        (remove("tokenizer.json"), "processor files are incomplete"),
    ],
)
def test_a_broken_checkpoint_is_one_clear_sentence(broken, spoil, match):
    spoil(broken)
    with pytest.raises(LoadError, match=match) as caught:
        load(broken)
    assert "\n" not in str(caught.value) and "copy" in str(caught.value)


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

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    with pytest.raises(LoadError, match=match) as caught:
        load("owner/name", revision="v2")
    assert "\n" not in str(caught.value)
