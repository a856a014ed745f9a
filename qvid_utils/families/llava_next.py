"""LLaVA-NeXT (LLaVA-1.6): every picture whole and in large, with line breaks; CLIP tower.

The embedding that breaks lines stands for no place of the picture; it is a visual token like the
others here: scored where a rule scores all, and pruned like them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .anyres import WHOLE_GRID, blank, count_of_tiles, in_large, whole
from .base import Family
from .layout import Block, Sources
from .llava import TEMPLATE
from .small import CLIP, decoder
from .tower import Tower


def _images(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    for size in call["image_sizes"].tolist():
        yield [whole(config), in_large(config, size)]


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Each picture whole, then in large with a line break after each row."""
    return {config.image_token_id: _images(config, call)}


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The model's own packing, with zeros for line breaks."""
    strategy = given.get("vision_feature_select_strategy")
    strategy = strategy or base.config.vision_feature_select_strategy
    values, sizes = values[:, int(strategy == "default") :], given["image_sizes"]
    tiles = torch.split(values, [count_of_tiles(base.config, size) for size in sizes])
    packed, _ = base.pack_image_features(tiles, sizes, strategy, image_newline=blank(values))
    return torch.cat(packed)[:, None]


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens of the whole picture, up to 64 in large."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**decoder(**text)),
        image_token_index=4,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
        image_seq_length=16,
    )


def full() -> Any:
    from transformers import LlavaNextConfig

    config = LlavaNextConfig()
    config.text_config.vocab_size = 32064
    return config


family = Family(
    name="LLaVA-NeXT",
    model_type="llava_next",
    checkpoint="llava-hf/llava-v1.6-vicuna-7b-hf",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    sources=sources,
    has_cls=True,
    line_breaks=True,
    tower=Tower({"image": "vision_tower"}, tokens),
    whole_grid=WHOLE_GRID,
    no_clip="its line breaks show no place that a CLIP pair could match with words",
)
