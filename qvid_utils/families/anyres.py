"""Pictures shown twice: whole, and in large as tiles that are joined, cut to the picture's own
shape and set in lines (LLaVA-NeXT and LLaVA-OneVision)."""

from typing import Any

import torch
from torch import Tensor

from .layout import Block

WHOLE_GRID = (
    "puts tiles together and breaks lines by the full grid of patches, which a shortened tower no "
    "longer gives; prune at the input of the language model instead"
)


def grid_of_tiles(config: Any, size: Any) -> tuple[int, int]:
    """(rows, columns) of the tiles that show a picture of size (height, width) in large."""
    from transformers.models.llava_next import modeling_llava_next as library

    side, sizes = config.vision_config.image_size, config.image_grid_pinpoints
    return library.get_anyres_image_grid_shape(size, sizes, side)


def count_of_tiles(config: Any, size: Any) -> int:
    """All pictures that the tower gets of one: its tiles, and before them the whole."""
    rows, cols = grid_of_tiles(config, size)
    return 1 + rows * cols


def whole(config: Any, **more: int) -> Block:
    """The whole picture: a square of patches."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return Block(1, side, side, **more)


def in_large(config: Any, size: Any, limit: float | None = None) -> Block:
    """The picture in large: what its tiles show of it, a line break after each row; limit: how
    many times the patches of a tile there may be before the picture is made smaller."""
    from transformers.models.llava_next import modeling_llava_next as library

    side = config.vision_config.image_size // config.vision_config.patch_size
    rows, cols = (side * count for count in grid_of_tiles(config, size))
    rows, cols = library.unpad_image(torch.empty(1, rows, cols), size).shape[1:]
    shrink = (rows * cols / (limit * side**2)) ** 0.5 if limit else 1
    if shrink > 1.1:
        rows, cols = int(rows // shrink), int(cols // shrink)
    return Block(1, rows, cols, line=1)


def blank(values: Tensor) -> Tensor:
    """What stands for a line break among the tower's numbers: zeros."""
    return values.new_zeros(values.shape[-1])
