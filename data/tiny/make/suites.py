"""The six embedded suites: `python data/tiny/make/suites.py` writes data/tiny/suites/*.parquet.

Each stands for one family of published benchmarks and is asked over the same pictures. The pictures
come from a stream of their own ("evaluation", not a training stage), so none was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import captions
import edited
import exam
import numpy as np
import pandas as pd
import sized
import storing
import world

from qvid_utils.paths import DATA

SUITES = DATA / "tiny" / "suites"
EVALUATION = 9  # the stream of random numbers that no training stage draws from
PICTURES = 128
MME = {
    "existence": world.existence,
    "color": world.is_colour,
    "position": world.half,
    "count": world.is_count,
    "reasoning": world.same_colour,
}
Rows = Iterator[dict]


def _row(text: str, answer: str, kind: str, split: str = "", group: str = "") -> dict:
    return {"question": text, "answer": answer, "kind": kind, "split": split, "group": group}


def _asked(kind: str, scene: world.Scene, rng, number: int) -> Rows:
    """Up to `number` different questions of one type."""
    seen: set[str] = set()
    for _ in range(4 * number):
        question = world.ask(kind, scene, rng)
        if question and question.text not in seen and len(seen) < number:
            seen.add(question.text)
            yield _row(question.text, question.answer, kind)


def pope(scene: world.Scene, rng, name: str) -> Rows:
    """One thing that is there and one that is not, for each of POPE's three sorts of negatives."""
    for split in ("random", "popular", "adversarial"):
        pair = [world.existence(scene, rng, split, yes) for yes in (True, False)]
        if all(pair):
            for text, answer in pair:
                yield _row(f"{text} {world.SHORT_TAIL}", answer, "existence", split)


def gqa(scene: world.Scene, rng, name: str) -> Rows:
    yield from _asked("colour", scene, rng, 2)
    yield from _asked("shape", scene, rng, 1)
    yield from _asked("relation", scene, rng, 2)


def textvqa(scene: world.Scene, rng, name: str) -> Rows:
    yield from _asked("letter", scene, rng, 6)


def mme(scene: world.Scene, rng, name: str) -> Rows:
    """A yes and a no question of one category about one picture: MME's pairs."""
    for category, function in MME.items():
        pair = [function(scene, rng, yes=yes) for yes in (True, False)]
        if all(pair):
            for text, answer in pair:
                text = f"{text} {world.SHORT_TAIL}"
                yield _row(text, answer, category, category, f"{name}-{category}")


def mmb(scene: world.Scene, rng, name: str) -> Rows:
    """A question with four options, asked four times with the options moved on by one."""
    asked = [(f, f(scene, rng)) for f in (world.colour_of, world.shape_in, world.letter_in)]
    asked = [(f, found) for f, found in asked if found]
    function, (text, answer) = asked[rng.integers(len(asked))]
    options = world.choices(answer, world.decoys(scene, answer, rng, 3), rng, 4)
    for turn in range(4):
        turned = options[turn:] + options[:turn]
        kind = {"colour_of": "colour", "shape_in": "shape", "letter_in": "letter"}
        yield _row(
            f"{world.with_options(text, turned)} {world.CHOICE_TAIL}",
            world.OPTIONS[turned.index(answer)],
            kind[function.__name__],
            f"turn{turn}",
            name,
        )


def sqa(scene: world.Scene, rng, name: str) -> Rows:
    yield from _asked("two_step_choice", scene, rng, 6)


BUILDERS: dict[str, Callable[..., Rows]] = {
    "tiny_pope": pope,
    "tiny_gqa": gqa,
    "tiny_textvqa": textvqa,
    "tiny_mme": mme,
    "tiny_mmb": mmb,
    "tiny_sqa": sqa,
}
LEAST = 500


def build(seed: int = 0) -> dict[str, pd.DataFrame]:
    """All suites, each with at least 500 questions; more pictures where 128 allow too few."""
    rows: dict[str, list[dict]] = {suite: [] for suite in BUILDERS}
    picture = 0
    while picture < PICTURES or any(len(r) < LEAST for r in rows.values()):
        rng = np.random.default_rng([seed, EVALUATION, picture])
        scene = world.draw_scene(rng)
        name = f"{picture:03d}"
        image = {"bytes": storing.picture_bytes(world.render(scene, rng)), "path": f"{name}.png"}
        for suite, builder in BUILDERS.items():
            if len(rows[suite]) < LEAST:
                for row in builder(scene, rng, name):
                    rows[suite].append({"picture": name, "image": image, **row})
        picture += 1
    return storing.numbered(rows)


def write(folder: Path, seed: int = 0) -> None:
    more = {module.NAME: module.build(seed) for module in (captions, edited, exam, sized)}
    storing.store({**build(seed), **more}, folder, "pictures")


if __name__ == "__main__":
    storing.command(__doc__, SUITES, write)
