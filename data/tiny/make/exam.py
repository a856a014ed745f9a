"""The exam: multiple choice among things that are nearly all in the picture, in one step or two.

Stands for MMMU-Pro, standard, which has up to ten options where others have four, so that guessing
does not pay. The embedded models know four option labels, and so the exam has four: who guesses is
right once in four, not once in ten. What makes it hard here is that the wrong options are there.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import storing
import world

NAME, QUESTIONS, STREAM = "tiny_mmmu_pro", 120, 13  # a stream of random numbers of its own
LEAST = 3  # of the options are in the picture
STEPS = {1: (world.colour_of, world.shape_in, world.letter_in), 2: (world.two_step,)}


def asked(rng: np.random.Generator, steps: int) -> tuple[world.Scene, str, list[str], str]:
    """A crowded scene, a question in so many steps, its options and the right one of them."""
    while True:
        scene = world.draw_scene(rng, fewest=7)
        found = STEPS[steps][rng.integers(len(STEPS[steps]))](scene, rng)
        if not found:
            continue
        text, answer = found
        number = len(world.OPTIONS)
        options = world.choices(answer, world.decoys(scene, answer, rng, number - 1), rng, number)
        there = {t.colour for t in scene} | {t.kind for t in scene}
        if sum(option in there for option in options) >= LEAST:
            return scene, text, options, answer


def build(seed: int = 0) -> pd.DataFrame:
    """The suite: 120 pictures with a question each; `split`: its steps, every second one two."""
    rows = []
    for number in range(QUESTIONS):
        rng = np.random.default_rng([seed, STREAM, number])
        steps = 1 + number % 2
        scene, text, options, answer = asked(rng, steps)
        place = number // 2 % len(options)  # every label is right equally often
        turn = (options.index(answer) - place) % len(options)
        options = options[turn:] + options[:turn]
        sorts = {"colour": tuple(world.COLOURS), "shape": world.SHAPES, "letter": world.LETTERS}
        image = {
            "bytes": storing.picture_bytes(world.render(scene, rng)),
            "path": f"{number:03d}.png",
        }
        rows.append({
            "id": f"{NAME}/{number:04d}", "picture": f"{number:03d}", "image": image,
            "question": f"{world.with_options(text, options)} {world.CHOICE_TAIL}",
            "answer": world.OPTIONS[place],
            "kind": next(kind for kind, words in sorts.items() if answer in words),
            "split": f"{steps} step{'s' * (steps > 1)}", "group": "",
        })  # fmt: skip
    return pd.DataFrame(rows)
