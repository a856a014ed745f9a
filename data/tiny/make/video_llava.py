"""The embedded Video-LLaVA's parts: words, tokenizer and config, for the world of `clips`.

A stock `VideoLlavaForConditionalGeneration`; nothing here is needed to load or to use it.
"""

from __future__ import annotations

import architecture
import clips
import onevision
from onevision_decoder import LINE, SAME
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
)

from qvid_utils.models.processors import image_only

PATCH = clips.CELL  # a patch is a cell of the board
CELLS = clips.BOARD**2
TOKENS = 1 + CELLS  # visual tokens of a frame: the class token stays

# Video-LLaVA's own form: LLaVA-1.5's, pictures and videos before the words of a turn.
_IMAGES = (
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
)
_VIDEOS = _IMAGES.replace("image", "video")
CHAT_TEMPLATE = architecture.CHAT_TEMPLATE.replace(_IMAGES, _IMAGES + _VIDEOS)


def vocabulary() -> list[str]:
    """The LLaVA-OneVision's words with the same ids, the LLaVA's turn marks for ChatML's; a line
    break, which ends a video here."""
    same = {**SAME, onevision.vocabulary()[LINE]: "\n"}
    return [same.get(word, word) for word in onevision.vocabulary()]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word, a mark or an option label is one token; opens with "<s>"; pads left."""
    marks = {"image_token": onevision.IMAGE, "video_token": onevision.VIDEO}
    more = {"padding_side": "left", "model_max_length": 2048, "extra_special_tokens": marks}
    made = architecture.tokenizer_of(vocabulary(), "<s> $A", **more)
    made.chat_template = CHAT_TEMPLATE
    return made


def processor() -> VideoLlavaProcessor:
    """Frames (and pictures) to 64 × 64 in [-1, 1]; the committed folder has no video processor, so
    that it needs no torchvision."""
    pictures = VideoLlavaImageProcessor(
        size={"shortest_edge": clips.SIDE},
        crop_size={"height": clips.SIDE, "width": clips.SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return image_only(VideoLlavaProcessor)(
        pictures,
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def config() -> VideoLlavaConfig:
    """Towers of five layers (four feed the projector) on 16 patches and a class token; the
    LLaVA-OneVision's decoder as a Llama with biases."""
    text = onevision.config().text_config
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads head_dim "
        "num_key_value_heads max_position_embeddings rms_norm_eps rope_parameters "
        "tie_word_embeddings pad_token_id bos_token_id eos_token_id"
    ).split()
    ids = {word: i for i, word in enumerate(vocabulary())}
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=clips.SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    return VideoLlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**{n: getattr(text, n) for n in same}, attention_bias=True),
        image_token_index=ids[onevision.IMAGE],
        video_token_index=ids[onevision.VIDEO],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=CELLS,
        video_seq_length=8 * TOKENS,
        tie_word_embeddings=False,
    )
