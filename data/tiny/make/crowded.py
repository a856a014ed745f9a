"""Pictures with more things than a small budget has tokens, and what is where in them.

Where few things stand on an empty ground, who keeps *things* keeps the answer, whatever was asked.
Here twelve to sixteen things stand on textured ground. Each question comes with its truth record,
which thing each patch shows and which things the question names, and with a question of the same
form about other things of the same picture that has another answer (`swap`). The setting "sparse"
has the few things of the other suites. `crowded_clips` does the same for films, and writes both.

Left out: counting (the embedded models are below 95 % right unpruned), and things off the grid by
a pixel or more, on which the committed weights fail (63 to 94 % right at two pixels).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import storing
import world
from PIL import Image

PATCH = 8  # pixels of a patch's side
PATCHES = world.SIDE // PATCH
STREAM = 14  # a stream of random numbers of its own
COVER = 0.04  # the least share of a patch that a thing covers to be what the patch shows
ASKED = {
    "colour": "gqa", "shape": "gqa", "relation": "gqa", "letter": "textvqa", "existence": "pope",
    "is_colour": "mme", "half": "mme", "same_colour": "mme", "choice": "mmb",
    "two_step_choice": "sqa", "long": "long",
}  # fmt: skip
#: A question of 40 words and more: asked four times, or its format sentence four times in front.
LONG = {"again": "{0} {0} {0} {0}", "format": f"{' '.join([world.SHORT_TAIL] * 4)} {{0}}"}
OF_LONG = ("colour", "letter", "shape")  # the types that are asked at length
EACH = 6  # questions about a picture, at most
TRIES = 60  # draws of a swap before a picture is said to allow none


@dataclass(frozen=True)
class Setting:
    """things: fewest and most; colours: of a picture; texture: contrast of the ground's stripes;
    actors: fewest and most things of a clip; pictures, clips: how many, by part."""

    things: tuple[int, int]
    colours: int
    texture: float
    actors: tuple[int, int]
    pictures: dict[str, int]
    clips: dict[str, int]


#: A suite's part "deciding" says where a suite can tell; methods are reported on the other.
SETTINGS = {
    "crowded": Setting((12, 16), 7, 8.0, (6, 8), {"deciding": 50, "reported": 100},
                       {"deciding": 55, "reported": 110}),
    "sparse": Setting((5, 8), 5, 0.0, (3, 5), {"deciding": 25, "reported": 40},
                      {"deciding": 25, "reported": 40}),
}  # fmt: skip


def draw(rng: np.random.Generator, setting: Setting) -> world.Scene:
    """A scene of this setting: all kinds differ, about half are letters."""
    fewest, most = setting.things
    number = int(rng.integers(fewest, most + 1))
    letters = int(np.clip(rng.binomial(number, 0.5), max(1, number - 8), min(8, number - 1)))
    kinds = [*rng.choice(world.SHAPES, size=number - letters, replace=False).tolist(),
             *rng.choice(world.LETTERS, size=letters, replace=False).tolist()]  # fmt: skip
    palette = rng.choice(list(world.COLOURS), size=setting.colours, replace=False)
    cells = rng.choice(world.BOARD**2, size=number, replace=False).tolist()
    return tuple(
        world.Thing(kind, str(rng.choice(palette)), *divmod(cell, world.BOARD))
        for kind, cell in zip(kinds, cells, strict=True)
    )


def render(
    scene: world.Scene, rng: np.random.Generator, setting: Setting
) -> tuple[np.ndarray, list[int]]:
    """The picture, uint8 (96, 96, 3), and which thing each of 144 patches shows: its number in the
    scene, -1 for ground."""
    picture = world.ground(rng, world.SIDE, world.SIDE)
    if setting.texture:
        wave, turn = rng.uniform(5, 12), rng.uniform(0, np.pi)
        place = np.arange(world.SIDE)
        way = place * np.cos(turn) + place[:, None] * np.sin(turn)
        stripes = setting.texture * np.sin(way * 2 * np.pi / wave)
        picture += stripes[..., None] * rng.uniform(0.3, 1, size=3)
    covers = [world.paint(picture, thing, rng) for thing in scene]
    picture += rng.normal(0, 4, size=picture.shape)
    shown = np.stack(covers).reshape(-1, PATCHES, PATCH, PATCHES, PATCH).mean((2, 4))
    owner = np.where(shown.max(0) >= COVER, shown.argmax(0), -1).ravel()
    return np.clip(picture, 0, 255).astype(np.uint8), owner.tolist()


# ------------------------------------------------------------------------------------- questions
def named(question: world.Question, scene: world.Scene) -> list[int]:
    """The numbers of the things that a question is about; of one in two steps, both things. Empty
    where it asks for what is not there."""
    words = re.findall(r"\w+", question.text.partition("?")[0])
    found = [n for n, thing in enumerate(scene) if thing.kind in words]
    noun = "letter" if words[1] == "letter" or words[-1] == "letter" else "shape"
    colour = next((w for w in words if w in world.COLOURS), None)
    if "has" in words:
        colour = scene[found[0]].colour
    if not found or "has" in words:
        more = [n for n, t in enumerate(scene) if t.colour == colour]
        found += [n for n in more if scene[n].is_letter == (noun == "letter")]
    return found


def form(text: str) -> str:
    """A question with its things, colours, sides and options taken out."""
    asked = text.partition("?")[0]
    return " ".join(w for w in asked.split() if w not in {*world.COLOURS, *world.KINDS})


def pair(
    kind: str, scene: world.Scene, rng: np.random.Generator
) -> tuple[world.Question, world.Question] | None:
    """A question and its swap: the same form, about other things, with another answer. None where
    the scene has no such pair."""
    own = world.ask(kind, scene, rng)
    if own is None:
        return None
    things = set(named(own, scene))
    for _ in range(TRIES):
        other = world.ask(kind, scene, rng)
        if other is None or other.answer == own.answer or form(other.text) != form(own.text):
            continue
        if not things & set(named(other, scene)):
            return own, other
    return None


# ------------------------------------------------------------------------------------------ suites
def row(found: tuple[world.Question, world.Question], names: list[int], split: str = "") -> dict:
    """What is stored of a question and its swap."""
    own, swap = found
    return {"question": own.text, "answer": own.answer, "kind": own.kind, "group": "",
            "split": split or own.kind, "named": names, "swap": swap.text,
            "swap_answer": swap.answer}  # fmt: skip


def picture_bytes(pixels: np.ndarray) -> bytes:
    """Four bits a channel, lossless: half of a PNG of five bits. (Lossy WebP, which halves the
    resolution of colour, costs the embedded LLaVA 20 points.)"""
    file = io.BytesIO()
    Image.fromarray(pixels // 16 * 16 + 8).save(file, "webp", lossless=True, quality=100, method=6)
    return file.getvalue()


def asked(scene: world.Scene, rng: np.random.Generator) -> Iterator[dict]:
    """Up to EACH questions of different types with their swaps, as rows."""
    left = EACH
    for kind in rng.permutation(list(ASKED)).tolist():
        how = str(rng.choice(list(LONG))) if kind == "long" else ""
        found = pair(str(rng.choice(OF_LONG)) if how else kind, scene, rng)
        if found and left:
            left -= 1
            names = named(found[0], scene)
            if how:
                found = [world.Question(kind, LONG[how].format(q.text), q.answer) for q in found]
            yield row(found, names, how)


def build(setting: str, part: str, seed: int = 0) -> pd.DataFrame:
    """All questions about the pictures of a setting's part; `suite`: whose kin a question is;
    shown: the thing that each patch shows; named: the things that the question names."""
    rows, chosen = [], SETTINGS[setting]
    place = [list(SETTINGS).index(setting), list(chosen.pictures).index(part)]
    for number in range(chosen.pictures[part]):
        rng = np.random.default_rng([seed, STREAM, *place, number])
        scene = draw(rng, chosen)
        pixels, shown = render(scene, rng, chosen)
        name = f"{number:03d}"
        image = {"bytes": picture_bytes(pixels), "path": f"{name}.webp"}
        for found in asked(scene, rng):
            rows.append({"picture": name, "image": image, **found, "shown": shown,
                         "suite": f"{setting}_{ASKED[found['kind']]}"})  # fmt: skip
    return storing.numbered({f"{setting}_{part}": rows})[f"{setting}_{part}"]
