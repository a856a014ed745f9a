"""LLaVA-OneVision: SigLIP tower (no class token), Qwen2 decoder, line breaks among the patches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .anyres import WHOLE_GRID, blank, count_of_tiles, in_large, whole
from .base import Family
from .layout import Block, Sources
from .small import QWEN2_7B, SIGLIP, decoder
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
    sizes = call["image_sizes"].tolist()
    limit = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    for size, large in zip(sizes, _alone(sizes, call), strict=True):
        yield [whole(config), in_large(config, size, limit)] if large else [whole(config, end=1)]


def _alone(sizes: Sequence[Any], call: Mapping[str, Any]) -> list[bool]:
    """Which pictures are the only ones in their prompt."""
    counts = call.get("batch_num_images")
    if counts is None:
        return [True] * len(sizes)
    return [n == 1 for n in torch.as_tensor(counts).tolist() for _ in range(n)]


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
    if kind == "video":
        # older versions of transformers give the frames of videos this name, too
        shape = given.get("pixel_values_videos") or given["pixel_values"]
        count, frames = shape[:2]
        pooled = base.apply_pooling(values).reshape(count, -1, values.shape[-1])
        return torch.cat([pooled, blank(values).expand(count, 1, -1)], 1).flatten(0, 1)[:, None]
    sizes = given["image_sizes"]
    tiles = [
        count_of_tiles(base.config, size) if large else 1
        for size, large in zip(sizes, _alone(sizes, given), strict=True)
    ]
    ratio = given.get("vision_aspect_ratio") or base.config.vision_aspect_ratio
    packed, _ = base.pack_image_features(
        torch.split(values, tiles), sizes, image_newline=blank(values), vision_aspect_ratio=ratio
    )
    return torch.cat(packed)[:, None]


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


def full() -> Any:
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(text_config={**QWEN2_7B, "vocab_size": 152128})


family = Family(
    name="LLaVA-OneVision",
    model_type="llava_onevision",
    checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    frames=32,
    sources=sources,
    line_breaks=True,
    tower=Tower({"image": "vision_tower", "video": "vision_tower"}, tokens),
    whole_grid=WHOLE_GRID,
    no_clip="its SigLIP tower comes without the text tower that it was trained against",
)
