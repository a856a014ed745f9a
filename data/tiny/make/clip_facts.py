"""What there is to know about a clip: what its visual tokens show, what its words stand for."""

from __future__ import annotations

import clips
import numpy as np
import onevision
import torch
import train
import world
from onevision_decoder import WORD
from torch import Tensor

KIND_WORDS = [WORD[kind] for kind in world.KINDS]
LONGEST = 16
STORIES = (*clips.STORIES, "flashes")
# What has happened to what a visual token shows: since the first frame, and just now.
NOW = (None, "as before", *clips.DIRECTIONS, "recoloured", "new", "gone", "appears", "vanishes")


def shown(drawn: list[clips.Clip]) -> dict[str, Tensor]:
    """What every visual token shows, (B, T, 16) each: kind and colour (the last is "ground"), the
    frame, the cell where the thing was first seen (the last is "none"), and what has happened to it
    up to now (`NOW`)."""
    shape = (len(drawn), len(drawn[0][0].cells), onevision.CELLS)
    kind = torch.full(shape, train.NONE)
    colour = torch.full(shape, len(train.COLOUR_NAMES))
    now = torch.zeros(shape, dtype=torch.long)
    origin = torch.full(shape, onevision.CELLS)
    for b, clip in enumerate(drawn):
        for actor in clip:  # first what is gone: it may be hidden by what comes there later
            for t in range(actor.last + 1, shape[1]):
                row, column = actor.cells[actor.last]
                left = "vanishes" if t == actor.last + 1 else "gone"
                now[b, t, row * clips.BOARD + column] = NOW.index(left)
        for actor in clip:
            for t, cell in enumerate(actor.cells):
                if cell is None:
                    continue
                spot = (b, t, cell[0] * clips.BOARD + cell[1])
                happened = "as before"
                if actor.first:
                    happened = "appears" if t == actor.first else "new"
                elif cell != actor.cells[0]:
                    happened = actor.direction
                elif actor.colours[t] != actor.colours[0]:
                    happened = "recoloured"
                now[spot] = NOW.index(happened)
                origin[spot] = number_of(actor.cells[actor.first])
                kind[spot] = world.KINDS.index(actor.kind)
                colour[spot] = train.COLOUR_NAMES.index(actor.colours[t])
    frame = torch.arange(shape[1])[None, :, None].expand(shape)
    return {"kind": kind, "colour": colour, "frame": frame, "now": now, "origin": origin}


def number_of(cell: clips.Cell) -> int:
    """A cell's place among a frame's visual tokens."""
    return cell[0] * clips.BOARD + cell[1]


SIZES = {
    "kind": train.NONE + 1,
    "colour": len(train.COLOUR_NAMES) + 1,
    "frame": LONGEST,
    "now": len(NOW),
    "origin": onevision.CELLS + 1,
}
# What a word knows, a number of classes each: of a thing its story, direction, first and last
# frame, colour and cell, and its turns (`TURNS`); of a verb, how many things do so.
TURNS = ("appears first", "appears last", "vanishes first", "vanishes last")
COUNTED = {"appear": "appears", "vanish": "vanishes", "move": "moves"}
MOST = 5  # things of a clip
PARTS = (
    *(len(STORIES), len(clips.DIRECTIONS), LONGEST, LONGEST),
    *[len(train.COLOUR_NAMES)] * 2,
    *[onevision.CELLS] * 2,
    len(TURNS),
    MOST + 1,
)


def facts(drawn: list[clips.Clip], ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the telling words of (B, Q, t) stand for in their clips, many-hot (n, ΣPARTS), and which
    words tell something, bool (B, Q, t): those that name a thing, and the verbs of counts."""
    table = torch.zeros(len(drawn), len(WORD), sum(PARTS))
    starts = np.cumsum((0, *PARTS))
    for b, clip in enumerate(drawn):
        for actor in clip:
            place = [
                STORIES.index(actor.story),
                list(clips.DIRECTIONS).index(actor.direction) if actor.direction else None,
                actor.first,
                actor.last,
                train.COLOUR_NAMES.index(actor.colours[0]),
                train.COLOUR_NAMES.index(actor.colours[-1]),
                number_of(actor.cells[actor.first]),
                number_of(actor.cells[actor.last]),
            ]
            row = [start + p for start, p in zip(starts, place, strict=False) if p is not None]
            row += [starts[8] + TURNS.index(turn) for turn in turns_of(actor, clip)]
            table[b, WORD[actor.kind], row] = 1
        for verb, story in COUNTED.items():
            number = sum(actor.story == story for actor in clip)
            table[b, WORD[verb], starts[9] + number] = 1
    telling = torch.isin(ids, torch.tensor([*KIND_WORDS, *(WORD[verb] for verb in COUNTED)]))
    return table[telling.nonzero()[:, 0], ids[telling]], telling


def totals(drawn: list[clips.Clip]) -> Tensor:
    """How many things do each of COUNTED, (B, 3); -100 for clips of which it is not asked."""
    table = [[sum(a.story == story for a in clip) for story in COUNTED.values()] for clip in drawn]
    flashing = [any(a.story == "flashes" for a in clip) for clip in drawn]
    return torch.tensor(table).masked_fill(torch.tensor(flashing)[:, None], -100)


def turns_of(actor: clips.Actor, clip: clips.Clip) -> list[str]:
    """Which of TURNS are a thing's."""
    if actor.story not in ("appears", "vanishes"):
        return []
    times = [a.first if a.story == "appears" else a.last for a in clip if a.story == actor.story]
    own = actor.first if actor.story == "appears" else actor.last
    ends = {"first": min(times), "last": max(times)}
    return [f"{actor.story} {turn}" for turn, time in ends.items() if own == time]
