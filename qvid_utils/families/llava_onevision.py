"""LLaVA-OneVision: SigLIP tower (no class token), Qwen2 decoder, line breaks among the patches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .base import Family
from .layout import Block, Sources
from .small import SIGLIP, decoder


def _images(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    """One picture alone in its prompt is shown whole and in large; several ones only whole."""
    import torch
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    sizes = call["image_sizes"].tolist()
    counts = call.get("batch_num_images")
    alone = [True] * len(sizes)
    if counts is not None:
        alone = [n == 1 for n in torch.as_tensor(counts).tolist() for _ in range(n)]
    limit = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    for size, large in zip(sizes, alone, strict=True):
        if not large:
            yield [Block(1, side, side, end=1)]
            continue
        tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, vision.image_size)
        rows, cols = (side * count for count in tiles)
        rows, cols = unpad_image(torch.empty(1, rows, cols), size).shape[1:]
        shrink = (rows * cols / (limit * side**2)) ** 0.5
        if shrink > 1.1:
            rows, cols = int(rows // shrink), int(cols // shrink)
        yield [Block(1, side, side), Block(1, rows, cols, line=1)]


def _videos(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    """Frames at half the resolution, one line break at the end."""
    side = -(-(config.vision_config.image_size // config.vision_config.patch_size) // 2)
    count, frames = call["pixel_values_videos"].shape[:2]
    for _ in range(count):
        yield [Block(frames, side, side, end=1)]


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    return {
        config.image_token_id: _images(config, call),
        config.video_token_id: _videos(config, call),
    }


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 17 visual tokens an image (more if it is alone in its prompt),
    four a frame and one more."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**SIGLIP, vision_use_head=False),
        text_config=Qwen2Config(**decoder(**text)),
        image_token_index=4,
        video_token_index=5,
        image_grid_pinpoints=[[24, 24], [24, 48], [48, 24], [48, 48]],
    )


family = Family(
    name="LLaVA-OneVision",
    model_type="llava_onevision",
    checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
    tiny=tiny,
    sources=sources,
    whole_grid="puts tiles together, halves frames and breaks lines by the full grid of patches, "
    "which a shortened tower no longer gives; prune at the door of the language model instead",
    no_clip="its SigLIP tower comes without the text tower that it was trained against",
)
