"""The training code: packed attention is exact, stages resume, grounding tells the truth."""

from dataclasses import replace

import architecture
import numpy as np
import pytest
import torch
import train
import world
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    scenes, pixels = train.pictures(rng, 3)
    return scenes, pixels, train.pack(scenes, rng, 4, architecture.tokenizer(), train.FINDING)


def block_mask(questions: int, words: int) -> torch.Tensor:
    """Who sees whom, written out: the prefix causally, a question the prefix and itself."""
    group = torch.cat(
        [torch.full((train.PREFIX,), -1), torch.arange(questions).repeat_interleave(words)]
    )
    causal = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    return causal & ((group[:, None] == group) | (group == -1))


def test_packed_attention_equals_a_block_mask(generator):
    questions, words = 3, 5
    shape = (2, 4, train.PREFIX + questions * words, 16)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    got, _ = train.packed_attention(None, q, k, v, None, 0.25, questions=questions)
    want = F.scaled_dot_product_attention(q, k, v, block_mask(questions, words), scale=0.25)
    assert torch.allclose(got, want.transpose(1, 2), atol=1e-5)


def test_a_packed_question_ends_in_its_answer_and_the_end(batch):
    _, _, packed = batch
    words = packed.target[packed.target >= 0].view(-1, 2)
    assert (words[:, 1] == train.WORD["</s>"]).all()
    assert len(words) == len(packed.kind) == 12
    asks = packed.ids[packed.target >= 0].view(-1, 2)[:, 0]
    assert (asks == train.WORD["ASSISTANT:"]).all()


def test_facts_say_what_a_word_stands_for():
    star = world.Thing("star", "red", 2, 5)
    ids = torch.tensor([[[train.WORD[w] for w in ("What", "star", "red", "circle", "blue")]]])
    truth, naming = train.facts([(star,)], ids)
    assert naming.tolist() == [[[False, True, True, True, True]]]
    place = len(world.KINDS) + len(world.COLOURS)
    told = [world.KINDS.index("star"), len(world.KINDS), place + 2, place + world.BOARD + 5]
    assert [row.nonzero().flatten().tolist() for row in truth] == [told, told, [], []]


def test_patch_labels_lie_under_the_thing():
    kinds, colours = train.patch_labels([(world.Thing("K", "cyan", 1, 0),)])
    patches = (kinds[0] != train.NONE).nonzero().flatten().tolist()
    assert patches == [24, 25, 36, 37]
    assert (colours[0, patches] == list(world.COLOURS).index("cyan")).all()


def test_a_killed_training_resumes_with_the_same_weights(tmp_path):
    """Four language steps in one go, and in two halves, the second from a fresh model."""
    sizes = {"language": 4, "pictures": 2, "questions": 2, "ground_layer": 1, "save": 2}
    preset = replace(train.Preset(), **sizes)

    def run(folder, stops):
        folder.mkdir()
        for stop in stops:
            torch.manual_seed(0)
            config = architecture.llava_config()
            config.text_config.num_hidden_layers = 2
            model = LlavaForConditionalGeneration(config)
            model.model.vision_tower.requires_grad_(False)
            train.train_language(model, preset, 0, folder, torch.device("cpu"), until=stop)
        return model.state_dict()

    whole, halves = run(tmp_path / "whole", [4]), run(tmp_path / "halves", [2, 4])
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
