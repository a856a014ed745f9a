"""In which batches the questions of a suite are asked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..benchmarks.prompts import prompt_lengths

__all__ = ["batches_of", "is_video"]


def batches_of(samples: pd.DataFrame, size: int, seed: int | None = None) -> list[list[str]]:
    """Ids in equal parts of at most `size`, questions of like length together: little padding;
    videos of one number of frames together: they are one tensor. With a seed the parts in an order
    drawn by it, else from short to long."""
    length, parts = prompt_lengths(samples), []
    frames = np.array([_frames(image) for image in samples["image"]])
    for number in np.unique(frames):
        these = np.flatnonzero(frames == number)
        order = these[np.argsort(length[these], kind="stable")]
        parts += np.array_split(samples["id"].to_numpy()[order], -(-len(order) // size))
    turns = (
        range(len(parts)) if seed is None else np.random.default_rng(seed).permutation(len(parts))
    )
    return [parts[i].tolist() for i in turns]


def _frames(image: Any) -> int:
    """How many frames of its video a question is shown; 0 for pictures."""
    return image["frames"] if is_video(image) else 0


def is_video(image: Any) -> bool:
    return isinstance(image, Mapping) and "video" in image
