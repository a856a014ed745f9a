"""A trace to look at: three lines as text; in a notebook a table of the cuts and the pictures with
what was kept."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..families.layout import Block, score_maps

SIDE = 224  # pixels of a shown picture's longer side
ROWS, FRAMES = 4, 8  # of a batch, and pictures or frames of a row, that are shown
VEIL = 0.25  # how much of a dropped patch's brightness is left


def text(trace: Any) -> str:
    """Three lines: what the cuts kept, what that costs, what the question was."""
    if not trace.cuts:
        return "no cut: no call with pictures has reached the model in this block"
    last = [cut for cut in trace.cuts if cut.call == trace.cuts[-1].call]
    cuts = [
        f"layer {cut.layer}: {len(cut.kept)} of {cut.n_visual} kept" for cut in last if not cut.row
    ]
    rows, calls = len(trace.mean_tokens), trace.cuts[-1].call + 1
    means = ", ".join(f"{mean:.1f}" for mean in trace.mean_tokens[:ROWS])
    asked = sorted({cut.n_query for cut in last if cut.n_query})
    question = f"{', '.join(map(str, asked))} query tokens" if asked else "no query token was read"
    return "\n".join(
        [
            f"{last[0].method}: {'; '.join(cuts)}" + f" (row 0 of {rows})" * (rows > 1),
            f"mean tokens: {means}" + f"; call {calls} of {calls}" * (calls > 1),
            question,
        ]
    )


def page(trace: Any) -> str:
    """The same as a page: a row for each cut of the last call, and its pictures."""
    if not trace.cuts:
        return f"<p>{escape(text(trace))}</p>"
    head = ("row", "layer", "method", "kept", "of", "query tokens", "mean tokens")
    last = [cut for cut in trace.cuts if cut.call == trace.cuts[-1].call]
    cells = [
        (c.row, c.layer, c.method, len(c.kept), c.n_visual, c.n_query or "–",
         f"{trace.mean_tokens[c.row]:.1f}")
        for c in last
    ]  # fmt: skip
    table = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in cells
    )
    names = "".join(f"<th>{name}</th>" for name in head)
    shown = [figure for row in range(ROWS) for figure in pictures(trace, row)]
    return f"<table><tr>{names}</tr>{table}</table><div>{''.join(shown)}</div>"


def pictures(trace: Any, row: int) -> list[str]:
    """<img> of each picture or frame of a row of the last call, dropped patches veiled; of a
    family whose pixels are no pictures by themselves, the map of what was kept alone."""
    cuts = [c for c in trace.cuts if c.call == trace.cuts[-1].call and c.row == row]
    if not cuts or trace.layout is None:
        return []
    family, config, call = trace.layout
    row //= len(trace.mean_tokens) // len(call["input_ids"])  # beams share a prompt's pictures
    blocks = family.blocks(config, call, row)
    before = sum(len(family.blocks(config, call, r)) for r in range(row))
    kept = torch.zeros(sum(block.tokens for block in blocks))
    kept[cuts[-1].kept.cpu().clamp(min=0)] = 1
    count = before + sum(
        len(family.blocks(config, call, r)) for r in range(row, len(call["input_ids"]))
    )
    seen = _seen(call, blocks, before, count)
    frames = [frame for one in score_maps(kept, blocks) for frame in one]
    return [
        _image(frame, seen[n] if n < len(seen) else None) for n, frame in enumerate(frames[:FRAMES])
    ]


def _seen(
    call: Mapping[str, Any], blocks: Sequence[Block], before: int, count: int
) -> list[np.ndarray]:
    """(h, w, 3) in 0 to 1 of each picture of a row, where the call's pixels are one picture for
    each block; else none."""
    pixels, sizes = call.get("pixel_values"), call.get("image_grid_thw")
    if pixels is None:
        return []
    if sizes is not None and len(sizes) == count:
        parts = pixels.split(sizes.prod(-1).tolist())[before : before + len(blocks)]
        sizes = sizes[before : before + len(blocks)].tolist()
        made = [_joined(p, s, b) for p, s, b in zip(parts, sizes, blocks, strict=True)]
    elif pixels.dim() == 4 and len(pixels) == count:
        made = list(pixels[before : before + len(blocks)])
    else:
        return []
    return [_bright(one) for one in made]


def _joined(patches: Tensor, size: Sequence[int], block: Block) -> Tensor:
    """(3, h, w) from patches in the order of a tower that merges neighbours (Qwen's)."""
    _, high, wide = size
    merged = high // block.rows
    side = round((patches.shape[-1] / 6) ** 0.5)  # three colours, two moments
    shape = (high // merged, wide // merged, merged, merged, 3, 2, side, side)
    one = patches[: high * wide].reshape(shape)[..., 0, :, :]
    return one.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, high * side, wide * side)


def _bright(picture: Tensor) -> np.ndarray:
    """Normalised pixels back to 0 to 1, by their own range."""
    pixels = picture.float().permute(1, 2, 0).numpy(force=True)
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / max(high - low, 1e-6)


def _image(kept: Tensor, picture: np.ndarray | None) -> str:
    """kept: (rows, cols) 0 or 1; picture: (h, w, 3) or None: a plain ground."""
    rows, cols = kept.shape
    side = max(1, SIDE // max(rows, cols))
    size = (cols * side, rows * side)
    if picture is None:
        ground = np.ones((size[1], size[0], 3))
    else:
        shown = Image.fromarray((picture * 255).astype(np.uint8)).resize(size)
        ground = np.asarray(shown) / 255
    veil = np.kron(VEIL + (1 - VEIL) * kept.numpy(), np.ones((side, side)))[..., None]
    store = BytesIO()
    Image.fromarray((ground * veil * 255).astype(np.uint8)).save(store, "PNG")
    name = f"{int(kept.sum())} of {rows * cols} patches kept"
    data = b64encode(store.getvalue()).decode()
    return (
        f'<img alt="{name}" title="{name}" style="margin:4px" src="data:image/png;base64,{data}">'
    )
