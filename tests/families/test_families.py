"""Families: found by folder, recognised by type; the question is found by the chat template."""

import copy

import pytest
import torch
from small_tokenizers import speaking
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from twins import (
    BOTH,
    DOTS,
    FILMS,
    IDEFICS,
    MIXED,
    PLACES,
    PLACES_OF,
    PROCESSOR,
    QWEN,
    QWEN3,
    STAR,
    TAIL,
    TALK,
    TEMPLATES,
    WITH_VIDEO,
    ask,
    built,
    cases,
    tokenizer,
    twin,
)

from qvid_utils.families import (
    FAMILIES,
    Block,
    Template,
    Unavailable,
    family_of,
    remember,
    score_maps,
    template_of,
)
from qvid_utils.families.answer_format import ANSWER_FORMAT
from qvid_utils.families.base import query_tokens
from qvid_utils.families.refused import REFUSED
from qvid_utils.prune import observed, pruned

IMAGE = 4
TOKENS = PROCESSOR.tokenizer


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_addresses_lead_to_the_parts(model_type):
    family, model = FAMILIES[model_type], built(model_type)
    assert family_of(model) is family and family_of(model.base_model) is family
    layers = family.part(model, "layers")
    assert len(layers) == model.config.get_text_config().num_hidden_layers >= 4
    assert layers[0].self_attn.q_proj.in_features == 64
    assert family.part(model, "language").get_submodule("layers") is layers
    for part in ("projector", "vision"):
        assert sum(p.numel() for p in family.part(model, part).parameters()) > 0
    assert family.visual_tokens(model.config) == ((4, 5) if model_type in WITH_VIDEO else (IMAGE,))


# ------------------------------------------------------------------ where visual tokens lie

