"""Families: found by folder, recognised by type; the question is found by the chat template."""

import functools

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from twins import BOTH, DOTS, PROCESSOR, STAR, TAIL, TALK, ask, twin

from qvid_utils.families import FAMILIES, Template, Unavailable, family_of, remember, template_of
from qvid_utils.families.base import query_tokens
from qvid_utils.families.template import ANSWER_FORMAT
from qvid_utils.pruning import pruned

built = functools.cache(twin)
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
    assert family.visual_tokens(model.config) == (IMAGE,)
    assert family.grid(model.config, 48, {}) == (3, 4, 4)


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
    ids = tokenizer(text.replace("<image>", "<image>" * 3))["input_ids"]
    chosen = template.span(
        kind, ids, [i == tokenizer.convert_tokens_to_ids("<image>") for i in ids]
    )
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

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<|vision_start|><image><|vision_end|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = "{% for m in messages %}" + (
    "{{ m['role'].upper() }}: {% for p in m['content'] if p['type'] == 'image' %}<image>\n"
    "{% endfor %}{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@functools.cache
def bytewise(template):
    """A byte-level tokenizer, whose pieces join across words and lines as real ones do."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<image>"]
    special += ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    text = [s for s, _ in ANSWER_FORMAT] + [
        "system\nYou are a helpful assistant.", "user\n", "assistant\n", "USER: ", " ASSISTANT:",
        "What color is the star?\nAnswer it.", "Where?\n", "alpha k", "9 omega z", "it is:\n\n",
    ]  # fmt: skip
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        text * 9,
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer, Template.of(tokenizer, [tokenizer.convert_tokens_to_ids("<image>")])


def chat(tokenizer, *turns):
    """Turns of (role, parts): a part is a text, or None for a picture."""
    messages = [
        {"role": role, "content": [{"type": "image"} if p is None else {"type": "text", "text": p}
                                   for p in parts]}
        for role, parts in turns
    ]  # fmt: skip
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("template", [CHATML, LINES], ids=["chatml", "lines"])
@pytest.mark.parametrize("sentence", [s for s, _ in ANSWER_FORMAT])
def test_spans_of_byte_level_templates(template, sentence):
    tokenizer, made = bytewise(template)
    what = "What color is the star?"

    def chosen(kind, *turns):
        return words(chat(tokenizer, *turns), kind, made, tokenizer)

    for gap in ("\n", " "):
        turn = ("user", [None, what + gap + sentence])
        assert chosen("question", turn) == what + gap + sentence
        assert chosen("content", turn) == what
        assert chosen("question", ("system", ["Be brief."]), turn) == what + gap + sentence
        first, answer = ("user", [None, None, "Where?"]), ("assistant", ["left"])
        assert chosen("question", first, answer, ("user", [what])) == what
        assert chosen("content", first, answer, ("user", [what + gap + sentence])) == what
    if template is CHATML:  # the other one puts pictures first, always
        assert chosen("question", ("user", [what, None])) == what
        with pytest.raises(ValueError, match="image comes last"):
            chosen("prompt", ("user", [what, None]))


def test_the_newline_between_picture_and_words_belongs_to_the_template():
    tokenizer, made = bytewise(LINES)
    assert tokenizer.decode(made.glue) == "\n"
    assert tokenizer.decode(made.tail).strip() == "ASSISTANT:"
    assert tokenizer.decode(bytewise(CHATML)[1].tail) == "<|im_end|>"


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
    small.chat_template = LINES
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
