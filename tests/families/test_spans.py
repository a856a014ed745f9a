"""The words of the question in chats and ready-made prompts, with tokenizers that join words."""

import json
from pathlib import Path

import pytest
from small_tokenizers import VICUNA, speaking
from twins import IDEFICS, MARKED, PLACES, PLACES_OF

from qvid_utils.families import FAMILIES

# chats: turns of (role, parts), the question's words (`inline`: where the template keeps the parts'
# order), `content`: without the answer format; strings: whole prompts, as public scripts write them
PROMPTS = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
KINDS = {t: "pieces" if t in VICUNA else "bytes" for t in FAMILIES}
SETUPS = [(t, kind) for t in sorted(FAMILIES) for kind in (KINDS[t], "real")]


def placeholder(model_type):
    places = PLACES_OF.get(model_type, PLACES)
    before, after = places[2:] if model_type in MARKED else ("", "")
    return before + places[0] + after


def chosen(model_type, kind, text, span="question"):
    """The chosen tokens of a prompt, each as text; or the error."""
    tokenizer, template = speaking(model_type, kind)
    places = PLACES_OF.get(model_type, PLACES)[:2]
    for place in places:
        text = text.replace(place, place * 3)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    visual = tokenizer.convert_tokens_to_ids(list(places))
    try:
        words = template.span(span, ids, [i in visual for i in ids])
    except ValueError as error:
        return error
    return [i for i, here in zip(ids, words, strict=True) if here]


def fault(model_type, kind, text, question, span="question"):
    """None, or what was chosen in place of the question (blanks apart)."""
    tokens = chosen(model_type, kind, text, span)
    if isinstance(tokens, ValueError):
        return text, str(tokens)
    tokenizer, template = speaking(model_type, kind)
    words = tokenizer.decode(tokens)
    blanks = [t for t in (tokens[:1] + tokens[-1:]) if not template._piece(t).strip()]
    same = "".join(words.split()) == "".join(question.split())
    return None if same and not blanks else (text, span, words)


def rendered(model_type, kind, turns):
    tokenizer, _ = speaking(model_type, kind)
    part = {"<image>": {"type": "image"}, "<video>": {"type": "video"}}
    chat = [
        {"role": role, "content": [part.get(p) or {"type": "text", "text": p} for p in parts]}
        for role, parts in turns
    ]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def faults_of_chats(model_type, kind):
    for row in PROMPTS["chats"]:
        text = rendered(model_type, kind, row["turns"])
        question = row["question"]
        if model_type in (*MARKED, *IDEFICS, "mistral3"):  # the others show pictures first, always
            question = row.get("inline", question)
        yield fault(model_type, kind, text, question)
        if "content" in row:
            yield fault(model_type, kind, text, row["content"], "content")
        if model_type != "llava" and "inline" not in row and "?" in question:
            film = [[r, ["<video>" if p == "<image>" else p for p in ps]] for r, ps in row["turns"]]
            yield fault(model_type, kind, rendered(model_type, kind, film), question)


@pytest.mark.parametrize(("model_type", "kind"), SETUPS)
def test_the_question_of_each_chat(model_type, kind):
    found = list(faults_of_chats(model_type, kind))
    assert len(found) > 90 and list(filter(None, found)) == []


@pytest.mark.parametrize(
    ("model_type", "kind"), [s for s in SETUPS if s[0] not in (*IDEFICS, "mistral3")]
)
def test_the_question_of_each_ready_made_prompt(model_type, kind):
    found = []
    for row in PROMPTS["vicuna" if model_type in VICUNA else "chatml"]:
        text = row["text"].replace("<image>", placeholder(model_type))
        found.append(fault(model_type, kind, text, row["question"]))
        if model_type == "video_llava":
            text = row["text"].replace("<image>", "<video>")
            found.append(fault(model_type, kind, text, row["question"]))
    assert len(found) > 20 and list(filter(None, found)) == []


@pytest.mark.parametrize(("model_type", "kind"), [s for s in SETUPS if s[0] != "mistral3"])
def test_a_prompt_of_another_template_has_no_question(model_type, kind):
    shown = placeholder(model_type)
    for text in (f"[INST] {shown}\nWhat is this? [/INST]", f"{shown}\nWhat is this?"):
        assert chosen(model_type, kind, text) == []
        whole = speaking(model_type, kind)[0].decode(chosen(model_type, kind, text, "prompt"))
        assert whole.endswith(text.split("\n")[1])  # needs no head


@pytest.mark.parametrize("kind", ["bytes", "real"])
def test_numbered_pictures_are_no_words(kind):
    shown = placeholder("qwen2_vl")
    turn = f"Picture 1: {shown}Picture 2: {shown}Which is red, Picture 1: or 2?"
    text = f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"
    assert fault("qwen2_vl", kind, text, "Which is red, Picture 1: or 2?") is None


FRAMES = {  # what the processor writes of a video of two frames
    "qwen3_vl": "<0.3 seconds>{image}<12.0 seconds>{image}",
    "internvl": "Frame1: {image}\nFrame2: {image}\n",
    "smolvlm": "You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video."
    "\n\nFrame from 00:00:{image}\nFrame from 00:01:{image}\n\n",
}


@pytest.mark.parametrize("kind", ["bytes", "real"])
@pytest.mark.parametrize("model_type", FRAMES)
def test_times_and_numbers_of_frames_are_no_words(model_type, kind):
    film = FRAMES[model_type].format(image=placeholder(model_type))
    asked = "Is it Frame1: or <3.0 seconds>?"
    for before, after in (("", asked), (asked, "")):
        text = rendered(model_type, kind, [["user", [before + "FILM" + after]]])
        assert fault(model_type, kind, text.replace("FILM", film), asked) is None
