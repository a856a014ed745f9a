"""Video-LLaVA: two CLIP towers (pictures; frames, which keep their class token), Llama decoder.

How the class token counts: transformers gives the language model 257 tokens of a frame, 256 patches
after the class token. All 257 are visual tokens here: each is scored, each can be pruned, and a
share of the tokens, as in Table 12, is one of all 8 x 257 = 2,056 of a clip. Maps of a frame show
the patches alone. Of a picture the class token is left out: 256.
"""

from collections.abc import Mapping
from itertools import repeat
from typing import Any

from .base import Family
from .layout import Block, Sources
from .llava import TEMPLATE
from .small import CLIP, decoder
from .tower import Tower, clip_tokens


def sources(config: Any, call: Mapping[str, Any]) -> Sources:
    """A square of patches for each picture; for each frame of a video, after its class token."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    lead = int(config.vision_feature_select_strategy == "full")
    pixels = call.get("pixel_values_videos")
    frames = 1 if pixels is None else pixels.shape[1]
    return {
        config.image_token_id: repeat([Block(1, side, side, lead=lead)]),
        config.video_token_id: repeat([Block(frames, side, side, lead=1)]),
    }


def tiny(**text: Any) -> Any:
    """Configuration of a small twin: 16 visual tokens an image, 17 a frame."""
    from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

    return VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**CLIP),
        text_config=LlamaConfig(**decoder(**{"kv_heads": 4, **text})),
        image_token_index=4,
        video_token_index=5,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
        video_seq_length=34,
    )


def full() -> Any:
    from transformers import VideoLlavaConfig

    config = VideoLlavaConfig()
    config.text_config.vocab_size = 32064  # the checkpoint's: the placeholders are 32000, 32001
    return config


family = Family(
    name="Video-LLaVA",
    model_type="video_llava",
    checkpoint="LanguageBind/Video-LLaVA-7B-hf",
    template=TEMPLATE,
    tiny=tiny,
    full=full,
    frames=8,
    sources=sources,
    vision="image_tower",
    vision_of_videos="video_tower",
    has_cls=True,
    tower=Tower({"image": "image_tower", "video": "video_tower"}, clip_tokens),
    patchwise=True,
    no_clip="its towers belong to LanguageBind's text tower, which transformers has no class for",
)
