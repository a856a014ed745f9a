"""A picture from wherever it comes, as a model is shown it: upright, 8 bits a channel, RGB."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["header", "opened"]


def opened(source: Any) -> Image.Image:
    """A picture from a file, its bytes, an array (h, w, 3) uint8 or a PIL picture; RGB.

    It is turned as its EXIF orientation says: photos of phones are stored lying, and the `datasets`
    library turns them, too. Of 16-bit grey the higher byte counts, so that 65535 is white.
    Raises ValueError, which says why in half a sentence, for what is missing, broken or no picture,
    has no pixel, more pixels than Pillow takes, or pixels that are no 8- or 16-bit numbers.
    """
    try:
        found = _read(source)
        found.load()
        if 0 in found.size:
            raise ValueError(f"it has {found.width} x {found.height} pixels")
        return _eight_bit(_upright(found)).convert("RGB")
    except MemoryError:
        raise
    except Exception as cause:  # Pillow's readers raise whatever their formats' modules raise
        raise ValueError(_why(cause)) from cause


def header(source: Any) -> None:
    """ValueError as `opened`, by what a picture's header says: its pixels are not read."""
    try:
        with _read(source) as found:
            if 0 in found.size:
                raise ValueError(f"it has {found.width} x {found.height} pixels")
            found.verify()
    except MemoryError:
        raise
    except Exception as cause:
        raise ValueError(_why(cause)) from cause


def _read(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.ndim != 3:  # Pillow would take a matrix of any numbers
            raise ValueError(f"it is {source.dtype} of shape {source.shape}")
        return Image.fromarray(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(bytes(source)))
    return Image.open(Path(source).expanduser())


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # its pixels are whole, only what it says of itself is not
        return picture


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits by its higher byte; everything else as it is."""
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers: give 8 or 16 bits a pixel")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture)
    wide = picture.mode != "I" or grey.max() > 255 or picture.format in ("PNG", "PPM")
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its pixels are 32-bit numbers: give 8 or 16 bits a pixel")
    return Image.fromarray((grey >> 8 if wide else grey).astype(np.uint8))


def _why(cause: Exception) -> str:
    """Why a picture cannot be read; Pillow's own words may hold an address in memory."""
    if isinstance(cause, UnidentifiedImageError):
        return "it is no picture"
    if isinstance(cause, FileNotFoundError):
        return "there is no such file"
    if isinstance(cause, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, Pillow's limit"
    return f"{cause}".split("\n")[0].strip() or type(cause).__name__
