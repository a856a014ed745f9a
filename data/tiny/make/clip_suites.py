"""The embedded video suites: `python data/tiny/make/clip_suites.py` writes them as parquet.

`tiny_mvbench` asks six types of question (its tasks) of clips of 8 frames; `tiny_videomme` asks of
short (4), medium (8) and long (16 frames) clips, and a good part of its questions is about what is
there for a moment. Clips come from a stream of their own, so none was trained on.
"""

from __future__ import annotations

from pathlib import Path

import clips
import first_frame
import numpy as np
import pandas as pd
import storing

from qvid_utils.paths import DATA

VIDEOS = DATA / "tiny" / "videos"

# The stream of random numbers that no training stage draws from. (`tiny_hallusion`'s first picture
# begins with the same numbers, in another world.)
EVALUATION = 10
FIRST_FRAME = "first_frame.csv"  # beside the suites
LENGTHS = {"short": 4, "medium": 8, "long": 16}
MVBENCH = ("direction", "order", "count", "action", "letter", "colour")
VIDEOMME = ("flash", "direction", "action", "colour", "order", "flash")
EACH = 80  # questions of a type in tiny_mvbench
LONG = 160  # questions of a length in tiny_videomme


def _ask(rng: np.random.Generator, wanted: dict[str, int], frames: int, name: str) -> list[dict]:
    """Rows for `wanted` questions of each type, at most three of a clip, one of a type."""
    rows: list[dict] = []
    left, number = dict(wanted), 0
    while any(left.values()):
        clip = clips.draw_clip(rng, frames)
        pixels = clips.render(clip, rng)
        asked = []
        for kind in sorted(left, key=left.__getitem__, reverse=True):
            question = clips.ask(kind, clip, rng) if left[kind] and len(asked) < 3 else None
            if question is not None:
                asked.append(question)
                left[kind] -= 1
        if not asked:
            continue
        picture = f"{name}{number:03d}"
        film = {"bytes": clips.film(pixels), "path": f"{picture}.png"}
        number += 1
        rows += [
            {
                "picture": picture,
                "image": {"video": film, "frames": frames},
                "question": question.text,
                "answer": question.answer,
                "kind": question.kind,
                "split": question.kind,
                "group": "",
                "clip": clip,
            }
            for question in asked
        ]
    return rows


def build(seed: int = 0) -> dict[str, pd.DataFrame]:
    """Both suites; answers of a type are as the world draws them, options in random order. With a
    column first_frame: `first_frame.odds` of each question."""
    rng = np.random.default_rng([seed, EVALUATION])
    rows = {"tiny_mvbench": _ask(rng, dict.fromkeys(MVBENCH, EACH), 8, "m")}
    rows["tiny_videomme"] = []
    share = LONG // len(VIDEOMME)
    wanted = {kind: share * VIDEOMME.count(kind) for kind in VIDEOMME}
    wanted["flash"] += LONG - sum(wanted.values())
    for length, frames in LENGTHS.items():
        found = _ask(rng, wanted, frames, length[0])
        rows["tiny_videomme"] += [{**row, "split": length} for row in found]
    for row in (row for found in rows.values() for row in found):
        row["first_frame"] = first_frame.odds(row["kind"], row["question"], row["answer"],
                                              row.pop("clip"))  # fmt: skip
    return storing.numbered(rows)


def write(folder: Path, seed: int = 0) -> None:
    made = build(seed)
    odds = pd.concat([frame[["id", "first_frame"]] for frame in made.values()])
    frames = {name: frame.drop(columns="first_frame") for name, frame in made.items()}
    storing.store(frames, folder, "clips")
    odds.to_csv(folder / FIRST_FRAME, index=False, float_format="%.6f", lineterminator="\n")


def read_first_frame() -> pd.Series:
    """What `first_frame.odds` says of each question of both suites, by id."""
    return pd.read_csv(VIDEOS / FIRST_FRAME, index_col="id")["first_frame"]


if __name__ == "__main__":
    storing.command(__doc__, VIDEOS, write)
