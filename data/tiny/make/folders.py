"""The embedded models as stock folders: a teacher is read from one, what has grown is written."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, ProcessorMixin

from qvid_utils.paths import DATA

__all__ = ["save", "teacher"]


def teacher(kind: type[PreTrainedModel], name: str, device: torch.device) -> PreTrainedModel:
    """The committed model data/tiny/`name`, float32, frozen."""
    model = kind.from_pretrained(DATA / "tiny" / name, dtype=torch.float32)
    return model.to(device).eval().requires_grad_(False)


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Model and processor as a stock folder, bfloat16 safetensors that all may read."""
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the library writes it for its owner only
