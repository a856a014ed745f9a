"""The generated video world: shapes and letters that move, appear, vanish, flash or change colour.

A *clip* is three to five things on a 4 × 4 board over 4 to 16 frames of 64 × 64 pixels. A thing
covers one cell, which is one visual token of the embedded video model. Each thing has one *story*.
Everything is drawn from a `numpy.random.Generator`, as the pictures of `world` are.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import world
from PIL import Image
from world import CHOICE_TAIL, COLOURS, KINDS, LETTERS, NUMBERS, SHAPES, SHORT_TAIL, Question

SIDE, BOARD = 64, 4  # pixels of a frame's side; cells of the board's side
CELL = SIDE // BOARD
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
STORIES = {"stays": 0.10, "moves": 0.27, "appears": 0.30, "vanishes": 0.18, "changes": 0.15}
RACE, FLASH = 0.25, 0.35  # shares of clips: two letters appear; a thing is there for a moment only

Cell = tuple[int, int]


@dataclass(frozen=True)
class Actor:
    """One shape or letter and its story; for each frame its (row, column), or None, and colour."""

    kind: str
    story: str
    direction: str  # "" for what does not move
    cells: tuple[Cell | None, ...]
    colours: tuple[str, ...]

    @property
    def is_letter(self) -> bool:
        return self.kind in LETTERS

    @property
    def name(self) -> str:
        return f"letter {self.kind}" if self.is_letter else self.kind

    @property
    def first(self) -> int:
        """The first frame that shows it."""
        return next(t for t, cell in enumerate(self.cells) if cell)

    @property
    def last(self) -> int:
        """The last frame that shows it."""
        return max(t for t, cell in enumerate(self.cells) if cell)


Clip = tuple[Actor, ...]


# --------------------------------------------------------------------------- clips and frames
def draw_clip(rng: np.random.Generator, frames: int, fewest: int = 3, most: int = 5) -> Clip:
    """A clip of `fewest` to `most` things, all of different kinds, never two in one cell.

    No two things appear at the same frame, nor vanish, so that "first" and "last" mean something.
    """
    number = int(rng.integers(fewest, most + 1))
    stories = rng.choice(list(STORIES), size=number, p=list(STORIES.values())).tolist()
    letters = int(np.clip(rng.binomial(number, 0.5), 1, number - 1))
    theme = rng.random()
    if theme < RACE:
        letters = max(letters, 2)
        stories[:2] = ["appears"] * 2
    elif theme < RACE + FLASH:
        stories[rng.integers(number)] = "flashes"
    if set(stories) == {"stays"}:
        stories[0] = "moves"
    starts = rng.permutation(np.arange(1, frames - 1)).tolist()
    ends = rng.permutation(np.arange(2, frames)).tolist()
    kinds = [
        *rng.choice(LETTERS, size=letters, replace=False).tolist(),
        *rng.choice(SHAPES, size=number - letters, replace=False).tolist(),
    ]
    clip: list[Actor] = []
    taken: set[tuple[int, Cell]] = set()
    for kind, story in zip(kinds, stories, strict=True):
        if (story == "appears" and not starts) or (story == "vanishes" and not ends):
            story = "stays"
        begin, end = 0, frames
        if story == "appears":
            begin = starts.pop()
        if story == "vanishes":
            end = ends.pop()
        if story == "flashes":
            length = max(1, frames // 8)
            begin = int(rng.integers(1, frames - length))
            end = begin + length
        while True:
            direction, path = _path(rng, story, frames)
            cells = tuple(c if begin <= t < end else None for t, c in enumerate(path))
            spots = {(t, cell) for t, cell in enumerate(cells) if cell}
            if not spots & taken:
                break
        taken |= spots
        before, after = rng.choice(list(COLOURS), size=2, replace=False).tolist()
        turn = int(rng.integers(1, frames)) if story == "changes" else frames
        colours = (before,) * turn + (after,) * (frames - turn)
        clip.append(Actor(kind, story, direction, cells, colours))
    return tuple(clip)


def _path(rng: np.random.Generator, story: str, frames: int) -> tuple[str, list[Cell]]:
    """Where a thing is at each frame: at rest, or two or three cells on in even steps."""
    if story != "moves":
        row, column = rng.integers(BOARD, size=2).tolist()
        return "", [(row, column)] * frames
    direction = str(rng.choice(list(DIRECTIONS)))
    down, across = DIRECTIONS[direction]
    steps = int(rng.integers(2, BOARD))
    start, lane = int(rng.integers(BOARD - steps)), int(rng.integers(BOARD))
    if down + across < 0:
        start = BOARD - 1 - start
    done = [(steps + 1) * t // frames for t in range(frames)]
    if down:
        return direction, [(start + down * n, lane) for n in done]
    return direction, [(lane, start + across * n) for n in done]


def render(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """The clip's frames, uint8 (T, 64, 64, 3): one ground with noise, things with jitter."""
    corners = rng.uniform(85, 175, size=(2, 2, 1, 3))
    across = np.linspace(0, 1, SIDE)[:, None]
    top, bottom = (a + (b - a) * across for a, b in corners)
    ground = top[None] + (bottom - top)[None] * across[..., None]
    ground = ground + rng.normal(0, 6, size=(SIDE // 2, SIDE // 2, 1)).repeat(2, 0).repeat(2, 1)
    frames = np.repeat(ground[None], len(clip[0].cells), axis=0)
    for actor in clip:
        size = int(rng.integers(13, CELL + 1))
        alpha = world.stencil(actor.kind, size)[..., None]
        y, x = rng.integers(CELL - size + 1, size=2).tolist()
        light = rng.uniform(0.92, 1.05)
        for t, cell in enumerate(actor.cells):
            if cell:
                row, column = cell[0] * CELL + y, cell[1] * CELL + x
                spot = frames[t, row : row + size, column : column + size]
                spot += alpha * (np.array(COLOURS[actor.colours[t]]) * light - spot)
    return np.clip(frames, 0, 255).astype(np.uint8)


def film(frames: np.ndarray) -> bytes:
    """The frames as one animated PNG, ten a second, with five bits a channel. A frame like the one
    before is not stored again: the one before is shown for longer. ValueError for a still clip,
    which would be a plain picture."""
    if (frames == frames[0]).all():
        raise ValueError("all frames are alike: an animated picture needs two that differ")
    pictures = [Image.fromarray(frame // 8 * 8 + 4) for frame in frames]
    file = io.BytesIO()
    shown = {"duration": 100, "append_images": pictures[1:]}
    pictures[0].save(file, "png", save_all=True, optimize=True, **shown)
    return file.getvalue()


# ---------------------------------------------------------------------------------- questions
def _pick(rng: np.random.Generator, found: list):
    return found[rng.integers(len(found))] if found else None


def _of(clip: Clip, *stories: str) -> list[Actor]:
    return [actor for actor in clip if actor.story in stories]


def direction(clip: Clip, rng: np.random.Generator):
    actor = _pick(rng, _of(clip, "moves"))
    others = [d for d in DIRECTIONS if actor and d != actor.direction]
    return actor and (f"Which direction does the {actor.name} move?", actor.direction, others)


def action(clip: Clip, rng: np.random.Generator):
    """ "What does the star do?": what has changed about one thing."""
    story = _pick(rng, sorted({actor.story for actor in clip} - {"stays"}))
    actor = _pick(rng, _of(clip, story))
    if actor is None:
        return None
    others = [s for s in (*STORIES, "flashes") if s not in (story, "stays")]
    return f"What does the {actor.name} do?", story, rng.permutation(others).tolist()


def colour(clip: Clip, rng: np.random.Generator):
    """ "What color does the star become?": its first colour is among the wrong options."""
    actor = _pick(rng, _of(clip, "changes"))
    if actor is None:
        return None
    others = [c for c in rng.permutation(list(COLOURS)).tolist() if c not in actor.colours]
    return (
        f"What color does the {actor.name} become?",
        actor.colours[-1],
        [actor.colours[0], *others],
    )


def count(clip: Clip, rng: np.random.Generator):
    """ "How many things appear?": zero to three; rare numbers are asked for more often."""
    if _of(clip, "flashes"):
        return None  # it both appears and vanishes
    verbs = {"appear": "appears", "vanish": "vanishes", "move": "moves"}
    numbers = {verb: len(_of(clip, story)) for verb, story in verbs.items()}
    verbs = [verb for verb, number in numbers.items() if number <= 3]
    odds = np.array([(0.8, 0.7, 1.4, 4.0)[numbers[verb]] for verb in verbs])
    verb = str(rng.choice(verbs, p=odds / odds.sum()))
    others = [n for n in NUMBERS[:4] if n != NUMBERS[numbers[verb]]]
    return f"How many things {verb}?", NUMBERS[numbers[verb]], others


def order(clip: Clip, rng: np.random.Generator):
    """ "What appears last?", "What vanishes first?": of two things or more that do so."""
    if _of(clip, "flashes"):
        return None
    story = _pick(rng, [s for s in ("appears", "vanishes") if len(_of(clip, s)) > 1])
    if story is None:
        return None
    turn = str(rng.choice(["first", "last"]))
    actors = sorted(_of(clip, story), key=lambda a: a.first if story == "appears" else a.last)
    answer = actors[0 if turn == "first" else -1]
    return f"What {story} {turn}?", answer.kind, _others(clip, rng, answer, actors, KINDS)


def letter(clip: Clip, rng: np.random.Generator):
    """ "Which letter appears first?" """
    actors = [a for a in _of(clip, "appears") if a.is_letter]
    if len(actors) < 2 or any(a.is_letter for a in _of(clip, "flashes")):
        return None
    answer = min(actors, key=lambda a: a.first)
    return (
        "Which letter appears first?",
        answer.kind,
        _others(clip, rng, answer, actors, LETTERS),
    )


def flash(clip: Clip, rng: np.random.Generator):
    """ "What flashes?": what is there for a moment only."""
    actor = _pick(rng, _of(clip, "flashes"))
    return actor and ("What flashes?", actor.kind, _others(clip, rng, actor, list(clip), KINDS))


def still_colour(clip: Clip, rng: np.random.Generator):
    """ "What color is the star?" of what keeps its colour: it needs no time, and is in no suite."""
    actor = _pick(rng, [a for a in clip if a.story != "changes"])
    if actor is None:
        return None
    others = [c for c in rng.permutation(list(COLOURS)).tolist() if c != actor.colours[0]]
    return f"What color is the {actor.name}?", actor.colours[0], others


def _others(clip: Clip, rng, answer: Actor, near: list[Actor], pool) -> list[str]:
    """Wrong options: first what did the same, then what is in the clip, then what is not."""
    close, there = {a.kind for a in near}, {a.kind for a in clip}
    wrong = [kind for kind in rng.permutation(list(pool)).tolist() if kind != answer.kind]
    return sorted(wrong, key=lambda kind: (kind not in close, kind not in there))


# a type of question: what asks it, and its number of options
QUESTIONS: dict[str, tuple[Callable, int]] = {
    "direction": (direction, 4),
    "action": (action, 4),
    "colour": (colour, 4),
    "count": (count, 4),
    "order": (order, 3),
    "letter": (letter, 3),
    "flash": (flash, 4),
    "still_colour": (still_colour, 4),
}


def ask(kind: str, clip: Clip, rng: np.random.Generator, options: bool = True) -> Question | None:
    """A question of this type about the clip, multiple choice or open ("Answer … a single word"),
    its tail included; None where the clip allows none."""
    function, number = QUESTIONS[kind]
    asked = function(clip, rng)
    if not asked:
        return None
    text, answer, wrong = asked
    if not options:
        return Question(kind, f"{text} {SHORT_TAIL}", answer)
    shown = world.choices(answer, wrong[: number - 1], rng, number)
    text = f"{world.with_options(text, shown)} {CHOICE_TAIL}"
    return Question(kind, text, world.OPTIONS[shown.index(answer)])
