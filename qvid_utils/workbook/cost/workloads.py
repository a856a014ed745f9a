"""Models of 7B proportions with random weights, and prompts for them: cost needs no checkpoint."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...families import FAMILIES

__all__ = ["NAMES", "Prompt", "config_of", "make", "prompt_for"]

#: Configurations that can be had without a download -> model type.
NAMES = {"llava-1.5-7b": "llava", "qwen2-vl-7b": "qwen2_vl"}


@dataclass(frozen=True)
class Prompt:
    """A batch of equal prompts: what the model takes, which tokens are the question, patches.

    query: bool (S,); n_visual and n_text: tokens of one prompt; blocks: patches of each picture.
    """

    inputs: dict[str, Tensor]
    query: Tensor
    n_visual: int
    n_text: int
    blocks: tuple[int, ...]


def config_of(kind: str, layers: int | None = None, tower: int | None = None, divide: int = 1):
    """The configuration of a family's 7B checkpoint, e.g. "llava".

    layers, tower: so many layers of the language model and of the tower only; divide ("llava" and
    "qwen2_vl"): heads, width and FFN of both by that number, the width of a head stays (a tower
    keeps one head at least). The share of scoring in the whole then grows by as much: it is linear
    in the heads, the layers are quadratic. Raises ValueError where that does not divide.
    """
    if kind not in FAMILIES:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(FAMILIES)}")
    config = FAMILIES[kind].full()
    text, vision = config.get_text_config(), config.vision_config
    if divide != 1:
        _narrow(kind, text, vision, divide)
    if layers is not None:
        text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * text.num_hidden_layers
    if tower is not None:
        depth = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
        setattr(vision, depth, tower)
        for name in ("deepstack_visual_indexes", "fullatt_block_indexes"):
            if hasattr(vision, name):  # the first ones, as many as there are layers
                setattr(vision, name, list(range(min(tower, len(getattr(vision, name))))))
    return config


def _narrow(kind: str, text: Any, vision: Any, divide: int) -> None:
    if kind not in NAMES.values():
        raise ValueError(f"divide={divide}: narrower are {', '.join(NAMES.values())} alone")
    heads = text.num_attention_heads, text.num_key_value_heads
    width, ffn = text.hidden_size, text.intermediate_size
    if divide < 1 or any(n % divide for n in (*heads, width, ffn)):
        raise ValueError(
            f"divide={divide}: {heads[0]} heads, {heads[1]} key heads, width {width} and FFN {ffn} "
            "must all be multiples of it"
        )
    text.num_attention_heads, text.num_key_value_heads = (n // divide for n in heads)
    text.hidden_size, text.intermediate_size = width // divide, ffn // divide
    fewer = max(1, 16 // divide)  # both towers have 16 heads
    if kind == "qwen2_vl":
        vision.num_heads, vision.embed_dim = fewer, 80 * fewer
        vision.hidden_size = text.hidden_size
    else:
        vision.num_attention_heads, vision.hidden_size = fewer, 64 * fewer
        vision.intermediate_size = 256 * fewer


def make(config: Any, dtype: torch.dtype, device: str = "cpu", attention: str = "sdpa"):
    """A model of that configuration with random weights."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    return model.eval().requires_grad_(False)


def prompt_for(
    model: nn.Module, words: int = 57, questions: int = 40, batch: int = 1, side: int | None = None
) -> Prompt:
    """One picture of noise and `words` text tokens, half of them or more after it.

    questions: how many text tokens at the end are the question; batch: equal rows; side: cells
    along the edge of a Qwen2-VL picture (default 24: 576 visual tokens, as LLaVA-1.5 has).
    Raises ValueError for another architecture, or a question that does not fit.
    """
    config, kind = model.config, model.config.model_type
    if kind not in NAMES.values():
        raise ValueError(f"model_type={kind!r}: prompts are made for {', '.join(NAMES.values())}")
    if not 1 <= questions <= words - 2:
        raise ValueError(f"questions={questions}: give 1 to {words - 2} of the {words} text tokens")
    noise = torch.Generator().manual_seed(1)
    vision, more = config.vision_config, {}
    if kind == "llava":
        patches = (vision.image_size // vision.patch_size) ** 2
        if side is not None:
            raise ValueError(f"side={side}: a picture of LLaVA always has {patches} tokens")
        count, blocks = patches, (patches,)
        pixels = torch.randn(batch, 3, vision.image_size, vision.image_size, generator=noise)
    else:
        side, merge = side or 24, vision.spatial_merge_size
        edge, patch = side * merge, vision.patch_size
        count, blocks = side * side, (edge * edge,)
        inputs = vision.in_channels * vision.temporal_patch_size * patch**2
        pixels = torch.randn(batch * edge * edge, inputs, generator=noise)
        more["image_grid_thw"] = torch.tensor([[1, edge, edge]] * batch)
    text = torch.randint(10, min(1000, config.get_text_config().vocab_size - 1), (words,),
                         generator=noise)  # fmt: skip
    text[torch.isin(text, torch.tensor([config.image_token_id]))] = 9
    before = min(words // 2, words - questions - 1)  # the whole question after the picture
    picture = torch.full((count,), config.image_token_id)
    ids = torch.cat([text[:before], picture, text[before:]]).expand(batch, -1).contiguous()
    if kind == "qwen2_vl":
        more["mm_token_type_ids"] = (ids == config.image_token_id).int()
    query = torch.zeros(ids.shape[1], dtype=torch.bool)
    query[-questions - 1 : -1] = True  # the last token asks for the answer
    weight = next(model.parameters())
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}
    inputs = {name: value.to(weight.device) for name, value in inputs.items()}
    inputs["pixel_values"] = pixels.to(weight.device, weight.dtype)
    return Prompt(inputs, query, count, words, blocks)
