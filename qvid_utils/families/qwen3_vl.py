"""Qwen3-VL: features of three tower layers join the stream after the first layers (deepstack).

Queries and keys go through a norm of their own in each head, which belongs to M here. A video is
written as its frames, each between marks of its own, with its time as text before it.
"""

from typing import Any

from .base import Family
from .qwen2_vl import (
    IDS,
    LABELS,
    NO_CLIP,
    TOWER,
    TURN,
    WHOLE_GRID,
    merging,
    sources,
    text_of,
    tokens,
)
from .tower import Tower

TEMPLATE = "{% for m in messages %}" + TURN  # no system text of its own
TIMES = r"<\d+\.\dseconds>"  # before each frame of a video


def cost(config: Any) -> dict[str, Any]:
    """A projector for the last layer, and one more for each that is added later on."""
    vision = config.vision_config
    width, ffn = vision.hidden_size, vision.intermediate_size
    made = merging(vision, width, vision.out_hidden_size, ffn)
    return made | {"projector": made["projector"] * (1 + len(vision.deepstack_visual_indexes))}


def text(**more: Any) -> dict[str, Any]:
    """The decoder of a small twin: the three axes take turns along a head's width."""
    made = text_of(**more)
    half = made["hidden_size"] // made["num_attention_heads"] // 2
    side = 5 * half // 16
    rope = {"mrope_section": [half - 2 * side, side, side], "mrope_interleaved": True}
    made["rope_parameters"] |= rope
    return {"head_dim": 2 * half, **made}


def vision(**more: Any) -> dict[str, Any]:
    """The tower of a small twin: two of its three layers are added to the stream later on."""
    width = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": more.get("hidden", 64)}
    shape = {"depth": 3, "num_heads": 2, "patch_size": 4, "num_position_embeddings": 16}
    return {**width, **shape, "deepstack_visual_indexes": [0, 1]}


def tiny(**more: Any) -> Any:
    """Configuration of a small twin: a visual token for 8 by 8 pixels, one for two frames."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(text_config=text(**more), vision_config=vision(**more), **IDS)


TEXT_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}  # fmt: skip


def full() -> Any:
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(text_config=TEXT_8B, vision_config={"out_hidden_size": 4096})


family = Family(
    name="Qwen3-VL",
    model_type="qwen3_vl",
    checkpoint="Qwen/Qwen3-VL-8B-Instruct",
    template=TEMPLATE,
    labels=f"{LABELS}|{TIMES}",
    tiny=tiny,
    full=full,
    frames=32,
    sources=sources,
    projector="visual.merger",
    vision="visual",
    one_axis=False,
    tower=Tower(TOWER, tokens, layers=("blocks",), attention="attn"),
    whole_grid=WHOLE_GRID,
    no_clip=NO_CLIP,
    cost=cost,
)
