"""Another question for each question of a suite, for the control that scores with it."""

import numpy as np

from .base import Suite

__all__ = ["other_questions"]


def other_questions(one: Suite) -> dict[str, str]:
    """Sample -> another question of the suite, whose words differ and which is about another
    picture: of the same kind and split, half of these further on; else of the whole suite. Where
    the suite has swaps (a question of the same form about another thing in the same picture), the
    swap. ValueError for a suite without another question.
    """
    samples = one.samples
    if "swap" in samples and samples["swap"].map(lambda s: isinstance(s, str) and s != "").all():
        return dict(zip(samples["id"], samples["swap"], strict=True))
    found: dict[str, str] = {}
    same = [part for _, part in samples.groupby(["kind", "split"], sort=False)]
    for part in [*same, samples]:
        rows = list(part.itertuples())
        for place, row in enumerate(rows):
            if row.id in found:
                continue
            order = np.roll(np.arange(len(rows)), -(place + len(rows) // 2))
            other = next((rows[i] for i in order if _differs(rows[i], row)), None)
            if other is not None:
                found[row.id] = other.question
    lacks = [name for name in samples["id"] if name not in found]
    if lacks:
        raise ValueError(
            f"suite {one.name!r} has no other question about another picture for {lacks[0]!r}: "
            "the control another-question needs one"
        )
    return {name: found[name] for name in samples["id"]}


def _differs(other, row) -> bool:
    return other.picture != row.picture and other.question != row.question
