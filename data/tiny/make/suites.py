"""The six embedded suites: `python data/tiny/make/suites.py` writes data/tiny/suites/*.parquet.

Each stands for one family of published benchmarks and is asked over the same pictures. The pictures
come from a stream of their own ("evaluation", not a training stage), so none was trained on.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import world
from PIL import Image

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


def picture_bytes(pixels: np.ndarray) -> bytes:
    """PNG with five bits a channel: a third of the size, and less than the picture's own noise."""
    file = io.BytesIO()
    Image.fromarray(pixels // 8 * 8 + 4).save(file, "png", optimize=True)
    return file.getvalue()


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
        image = {"bytes": picture_bytes(world.render(scene, rng)), "path": f"{name}.png"}
        for suite, builder in BUILDERS.items():
            if len(rows[suite]) < LEAST:
                for row in builder(scene, rng, name):
                    rows[suite].append({"picture": name, "image": image, **row})
        picture += 1
    return numbered(rows)


def numbered(rows: Mapping[str, list[dict]]) -> dict[str, pd.DataFrame]:
    """The rows of each suite as a frame whose first column is their `id`, "suite/0000"."""
    frames = {}
    for suite, found in rows.items():
        frame = pd.DataFrame(found)
        frame.insert(0, "id", [f"{suite}/{i:04d}" for i in range(len(frame))])
        frames[suite] = frame
    return frames


def store(frames: Mapping[str, pd.DataFrame], folder: Path, shown: str) -> None:
    """One file per suite; shown: what its questions are about, in the plural, for the last line."""
    folder.mkdir(parents=True, exist_ok=True)
    for suite, frame in frames.items():
        # One dictionary for all pictures of a file: a picture of many questions is stored once.
        frame.to_parquet(
            folder / f"{suite}.parquet",
            index=False,
            compression="zstd",
            dictionary_pagesize_limit=1 << 26,
        )
        print(f"{suite}: {len(frame)} questions on {frame['picture'].nunique()} {shown}")


def write(folder: Path, seed: int = 0) -> None:
    import captions  # pictures of their own; stored as these are
    import edited  # pictures of their own; stored as these are
    import exam  # pictures of their own; stored as these are
    import sized  # pictures of their own; stored as these are

    more = {module.NAME: module.build(seed) for module in (captions, edited, exam, sized)}
    store({**build(seed), **more}, folder, "pictures")


def command(about: str, folder: Path, write: Callable[[Path, int], None]) -> None:
    """The command line of a module that writes suites."""
    words = argparse.ArgumentParser(description=about.splitlines()[0])
    words.add_argument("--out", type=Path, default=folder)
    words.add_argument("--seed", type=int, default=0)
    chosen = words.parse_args()
    write(chosen.out, chosen.seed)


if __name__ == "__main__":
    command(__doc__, SUITES, write)
