"""LLaVA-NeXT-Video: LLaVA-NeXT's pictures; frames of a video pooled by two, without line breaks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from . import llava_next
from .layout import Block, Sources
from .small import CLIP, decoder
from .tower import Tower


def _videos(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    vision, stride = config.vision_config, config.spatial_pool_stride
    side = vision.image_size // vision.patch_size // stride
    count, frames = call["pixel_values_videos"].shape[:2]
    for _ in range(count):
        yield [Block(frames, side, side)]


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    return {**llava_next.sources(config, call), config.video_token_id: _videos(config, call)}


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Of a video, what the model's own pooling makes of each frame without its class token."""
    if kind == "image":
        return llava_next.tokens(base, kind, values, given)
    return base.vision_resampler(values[:, 1:]).flatten(0, 1)[:, None]


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: pictures as LLaVA-NeXT's, four visual tokens a frame."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig

    return LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**decoder(**text)),
        image_token_index=4,
        video_token_index=5,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
        image_seq_length=16,
        video_seq_length=4,
    )


def full() -> Any:
    from transformers import LlavaNextVideoConfig

    config = LlavaNextVideoConfig()
    config.text_config.vocab_size = 32064
    return config


family = replace(
    llava_next.family,
    name="LLaVA-NeXT-Video",
    model_type="llava_next_video",
    checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf",
    tiny=tiny,
    full=full,
    frames=32,
    sources=sources,
    tower=Tower({"image": "vision_tower", "video": "vision_tower"}, tokens),
)
