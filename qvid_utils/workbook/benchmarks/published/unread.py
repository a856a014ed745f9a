"""Whether a benchmark's rule reads anything in an answer, or merely counts it for right or wrong.

One function for each rule: (prediction, row) -> bool. What is not read is a share of its own in the
tables: a method that breaks the model is then not taken for one that answers wrong, or "yes".
"""

import re
from typing import Any

from . import reading

__all__ = ["first", "letter_first", "mmbench", "mme", "mmmu", "mvbench", "videomme"]


def letter_first(prediction: str, row: Any) -> bool:
    """Whether an answer is a letter, or opens with one and a period."""
    return re.match(r"[A-Za-z](\.|$)", prediction.strip()) is not None


def first(prediction: str, row: Any) -> bool:
    return prediction.strip()[:1].lower() in tuple("abcd")


def mme(prediction: str, row: Any) -> bool:
    return reading.mme_word(prediction) != "other"


def mmmu(prediction: str, row: Any) -> bool:
    closed = row.kind == "multiple-choice"
    return bool(reading.mmmu_letter(prediction, row.options) if closed else prediction.strip())


def mmbench(prediction: str, row: Any) -> bool:
    options = dict(zip(reading.LETTERS, row.options, strict=False))
    letter = reading.mmbench_letter(prediction, options)
    return bool(letter or reading.spoken_letter(prediction, list(options)))


def mvbench(prediction: str, row: Any) -> bool:
    return len(reading.mvbench_letter(prediction)) == 1


def videomme(prediction: str, row: Any) -> bool:
    return bool(reading.spoken_letter(prediction, "ABCD"))
