"""What the first frame of a clip tells to who knows the world: options that it rules out.

A model that was never taught single frames may do worse than chance on them; this is the bar that
a question about time has to stand above.
"""

from __future__ import annotations

import re

import clips

__all__ = ["odds", "possible"]


def possible(kind: str, text: str, clip: clips.Clip) -> list[str]:
    """The labels of the options that the first frame leaves possible, all where it rules out all.

    What flashes or appears is not there yet; what vanishes is; a thing becomes another colour; what
    is there does not appear, and what is not does nothing else; what moves needs two cells ahead.
    """
    options = dict(re.findall(r"\b([A-D])\. (.+?)(?= [A-D]\. | Answer|$)", text))
    there = {actor.kind: actor for actor in clip if actor.cells[0]}
    asked = re.search(r"the (?:letter )?(\w+) (?:do|move|become)", text)
    actor = there.get(asked.group(1)) if asked else None

    def may(option: str) -> bool:
        if kind == "flash" or "appears" in text.partition("?")[0]:
            return option not in there
        if kind == "order":  # what vanishes
            return option in there
        if kind == "colour":
            return actor is None or option != actor.colours[0]
        if kind == "action":
            return (option in ("appears", "flashes")) == (actor is None)
        if kind == "direction" and actor:
            down, across = clips.DIRECTIONS[option]
            row, column = actor.cells[0]
            return all(0 <= at < clips.BOARD for at in (row + 2 * down, column + 2 * across))
        return True

    return [label for label, option in options.items() if may(option)] or list(options)


def odds(kind: str, text: str, answer: str, clip: clips.Clip) -> float:
    """How often a guess among the options left is right, in [0, 1]."""
    left = possible(kind, text, clip)
    return (answer in left) / len(left)
