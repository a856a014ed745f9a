"""LLaVA-1.5: CLIP tower with a class token (dropped before the projector), Llama decoder."""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from .base import Family
from .layout import Block, Sources
from .small import CLIP, decoder
from .tower import Tower, clip_tokens

# pictures and videos first, then the words
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for kind in ('image', 'video') %}{% for p in m['content'] if p['type'] == kind %}"
    "{{ '<' + kind + '>\\n' }}{% endfor %}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Each image is a square of patches, after its class token where the model keeps that; a SigLIP
    tower has none."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    whole = config.vision_feature_select_strategy == "full"
    lead = int(whole and "siglip" not in config.vision_config.model_type)
    return {config.image_token_id: repeat([Block(1, side, side, lead=lead)])}


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens an image; arguments as of `decoder`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**decoder(**text)),
        image_token_index=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )


def full() -> Any:
    from transformers import LlavaConfig

    config = LlavaConfig()
    config.text_config.vocab_size = 32064  # the checkpoint's: the placeholder is 32000
    return config


family = Family(
    name="LLaVA-1.5",
    model_type="llava",
    checkpoint="llava-hf/llava-1.5-7b-hf",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    sources=sources,
    has_cls=True,
    tower=Tower({"image": "vision_tower"}, clip_tokens),
    patchwise=True,
    clip="openai/clip-vit-large-patch14-336",
)
