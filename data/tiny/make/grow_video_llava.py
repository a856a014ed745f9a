"""Grow the embedded Video-LLaVA out of the LLaVA-OneVision:
`python data/tiny/make/train.py --family video_llava`.

1. *Tower*, from nothing: a visual token of a frame is to point where the LLaVA-OneVision's pooled
   token of the same cell points, and must tell what lies there; the class token points to the mean
   of them.
2. *Decoder*: the LLaVA-OneVision's, word by word and weight by weight. It goes on with the last
   part of that model's course: 17 tokens a frame instead of 16, another chat form.

Pictures have a tower of their own in Video-LLaVA; here it starts and ends as a copy of the frames'.
"""

from __future__ import annotations

from pathlib import Path

import clips
import folders
import torch
import video_llava
from grow_onevision import Child, Preset, train_language, train_tower
from onevision_decoder import LINE, tokens_of
from torch import Tensor
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    VideoLlavaForConditionalGeneration,
)

PRESETS = {
    "cpu": Preset(language=1500, rate=1e-3, later_lessons=0.0, ahead=800),
    "gpu": Preset(2000, 128, 6000, 32, rate=1e-3, later_lessons=0.0, ahead=800),
}


@torch.no_grad()
def taught(teacher: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the tokens of the middle of pictures (N, 3, 96, 96) are to be, (N, 17, d): the
    teacher's, and in front of them their mean."""
    edge = (pixels.shape[-1] - clips.SIDE) // 2
    cells = tokens_of(teacher, pixels[..., edge:-edge, edge:-edge]).float()
    return torch.cat([cells.mean(1, keepdim=True), cells], 1)


VIDEO_LLAVA = Child("video_llava", taught, video_llava.tokenizer, " ASSISTANT: ")


def graft(
    teacher: LlavaOnevisionForConditionalGeneration, model: VideoLlavaForConditionalGeneration
) -> None:
    """Give `model` the teacher's decoder, words and head: the same shapes and ids. A Llama's output
    projections have biases, too, new ones of zero. A line break is the teacher's newline."""
    decoder = model.model.language_model
    left = decoder.load_state_dict(teacher.model.language_model.state_dict(), strict=False)
    odd = [name for name in left.missing_keys if not name.endswith("o_proj.bias")]
    if odd or left.unexpected_keys:
        raise ValueError(f"the decoders differ: {[*odd, *left.unexpected_keys]}")
    model.lm_head.load_state_dict(teacher.lm_head.state_dict())
    with torch.no_grad():
        decoder.embed_tokens.weight[LINE] = teacher.model.image_newline


def train_all(preset: Preset, seed: int, folder: Path, out: Path, device: torch.device) -> None:
    """Both stages, from the committed LLaVA-OneVision; writes `out`/video_llava in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    teacher = folders.teacher(LlavaOnevisionForConditionalGeneration, "llava_onevision", device)
    model = VideoLlavaForConditionalGeneration(video_llava.config())
    graft(teacher, model)
    model.to(device).eval()
    train_tower(model, teacher, preset, seed, folder, device, VIDEO_LLAVA)
    model.model.video_tower.requires_grad_(False)
    train_language(model, None, preset, seed, folder, device, child=VIDEO_LLAVA)
    save(model, out)


def save(model: VideoLlavaForConditionalGeneration, out: Path) -> None:
    """Model and processor as a stock folder, bfloat16 safetensors; pictures get frames' tower."""
    model.model.image_tower.load_state_dict(model.model.video_tower.state_dict())
    folders.save(model, video_llava.processor(), out / "video_llava")