LAID = {  # family: blocks of BOTH (two pictures), of STAR (one), of FILM (a video)
    "llava": ([Block(1, 4, 4)] * 2, [Block(1, 4, 4)], None),
    "llava_next": (
        [Block(1, 4, 4), Block(1, 8, 4, line=1), Block(1, 4, 4), Block(1, 4, 6, line=1)],
        [Block(1, 4, 4), Block(1, 8, 4, line=1)], None,
    ),
    "llava_next_video": (
        [Block(1, 4, 4), Block(1, 8, 4, line=1), Block(1, 4, 4), Block(1, 4, 6, line=1)],
        [Block(1, 4, 4), Block(1, 8, 4, line=1)], [Block(3, 2, 2)],
    ),
    **dict.fromkeys(IDEFICS, ([Block(1, 4, 4)] * 3, [Block(1, 4, 4)] * 2, None)),
    "mistral3": ([Block(1, 4, 4), Block(1, 2, 6)], [Block(1, 4, 4)], None),
    "internvl": ([Block(1, 4, 4)] * 3, [Block(1, 4, 4)] * 2, None),  # two tiles and one
    "video_llava": ([Block(1, 4, 4)] * 2, [Block(1, 4, 4)], [Block(2, 4, 4, lead=1)]),
    "llava_onevision": (
        [Block(1, 4, 4, end=1)] * 2, [Block(1, 4, 4), Block(1, 6, 4, line=1)],
        [Block(3, 2, 2, end=1)],
    ),
    **dict.fromkeys(
        QWEN, ([Block(1, 4, 4), Block(1, 2, 6)], [Block(1, 4, 4)], [Block(2, 4, 2)])
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_blocks_say_where_each_visual_token_lies(model_type):
    family, config = FAMILIES[model_type], built(model_type).config
    both, star, film = LAID[model_type]
    inputs = ask(BOTH, TALK, STAR, model_type=model_type)
    assert family.blocks(config, inputs) == tuple(both)
    assert family.blocks(config, inputs, 1) == ()
    assert family.blocks(config, inputs, 2) == tuple(star)
    if film:
        for case in ("videos beside text", "pictures and videos"):
            inputs = ask(*cases(model_type)[case], model_type=model_type)
            assert family.blocks(config, inputs, 2) == tuple(film)
        first = family.blocks(config, inputs, 0)
        assert first == (*star, *film)
        scores = torch.arange(sum(block.tokens for block in first))
        maps = score_maps(scores, first)
        assert [m.shape for m in maps] == [(b.frames, b.rows, b.cols) for b in first]
        assert int(maps[0][0, 0, 0]) == 0 and int(maps[0][0, 1, 0]) == star[0].cols


def test_maps_leave_out_what_shows_no_place():
    block = Block(2, 2, 3, lead=1, line=1, end=2)
    assert block.tokens == 2 * (1 + 2 * 4) + 2 == len(block.places())
    (drawn,) = score_maps(torch.arange(20), [block])
    assert drawn.tolist() == [[[1, 2, 3], [5, 6, 7]], [[10, 11, 12], [14, 15, 16]]]
    with pytest.raises(ValueError, match="19 scores for blocks of 20 visual tokens"):
        score_maps(torch.arange(19), [block])


def test_a_grid_needs_pictures_of_one_size():
    grid = FAMILIES["llava"].grid
    assert grid(built().config, 48, {}) == (3, 4, 4)
    assert grid(built().config, 16, ask(BOTH, STAR)) == (1, 4, 4)
    both = ask(BOTH, model_type="qwen2_vl")
    with pytest.raises(ValueError, match="no single grid .2 picture sizes.; use score_maps"):
        FAMILIES["qwen2_vl"].grid(built("qwen2_vl").config, 28, both)
    film = ask(*cases("video_llava")["video"], model_type="video_llava")
    with pytest.raises(ValueError, match="no single grid .2 of them show no place"):
        FAMILIES["video_llava"].grid(built("video_llava").config, 34, film)
    both["image_grid_thw"] = both["image_grid_thw"][:1]
    with pytest.raises(ValueError, match="do not add up to the visual tokens in input_ids"):
        FAMILIES["qwen2_vl"].grid(built("qwen2_vl").config, 28, both)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("model_type", QWEN)
def test_the_grid_is_known_inside_generate(model_type, beams):
    model, inputs = built(model_type), ask(TALK, DOTS, STAR, model_type=model_type)
    inputs["image_grid_thw"][0] = torch.tensor([1, 16, 4])
    with observed(model, "grid", layer=2) as found:
        model.generate(**inputs, max_new_tokens=2, num_beams=beams, do_sample=False)
    assert [one["grid"] for one in found] == [(1, 8, 2)] * beams + [(1, 4, 4)] * beams


def test_a_refused_model_type_says_why(monkeypatch):
    monkeypatch.setitem(REFUSED, "oddity", "sees with its ears")
    config = type("Config", (), {"model_type": "oddity"})
    with pytest.raises(Unavailable, match="pruning Odd: oddity sees with its ears"):
        family_of(type("Odd", (torch.nn.Module,), {"config": config})())


def test_unsupported_models_are_refused_with_what_is_supported():
    text = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=9,
                    num_attention_heads=2)
    )  # fmt: skip
    for model, kind in (
        (text, "LlamaForCausalLM"),
        (torch.nn.Linear(2, 2), "Linear"),
        ("x", "str"),
    ):
        with pytest.raises(ValueError, match=f"supports the model types .*llava.*; this is {kind}"):
            family_of(model)
        with pytest.raises(ValueError, match="supports the model types"), pruned(model, "qvid", 4):
            pass


# ----------------------------------------------------------------------- spans, word by word


def words(text, kind="question", template=None, tokenizer=TOKENS):
    """The words that are chosen in a rendered prompt, as text."""
    template = template or template_of(built())
    every = {p for kind in (PLACES, *PLACES_OF.values()) for p in kind[:2]}
    places = every & set(tokenizer.get_vocab())
    for place in places:
        text = text.replace(place, place * 3)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    visual = tokenizer.convert_tokens_to_ids(sorted(places))
    chosen = template.span(kind, ids, [i in visual for i in ids])
    return tokenizer.decode([i for i, here in zip(ids, chosen, strict=True) if here]).strip()


