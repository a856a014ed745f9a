"""Qwen3-VL with experts: the same model, but a router sends each token through a few of many
feed-forward parts."""

from dataclasses import replace
from typing import Any

from . import qwen3_vl
from .qwen2_vl import IDS


def tiny(**more: Any) -> Any:
    """Configuration of a small twin: four experts, two for each token."""
    from transformers import Qwen3VLMoeConfig

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text = {**qwen3_vl.text(**more), **experts}
    return Qwen3VLMoeConfig(text_config=text, vision_config=qwen3_vl.vision(**more), **IDS)


def full() -> Any:
    from transformers import Qwen3VLMoeConfig

    text = {**qwen3_vl.TEXT_8B, "hidden_size": 2048, "num_hidden_layers": 48}
    text |= {"num_key_value_heads": 4, "intermediate_size": 6144, "moe_intermediate_size": 768}
    text |= {"num_experts": 128, "num_experts_per_tok": 8}
    return Qwen3VLMoeConfig(text_config=text, vision_config={"out_hidden_size": 2048})


family = replace(
    qwen3_vl.family,
    name="Qwen3-VL-MoE",
    model_type="qwen3_vl_moe",
    checkpoint="Qwen/Qwen3-VL-30B-A3B-Instruct",
    tiny=tiny,
    full=full,
)
