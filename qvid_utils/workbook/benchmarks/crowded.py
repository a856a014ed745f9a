"""The crowded and sparse suites: pictures and films with a truth record and a swap per question.

Columns beside those of every suite: `shown`, the number of the thing that each patch shows (-1:
ground), in reading order, frame after frame; `named`, the numbers of the things that a question
names; `swap`, a question of the same form about other things, and `swap_answer`, its other answer.
"""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from ...paths import DATA
from .base import Suite

#: What follows the setting in a suite's name -> the benchmark whose kin it is; mvbench has films.
KIN: Mapping[str, str] = MappingProxyType({
    "gqa": "GQA", "textvqa": "TextVQA", "pope": "POPE", "mme": "MME", "mmb": "MMB", "sqa": "SQA",
    "long": "questions of 40 and more tokens", "mvbench": "MVBench",
})  # fmt: skip
SETTINGS = ("crowded", "sparse")
#: On "deciding" it is decided where a suite can tell; methods are reported on the other pictures.
PARTS = ("reported", "deciding")
#: Every name: "crowded_gqa" is the part that is reported, "crowded_gqa_deciding" the other one.
CROWDED = tuple(
    f"{setting}_{kin}" + ("" if part == "reported" else f"_{part}")
    for setting in SETTINGS
    for part in PARTS
    for kin in KIN
)


def crowded_suite(name: str) -> Suite:
    """A suite of `CROWDED`, read from data/tiny/crowded. ValueError where its file is missing."""
    setting, kin, part = (*name.split("_"), "reported")[:3]
    media = "_clips" if kin == "mvbench" else ""
    path = DATA / "tiny" / "crowded" / f"{setting}{media}_{part}.parquet"
    if not path.exists():
        raise ValueError(f"data/tiny/crowded/{path.name} is missing: run crowded_clips")
    samples = pd.read_parquet(path)
    samples = samples[samples["suite"] == f"{setting}_{kin}"].drop(columns="suite")
    more = {"media": "video"} if media else {}
    return Suite(name, KIN[kin], "accuracy", samples.reset_index(drop=True), **more)
