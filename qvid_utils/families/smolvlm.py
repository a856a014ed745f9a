"""SmolVLM and SmolVLM2: Idefics3 with a smaller tower and decoder."""

from dataclasses import replace
from typing import Any

from . import idefics3
from .small import SIGLIP, SIGLIP_400M


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens a tile."""
    from transformers import SmolVLMConfig
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    vision = SmolVLMVisionConfig(**{**SIGLIP, "image_size": 48})
    return SmolVLMConfig(vision_config=vision, **idefics3.parts(**text))


def full() -> Any:
    from transformers import SmolVLMConfig

    text = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192}
    text |= {"num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32}
    return SmolVLMConfig(
        text_config={**text, "vocab_size": 49280},
        vision_config={**SIGLIP_400M, "image_size": 384},
        image_token_id=49190,
        scale_factor=3,
    )


family = replace(
    idefics3.family,
    name="SmolVLM",
    model_type="smolvlm",
    checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    labels=r"(?:Youareprovidedthefollowingseriesof[^\[]+\[H:MM:SS\]video\.)?Framefrom\d+:\d+:",
    tiny=tiny,
    full=full,
)
