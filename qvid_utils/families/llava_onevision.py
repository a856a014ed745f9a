"""LLaVA-OneVision: SigLIP tower (no class token), Qwen2 decoder, line breaks among the patches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Family
from .layout import Block, Sources
from .small import SIGLIP, decoder
from .tower import Tower

# pictures first, then videos, then the words; no line break between turns
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for kind in ('image', 'video') %}{% for p in m['content'] if p['type'] == kind %}"
    "{{ '<' + kind + '>' }}{% endfor %}{% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ '\\n' + p['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _images(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    """One picture alone in its prompt is shown whole and in large; several ones only whole."""
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


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The model's own packing, with zeros for line breaks: tiles joined, cut and shrunk as the
    features are; frames of a video pooled by two."""
    blank = values.new_zeros(values.shape[-1])
    if kind == "video":
        # older versions of transformers give the frames of videos this name, too
        shape = given.get("pixel_values_videos") or given["pixel_values"]
        count, frames = shape[:2]
        pooled = base.apply_pooling(values).reshape(count, -1, len(blank))
        return torch.cat([pooled, blank.expand(count, 1, -1)], 1).flatten(0, 1)[:, None]
    sizes, numbers = given["image_sizes"], given.get("batch_num_images")
    alone = [True] * len(sizes)
    if numbers is not None:
        alone = [n == 1 for n in torch.as_tensor(numbers).tolist() for _ in range(n)]
    tiles = [
        _tiles(base.config, size) if one else 1 for size, one in zip(sizes, alone, strict=True)
    ]
    ratio = given.get("vision_aspect_ratio") or base.config.vision_aspect_ratio
    packed, _ = base.pack_image_features(
        torch.split(values, tiles), sizes, image_newline=blank, vision_aspect_ratio=ratio
    )
    return torch.cat(packed)[:, None]


def _tiles(config: Any, size: Tensor) -> int:
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        image_size_to_num_patches,
    )

    return image_size_to_num_patches(
        image_size=size,
        grid_pinpoints=config.image_grid_pinpoints,
        patch_size=config.vision_config.image_size,
    )


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
    template=TEMPLATE,
    tiny=tiny,
    sources=sources,
    line_breaks=True,
    tower=Tower({"image": "vision_tower", "video": "vision_tower"}, tokens),
    whole_grid="puts tiles together, halves frames and breaks lines by the full grid of patches, "
    "which a shortened tower no longer gives; prune at the door of the language model instead",
    no_clip="its SigLIP tower comes without the text tower that it was trained against",
)
