"""The crowded and sparse suites: `python data/tiny/make/crowded_clips.py` writes them as parquet.

Films with more things than a small budget has tokens, with truth records and swaps.

As `crowded` for pictures: six to eight things on the 4 × 4 board, eight frames.
"""

from __future__ import annotations

import re
from pathlib import Path

import clips
import crowded
import numpy as np
import pandas as pd
import storing
import world

from qvid_utils.paths import DATA

FOLDER = DATA / "tiny" / "crowded"
FRAMES, STREAM = 8, 15  # a stream of random numbers of its own
KINDS = ("direction", "action", "still_colour", "colour")  # all open, one word
EACH = 2  # questions of a type about a clip, at most


def named(question: world.Question, clip: clips.Clip) -> int:
    """The number of the thing that a question is about."""
    words = re.findall(r"\w+", question.text.partition("?")[0])
    return next(n for n, actor in enumerate(clip) if actor.kind in words)


def pairs(kind: str, clip: clips.Clip, rng: np.random.Generator):
    """Up to EACH questions of a type about different things, each with its swap."""
    asked: dict[int, world.Question] = {}
    for _ in range(crowded.TRIES):
        found = clips.ask(kind, clip, rng, options=False)
        if found is not None:
            asked.setdefault(named(found, clip), found)
    for own in list(asked.values())[:EACH]:
        others = [q for q in asked.values() if q.answer != own.answer]
        if others:
            yield own, others[rng.integers(len(others))]


def shown(clip: clips.Clip) -> list[int]:
    """Which thing each cell of each frame shows, (8 · 16,): its number in the clip, -1 for
    ground."""
    cells = np.full((FRAMES, clips.BOARD, clips.BOARD), -1)
    for number, actor in enumerate(clip):
        for t, cell in enumerate(actor.cells):
            if cell:
                cells[t, *cell] = number
    return cells.ravel().tolist()


def build(setting: str, part: str, seed: int = 0) -> pd.DataFrame:
    """All questions about the clips of a setting's part."""
    rows, chosen = [], crowded.SETTINGS[setting]
    place = [list(crowded.SETTINGS).index(setting), list(chosen.clips).index(part)]
    for number in range(chosen.clips[part]):
        rng = np.random.default_rng([seed, STREAM, *place, number])
        clip = clips.draw_clip(rng, FRAMES, *chosen.actors)
        name = f"{number:03d}"
        film = {"bytes": clips.film(clips.render(clip, rng)), "path": f"{name}.png"}
        about = {"picture": name, "image": {"video": film, "frames": FRAMES}}
        for kind in KINDS:
            for own, swap in pairs(kind, clip, rng):
                found = crowded.row((own, swap), [named(own, clip)])
                rows.append({**about, **found, "shown": shown(clip), "suite": f"{setting}_mvbench"})
    return storing.numbered({f"{setting}_clips_{part}": rows})[f"{setting}_clips_{part}"]


def write(folder: Path, seed: int = 0) -> None:
    """Pictures and clips of every setting and part, one file each."""
    known = crowded.SETTINGS.items()
    every = [(setting, part) for setting, chosen in known for part in chosen.pictures]
    made = {"_".join(both): crowded.build(*both, seed) for both in every}
    storing.store(made, folder, "pictures")
    made = {f"{setting}_clips_{part}": build(setting, part, seed) for setting, part in every}
    storing.store(made, folder, "clips")


if __name__ == "__main__":
    storing.command(__doc__, FOLDER, write)
