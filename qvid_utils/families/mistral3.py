"""Mistral3 (Mistral Small 3.1 and later): Pixtral tower for any resolution, patches joined 2 × 2.

The marks that end a picture's rows are text tokens like any other here: they stay, and only what
shows a place of the picture is scored and pruned.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Family
from .layout import Block, Sources
from .small import decoder
from .tower import Tower

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m['content'][0]['text'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '[IMG]' }}{% elif p['type'] == 'text' %}{{ p['text'] }}"
    "{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{{ m['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}"
)


def _images(config: Any, call: Mapping[str, Any]) -> Iterator[Sequence[Block]]:
    cell = config.vision_config.patch_size * config.spatial_merge_size
    for height, width in torch.as_tensor(call["image_sizes"]).tolist():
        yield [Block(1, height // cell, width // cell)]


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Each picture in its own number of rows and columns."""
    return {config.image_token_id: _images(config, call)}


def _patches(base: nn.Module, given: Mapping[str, Any]) -> list[tuple[int, int]]:
    edge = base.config.vision_config.patch_size
    return [(h // edge, w // edge) for h, w in torch.as_tensor(given["image_sizes"]).tolist()]


def spans(base: nn.Module, given: Mapping[str, Any]) -> list[int]:
    """Patches of each picture: in the tower they lie one after another, each for itself."""
    return [rows * cols for rows, cols in _patches(base, given)]


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Squares of patches, row by row, of each picture."""
    merge, found = base.config.spatial_merge_size, []
    pictures = values.flatten(0, -2).split(spans(base, given))
    for part, (rows, cols) in zip(pictures, _patches(base, given), strict=True):
        cells = part.reshape(rows // merge, merge, cols // merge, merge, -1).transpose(1, 2)
        found.append(cells.reshape(-1, merge**2, values.shape[-1]))
    return torch.cat(found)


def cost(config: Any) -> dict[str, Any]:
    vision, width = config.vision_config, config.text_config.hidden_size
    merge, inner = config.spatial_merge_size**2, vision.hidden_size
    return {
        "layers": vision.num_hidden_layers,
        "width": inner,
        "ffn": vision.intermediate_size,
        "pixels": vision.num_channels * vision.patch_size**2,
        "projector": ((merge * inner, inner), (inner, width), (width, width)),
        "matrices": 3,
        "merge": merge,
    }


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: a visual token for 12 by 12 pixels."""
    from transformers import Mistral3Config, MistralConfig, PixtralVisionConfig

    width = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    made = decoder(**text)
    made["head_dim"] = made["hidden_size"] // made["num_attention_heads"]
    return Mistral3Config(
        vision_config=PixtralVisionConfig(
            **width, num_attention_heads=2, image_size=96, patch_size=6
        ),
        text_config=MistralConfig(**made, sliding_window=None),
        image_token_index=4,
    )


def full() -> Any:
    from transformers import Mistral3Config

    return Mistral3Config()


family = Family(
    name="Mistral3",
    model_type="mistral3",
    checkpoint="mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    sources=sources,
    tower=Tower(
        {"image": "vision_tower"}, tokens, ("transformer.layers",), "attention", spans=spans
    ),
    whole_grid="joins patches in groups of 2 × 2 by the grid of each picture, which a shortened "
    "tower no longer gives; give smaller pictures, or prune at the door of the language model",
    no_clip="its tower, Pixtral, comes without a text tower",
    cost=cost,
)
