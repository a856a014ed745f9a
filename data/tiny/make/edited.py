"""The hallucination suite: a picture, the same picture with one thing changed, the same questions.

Stands for HallusionBench, whose figures are edited so that an answer turns over: who answers from
habit, and not from the picture, is right about one of the two. `pair`: a question asked of both
figures (qAcc wants both right); `figure`: a picture's questions (fAcc wants all right).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import storing
import world

NAME, SETS, STREAM = "tiny_hallusion", 80, 10  # a stream of random numbers of its own
Asked = list[tuple[str, str]]  # two questions that turn over: yes then no for the unchanged picture


def recoloured(scene: world.Scene, thing: world.Thing, rng) -> tuple[world.Thing, Asked]:
    colour = str(rng.choice(sorted(world.COLOURS.keys() - {thing.colour})))
    asked = [f"Is the {thing.name} {c}?" for c in (thing.colour, colour)]
    return replace(thing, colour=colour), [("color", text) for text in asked]


def replaced(scene: world.Scene, thing: world.Thing, rng) -> tuple[world.Thing, Asked]:
    kind = str(rng.choice([k for k in world.KINDS if k not in {t.kind for t in scene}]))
    asked = [f"Is there {world.with_article(k)} in the picture?" for k in (thing.kind, kind)]
    return replace(thing, kind=kind), [("existence", text) for text in asked]


def moved(scene: world.Scene, thing: world.Thing, rng) -> tuple[world.Thing, Asked]:
    """To the same place of the other half; the thing's own place where another one is there."""
    last = world.BOARD - 1
    if rng.integers(2):
        low, words = thing.column < world.BOARD // 2, ("left", "right")
        there = replace(thing, column=last - thing.column)
    else:
        low, words = thing.row < world.BOARD // 2, ("top", "bottom")
        there = replace(thing, row=last - thing.row)
    free = all((t.row, t.column) != (there.row, there.column) for t in scene)
    sides = words if low else words[::-1]
    asked = [f"Is the {thing.name} in the {side} half of the picture?" for side in sides]
    return there if free else thing, [("position", text) for text in asked]


EDITS = (recoloured, replaced, moved)


def edited(rng: np.random.Generator, edit) -> tuple[world.Scene, world.Scene, Asked, Asked]:
    """A scene, the scene with one thing changed, questions that turn over, and two that do not."""
    while True:
        scene = world.draw_scene(rng)
        single = [t for t in scene if world.only(scene, kind=t.kind)]
        if len(single) < 2:
            continue
        thing, other = (single[i] for i in rng.choice(len(single), size=2, replace=False))
        changed, turning = edit(scene, thing, rng)
        if changed == thing:
            continue
        wrong = str(rng.choice(sorted({t.colour for t in scene} - {other.colour})))
        staying = [("color", f"Is the {other.name} {c}?") for c in (other.colour, wrong)]
        after = tuple(changed if t is thing else t for t in scene)
        return scene, after, turning, staying


def build(seed: int = 0) -> pd.DataFrame:
    """The suite: 80 sets of two pictures and four questions; half of all answers are yes."""
    rows = []
    for number in range(SETS):
        rng = np.random.default_rng([seed, STREAM, number])
        before, after, turning, staying = edited(rng, EDITS[number % len(EDITS)])
        paint = int(rng.integers(2**32))  # ground and jitter are those of the unchanged picture
        for figure, scene in enumerate((before, after)):
            name = f"{number:02d}-{figure}"
            pixels = world.render(scene, np.random.default_rng(paint))
            image = {"bytes": storing.picture_bytes(pixels), "path": f"{name}.png"}
            answers = ["yes", "no"][:: -1 if figure else 1] + ["yes", "no"]
            for place, (kind, text) in enumerate([*turning, *staying]):
                rows.append({
                    "id": f"{NAME}/{len(rows):04d}", "picture": name, "image": image,
                    "question": f"{text} {world.SHORT_TAIL}", "answer": answers[place],
                    "kind": kind, "split": "stays" if place > 1 else "turns",
                    "group": f"{number:02d}", "figure": name, "pair": f"{number:02d}-{place}",
                    "without": False,
                })  # fmt: skip
    return pd.DataFrame(rows)
