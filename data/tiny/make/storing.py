"""How generated suites are stored: pictures as bytes, rows with ids, one parquet file a suite."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def picture_bytes(pixels: np.ndarray) -> bytes:
    """PNG with five bits a channel: a third of the size, and less than the picture's own noise."""
    file = io.BytesIO()
    Image.fromarray(pixels // 8 * 8 + 4).save(file, "png", optimize=True)
    return file.getvalue()


def numbered(rows: Mapping[str, list[dict]]) -> dict[str, pd.DataFrame]:
    """The rows of each suite as a frame whose first column is their `id`, "suite/0000"."""
    frames = {}
    for suite, found in rows.items():
        frame = pd.DataFrame(found)
        frame.insert(0, "id", [f"{suite}/{i:04d}" for i in range(len(frame))])
        frames[suite] = frame
    return frames


def store(frames: Mapping[str, pd.DataFrame], folder: Path, shown: str) -> None:
    """One file per suite; shown: what its questions are about, in the plural, for the last line."""
    folder.mkdir(parents=True, exist_ok=True)
    for suite, frame in frames.items():
        # One dictionary for all pictures of a file: a picture of many questions is stored once.
        frame.to_parquet(
            folder / f"{suite}.parquet",
            index=False,
            compression="zstd",
            dictionary_pagesize_limit=1 << 26,
        )
        print(f"{suite}: {len(frame)} questions on {frame['picture'].nunique()} {shown}")


def command(about: str, folder: Path, write: Callable[[Path, int], None]) -> None:
    """The command line of a module that writes suites."""
    words = argparse.ArgumentParser(description=about.splitlines()[0])
    words.add_argument("--out", type=Path, default=folder)
    words.add_argument("--seed", type=int, default=0)
    chosen = words.parse_args()
    write(chosen.out, chosen.seed)
