"""From questions to a model's inputs: pictures, messages, batches; and budgets by share.

A picture is {"bytes", "path"}, of a parquet cell or of a file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ...models.pictures import opened

PROFILE_MODELS = {"tiny": "tiny/llava", "paper": "llava-hf/llava-1.5-7b-hf"}
EMBEDDED_TOKENS = 144  # visual tokens of the embedded model's picture
PICTURE = 576  # tokens of a picture, of LLaVA-1.5; others are no further from it than from a word


def picture(cell: dict, sample: str) -> Image.Image:
    """A picture {"bytes", "path"}, of a parquet cell or a file, upright (`models.pictures`); a
    broken one: ValueError with the id and the path."""
    try:
        held = cell["bytes"]
        return opened(cell["path"] if held is None else held)
    except (ValueError, KeyError, TypeError) as cause:
        where = cell.get("path") if isinstance(cell, dict) else None
        which = f"its picture {where}" if where else "its picture"
        raise ValueError(f"sample {sample!r}: {which} cannot be read ({cause})") from cause


def content(row: Any) -> list[dict]:
    """What a question shows and says, as parts of a chat message: pictures or a video, then words.

    row: of a suite, as a tuple. Its image: one picture, a list of them (none: words alone), or
    {"video", "frames"}, with "part" if only some seconds of it are shown.
    """
    words = {"type": "text", "text": row.question}
    if isinstance(row.image, dict) and "video" in row.image:
        from .published.video import frames

        cell = row.image
        shown = frames(cell["video"], cell["frames"], cell.get("part"))
        return [{"type": "video", "video": shown}, words]
    cells = row.image if isinstance(row.image, list) else [row.image]
    return [*({"type": "image", "image": picture(cell, row.id)} for cell in cells), words]


def prompt_lengths(samples: pd.DataFrame) -> np.ndarray:
    """How long the prompts of some questions are, roughly, in tokens: words, and PICTURE for each
    picture. (n,); for batches of like length, not for counting cost."""
    words = samples["question"].str.split().str.len().to_numpy()
    pictures = [len(cell) if isinstance(cell, list) else 1 for cell in samples["image"]]
    return words + PICTURE * np.array(pictures)


def prompts(processor, samples: pd.DataFrame | Sequence[Any], device) -> dict:
    """Rows of a suite, as a frame or as its tuples, as one left-padded batch of the model's
    inputs."""
    rows = samples.itertuples() if isinstance(samples, pd.DataFrame) else samples
    return processor.apply_chat_template(
        [[{"role": "user", "content": content(row)}] for row in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True},
    ).to(device)


def pixels(samples: pd.DataFrame) -> dict[str, np.ndarray]:
    """The pictures of some rows of a suite, by sample: (h, w, 3) uint8."""
    return {row.id: np.asarray(picture(row.image, row.id)) for row in samples.itertuples()}


def same_share(keep: int, model: Any) -> int:
    """`keep` of the embedded model's 144 visual tokens as the same share of this model's picture.

    model: or its config. 16 stays 16 on the embedded model and is 64 of LLaVA-1.5's 576. Raises
    ValueError for a model whose number of visual tokens depends on the picture.
    """
    config = getattr(model, "config", model)
    tokens = getattr(config, "image_seq_length", None)
    if tokens is None:
        raise ValueError(
            f"model_type {config.model_type!r} has no fixed number of visual tokens: "
            "give `keep` as a count for each picture"
        )
    return max(1, round(keep * tokens / EMBEDDED_TOKENS))
