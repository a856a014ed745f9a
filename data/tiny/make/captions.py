"""Captions: everything in a picture in words, for the models that were trained to tell it.

Stands for COCO captions. A model says the kinds in one order, that of `world.KINDS`; the references
have that order and four others, for CIDEr counts phrases of up to four words.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import storing
import world

NAME, PICTURES, STREAM = "tiny_captions", 100, 12  # a stream of random numbers of its own
REQUEST = "Describe the picture."
REFERENCES = 5


def said(things: world.Scene) -> str:
    """ "red star and white letter K": the things in the order given."""
    return " and ".join(f"{thing.colour} {thing.name}" for thing in things)


def in_order(scene: world.Scene) -> world.Scene:
    """The things by kind; two of one kind by colour."""
    colours = list(world.COLOURS)
    return tuple(sorted(scene, key=lambda t: (world.KINDS.index(t.kind), colours.index(t.colour))))


def build(seed: int = 0) -> pd.DataFrame:
    """The suite: 100 pictures, each with five references (`answers`)."""
    rows = []
    for number in range(PICTURES):
        rng = np.random.default_rng([seed, STREAM, number])
        scene = world.draw_scene(rng)
        image = {
            "bytes": storing.picture_bytes(world.render(scene, rng)),
            "path": f"{number:02d}.png",
        }
        turned = [
            tuple(scene[i] for i in rng.permutation(len(scene))) for _ in range(REFERENCES - 1)
        ]
        answers = [said(things) for things in (in_order(scene), *turned)]
        rows.append({
            "id": f"{NAME}/{number:04d}", "picture": f"{number:02d}", "image": image,
            "question": REQUEST, "answer": answers[0], "answers": answers, "kind": "caption",
            "split": "", "group": "",
        })  # fmt: skip
    return pd.DataFrame(rows)
