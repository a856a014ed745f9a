"""The embedded LLaVA-OneVision's parts: words, tokenizer and config, for the world of `clips`.

A stock `LlavaOnevisionForConditionalGeneration`; nothing here is needed to load or to use it.
"""

from __future__ import annotations

import architecture
import clips
import world
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from qvid_utils.models.processors import image_only

PATCH = 8
SIDE = clips.SIDE // PATCH  # patches of a frame's side; half of them remain after pooling
CELLS = clips.BOARD**2  # visual tokens of a frame
IMAGE, VIDEO = "<image>", "<video>"
SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<unk>", IMAGE, VIDEO)
ROLES = "system user assistant".split()
TIME = (
    "does move moves appear appears vanish vanishes change changes flash flashes stay stays become "
    "direction up down first last before after frame video"
).split()

# LLaVA-OneVision's own form: ChatML without a default system turn, pictures before the words.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}"
    "{% endfor %}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}"
    "{% endfor %}"
    "{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + p['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """The LLaVA's words without its turn marks; ChatML's marks and roles; words for time."""
    old = [w for w in architecture.WORDS if w not in ("USER:", "ASSISTANT:")]
    words = [*SPECIAL, *ROLES, *old, *TIME, *world.COLOURS, *world.KINDS]
    return list(dict.fromkeys(words))


def tokenizer() -> PreTrainedTokenizerFast:
    """A word, a mark or an option label is one token; pads left."""
    made = architecture.word_level(
        vocabulary(),
        pad_token="<pad>",
        bos_token=None,
        eos_token="<|im_end|>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={
            "image_token": IMAGE,
            "video_token": VIDEO,
            "turn_token": "<|im_start|>",
        },
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def processor() -> LlavaOnevisionProcessor:
    """Frames (and pictures) to 64 × 64 in [-1, 1]; the committed folder has no video processor, so
    that it needs no torchvision."""
    pictures = LlavaOnevisionImageProcessorPil(
        size={"height": clips.SIDE, "width": clips.SIDE},
        image_grid_pinpoints=[[clips.SIDE, clips.SIDE]],
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return image_only(LlavaOnevisionProcessor)(
        pictures,
        tokenizer(),
        num_image_tokens=SIDE**2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def config() -> LlavaOnevisionConfig:
    """Tower of four layers on 8 × 8 patches of a frame, pooled to 16 tokens; the LLaVA's decoder as
    a Qwen2: nine of its layers, four heads of 64."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    text = Qwen2Config(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=9,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<|im_start|>"],
        eos_token_id=ids["<|im_end|>"],
    )
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=clips.SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        video_token_index=ids[VIDEO],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[clips.SIDE, clips.SIDE]],
        tie_word_embeddings=False,
    )