WHAT = "what color is the star ?"
ASK = WHAT + TAIL


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (f"USER: <image>\n{ASK} ASSISTANT:", ASK),
        (f"<s> USER: <image>\n{ASK} ASSISTANT:", ASK),
        (f"be brief . USER: <image>\n{ASK} ASSISTANT:", ASK),
        (f"USER: <image>\n<image>\n{ASK} ASSISTANT:", ASK),
        (f"USER: {ASK} <image>\n ASSISTANT:", ASK),
        ("USER: is the <image>\n left of the <image>\n red ? ASSISTANT:", "left of the red ?"),
        (f"USER: {ASK} ASSISTANT:", ASK),
        (f"USER: <image>\nwhere is red ? ASSISTANT: left USER: {ASK} ASSISTANT:", ASK),
        (f"USER: {TALK.words} ASSISTANT: blue </s> USER: <image>\n{ASK} ASSISTANT:", ASK),
        (f"USER: <image>\n{ASK} ASSISTANT: red blue", ASK),
    ],
)
def test_the_question_is_the_users_words(prompt, question):
    assert words(prompt) == question.strip()


def test_content_leaves_the_answer_format_out():
    assert words(f"USER: <image>\n{ASK} ASSISTANT:", "content") == WHAT
    assert words(f"USER: <image>\n{WHAT} ASSISTANT:", "content") == WHAT
    assert words(f"USER: <image>\n{TAIL} {WHAT} ASSISTANT:", "content") == WHAT
    half = "answer the question using a single star ."
    assert words(f"USER: <image>\n{WHAT} {half} ASSISTANT:", "content") == f"{WHAT} {half}"


def test_prompt_is_all_text_after_the_picture():
    assert words(f"be brief . USER: <image>\n{ASK} ASSISTANT:", "prompt") == f"{ASK} ASSISTANT:"
    assert words("USER: where is <image>\n red ? ASSISTANT:", "prompt") == "red ? ASSISTANT:"
    with pytest.raises(ValueError, match="image comes last.*use query='question'"):
        words(f"USER: {ASK} <image>\n ASSISTANT:", "prompt")
    with pytest.raises(ValueError, match="choose one of question, content, prompt"):
        words(f"USER: {ASK} ASSISTANT:", "everything")


# ----------------------------------------------------------------------- another kind of template


def chat(tokenizer, *turns):
    """Turns of (role, parts): a part is a text, IMAGE for a picture, or None for a video."""
    shown = {IMAGE: {"type": "image"}, None: {"type": "video"}}
    messages = [
        {"role": role, "content": [shown.get(p) or {"type": "text", "text": p} for p in parts]}
        for role, parts in turns
    ]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("shown", [IMAGE, None], ids=["image", "video"])
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("qwen2_vl", "bytes"),
        ("llava_onevision", "bytes"),
        ("video_llava", "bytes"),
        ("video_llava", "pieces"),
    ],
)
@pytest.mark.parametrize("sentence", [s for s, _ in ANSWER_FORMAT])
def test_spans_of_real_kinds_of_templates(model_type, kind, sentence, shown):
    tokenizer, made = speaking(model_type, kind)
    what = "What color is the star?"

    def chosen(kind, *turns):
        return words(chat(tokenizer, *turns), kind, made, tokenizer)

    for gap in ("\n", " "):
        turn = ("user", [shown, what + gap + sentence])
        assert chosen("question", turn) == what + gap + sentence
        assert chosen("content", turn) == what
        assert chosen("question", ("system", ["Be brief."]), turn) == what + gap + sentence
        first, answer = ("user", [shown, shown, "Where?"]), ("assistant", ["left"])
        assert chosen("question", first, answer, ("user", [what])) == what
        assert chosen("content", first, answer, ("user", [what + gap + sentence])) == what
        assert chosen("question", ("user", ["Where?"]), answer, turn) == what + gap + sentence
        assert chosen("question", ("user", [IMAGE, None, what])) == what
    if model_type == "qwen2_vl":  # the others put pictures first, always
        assert chosen("question", ("user", [what, shown])) == what
        with pytest.raises(ValueError, match="image comes last"):
            chosen("prompt", ("user", [what, shown]))


