"""The embedded Qwen2-VL: its tokenizer, processor and config, and how it grows out of the LLaVA.

A stock `Qwen2VLForConditionalGeneration`; nothing here is needed to load or to use it.
"""

from __future__ import annotations

import architecture
import world
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qvid_utils.models.processors import image_only

PATCH, MERGE = 4, 2  # a visual token covers 8 x 8 pixels, as the LLaVA's patches do
PLACES = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>", "<unk>", *PLACES)
ROLES = "system user assistant You helpful".split()

# Qwen2-VL's own form: ChatML, a default system turn, parts in the order in which they are given.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif p['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """The LLaVA's words without its turn marks, ChatML's marks and roles in front."""
    words = [w for w in architecture.WORDS if w not in ("USER:", "ASSISTANT:")]
    return list(dict.fromkeys([*SPECIAL, *ROLES, *words, *world.COLOURS, *world.KINDS]))


def tokenizer() -> PreTrainedTokenizerFast:
    """Qwen2-VL's tokenizer: a word, a mark or an option label is one token; pads left."""
    marks = {"image_token": PLACES[0], "video_token": PLACES[1]}
    marks |= {"vision_start_token": PLACES[2], "vision_end_token": PLACES[3]}
    made = architecture.word_level(
        vocabulary(),
        pad_token="<pad>",
        bos_token=None,
        eos_token="<|im_end|>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        extra_special_tokens={**marks, "turn_token": "<|im_start|>"},
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def image_processor() -> Qwen2VLImageProcessorPil:
    """Pictures at their own size, to the nearest 8 pixels: 16 to 1,024 visual tokens."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        min_pixels=16 * (PATCH * MERGE) ** 2,
        max_pixels=1024 * (PATCH * MERGE) ** 2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def processor() -> Qwen2VLProcessor:
    """Pictures and words; the committed folder is for pictures alone (no video processor)."""
    return image_only(Qwen2VLProcessor)(image_processor(), tokenizer(), chat_template=CHAT_TEMPLATE)


def config(layers: int = 9) -> Qwen2VLConfig:
    """Tower of four layers on 4 x 4 pixels, decoder of `layers` with two key heads for four.

    The rotary axes take turns (t, h, w, t, h, w, t, h, w): Qwen2-VL's own three sections would
    leave columns only frequencies below 2e-4, and twelve columns would be one.
    """
    ids = {word: i for i, word in enumerate(vocabulary())}
    text = {
        "vocab_size": len(ids),
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [1, 2, 2, 1, 1, 1, 8, 8, 8],
        },
        "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<|im_start|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    vision = {
        "depth": 4,
        "embed_dim": 96,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "hidden_size": 256,
    }
    names = ("image", "video", "vision_start", "vision_end")
    places = {f"{n}_token_id": ids[p] for n, p in zip(names, PLACES, strict=True)}
    more = {"tie_word_embeddings": False, **places}
    return Qwen2VLConfig(text_config=text, vision_config=vision, **more)
