"""How the video model grows: its decoder starts as the LLaVA's, and is taught the truth."""

from dataclasses import replace

import clip_facts
import clips
import grow_onevision as grow
import lessons
import numpy as np
import onevision
import onevision_decoder
import pytest
import torch
import train
import world
from clips import Actor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration

from qvid_utils.paths import DATA

FAST = replace(
    grow.Preset(),
    tower=2,
    tower_batch=3,
    language=3,
    clips=3,
    questions=2,
    save=1,
    open_until=2,
    bare_until=1,
    lessons=1,
)


@pytest.fixture(scope="module")
def llava():
    folder = DATA / "tiny" / "llava"
    made = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return made.eval().requires_grad_(False)


@pytest.fixture
def model(llava):
    torch.manual_seed(0)
    made = LlavaOnevisionForConditionalGeneration(onevision.config()).eval()
    grow.graft(llava, made, 0)
    return made


def test_the_decoder_starts_as_nine_layers_of_the_llava(llava, model):
    """The same stream through both: words, layers, norm and head."""
    text = "What color is the star ?"
    ours = [grow.WORD[w] for w in ("<|im_start|>", "user", *text.split(), "<|im_end|>")]
    theirs = [train.WORD[w] for w in ("<s>", "USER:", *text.split(), "</s>")]
    old = llava.model.language_model
    kept = torch.nn.ModuleList(old.layers[i] for i in grow.LAYERS)
    with torch.no_grad():
        out = model.model.language_model(torch.tensor([ours])).last_hidden_state
        layers, old.layers = old.layers, kept
        try:
            want = old(torch.tensor([theirs]), use_cache=False).last_hidden_state
        finally:
            old.layers = layers
        assert torch.allclose(out, want, atol=1e-5)
        for mine, other in (("star", "star"), ("assistant", "ASSISTANT:"), ("up", "above")):
            row = model.lm_head.weight[grow.WORD[mine]]
            assert torch.equal(row, llava.lm_head.weight[train.WORD[other]])
    assert model.lm_head.weight[grow.WORD["flashes"]].std() > 0


def test_packed_attention_equals_a_block_mask(generator):
    prefix, questions, words = 7, 3, 5
    shape = (2, 4, prefix + questions * words, 16)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    group = torch.cat([torch.full((prefix,), -1), torch.arange(questions).repeat_interleave(words)])
    mask = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    mask &= (group[:, None] == group) | (group == -1)
    got, _ = onevision_decoder.packed_attention(
        None, q, k, v, None, 0.25, questions=questions, prefix=prefix
    )
    want = F.scaled_dot_product_attention(q, k, v, mask, scale=0.25)
    assert torch.allclose(got, want.transpose(1, 2), atol=1e-5)


def test_training_sees_what_the_model_sees(model):
    """Packed questions on precomputed tokens, and the model's own forward on frames and ids."""
    rng = np.random.default_rng(1)
    drawn, frames = grow.clip_batch(rng, 2, 4)
    packed = grow.pack(drawn, rng, 2, onevision.tokenizer(), options=True)
    with torch.no_grad(), grow.packed_kernels(model):
        seen = grow.tokens_of(model, frames.flatten(0, 1)).unflatten(0, (2, 4)).flatten(1, 2)
        out, prefix = grow.decoded(model, seen, packed.ids)
        got = model.lm_head(out.last_hidden_state[:, prefix:]).unflatten(1, packed.ids.shape[1:])
    shown = torch.full((65,), model.config.video_token_id)
    for b in range(2):
        for q in range(2):
            ids = torch.cat([torch.tensor(grow.BEFORE), shown, packed.ids[b, q]])[None]
            with torch.no_grad():
                want = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    pixel_values_videos=frames[b : b + 1],
                ).logits[0, -packed.ids.shape[2] :]
            asked = packed.target[b, q] >= 0  # padding stands behind
            assert torch.allclose(got[b, q][asked], want[asked], atol=1e-4)