CHATS = {  # a conversation, and the words of its question
    "image first": ([("user", [IMAGE, ASK])], ASK),
    "image last": ([("user", [ASK, IMAGE])], ASK),
    "two images": ([("user", [IMAGE, IMAGE, ASK])], ASK),
    "two texts": ([("user", [IMAGE, "where is red ?", WHAT])], f"where is red ? {WHAT}"),
    "own system turn": ([("system", ["be brief ."]), ("user", [IMAGE, ASK])], ASK),
    "later turn": (
        [("user", [IMAGE, "where is red ?"]), ("assistant", ["left"]), ("user", [ASK])], ASK
    ),
    "image later": (
        [("user", ["you see ?"]), ("assistant", ["yes"]), ("user", [IMAGE, ASK])], ASK
    ),
    "text only": ([("user", [ASK])], ASK),
    "video first": ([("user", [None, ASK])], ASK),
    "image and video": ([("user", [IMAGE, None, ASK])], ASK),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_the_chosen_words_of_each_family(model_type, name):
    turns, question = CHATS[name]
    if model_type not in WITH_VIDEO and "video" in name:
        return
    own = tokenizer(model_type)
    text, template = chat(own, *turns), template_of(built(model_type))
    assert words(text, "question", template, own) == question
    assert words(text, "content", template, own) == question.removesuffix(TAIL)
    endings = (
        "<|im_end|> <|im_start|> assistant",
        "<end_of_utterance> Assistant :",
        "[/INST]",
        "ASSISTANT:",
    )
    ending = next(one for one in endings if one.split()[0] in text)
    if name in ("image first", "two images", "own system turn", "video first"):
        after = "<|vision_end|> " if model_type in QWEN else ""
        assert words(text, "prompt", template, own) == f"{after}{question} {ending}"
    if name == "image last" and model_type in QWEN:
        with pytest.raises(ValueError, match="image comes last"):
            words(text, "prompt", template, own)


OWN = (  # opens with a mark of its own; pictures and videos are set off from words in two ways
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' : ' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '<image> . ' }}{% elif p['type'] == 'video' %}"
    "{{ '<video> , ' }}{% else %}{{ p['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def test_a_template_may_open_and_set_off_pictures_as_it_likes():
    own = copy.deepcopy(tokenizer("video_llava"))
    own.chat_template = OWN
    template = Template.of(own, [4, 5])
    turn = ("user", [IMAGE, None, ASK])
    for turns in ((turn,), (("user", ["you see ?"]), ("assistant", ["yes"]), turn)):
        assert words(chat(own, *turns), "question", template, own) == ASK
    assert words(chat(own, ("user", [IMAGE, ASK])), "question", template, own) == ASK
    assert words(chat(own, ("user", [None, ASK])), "question", template, own) == ASK


def test_roles_in_plain_words_between_special_tokens():
    """As Idefics3 writes them: the turn ends in a special token, the next role is a word."""
    own = copy.deepcopy(speaking("llava_onevision", "bytes")[0])
    own.chat_template = (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize + ': ' }}"
        "{% for p in m['content'] %}{{ p['text'] or '<image>' }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{{ 'Assistant:' }}"
    )
    template = Template.of(own, own.convert_tokens_to_ids(["<image>"]))
    for asked in ("Which is it, User: or Assistant: ?", "Assistant: or User: ?", "Where?"):
        turn = ("user", [IMAGE, asked])
        for turns in ((turn,), (("user", ["Where?"]), ("assistant", ["left"]), turn)):
            assert words(chat(own, *turns), "question", template, own) == asked


