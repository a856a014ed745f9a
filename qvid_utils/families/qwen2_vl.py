"""Qwen2-VL: a tower for any resolution (no class token), positions along three axes (M-RoPE)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .base import Family
from .layout import Block, Sources
from .small import QWEN2_7B, decoder
from .tower import Tower

# the parts in their order, under a default system turn
SYSTEM = (
    "{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
)
TURN = (
    "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] in ('image', 'video') %}"
    "{{ '<|vision_start|><|' + p['type'] + '_pad|><|vision_end|>' }}"
    "{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATE = "{% for m in messages %}" + SYSTEM + TURN
LABELS = r"(?:Picture|Video)\d+:"  # the template's option add_vision_id


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """Patches merged into cells; the processor gives the grid of each picture in patches."""
    merge = config.vision_config.spatial_merge_size

    def blocks(name: str) -> Iterator[Sequence[Block]]:
        for frames, rows, cols in call[name].tolist():
            yield [Block(frames, rows // merge, cols // merge)]

    return {
        config.image_token_id: blocks("image_grid_thw"),
        config.video_token_id: blocks("video_grid_thw"),
    }


def tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Patches lie in the order in which they are merged: a few in a row are one visual token."""
    return values.unflatten(0, (-1, base.config.vision_config.spatial_merge_size**2))


def merging(vision: Any, width: int, out: int, ffn: int) -> dict[str, Any]:
    """The numbers of a tower that joins patches in squares before its projector."""
    merge = vision.spatial_merge_size**2
    return {
        "layers": vision.depth,
        "width": width,
        "ffn": ffn,
        "pixels": vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        "projector": ((merge * width, merge * width), (merge * width, out)),
        "merge": merge,
    }


def cost(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    ffn = int(vision.embed_dim * vision.mlp_ratio)
    return merging(vision, vision.embed_dim, vision.hidden_size, ffn)


TOWER = {"image": "visual", "video": "visual"}
IDS = {"image_token_id": 4, "video_token_id": 5}
IDS |= {"vision_start_token_id": 6, "vision_end_token_id": 7}


def text_of(hidden: int = 64, heads: int = 4, **more: Any) -> dict[str, Any]:
    """The decoder of a small twin; half of a head's width is shared out among the three axes."""
    half = hidden // heads // 2
    side = 3 * half // 8
    rope = {"rope_type": "default", "rope_theta": 1e6}
    rope["mrope_section"] = [half - 2 * side, side, side]
    return decoder(hidden=hidden, heads=heads, **{"rope_parameters": rope, **more})


WHOLE_GRID = (
    "joins patches in groups of 2 × 2 and numbers them along three axes, for which the grid must "
    "stay as the processor has made it; for smaller pictures give the processor a lower "
    "max_pixels, or prune at the input of the language model"
)
NO_CLIP = "its tower was trained with the language model and has no text tower"


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: a visual token for 8 by 8 pixels, one for two frames."""
    from transformers import Qwen2VLConfig

    width = {"embed_dim": 32, "hidden_size": text.get("hidden", 64)}
    return Qwen2VLConfig(
        vision_config={"depth": 2, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4, **width},
        text_config=text_of(**text),
        **IDS,
    )


TEXT_7B = {**QWEN2_7B, "model_type": "qwen2_vl_text"}
TEXT_7B["rope_parameters"] = {
    "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
}  # fmt: skip


def full() -> Any:
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(text_config=TEXT_7B)


family = Family(
    name="Qwen2-VL",
    model_type="qwen2_vl",
    checkpoint="Qwen/Qwen2-VL-7B-Instruct",
    template=TEMPLATE,
    labels=LABELS,
    tiny=tiny,
    full=full,
    frames=32,
    sources=sources,
    projector="visual.merger",
    vision="visual",
    one_axis=False,
    tower=Tower(TOWER, tokens, layers=("blocks",), attention="attn"),
    whole_grid=WHOLE_GRID,
    no_clip=NO_CLIP,
    cost=cost,
)
