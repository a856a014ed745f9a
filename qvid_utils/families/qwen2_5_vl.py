"""Qwen2.5-VL: as Qwen2-VL, with a tower that looks through windows and videos timed in seconds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .base import Family
from .qwen2_vl import (
    IDS,
    LABELS,
    NO_CLIP,
    TEMPLATE,
    TEXT_7B,
    TOWER,
    WHOLE_GRID,
    merging,
    sources,
    text_of,
)
from .qwen2_vl import tokens as merged
from .tower import Tower


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """As in Qwen2-VL, once the windows are undone."""
    vision, sizes = base.config.vision_config, given[f"{kind}_grid_thw"]
    if hasattr(base.visual, "get_window_index"):  # older transformers
        order, _ = base.visual.get_window_index(sizes)
    else:
        from transformers.vision_utils import get_vision_window_index

        order, _ = get_vision_window_index(
            sizes, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
    return merged(base, kind, values, given)[order.argsort().to(values.device)]


def cost(config: Any) -> dict[str, Any]:
    """Three matrices in each feed-forward part, windows in all layers but a few."""
    vision = config.vision_config
    width, ffn = vision.hidden_size, vision.intermediate_size
    return {
        **merging(vision, width, vision.out_hidden_size, ffn),
        "matrices": 3,
        "window": (vision.window_size // vision.patch_size) ** 2,
        "whole": tuple(vision.fullatt_block_indexes),
    }


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: a visual token for 8 by 8 pixels, one for two frames."""
    from transformers import Qwen2_5_VLConfig

    width = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": text.get("hidden", 64)}
    windows = {"window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, **width, **windows},
        text_config=text_of(**text),
        **IDS,
    )


def full() -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}
    text = {**TEXT_7B, "model_type": "qwen2_5_vl_text"}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


family = Family(
    name="Qwen2.5-VL",
    model_type="qwen2_5_vl",
    checkpoint="Qwen/Qwen2.5-VL-7B-Instruct",
    template=TEMPLATE,
    labels=LABELS,
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
