"""Idefics3: tiles of one size under marks of their own, patches joined by pixel shuffle, Llama."""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from torch import Tensor, nn

from .base import Family
from .layout import Block, Sources
from .small import SIGLIP, SIGLIP_400M, decoder
from .template import Unavailable
from .tower import Tower, clip_cost

TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>' }}"
    "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TOWER = {"image": "vision_model"}


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Each tile is a square of joined patches."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // config.scale_factor
    return {config.image_token_id: repeat([Block(1, side, side)])}


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The model's own pixel shuffle: the patches of a token lie one after another in its width.
    Unavailable for a picture that does not fill its tile: its empty patches are not attended to."""
    mask = given.get("pixel_attention_mask")
    if mask is not None:
        pictures = mask.flatten(0, 1).flatten(1).bool()
        if not bool(pictures[pictures.any(1)].all()):
            raise Unavailable(
                "a picture that does not fill its tile shows the tower empty places; let the "
                "processor split pictures (do_image_splitting=True), or use another method"
            )
    factor = base.config.scale_factor
    joined = base.connector.pixel_shuffle(values.contiguous(), factor)
    return joined.reshape(-1, factor**2, values.shape[-1])


def cost(config: Any) -> dict[str, Any]:
    merge = config.scale_factor**2
    matrix = (merge * config.vision_config.hidden_size, config.text_config.hidden_size)
    return {**clip_cost(config), "projector": (matrix,), "merge": merge, "lead": 0}


def parts(**text: Any) -> dict[str, Any]:
    """What the small twins of this family and of SmolVLM have in common: 16 tokens a tile."""
    from transformers import LlamaConfig

    text_config = LlamaConfig(**decoder(**text))
    return {"text_config": text_config, "image_token_id": 4, "scale_factor": 2}


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens a tile."""
    from transformers import Idefics3Config
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    vision = Idefics3VisionConfig(**{**SIGLIP, "image_size": 48})
    return Idefics3Config(vision_config=vision, **parts(**text))


def full() -> Any:
    from transformers import Idefics3Config

    text = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336}
    text |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    return Idefics3Config(
        text_config={**text, "vocab_size": 128259},
        vision_config={**SIGLIP_400M, "image_size": 364},
    )


family = Family(
    name="Idefics3",
    model_type="idefics3",
    checkpoint="HuggingFaceM4/Idefics3-8B-Llama3",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    sources=sources,
    layers="text_model.layers",
    language="text_model",
    projector="connector",
    vision="vision_model",
    tower=Tower(TOWER, tokens, norm="post_layernorm"),
    whole_grid="joins patches in groups of 2 × 2 or more by the full grid of each tile, which a "
    "shortened tower no longer gives; prune at the input of the language model instead",
    no_clip="its tower comes without the text tower that it was trained against",
    cost=cost,
)
