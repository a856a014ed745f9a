"""How the visual tokens of a prompt lie: blocks of frames, rows and columns, one after another."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """The tokens of one picture or video: frames of rows × cols places, and tokens without a place.

    lead: before each frame (a class token); line: after each row; end: after the last frame (line
    breaks that a family writes between pictures).
    """

    frames: int
    rows: int
    cols: int
    lead: int = 0
    line: int = 0
    end: int = 0

    @property
    def tokens(self) -> int:
        return self.frames * (self.lead + self.rows * (self.cols + self.line)) + self.end

    def places(self) -> Tensor:
        """(tokens,) bool: which of them show a place of the picture; the rest are extra."""
        row = torch.tensor([True] * self.cols + [False] * self.line)
        frame = torch.cat([torch.zeros(self.lead, dtype=torch.bool), row.repeat(self.rows)])
        return torch.cat([frame.repeat(self.frames), torch.zeros(self.end, dtype=torch.bool)])


def frames_of(blocks: Sequence[Block]) -> Tensor:
    """(N_v,) int64: the picture or frame that each token shows a place of, numbered from 0 through
    all blocks; -1 for a token without a place."""
    found, start = [torch.zeros(0, dtype=torch.long)], 0
    for block in blocks:
        shown = block.places()
        size = (block.tokens - block.end) // block.frames
        number = torch.arange(len(shown)).div(size, rounding_mode="floor") + start
        found.append(number.where(shown, -1))
        start += block.frames
    return torch.cat(found)


Sources = Mapping[int, Iterable[Sequence[Block]]]  # placeholder id -> blocks of each picture


def blocks_of(visual: Sequence[Sequence[int]], sources: Sources, row: int) -> tuple[Block, ...]:
    """The blocks of one row, in the order of its visual tokens.

    visual: the placeholder ids of each row, text left out; the pictures of a kind come in the
    order of the rows. Raises ValueError where pictures and placeholders do not match.
    """
    waiting: dict[int, Iterator[Sequence[Block]]] = {k: iter(v) for k, v in sources.items()}
    found: list[Block] = []
    for ids in visual[: row + 1]:
        found, at = [], 0
        while at < len(ids):
            picture = next(waiting.get(ids[at], iter(())), ())
            size = sum(block.tokens for block in picture)
            if not picture or set(ids[at : at + size]) != {ids[at]} or at + size > len(ids):
                raise ValueError(
                    f"row {row}: the sizes of the pictures do not add up to the visual tokens in "
                    "input_ids; give the processor's output whole"
                )
            found, at = [*found, *picture], at + size
    return tuple(found)


def common_grid(blocks: Sequence[Block]) -> tuple[int, int, int]:
    """(frames, rows, cols) where all tokens lie in frames of one size; else ValueError."""
    sizes = {(block.rows, block.cols) for block in blocks}
    extra = sum(int((~block.places()).sum()) for block in blocks)
    if len(sizes) != 1 or extra:
        why = f"{extra} of them show no place" if extra else f"{len(sizes)} picture sizes"
        raise ValueError(
            f"the visual tokens of this prompt form no single grid ({why}); use score_maps with "
            "the family's blocks"
        )
    return sum(block.frames for block in blocks), *sizes.pop()


def score_maps(scores: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """Per-token numbers as pictures: (N_v,) → one (frames, rows, cols) for each block; what shows
    no place (line breaks, class tokens) is left out."""
    sizes = [block.tokens for block in blocks]
    if sum(sizes) != len(scores):
        raise ValueError(f"{len(scores)} scores for blocks of {sum(sizes)} visual tokens")
    return [
        part[block.places().to(part.device)].reshape(block.frames, block.rows, block.cols)
        for part, block in zip(scores.split(sizes), blocks, strict=True)
    ]