def test_what_a_token_shows_and_what_has_happened_to_it():
    """A ring that goes, a T that comes to its place later, a star on its way, a cross that turns
    green."""
    place = (2, 0)
    clip = (
        Actor("ring", "vanishes", "", (place, None, None, None), ("red",) * 4),
        Actor("T", "appears", "", (None, None, place, place), ("cyan",) * 4),
        Actor("star", "moves", "up", ((3, 3), (3, 3), (2, 3), (1, 3)), ("blue",) * 4),
        Actor("cross", "changes", "", ((0, 0),) * 4, ("red", "green", "green", "green")),
    )
    there = clip_facts.shown([clip])
    now = np.array(clip_facts.NOW, dtype=object)[there["now"][0].numpy()]
    spot = place[0] * clips.BOARD
    assert now[:, spot].tolist() == ["as before", "vanishes", "appears", "new"]
    assert [now[0, 15], now[1, 15], now[2, 11], now[3, 7]] == ["as before"] * 2 + ["up"] * 2
    assert now[:, 0].tolist() == ["as before", *["recoloured"] * 3]
    assert [now[2, 15], now[3, 11]] == [None, None]  # a trail leaves nothing
    assert there["kind"][0, :, spot].tolist() == [
        world.KINDS.index("ring"), train.NONE, *[world.KINDS.index("T")] * 2,
    ]  # fmt: skip
    assert there["frame"][0, :, 5].tolist() == [0, 1, 2, 3]
    origin = there["origin"][0]
    assert [origin[t, cell].item() for t, cell in ((0, 15), (2, 11), (3, 7))] == [15] * 3
    assert origin[:, spot].tolist() == [spot, 16, spot, spot]  # of each thing its own


def test_facts_say_what_a_word_stands_for():
    star = Actor(
        "star", "moves", "up", (None, (3, 0), (2, 0), (1, 0)), ("red", "red", "red", "blue")
    )
    ids = torch.tensor([[[grow.WORD[w] for w in ("What", "star", "red", "circle", "move")]]])
    truth, telling = clip_facts.facts([(star,)], ids)
    assert telling.tolist() == [[[False, True, False, True, True]]]
    starts = np.cumsum((0, *clip_facts.PARTS))
    colours = list(world.COLOURS)
    want = [clip_facts.STORIES.index("moves"), 2, 1, 3, colours.index("red"), colours.index("blue")]
    want += [12, 4]  # the cells of rows 3 and 1 in the first column
    assert truth[0].nonzero().flatten().tolist() == (starts[:8] + want).tolist()
    assert not truth[1].any()
    assert truth[2].nonzero().flatten().tolist() == [starts[9] + 1]  # one thing moves


def test_turns_and_totals_of_a_clip():
    """Three appear, one vanishes; a clip with a flash is not counted."""
    still = (("red",) * 4, (0, 0))
    clip = [
        Actor(kind, "appears", "", (*(None,) * at, *(still[1],) * (4 - at)), still[0])
        for kind, at in (("star", 1), ("T", 3), ("ring", 2))
    ]
    clip.append(Actor("cross", "vanishes", "", (still[1], None, None, None), still[0]))
    turns = [clip_facts.turns_of(actor, tuple(clip)) for actor in clip]
    assert turns == [["appears first"], ["appears last"], [], ["vanishes first", "vanishes last"]]
    flash = Actor("K", "flashes", "", (None, still[1], None, None), still[0])
    assert clip_facts.turns_of(flash, (flash,)) == []
    numbers = clip_facts.totals([tuple(clip), (*clip[:2], flash)])
    assert list(clip_facts.COUNTED) == ["appear", "vanish", "move"]
    assert numbers.tolist() == [[3, 1, 0], [-100] * 3]


def test_a_packed_question_ends_in_its_answer_and_the_end():
    rng = np.random.default_rng(0)
    drawn = [clips.draw_clip(rng, 8) for _ in range(3)]
    for options in (True, False):
        packed = grow.pack(drawn, rng, 4, onevision.tokenizer(), options)
        words = packed.target[packed.target >= 0].view(-1, 2)
        assert (words[:, 1] == grow.WORD["<|im_end|>"]).all() and len(words) == 12
        asks = packed.ids[packed.target >= 0].view(-1, 2)[:, 0]
        assert (asks == grow.WORD["assistant"]).all()
        letters = [grow.WORD[letter] for letter in "ABCD"]
        assert torch.isin(words[:, 0], torch.tensor(letters)).all() == options


