"""SmolVLM and SmolVLM2: Idefics3 with a smaller tower and decoder."""

from dataclasses import replace
from typing import Any

from . import idefics3
from .small import SIGLIP


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens a tile."""
    from transformers import SmolVLMConfig
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    vision = SmolVLMVisionConfig(**{**SIGLIP, "image_size": 48})
    return SmolVLMConfig(vision_config=vision, **idefics3.parts(**text))


family = replace(
    idefics3.family,
    name="SmolVLM",
    model_type="smolvlm",
    checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    labels=r"(?:Youareprovidedthefollowingseriesof[^\[]+\[H:MM:SS\]video\.)?Framefrom\d+:\d+:",
    tiny=tiny,
)
