"""How the embedded Qwen2-VL is made: its parts are the stock class's own, seen from outside."""

from dataclasses import replace

import architecture
import graft
import grow
import numpy as np
import pytest
import qwen
import torch
import train
import world
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from qvid_utils import load

SIZE = (80, 112)
PART = (64, 96)  # of the square picture, 8 x 12 visual tokens


@pytest.fixture(scope="module")
def llava():
    return load("tiny/llava")[0].requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return Qwen2VLForConditionalGeneration(qwen.config()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def packed():
    rng = np.random.default_rng(3)
    scenes, pixels = train.pictures(rng, 2)
    return pixels, train.pack(scenes, rng, 3, architecture.tokenizer(), train.FINDING)


def prompt(processor, question: str, picture: Image.Image) -> dict:
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    return processor(text=[text], images=[picture], return_tensors="pt")


def test_every_word_that_can_be_asked_or_answered_is_one_token():
    rng, tok = np.random.default_rng(0), qwen.tokenizer()
    for _ in range(40):
        for kind in world.QUESTIONS:
            found = world.ask(kind, world.draw_scene(rng), rng)
            if found:
                ids = tok(f"{found.text} {found.answer}")["input_ids"]
                theirs = architecture.tokenizer()(f"{found.text} {found.answer}")["input_ids"][1:]
                assert tok.unk_token_id not in ids and len(ids) == len(theirs)


def test_patches_are_the_processors():
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    wanted = qwen.image_processor()(images=list(map(Image.fromarray, pixels)), return_tensors="pt")
    got, grids = grow.patches(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.equal(got, wanted["pixel_values"])
    assert grids.tolist() == wanted["image_grid_thw"].tolist() == [[1, 20, 28]] * 2


def test_spots_are_the_llavas_patches_of_the_same_things():
    """A corner of the board: the patch labels under its tokens are those of a board that small."""
    assert grow.spots((96, 96)).tolist() == list(range(144))
    rng = np.random.default_rng(0)
    scenes, square = train.pictures(rng, 3, board=grow.board_of(PART))
    kinds, colours = train.patch_labels(scenes)
    got = kinds[:, grow.spots(PART)].view(3, 8, 12)
    assert torch.equal(got, kinds.view(3, 12, 12)[:, :8])
    assert (kinds.view(3, 12, 12)[:, 8:] == train.NONE).all()  # nothing stands outside
    corner = grow.corner(square, PART)
    assert corner.shape == (3, 3, *PART)
    for b, scene in enumerate(scenes):
        for thing in scene:
            y, x = thing.row * 16 + 8, thing.column * 16 + 8
            shade = torch.tensor(world.COLOURS[thing.colour]) / 127.5 - 1
            spot = corner[b, :, y - 6 : y + 6, x - 6 : x + 6].flatten(1)
            assert (spot - shade[:, None]).norm(dim=0).min() < 0.25
    assert (colours[:, grow.spots(PART)] < len(train.COLOUR_NAMES)).sum() == sum(
        4 * len(scene) for scene in scenes
    )


def test_packed_attention_shares_keys_within_groups(generator):
    prefix, questions, words = 7, 3, 4
    length = prefix + questions * words
    q = torch.randn(2, 4, length, 16, generator=generator)
    k, v = (torch.randn(2, 2, length, 16, generator=generator) for _ in range(2))
    got, _ = train.packed_attention(None, q, k, v, None, 0.25, questions=questions, prefix=prefix)
    group = torch.tensor([-1] * prefix + [i for i in range(questions) for _ in range(words)])
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    sees &= (group[:, None] == group) | (group == -1)
    for head in range(4):
        scores = (q[:, head] @ k[:, head // 2].mT * 0.25).masked_fill(~sees, -torch.inf)
        assert torch.allclose(got[:, :, head], scores.softmax(-1) @ v[:, head // 2], atol=1e-5)


def test_keys_of_one_direction_share_one_without_loss(generator):
    """Two heads whose keys differ by a turn and a scale of every rotary pair: nothing is lost, and
    all scores, also between turned positions, stay."""
    query = torch.randn(2, 8, 5, generator=generator)
    one = torch.randn(8, 5, generator=generator)
    turn = torch.polar(torch.tensor([2.0, 0.5, 1.0, 3.0]), torch.tensor([0.3, 2.0, -1.0, 0.1]))
    two = turn[:, None] * torch.complex(one[:4], one[4:])
    key = torch.stack([one, torch.cat([two.real, two.imag])])
    turned, shared, lost = graft.grouped_keys(query, key)
    assert abs(lost) < 1e-5
    x, y = torch.randn(2, 5, generator=generator)
    angle = torch.polar(torch.ones(4), torch.tensor([1.0, 0.4, 0.1, 0.01]))

    def score(q, k):
        q, k = q @ x, k @ y
        q, k = torch.complex(q[:4], q[4:]) * angle, torch.complex(k[:4], k[4:])
        return (q * k.conj()).real.sum()

    for head in range(2):
        assert torch.isclose(score(turned[head], shared), score(query[head], key[head]), atol=1e-4)


def test_values_share_what_fits_into_one():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, 6, generator=generator).expand(2, 3, 6)
    out = torch.randn(2, 6, 3, generator=generator)
    shared, outs, lost = graft.grouped_values(value, out)
    assert shared.shape == (3, 6) and abs(lost) < 1e-5
    assert torch.allclose(outs @ shared, out @ value, atol=1e-4)


def test_grafted_words_and_layers_are_the_llavas(llava):
    """With heads that share their keys and values already, and all text: the same hidden states."""
    import copy

    teacher = copy.deepcopy(llava)
    for layer in teacher.model.language_model.layers:
        for name in ("k_proj", "v_proj"):
            weight = getattr(layer.self_attn, name).weight.data.unflatten(0, (4, 64))
            weight[1], weight[3] = weight[0].clone(), weight[2].clone()
    model = Qwen2VLForConditionalGeneration(qwen.config()).eval()
    lost = graft.graft(teacher, model, 0)
    assert max(lost) < 1e-3
    kept = [teacher.model.language_model.layers[i] for i in graft.LAYERS]
    teacher.model.language_model.layers = torch.nn.ModuleList(kept)
    teacher.model.language_model.config.num_hidden_layers = len(kept)
    said = "What color is the red star? Answer the question using a single word."
    theirs = architecture.tokenizer()(said, return_tensors="pt")["input_ids"][:, 1:]
    ours = qwen.tokenizer()(said, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        want = teacher(input_ids=theirs, use_cache=False).logits[0]
        got = model(input_ids=ours, use_cache=False).logits[0]
    assert torch.allclose(got, want[:, graft.translation()], atol=2e-3 * float(want.abs().max()))


def test_positions_are_the_models(model):
    inputs = prompt(qwen.processor(), "Is there a star?", Image.new("RGB", SIZE[::-1]))
    wanted, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
    )
    prefix = len(grow.BEFORE) + 10 * 14 + 1
    words = inputs["input_ids"].shape[1] - prefix
    got = grow.positions(SIZE, words, 2)
    assert torch.equal(got[:, : prefix + words], wanted[:, 0])
    assert torch.equal(got[:, prefix + words :], got[:, prefix : prefix + words])


def test_packed_training_is_the_stock_forward(model, packed):
    """The words, positions, attention and pictures of training against the model as users run it:
    the same scores for every answer, question by question."""
    pixels, asked = packed
    ids, target, _ = grow.chat(asked)
    flat, grids = grow.patches(grow.corner(pixels, PART))
    with torch.inference_mode(), grow.packed_kernels(model):
        features = model.model.visual(flat, grid_thw=grids).pooler_output.unflatten(0, (2, -1))
        out, prefix = grow.student(model, features, ids, PART)
        packed_scores = model.lm_head(out.last_hidden_state[:, prefix:].unflatten(1, (3, -1)))
    tok, pad = qwen.tokenizer(), graft.WORD["<|image_pad|>"]
    for b in range(2):
        for q in range(3):
            end = int((target[b, q] >= 0).nonzero()[0])
            row = [*grow.BEFORE, *[pad] * 96, graft.WORD["<|vision_end|>"]]
            row = torch.tensor([[*row, *ids[b, q, : end + 2].tolist()]])
            with torch.inference_mode():
                scores = model(
                    input_ids=row,
                    pixel_values=flat.view(2, 384, -1)[b],
                    image_grid_thw=grids[:1],
                    mm_token_type_ids=(row == pad).int(),
                ).logits[0]
            got = packed_scores[b, q, : end + 2]
            assert torch.allclose(got, scores[-end - 2 :], atol=1e-4), (b, q)
            words = tok.decode(row[0, -end - 2 :].tolist())
            assert words.count("<|im_end|> <|im_start|> assistant") == 1


def test_a_question_is_what_the_chat_template_writes(packed):
    """The packed words against a prompt made by the processor from the same question."""
    rng, tok, processor = np.random.default_rng(5), architecture.tokenizer(), qwen.processor()
    scenes, _ = train.pictures(rng, 1)
    packed = train.pack(scenes, rng, 4, tok, train.FINDING)
    ids, target, source = grow.chat(packed)
    for q in range(4):
        old = packed.ids[0, q].tolist()
        turn = old.index(train.WORD["ASSISTANT:"])
        said = " ".join(tok.convert_ids_to_tokens(old[:turn]))
        inputs = prompt(processor, said, Image.new("RGB", (16, 32)))["input_ids"][0].tolist()
        start = inputs.index(graft.WORD["<|vision_end|>"]) + 1
        assert ids[0, q, : turn + 3].tolist() == inputs[start:]
        names = qwen.tokenizer().convert_ids_to_tokens(target[0, q, turn + 2 : turn + 4].tolist())
        assert names == [tok.convert_ids_to_tokens(old[turn + 1]), "<|im_end|>"]
        places = [*range(turn), -1, -1, turn, turn + 1]
        assert source[0, q, : turn + 4].tolist() == places
        assert (source[0, q, turn + 4 :] == -1).all() and (target[0, q] >= 0).sum() == 2


@pytest.mark.full
def test_a_killed_training_resumes_with_the_same_weights(tmp_path, llava):
    """Both stages in one go and in two halves, the second from a fresh model."""
    sizes = {"tower": 4, "tower_batch": 4, "language": 4, "pictures": 2, "questions": 2, "save": 2}
    preset = replace(grow.Preset(), **sizes)

    def run(folder, stops):
        folder.mkdir()
        for stop in stops:
            torch.manual_seed(0)
            model = Qwen2VLForConditionalGeneration(qwen.config())
            graft.graft(llava, model, 0)
            grow.train_tower(model, llava, preset, 0, folder, torch.device("cpu"), until=stop)
        for stop in stops:
            grow.train_language(model, llava, preset, 0, folder, torch.device("cpu"), until=stop)
            if stop < stops[-1]:
                graft.graft(llava, model, 0)
        return model.state_dict()

    whole, halves = run(tmp_path / "whole", [4]), run(tmp_path / "halves", [2, 4])
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
