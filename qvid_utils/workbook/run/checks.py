"""What a run would be refused for in its middle, found before anything is asked."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pandas as pd
from PIL import Image
from torch import nn

from ...algebra.cuts import Infeasible
from ...families import family_of, takes_videos
from ...prune import pruned
from ...prune.plan import DEFAULT_KEEP, stages_of, steps_of
from ..benchmarks import Suite
from ..benchmarks.base import CELL
from .asker import prompts_of
from .batches import is_video
from .cell import Cell
from .grid import visual_counts

__all__ = ["check_cell", "check_names", "check_run"]


def check_run(
    model: nn.Module,
    processor: Any,
    suites: Sequence[Suite],
    cells: Sequence[Cell],
    on_error: str = "stop",
) -> None:
    """ValueError, or what else a cell raises, for cells and suites that this model cannot be asked:
    two of one name, a layer that it has not, a budget above its prompts, videos that it does not
    take; with a note that names cell or suite."""
    check_names(suites, cells)
    for cell in cells:
        check_cell(model, cell)
    for one in suites:
        _check_media(model, one)
    for one in suites:
        _check_budgets(model, processor, one, cells, on_error)


def check_names(suites: Sequence[Suite], cells: Sequence[Cell]) -> None:
    """ValueError for two suites or two cells of one name: a table could not tell them apart."""
    names = [one.name for one in suites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"suite {twice!r} is there twice: each is asked once, drop one")
    names = [tuple(cell.labels.values()) for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two cells are called {dict(zip(CELL, twice, strict=True))}: drop one")


def check_cell(model: nn.Module, cell: Cell) -> None:
    """What a cell would be refused for by this model, whatever the prompt."""
    if cell.method is None:
        return
    stages = cell.stages([100])  # of a share, any count will do to try the rest
    try:
        with warnings.catch_warnings(), pruned(model, stages):
            warnings.simplefilter("ignore")  # nothing is asked in this block
            layers = len(family_of(model).part(model, "layers"))
        for chosen, keep, place in stages:
            chosen.schedule(keep, keep, layers, place.get("layer"))
        if cell.before:
            _check_order(model, cell, layers)
    except Exception as cause:
        cause.add_note(f"cell {cell.labels}")
        raise


def _check_media(model: nn.Module, one: Suite) -> None:
    """ValueError for a suite of videos and a model of a family that takes none."""
    if one.media == "video" or any(is_video(image) for image in one.samples["image"]):
        try:
            takes_videos(model)
        except ValueError as cause:
            cause.add_note(f"suite {one.name}")
            raise


def _check_order(model: nn.Module, cell: Cell, layers: int) -> None:
    """ValueError where the cut before a cell's own leaves it too few tokens of any prompt.

    The fewest tokens that a prompt can have: those that the counts ask for, and LLaVA's of a
    picture; of the other families pictures differ, and a share of fewer may be few enough.
    """
    fewest = [keep for keep in (cell.keep, cell.first[0][1]) if keep is not None]
    if family_of(model).model_type == "llava":
        fewest.append(model.config.image_seq_length)
    counts = [max(fewest)]
    planned = stages_of(model, cell.stages(counts), DEFAULT_KEEP, {})
    try:
        steps_of(planned, 0, counts, layers)
    except Infeasible:
        pass  # such a cell is left out, with a warning
    except ValueError as cause:
        if cell.share is not None:
            cause.add_note(f"share={cell.share:g} is of all {counts[0]} tokens of the prompt")
        raise


def _check_budgets(
    model: nn.Module, processor: Any, one: Suite, cells: Sequence[Cell], on_error: str
) -> None:
    """ValueError for a count above every prompt's visual tokens, and, where errors stop the run,
    for one above some prompt's. Which prompts have most and fewest tells the pictures' size."""
    asked = [cell for cell in cells if cell.keep is not None]
    if not asked:
        return
    rows = _extremes(one.samples)
    try:
        made = [prompts_of(model, processor, rows.iloc[[i]]) for i in range(len(rows))]
    except ValueError:
        return  # a picture that cannot be read is told or recorded when its turn comes
    if not made:
        return
    found = [visual_counts(model, inputs)[0] for inputs in made]
    counts = dict(zip(rows["id"], found, strict=True))
    few, most = min(counts, key=counts.get), max(counts, key=counts.get)
    for cell in asked:
        says = ""
        if cell.keep > counts[most]:
            says = f"no prompt of {one.name} has more than {counts[most]} visual tokens"
        elif cell.keep > counts[few] and on_error == "stop":
            says = f"sample {few!r} has {counts[few]} visual tokens"
        if says:
            error = ValueError(
                f"keep={cell.keep}: {says}; keep fewer, or give a share of each prompt's"
            )
            error.add_note(f"cell {cell.labels}")
            raise error


def _extremes(samples: pd.DataFrame) -> pd.DataFrame:
    """The questions whose pictures have fewest and most pixels, or whose films most frames; those
    that show nothing apart."""
    known: dict[int, int] = {}
    sizes = samples["image"].map(lambda image: sum(_size(cell, known) for cell in _listed(image)))
    shown = samples["image"].map(lambda image: len(_listed(image)) > 0)
    if not shown.any():
        return samples.iloc[:0]
    return samples.loc[list(dict.fromkeys([sizes[shown].idxmin(), sizes[shown].idxmax()]))]


def _listed(image: Any) -> list:
    return image if isinstance(image, list) else [image]


def _size(cell: Any, known: dict[int, int]) -> int:
    """Frames of a film's cell, pixels of a picture's (0 for one that cannot be read)."""
    if is_video(cell):
        return cell["frames"]
    if id(cell) not in known:
        try:
            held = cell["bytes"]
            with Image.open(cell["path"] if held is None else BytesIO(held)) as seen:
                known[id(cell)] = seen.width * seen.height
        except Exception:  # it is told, with its question, when it is read
            known[id(cell)] = 0
    return known[id(cell)]
