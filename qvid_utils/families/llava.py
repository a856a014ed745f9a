"""LLaVA-1.5: CLIP tower with a class token (dropped before the projector), Llama decoder."""

from collections.abc import Mapping
from typing import Any

from .base import Family


def grid(config: Any, n_visual: int, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """(images, rows, cols): each image is a square of patches, one after another."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return n_visual // side**2, side, side


def tiny(
    *, layers: int = 8, hidden: int = 64, heads: int = 4, kv_heads: int = 2, **text: Any
) -> Any:
    """Configuration of a small twin: 16 visual tokens an image, GQA where kv_heads < heads."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=24,
            patch_size=6,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            **{
                "hidden_size": hidden,
                "intermediate_size": 2 * hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
                "vocab_size": 64,
                "max_position_embeddings": 512,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": None,
                **text,
            }
        ),
        image_token_index=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )


family = Family(
    name="LLaVA-1.5",
    model_type="llava",
    checkpoint="llava-hf/llava-1.5-7b-hf",
    tiny=tiny,
    grid=grid,
    has_cls=True,
)