def test_a_frame_is_taught_by_the_middle_of_the_llavas_picture(llava):
    """A token's target is the mean of the four patches under its cell."""
    picture = train.pixels_of([(world.Thing("star", "red", 2, 3),)], np.random.default_rng(0))
    patches = llava.model.multi_modal_projector(train.patch_features(llava, picture))[0]
    cell = patches.view(12, 12, -1)[4:6, 6:8].mean((0, 1))
    told = grow.taught(llava, picture)[0]
    assert told.shape == (16, 128)
    assert torch.allclose(told[1 * 4 + 2], cell, atol=1e-5)


# -------------------------------------------------------------------------------------- lessons
def test_a_lessons_things_lie_in_the_middle():
    for seed in range(20):
        things = lessons.scene(np.random.default_rng(seed))
        spots = [(thing.row, thing.column) for thing in things]
        assert len(set(spots)) == len(spots) >= 5
        assert all(1 <= place <= 4 for spot in spots for place in spot)


def test_the_llavas_question_in_our_form():
    words = "Which letter is red ? A. K B. T ASSISTANT: B".split()
    old = torch.tensor([[[train.WORD[w] for w in words] + [0]]])
    ids, target, source = lessons.chat(train.Packed(old, old, ["choice"]))
    ours = "Which letter is red ? A. K B. T <|im_end|> <|im_start|> assistant B".split()
    assert ids[0, 0].tolist() == [grow.WORD[w] for w in ours] + [0]
    assert target[0, 0].tolist() == [-100] * 11 + [grow.WORD["B"], grow.WORD["<|im_end|>"], -100]
    # the turn's last mark and the answer are words of the LLaVA's, too
    assert source[0, 0].tolist() == [*range(9), -1, -1, 9, 10, -1]


def test_a_lessons_thoughts_are_the_llavas_own(llava):
    rng = np.random.default_rng(3)
    pixels = train.pixels_of([lessons.scene(rng)], rng)
    words = "What color is the star ? ASSISTANT: red".split()
    packed = train.Packed(torch.tensor([[[train.WORD[w] for w in words]] * 2]), None, [])
    got = lessons.thought(llava, pixels, packed)
    ids = [train.WORD[w] for w in ("<s>", "USER:")] + [llava.config.image_token_id] * 144
    ids = torch.tensor([ids + packed.ids[0, 0].tolist()])
    with torch.no_grad():
        want = llava(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids),
            output_hidden_states=True,
        ).hidden_states  # fmt: skip
    assert len(got) == len(want) == 13
    for mine, theirs in zip(got, want, strict=True):
        for copy in mine.unflatten(1, (2, -1))[0]:
            assert torch.allclose(copy, theirs[0, -len(words) :], atol=1e-3)
    assert llava.model.language_model.config._attn_implementation != "packed"


def test_a_lesson_pulls_the_child_to_the_llava(llava, model):
    """Its loss falls where it is followed, and asks in the LLaVA's words."""
    optimiser = torch.optim.SGD(model.model.language_model.parameters(), 0.01)
    losses = []
    for _ in range(3):
        with grow.packed_kernels(model):
            loss, line, hits = lessons.lesson(
                model, llava, np.random.default_rng(0), 2, torch.device("cpu")
            )
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[0] > losses[1] > losses[2] and "apart" in line
    assert len(hits) == 2 * lessons.QUESTIONS and {kind for kind, _ in hits} <= {*lessons.MIX}


def test_both_stages_resume_to_the_same_weights(llava, tmp_path):
    """Stopped after every stage's second step, and run through: one result; what is saved answers
    a question about a film."""

    def grown(folder, stops):
        folder.mkdir()
        torch.manual_seed(0)
        for until in stops:
            made = LlavaOnevisionForConditionalGeneration(onevision.config()).eval()
            torch.manual_seed(1)
            grow.graft(llava, made, 0)
            device = torch.device("cpu")
            grow.train_tower(made, llava, FAST, 0, folder, device)
            made.model.vision_tower.requires_grad_(False)
            grow.train_language(made, llava, FAST, 0, folder, device, until)
        return made

    whole, parts = grown(tmp_path / "a", [None]), grown(tmp_path / "b", [2, None])
    for name in ("model.language_model.layers.0.mlp.up_proj.weight", "model.image_newline"):
        assert torch.equal(whole.get_parameter(name), parts.get_parameter(name))
    assert whole.model.image_newline.abs().max() > 0
    grow.save(whole, tmp_path)
    assert (tmp_path / "llava_onevision" / "model.safetensors").stat().st_size < 12e6
