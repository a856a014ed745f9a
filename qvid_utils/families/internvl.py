"""InternVL: tiles of one size, four patches joined by pixel shuffle, Qwen decoders of two kinds.

InternVL3 has a Qwen2 decoder, InternVL3.5 a Qwen3 one, whose norm of each head's queries and keys
belongs to M. Every tile is a picture of its own to the tower, and the last of several shows the
whole picture. A video is written as its frames, each a tile with its number before it.
"""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from torch import Tensor, nn

from .base import Family
from .layout import Block, Sources
from .small import CLIP, QWEN2_7B, decoder
from .tower import Tower, clip_cost

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '<IMG_CONTEXT>\\n' }}"
    "{% elif p['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


TOWER = {"image": "vision_tower"}


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Each tile is a square of joined patches."""
    vision = config.vision_config
    side = int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
    return {config.image_token_id: repeat([Block(1, side, side)])}


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The model's own pixel shuffle: the patches of a token lie one after another in its width."""
    square = values[:, 1:].contiguous().unflatten(1, (int(values.shape[1] ** 0.5), -1))
    joined = base.pixel_shuffle(square, base.config.downsample_ratio)
    return joined.reshape(-1, int(1 / base.config.downsample_ratio) ** 2, values.shape[-1])


def cost(config: Any) -> dict[str, Any]:
    width, merge = config.text_config.hidden_size, int(1 / config.downsample_ratio) ** 2
    matrices = ((merge * config.vision_config.hidden_size, width), (width, width))
    return {**clip_cost(config), "projector": matrices, "merge": merge}


def tiny(norms: bool = False, **text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens a tile; norms: with a Qwen3 decoder."""
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config, Qwen3Config

    given = decoder(**text)
    given["head_dim"] = given["hidden_size"] // given["num_attention_heads"]
    vision = {name: value for name, value in CLIP.items() if name != "projection_dim"}
    return InternVLConfig(
        vision_config=InternVLVisionConfig(**{**vision, "image_size": 48}),
        text_config=(Qwen3Config if norms else Qwen2Config)(**given),
        image_token_id=4,
        image_seq_length=16,
    )


def full() -> Any:
    from transformers import InternVLConfig

    vision = {"attention_bias": True}
    return InternVLConfig(text_config=QWEN2_7B, vision_config=vision, tie_word_embeddings=False)


family = Family(
    name="InternVL",
    model_type="internvl",
    checkpoint="OpenGVLab/InternVL3-8B-hf",
    template=TEMPLATE,
    labels=r"Frame\d+:",
    tiny=tiny,
    full=full,
    sources=sources,
    has_cls=True,
    tower=Tower(TOWER, tokens, layers=("encoder.layer",), attention="attention"),
    whole_grid="joins patches in groups of 2 × 2 by the full grid of each tile, which a shortened "
    "tower no longer gives; prune at the input of the language model, or give fewer tiles",
    no_clip="its tower, InternViT, comes without a text tower",
    cost=cost,
)