def test_what_a_template_writes_is_text_without_blanks():
    def read(model_type, kind):
        _, made = speaking(model_type, kind)
        plain = {mark: f"[{i}]" for i, mark in made.marks.items()}

        def text(part):
            return "".join(plain.get(letter, letter) for letter in part)

        return set(map(text, made.heads)), text(made.tail), made.glues

    assert read("video_llava", "pieces") == ({"USER:"}, "ASSISTANT:", ())
    own = speaking("qwen2_vl", "bytes")[0].convert_tokens_to_ids
    opens, ends, shows = map(own, ("<|im_start|>", "<|im_end|>", "<|vision_start|>"))
    heads, tail, glues = read("qwen2_vl", "bytes")
    assert heads == {f"[{opens}]user", f"[{opens}]user[{shows}]"}
    assert (tail, glues) == (f"[{ends}][{opens}]assistant", ())
    own = speaking("llava_onevision", "bytes")[0].convert_tokens_to_ids
    opens, ends = map(own, ("<|im_start|>", "<|im_end|>"))
    assert read("llava_onevision", "bytes") == (
        {f"[{opens}]user"}, f"[{ends}][{opens}]assistant", ()
    )  # fmt: skip
    own = copy.deepcopy(tokenizer("video_llava"))
    own.chat_template = OWN
    assert set(Template.of(own, [4, 5]).glues) == {".", ","}


# ------------------------------------------------------------- where the template comes from


def test_the_template_is_remembered_given_or_read_from_the_folder(tmp_path):
    model = twin()
    remembered = template_of(model)
    fresh = type(model)(model.config)
    with pytest.raises(ValueError, match="pass processor=, or load the model"):
        template_of(fresh)
    with pytest.raises(ValueError, match="pass processor="), pruned(fresh, "qvid", 4):
        fresh(**ask(STAR))
    assert template_of(fresh, PROCESSOR) == remembered
    with pruned(fresh, "qvid", 4, processor=PROCESSOR) as trace:
        fresh(**ask(STAR))
    assert trace.cuts[0].n_query == 14
    with pruned(fresh, "fastv", 4):  # needs no question
        fresh(**ask(STAR))
    PROCESSOR.save_pretrained(tmp_path)
    fresh.config._name_or_path = str(tmp_path)
    assert template_of(fresh) == remembered


def test_a_processor_without_a_template_or_words_is_unavailable():
    fresh = type(built())(built().config)
    bare = PreTrainedTokenizerFast(tokenizer_object=TOKENS.backend_tokenizer)
    remember(fresh, bare)
    with pytest.raises(Unavailable, match="no chat template.*pass query= as a mask"):
        template_of(fresh)
    one = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1}, unk_token="<unk>"))
    small = PreTrainedTokenizerFast(tokenizer_object=one, unk_token="<unk>")
    small.chat_template = TEMPLATES["llava"]
    with pytest.raises(Unavailable, match="too few words"):
        Template.of(small, [IMAGE])


def test_a_mask_must_fit():
    model, inputs = built(), ask(STAR, DOTS)
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = ids == IMAGE
    mask = valid & ~visual
    assert torch.equal(query_tokens(model, valid, ids, valid, visual), mask)
    for wrong in (mask[:, 1:], mask.long(), mask.repeat(3, 1)):
        with pytest.raises(ValueError, match="give one bool per token"):
            query_tokens(model, wrong, ids, valid, visual)
    with pytest.raises(ValueError, match="1 masks for 2 different prompts"):
        query_tokens(model, mask[0], ids, valid, visual)
    with pytest.raises(ValueError, match="row 1: no query token, query=the mask"):
        query_tokens(model, mask & torch.tensor([[True], [False]]), ids, valid, visual)
    twice = {name: value.repeat_interleave(2, 0) for name, value in ask(BOTH).items()}
    beams = twice["input_ids"]
    spread = query_tokens(model, beams[0] == 10, beams, beams > 0, beams == IMAGE)
    assert torch.equal(spread, beams == 10)


@pytest.mark.parametrize("family", QWEN3)
def test_the_time_before_a_frame_is_no_word_of_the_question(family):
    model, inputs = built(family), ask(FILMS, MIXED, model_type=family)
    with pruned(model, "qvid", 5) as trace:
        model(**inputs)
    own = tokenizer(family)
    for prompt, ids, words in zip((FILMS, MIXED), inputs["input_ids"], trace.query, strict=True):
        assert own.decode(ids[ids != 5]).count("seconds") == 2 * prompt.videos
        assert own.decode(ids[words]) == prompt.words + TAIL
