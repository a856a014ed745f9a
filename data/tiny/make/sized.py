"""Pictures of several sizes, for models that take a picture as it is.

A thing has 16 pixels whatever the picture's size, so that a picture of more cells has more visual
tokens. The last sizes are larger than any that the embedded models were trained on.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import storing
import world

NAME, STREAM = "tiny_sizes", 11  # a stream of random numbers of its own
BOARDS = ((4, 6), (6, 4), (5, 6), (6, 5), (6, 6), (6, 7), (7, 6), (7, 7))  # rows, columns of cells
PICTURES = 72
ASKED = ("colour", "colour", "shape", "letter", "existence", "is_colour", "relation")


def size_of(board: world.Board) -> str:
    """Height and width in pixels, as "64x96"."""
    return "x".join(str(cells * world.CELL) for cells in board)


def build(seed: int = 0) -> pd.DataFrame:
    """The suite: nine pictures of each size, up to seven questions each; `split`: the size."""
    rows: list[dict] = []
    for number in range(PICTURES):
        rng = np.random.default_rng([seed, STREAM, number])
        board = BOARDS[number % len(BOARDS)]
        scene = world.draw_scene(rng, board=board)
        pixels = world.render(scene, rng, board)
        image = {"bytes": storing.picture_bytes(pixels), "path": f"{number:02d}.png"}
        said: set[str] = set()
        for kind in ASKED:
            question = world.ask(kind, scene, rng)
            if question is None or question.text in said:
                continue
            said.add(question.text)
            rows.append({
                "id": f"{NAME}/{len(rows):04d}", "picture": f"{number:02d}", "image": image,
                "question": question.text, "answer": question.answer, "kind": kind,
                "split": size_of(board), "group": "",
            })  # fmt: skip
    return pd.DataFrame(rows)
