"""The published benchmarks as suites: `published("pope")`, from the hub or from a local folder.

`BENCHMARKS` is their table. Everything that can be known before inference is checked here: name,
family, files, columns, every picture's header, answers that are empty or that no reply can match,
the judge, Java.
"""

import difflib
from pathlib import Path

from ....families import FAMILIES
from ..base import Suite
from ..scoring import Judge
from . import source
from .entries import BENCHMARKS, IMAGE_FAMILIES, Benchmark
from .pictures import pictures_of
from .questions import PLACES, questions
from .scorers import PUBLISHED_SCORERS, caption_tools
from .video import video_cell

__all__ = ["BENCHMARKS", "PUBLISHED_SCORERS", "Benchmark", "benchmark", "published"]


def benchmark(name: str) -> Benchmark:
    """An entry of the table; ValueError for an unknown name tells the nearest ones."""
    if name not in BENCHMARKS:
        near = [known for known in BENCHMARKS if name.lower() in known]
        near = near or difflib.get_close_matches(name.lower(), BENCHMARKS, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown benchmark {name!r}{hint} Known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def published(
    name: str,
    folder: str | Path | None = None,
    *,
    family: str = "llava",
    limit: int | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    revision: str | None = None,
) -> Suite:
    """A published benchmark as a suite, its questions in the words that a family is asked in.

    folder: its files (see `source`); None: the hub, through its cache. limit, seed: draw that many
    questions before any picture is read. judge: a language model, prompt -> reply, for benchmarks
    that have one. Pictures are held in memory. Raises ValueError for an unknown benchmark or
    family, a family that takes no video, a missing file or column, a picture that is missing or
    broken, an answer that is empty or that its question does not allow, half a pair, a missing
    judge; Unavailable for a missing extra, Java, the network and a gated repository.
    """
    entry = benchmark(name)
    _may_ask(entry, family)
    if entry.needs == "caption":
        caption_tools()
    if entry.judge.startswith("needed") and judge is None:
        raise ValueError(
            f"{name} is read by a judge ({entry.judge}), and none is given: ask {name}_yes_no, "
            f"which is read without one, or in Python pass one, published({name!r}, judge=...), a "
            "function from a prompt to a language model's reply"
        )
    root = source.hub_folder(entry, revision) if folder is None else Path(folder)
    if not root.is_dir():
        raise ValueError(f"{name}: there is no folder {root}")
    frame = questions(entry, root, entry.words_after(family))
    made = Suite(
        name, entry.stands_for, entry.metric, frame, entry.new_tokens, entry.media, judge
    ).head(limit, seed)
    if entry.media == "video":
        cells = [video_cell(entry, root, row, family) for row in made.samples.itertuples()]
        names = [""] * len(cells)
    else:
        cells, names = pictures_of(entry, root, made.samples)
    samples = made.samples.assign(image=cells).drop(columns=PLACES)
    held = zip(samples["picture"], names, samples["id"], strict=True)
    # a question without a picture shares its picture with none
    return made._with(samples.assign(picture=[a or b or c for a, b, c in held]))


def _may_ask(entry: Benchmark, family: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    if family not in entry.families and family in IMAGE_FAMILIES:
        raise ValueError(
            f"{entry.name} asks about videos, which {FAMILIES[family].name} does not take: use "
            f"one of {', '.join(entry.families)}"
        )
