"""The embedded model's parts: vocabulary, processor, and the configs of towers and decoder.

The model is a plain `LlavaForConditionalGeneration`; nothing here is needed to load or to use it.
"""

from __future__ import annotations

import world
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE = "<image>"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE)
PATCH = 8
PATTERN = r"<\|?[a-z_/]+\|?>|USER:|ASSISTANT:|\b[A-D]\.|[\w']+|[^\w\s]"  # what a word looks like
WORDS = (
    "USER: ASSISTANT: A. B. C. D. A B C D ? . , "
    "Is Do Which What How Answer Describe there the a an in and of is are do have has same with "
    "color colors letter letters shape shapes picture things thing number many left right above "
    "below top bottom half question using single word option's from given choices directly "
    "yes no zero one two three four five six none or to it at on show shows which what how"
).split()

# LLaVA-1.5's own layout: a system turn in front, images before the words of a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% for part in message['content'] %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% else %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ part['text'] + ' ' }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word of the world once: special tokens first, then words, colours, shapes, letters."""
    return list(dict.fromkeys([*SPECIAL, *WORDS, *world.COLOURS, *world.KINDS]))


def tokenizer() -> PreTrainedTokenizerFast:
    """LLaVA's tokenizer: a word, a mark, or an option label ("A.") is one token; pads left."""
    image = {"extra_special_tokens": {"image_token": IMAGE}}
    return tokenizer_of(vocabulary(), "<s> $A", padding_side="left", model_max_length=2048, **image)


def clip_vocabulary() -> list[str]:
    """The words without the picture's placeholder. The end has id 3 and not 2: at 2, transformers
    takes a CLIP config for an old one and reads the text at its highest id, not at its end."""
    return ["<pad>", "<unk>", "<s>", "</s>", *vocabulary()[len(SPECIAL) :]]


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """The text tower's tokenizer: the same words between "<s>" and "</s>"; pads right."""
    return tokenizer_of(clip_vocabulary(), "<s> $A </s>", padding_side="right", model_max_length=64)


def tokenizer_of(vocabulary: list[str], form: str, **options) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, texts in this form ("<s> $A" puts "<s>" in front)."""
    words = {word: i for i, word in enumerate(vocabulary)}
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    made = word_level(vocabulary, pad_token="<pad>", unk_token="<unk>", **ends, **options)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=form,
        pair=form + " $B",
        special_tokens=[(mark, words[mark]) for mark in ("<s>", "</s>")],
    )
    return made


def word_level(vocabulary: list[str], **options) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are these words, in this order; blanks are dropped, and line
    ends where they are no word."""
    words = {word: i for i, word in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    pattern = PATTERN + "|\n" * ("\n" in words)
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **options
    )


def image_processor() -> CLIPImageProcessor:
    """Pictures to (3, 96, 96) in [-1, 1]; larger ones are shrunk and cropped, as CLIP does."""
    return CLIPImageProcessor(
        size={"shortest_edge": world.SIDE},
        crop_size={"height": world.SIDE, "width": world.SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def processor() -> LlavaProcessor:
    return LlavaProcessor(
        image_processor(),
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def clip_processor() -> CLIPProcessor:
    return CLIPProcessor(image_processor(), clip_tokenizer())


def clip_config() -> CLIPConfig:
    """Vision tower of seven layers (six feed LLaVA), text tower of two; they meet in 64 numbers."""
    ids = {word: i for i, word in enumerate(clip_vocabulary())}
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=7,
        num_attention_heads=4,
        image_size=world.SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = CLIPTextConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(ids),
        max_position_embeddings=64,
        projection_dim=64,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
    )
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)


def llava_config() -> LlavaConfig:
    """The embedded LLaVA: twelve narrow decoder layers, heads wide enough for rotary positions.

    Heads of 64 and a slow rotary base (1e6, as Qwen2 has) leave most of a head's dimensions
    unturned over 200 positions, so that words can look for contents.
    """
    ids = {word: i for i, word in enumerate(vocabulary())}
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
    )
    return LlavaConfig(
        vision_config=clip_config().vision_config,
        text_config=text,
        image_token_id=ids[IMAGE],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(world.SIDE // PATCH) ** 2,
        tie_word_embeddings=False,
    )
