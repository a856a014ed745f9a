"""The generated world: pictures of coloured shapes and letters, and what can be asked about them.

A *scene* is five to eight things on a 6 × 6 board; its picture has 96 × 96 pixels, so that a thing
covers about 2 × 2 of the 12 × 12 patches that the embedded vision tower sees. Everything is drawn
from a `numpy.random.Generator`: the same seed gives the same pictures and the same questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, BOARD = 96, 6  # pixels of a picture's side; cells of the board's side
CELL = SIDE // BOARD
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "cyan": (60, 205, 215),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
LETTERS = ("H", "K", "M", "P", "R", "T", "X", "Z")
KINDS = SHAPES + LETTERS
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
OPTIONS = ("A", "B", "C", "D")

# How often a kind is drawn, and which kind likes its company. POPE's "popular" negatives are
# frequent kinds that are absent, its "adversarial" ones are absent kinds whose companion is there.
POPULARITY = {kind: 1.0 / (1 + i % 8) ** 0.6 for i, kind in enumerate(KINDS)}
COMPANION = {kind: KINDS[i ^ 1] for i, kind in enumerate(KINDS)}

SHORT_TAIL = "Answer the question using a single word."
CHOICE_TAIL = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Thing:
    """One shape or letter: its kind, colour and cell (row 0 is the top, column 0 the left)."""

    kind: str
    colour: str
    row: int
    column: int

    @property
    def is_letter(self) -> bool:
        return self.kind in LETTERS

    @property
    def name(self) -> str:
        return f"letter {self.kind}" if self.is_letter else self.kind


Scene = tuple[Thing, ...]
Board = tuple[int, int]  # rows and columns of cells


@dataclass(frozen=True)
class Question:
    """What is asked of a scene: its type, the words, and the one-word answer."""

    kind: str
    text: str
    answer: str


# ----------------------------------------------------------------------- scenes and pictures
def draw_scene(
    rng: np.random.Generator, fewest: int = 5, most: int = 8, board: Board = (BOARD, BOARD)
) -> Scene:
    """A scene of `fewest` to `most` things, both shapes and letters, in at most five colours.

    Few colours make colours meet again, so that "which letter has the star's colour" has answers;
    companions and unequal popularity give POPE's negatives their meaning.
    """
    number = int(rng.integers(fewest, most + 1))
    letters = int(np.clip(rng.binomial(number, 0.45), 1, number - 1))
    kinds = _draw_kinds(rng, SHAPES, number - letters) + _draw_kinds(rng, LETTERS, letters)
    palette = rng.choice(list(COLOURS), size=min(5, max(3, number - 2)), replace=False)
    rows, columns = board
    cells = rng.choice(rows * columns, size=number, replace=False)
    return tuple(
        Thing(kind, str(rng.choice(palette)), int(cell) // columns, int(cell) % columns)
        for kind, cell in zip(kinds, cells, strict=True)
    )


def _draw_kinds(rng: np.random.Generator, pool: tuple[str, ...], number: int) -> list[str]:
    weights = np.array([POPULARITY[kind] for kind in pool])
    kinds: list[str] = []
    while len(kinds) < number:
        companion = COMPANION[kinds[-1]] if kinds else None
        if companion in pool and companion not in kinds and rng.random() < 0.4:
            kinds.append(companion)
        elif kinds and rng.random() < 0.08:  # a second thing of the same kind, now and then
            kinds.append(str(rng.choice(kinds)))
        else:
            free = np.array([kind not in kinds for kind in pool])
            odds = weights * free
            kinds.append(str(rng.choice(pool, p=odds / odds.sum())))
    return kinds


def ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An empty ground, float64 (height, width, 3): a gradient between four colours, with noise."""
    corners = rng.uniform(85, 175, size=(2, 2, 3))
    down, across = np.linspace(0, 1, height), np.linspace(0, 1, width)
    top = corners[0, 0] + (corners[0, 1] - corners[0, 0]) * across[:, None]
    bottom = corners[1, 0] + (corners[1, 1] - corners[1, 0]) * across[:, None]
    picture = top[None] + (bottom - top)[None] * down[:, None, None]
    picture += rng.normal(0, 9, size=(height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
    return picture


def paint(picture: np.ndarray, thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Draw a thing into a picture (h, w, 3), somewhere in its cell; its coverage, (h, w) in
    [0, 1]."""
    size = int(rng.integers(13, CELL + 1))
    slack = CELL - size
    y = thing.row * CELL + int(rng.integers(0, slack + 1))
    x = thing.column * CELL + int(rng.integers(0, slack + 1))
    colour = np.array(COLOURS[thing.colour]) * rng.uniform(0.92, 1.05)
    covers = np.zeros(picture.shape[:2])
    covers[y : y + size, x : x + size] = stencil(thing.kind, size)
    spot = (slice(y, y + size), slice(x, x + size))
    picture[spot] += covers[spot][..., None] * (colour - picture[spot])
    return covers


def render(scene: Scene, rng: np.random.Generator, board: Board = (BOARD, BOARD)) -> np.ndarray:
    """The scene's picture, uint8, 16 pixels a cell, (96, 96, 3) as a rule: gradient ground with
    noise, things with jitter."""
    picture = ground(rng, *(cells * CELL for cells in board))
    for thing in scene:
        paint(picture, thing, rng)
    picture += rng.normal(0, 4, size=picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


@cache
def stencil(kind: str, size: int) -> np.ndarray:
    """Coverage of one thing in [0, 1], (size, size): drawn eight times larger, then shrunk."""
    s = size * 8
    canvas = Image.new("L", (s, s), 0)
    pen = ImageDraw.Draw(canvas)
    if kind in LETTERS:
        font = ImageFont.load_default(size=s)
        left, up, right, down = pen.textbbox((0, 0), kind, font=font, stroke_width=s // 18)
        glyph = Image.new("L", (right - left, down - up), 0)
        ImageDraw.Draw(glyph).text((-left, -up), kind, fill=255, font=font, stroke_width=s // 18)
        canvas.paste(glyph.resize((s * 7 // 8, s * 7 // 8)), (s // 16, s // 16))
    else:
        _OUTLINES[kind](pen, s)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=float) / 255


def _polygon(*points: tuple[float, float]) -> Callable:
    return lambda pen, s: pen.polygon([(x * s, y * s) for x, y in points], fill=255)


def _star_points() -> list[tuple[float, float]]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.21, 0.5)
    return [(0.5 + r * np.cos(a), 0.53 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _ring(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, s - 1, s - 1), outline=255, width=s // 5)


def _cross(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.rectangle((s * 0.36, 0, s * 0.64, s), fill=255)
    pen.rectangle((0, s * 0.36, s, s * 0.64), fill=255)


def _heart(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, s * 0.05, s * 0.54, s * 0.56), fill=255)
    pen.ellipse((s * 0.46, s * 0.05, s - 1, s * 0.56), fill=255)
    pen.polygon([(s * 0.03, s * 0.4), (s * 0.97, s * 0.4), (s * 0.5, s * 0.98)], fill=255)


_OUTLINES: dict[str, Callable] = {
    "circle": lambda pen, s: pen.ellipse((0, 0, s - 1, s - 1), fill=255),
    "square": lambda pen, s: pen.rectangle((s * 0.06, s * 0.06, s * 0.94, s * 0.94), fill=255),
    "triangle": _polygon((0.5, 0.02), (1.0, 0.96), (0.0, 0.96)),
    "star": _polygon(*_star_points()),
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "diamond": _polygon((0.5, 0.0), (0.86, 0.5), (0.5, 1.0), (0.14, 0.5)),
}


# ---------------------------------------------------------------------------------- questions
def only(scene: Scene, **wanted: object) -> Thing | None:
    """The one thing of the scene with these attributes, or None where there is none or several."""
    found = [t for t in scene if all(getattr(t, k) == v for k, v in wanted.items())]
    return found[0] if len(found) == 1 else None


def _some_unique(scene: Scene, rng: np.random.Generator, number: int = 1) -> list[Thing] | None:
    unique = [t for t in scene if only(scene, kind=t.kind)]
    if len(unique) < number:
        return None
    return [unique[i] for i in rng.choice(len(unique), size=number, replace=False)]


def _absent(scene: Scene, rng: np.random.Generator, how: str) -> str | None:
    """An absent kind: any ("random"), a frequent one ("popular"), a companion's ("adversarial")."""
    there = {t.kind for t in scene}
    absent = [kind for kind in KINDS if kind not in there]
    if how == "popular":
        absent = sorted(absent, key=POPULARITY.__getitem__, reverse=True)[:3]
    if how == "adversarial":
        absent = [kind for kind in absent if COMPANION[kind] in there]
    return str(rng.choice(absent)) if absent else None


def with_article(kind: str) -> str:
    return f"a letter {kind}" if kind in LETTERS else f"a {kind}"


def existence(scene: Scene, rng: np.random.Generator, how: str = "", yes: bool | None = None):
    """ "Is there a star in the picture?" with POPE's three sorts of negatives."""
    how = how or str(rng.choice(["random", "popular", "adversarial"]))
    yes = bool(rng.integers(2)) if yes is None else yes
    kind = str(rng.choice([t.kind for t in scene])) if yes else _absent(scene, rng, how)
    if kind is None:
        return None
    return f"Is there {with_article(kind)} in the picture?", "yes" if yes else "no"


def colour_of(scene: Scene, rng: np.random.Generator):
    things = _some_unique(scene, rng)
    return things and (f"What color is the {things[0].name}?", things[0].colour)


def shape_in(scene: Scene, rng: np.random.Generator):
    return _thing_in(scene, rng, letters=False)


def letter_in(scene: Scene, rng: np.random.Generator):
    return _thing_in(scene, rng, letters=True)


def _thing_in(scene: Scene, rng: np.random.Generator, letters: bool):
    found = [t for t in scene if only(scene, colour=t.colour, is_letter=letters) is t]
    if not found or sum(t.is_letter == letters for t in scene) < 2:
        return None
    thing = found[rng.integers(len(found))]
    noun = "letter" if letters else "shape"
    form = rng.integers(2)
    ask = f"Which {noun} is {thing.colour}?" if form else f"What is the {thing.colour} {noun}?"
    return ask, thing.kind


_SIDES: dict[str, Callable[[Thing, Thing], int]] = {
    "left of": lambda a, b: b.column - a.column,
    "right of": lambda a, b: a.column - b.column,
    "above": lambda a, b: b.row - a.row,
    "below": lambda a, b: a.row - b.row,
}


def relation(scene: Scene, rng: np.random.Generator, yes: bool | None = None):
    """ "Is the star left of the circle?": two things are found and their places compared."""
    things = _some_unique(scene, rng, 2)
    if things is None:
        return None
    side = str(rng.choice(list(_SIDES)))
    first, second = things
    lead = _SIDES[side](first, second)
    if lead == 0:
        return None
    if yes is not None and (lead > 0) != yes:
        first, second, lead = second, first, -lead
    text = f"Is the {first.name} {side} the {second.name}?"
    return text, "yes" if lead > 0 else "no"


def side(scene: Scene, rng: np.random.Generator):
    """The open form of `relation`, without its exclusive or of side and answer; in no suite."""
    things = _some_unique(scene, rng, 2)
    if things is None:
        return None
    first, second = things
    words = ("left", "right") if rng.integers(2) else ("above", "below")
    name = "left of" if words[0] == "left" else "above"
    lead = _SIDES[name](first, second)
    if lead == 0:
        return None
    ending = " of" if words[0] == "left" else ""
    text = f"Is the {first.name} {words[0]} or {words[1]}{ending} the {second.name}?"
    return text, words[0] if lead > 0 else words[1]


def half(scene: Scene, rng: np.random.Generator, yes: bool | None = None):
    """ "Is the star in the left half of the picture?": where one thing is."""
    things = _some_unique(scene, rng)
    if things is None:
        return None
    yes = bool(rng.integers(2)) if yes is None else yes
    horizontal = bool(rng.integers(2))
    low = (things[0].column if horizontal else things[0].row) < BOARD // 2
    words = ("left", "right") if horizontal else ("top", "bottom")
    word = words[0] if low == yes else words[1]
    return f"Is the {things[0].name} in the {word} half of the picture?", "yes" if yes else "no"


def where(scene: Scene, rng: np.random.Generator):
    """The open form of `half`: it teaches a word to fetch a place, and is in no suite."""
    things = _some_unique(scene, rng)
    if things is None:
        return None
    horizontal = bool(rng.integers(2))
    low = (things[0].column if horizontal else things[0].row) < BOARD // 2
    words = ("left", "right") if horizontal else ("top", "bottom")
    asked = f"Which half of the picture is the {things[0].name} in, {words[0]} or {words[1]}?"
    return asked, words[0] if low else words[1]


def is_colour(scene: Scene, rng: np.random.Generator, yes: bool | None = None):
    things = _some_unique(scene, rng)
    if things is None:
        return None
    yes = bool(rng.integers(2)) if yes is None else yes
    there = sorted({t.colour for t in scene} - {things[0].colour})
    others = there if there and rng.random() < 0.7 else sorted(COLOURS.keys() - {things[0].colour})
    colour = things[0].colour if yes else str(rng.choice(others))
    return f"Is the {things[0].name} {colour}?", "yes" if yes else "no"


def _number_of(scene: Scene, rng: np.random.Generator) -> tuple[str, int]:
    counts = {c: sum(t.colour == c for t in scene) for c in {t.colour for t in scene}}
    colour = str(rng.choice(sorted(counts)))
    return f"{colour} things", counts[colour]


def count(scene: Scene, rng: np.random.Generator):
    what, number = _number_of(scene, rng)
    return number <= 4 and (f"How many {what} are in the picture?", NUMBERS[number])


def is_count(scene: Scene, rng: np.random.Generator, yes: bool | None = None):
    what, number = _number_of(scene, rng)
    if number > 4:
        return None
    yes = bool(rng.integers(2)) if yes is None else yes
    wrong = [n for n in (number - 1, number + 1) if 1 <= n <= 4]
    said = number if yes else int(rng.choice(wrong))
    return f"Is the number of {what} in the picture {NUMBERS[said]}?", "yes" if yes else "no"


def same_colour(scene: Scene, rng: np.random.Generator, yes: bool | None = None):
    """ "Do the star and the circle have the same color?": two things are found and compared."""
    yes = bool(rng.integers(2)) if yes is None else yes
    unique = [t for t in scene if only(scene, kind=t.kind)]
    pairs = [(a, b) for a in unique for b in unique if a is not b and (a.colour == b.colour) == yes]
    if not pairs:
        return None
    a, b = pairs[rng.integers(len(pairs))]
    return f"Do the {a.name} and the {b.name} have the same color?", "yes" if yes else "no"


def _match(scene: Scene, rng: np.random.Generator) -> tuple[str, str, bool] | None:
    """Two steps: from a thing to its colour, from that colour to the other sort of thing."""
    pairs = []
    for start in (t for t in scene if only(scene, kind=t.kind)):
        end = only(scene, colour=start.colour, is_letter=not start.is_letter)
        if end is not None:
            pairs.append((start, end))
    if not pairs:
        return None
    start, end = pairs[rng.integers(len(pairs))]
    noun = "letter" if end.is_letter else "shape"
    return f"Which {noun} has the color of the {start.name}?", end.kind, end.is_letter


def two_step(scene: Scene, rng: np.random.Generator):
    found = _match(scene, rng)
    return found and found[:2]


# ---------------------------------------------------------------------------- multiple choice
def choices(answer: str, wrong: list[str], rng: np.random.Generator, number: int) -> list[str]:
    """The answer among `number` − 1 wrong options, in random order."""
    options = [answer, *rng.choice(wrong, size=number - 1, replace=False).tolist()]
    return [options[i] for i in rng.permutation(number)]


def with_options(text: str, options: list[str]) -> str:
    """The question with its options in LLaVA's form: "… A. red B. blue"."""
    return " ".join([text, *(f"{o}. {v}" for o, v in zip(OPTIONS, options, strict=False))])


def choice(scene: Scene, rng: np.random.Generator):
    """A one-step question with four options; the wrong ones prefer what is in the picture."""
    asked = (colour_of, shape_in, letter_in)[rng.integers(3)](scene, rng)
    if not asked:
        return None
    text, answer = asked
    options = choices(answer, decoys(scene, answer, rng, 3), rng, 4)
    return with_options(text, options), OPTIONS[options.index(answer)]


def two_step_choice(scene: Scene, rng: np.random.Generator):
    """The two-step question with three options."""
    found = _match(scene, rng)
    if not found:
        return None
    text, answer, _ = found
    options = choices(answer, decoys(scene, answer, rng, 2), rng, 3)
    return with_options(text, options), OPTIONS[options.index(answer)]


def decoys(scene: Scene, answer: str, rng: np.random.Generator, number: int) -> list[str]:
    """Wrong options of the answer's sort: those in the picture first, then others."""
    sort = next(s for s in (tuple(COLOURS), SHAPES, LETTERS) if answer in s)
    seen = {t.colour for t in scene} | {t.kind for t in scene}
    wrong = [word for word in rng.permutation(sort).tolist() if word != answer]
    return sorted(wrong, key=lambda word: word not in seen)[:number]


QUESTIONS: dict[str, tuple[Callable, str]] = {
    "existence": (existence, SHORT_TAIL),
    "colour": (colour_of, SHORT_TAIL),
    "shape": (shape_in, SHORT_TAIL),
    "letter": (letter_in, SHORT_TAIL),
    "is_colour": (is_colour, SHORT_TAIL),
    "half": (half, SHORT_TAIL),
    "relation": (relation, SHORT_TAIL),
    "where": (where, SHORT_TAIL),
    "side": (side, SHORT_TAIL),
    "count": (count, SHORT_TAIL),
    "is_count": (is_count, SHORT_TAIL),
    "same_colour": (same_colour, SHORT_TAIL),
    "two_step": (two_step, SHORT_TAIL),
    "choice": (choice, CHOICE_TAIL),
    "two_step_choice": (two_step_choice, CHOICE_TAIL),
}


def ask(kind: str, scene: Scene, rng: np.random.Generator, **wishes: object) -> Question | None:
    """A question of this type about the scene, tail included; None where the scene allows none."""
    function, tail = QUESTIONS[kind]
    asked = function(scene, rng, **wishes)
    return Question(kind, f"{asked[0]} {tail}", asked[1]) if asked else None
