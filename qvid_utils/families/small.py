"""What the configurations of several families share: of small twins, a narrow decoder and a vision
tower for 24 pixels; of full size, Qwen2-7B and the large SigLIP."""

from typing import Any

CLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
    "projection_dim": 32,
}
SIGLIP = {name: value for name, value in CLIP.items() if name != "projection_dim"}


QWEN2_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
SIGLIP_400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def decoder(
    *, layers: int = 8, hidden: int = 64, heads: int = 4, kv_heads: int = 2, **more: Any
) -> dict[str, Any]:
    """Arguments of a decoder's configuration; GQA where kv_heads < heads; `more` goes on top."""
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 96,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
        **more,
    }
