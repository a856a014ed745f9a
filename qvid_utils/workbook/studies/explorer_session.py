"""What the explorer looks at: a question, a picture and some settings, changed one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ...families import FAMILIES
from ...methods import Method
from ...models.load import load
from ...paths import DATA, FIGURES
from ..benchmarks import TINY, suite
from ..benchmarks.prompts import picture as picture_of
from ..plots import base as figures
from ..plots.pictures import split_question
from . import explorer_figure as figures_explorer
from .one_look import Look, look
from .one_question import Asked, ask

EACH = 8  # example questions of each embedded suite


@dataclass
class Session:
    """A question, a picture and some settings; `update` changes some and looks again.

    methods: two or more; keep, layer (None: each method's own), rank: as in `views.look`; profile,
    name: where `save` writes. The unpruned answer is kept until picture, question, model or layer
    change.
    """

    model: nn.Module
    processor: Any
    picture: Any
    question: str
    methods: Sequence[str | Method] = ("qvid", "random")
    keep: int = 16
    layer: int | None = None
    rank: int | float = 16
    profile: str = "tiny"
    asked: Asked | None = field(default=None, repr=False)
    seen: Look | None = field(default=None, repr=False)

    def update(self, **changes: Any) -> Look:
        """Look again with some settings changed; after an error everything is as it was.

        model may be a name, which is loaded; keep is capped where a picture has fewer tokens.
        """
        unknown = sorted(set(changes) - {"model", "picture", "question", "methods", "keep", "layer",
                                         "rank"})  # fmt: skip
        if unknown:
            raise ValueError(f"the explorer has no {', '.join(unknown)}")
        if isinstance(changes.get("model"), str):
            model, processor = load(changes["model"])
            changes |= {"model": model, "processor": processor}
        new = replace(self, **changes)
        if new.asked is None or {"model", "picture", "question", "layer"} & set(changes):
            new.asked = ask(new.model, new.processor, new.picture, new.question, new.layer)
        new.keep = min(new.keep, new.asked.n_visual)
        new.seen = look(new.asked, new.methods, new.keep, layer=new.layer, rank=new.rank)
        vars(self).update(vars(new))
        return self.seen

    def save(self, name: str, anew: bool = False) -> str:
        """Write the figure and its numbers as figures/<profile>/<name>.png, .pdf and .csv.

        anew: ValueError where there is a figure of that name already.
        """
        seen = self.seen or self.update()
        if anew and (figures.figures_dir(self.profile) / f"{name}.png").exists():
            raise ValueError(f"there is a figure {name!r} already: choose another name")
        figures.save(figures_explorer.explorer(seen), name, seen.numbers, self.profile)
        return f"{(figures.figures_dir(self.profile) / name).relative_to(FIGURES.parent)}.png"


def examples() -> dict[str, tuple[str, str]]:
    """Some questions of the embedded suites: what to call each -> (suite, id)."""
    return {
        f"{row.id}: {split_question(row.question)[0]}": (name, row.id)
        for name in TINY
        for row in suite(name).samples.drop_duplicates("picture").head(EACH).itertuples()
    }


def embedded() -> list[str]:
    """The names of the embedded models that the explorer draws: a picture is one grid of tokens."""
    found = sorted((DATA / "tiny").glob("*/generation_config.json"))
    kinds = {path.parent.name: json.loads((path.parent / "config.json").read_text())["model_type"]
             for path in found}  # fmt: skip
    return [f"tiny/{name}" for name, kind in kinds.items() if not FAMILIES[kind].line_breaks]


def example(place: tuple[str, str]) -> dict:
    """The picture and the question of one of `examples`, as changes of a session."""
    samples = suite(place[0]).samples
    row = next(samples[samples["id"] == place[1]].itertuples())
    return {"picture": picture_of(row.image, row.id), "question": row.question}


def strange(asked: Asked) -> str:
    """The words that the model does not know, in a sentence; "" where it knows all."""
    if not asked.unknown:
        return ""
    said = ", ".join(f"“{word}”" for word in dict.fromkeys(asked.unknown))
    return f"this model does not know {said}"
