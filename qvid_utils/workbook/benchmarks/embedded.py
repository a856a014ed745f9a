"""The embedded suites and the published benchmarks that each stands for."""

import difflib
from functools import cache

import pandas as pd

from ...paths import DATA
from .base import PAPER_BENCHMARKS, Suite
from .crowded import CROWDED, crowded_suite
from .embedded_video import VIDEO, video_suite
from .paper_profile import place
from .published import BENCHMARKS, published

METRICS = {
    "tiny_gqa": "accuracy",
    "tiny_sqa": "accuracy",
    "tiny_textvqa": "accuracy",
    "tiny_pope": "pope",
    "tiny_mme": "mme",
    "tiny_mmb": "circular",
}
TINY = tuple(METRICS)
#: Suites with pictures of their own, asked for by name: figures of which one thing was changed,
#: captions, multiple choice, and pictures of several sizes (which stand for no benchmark).
MORE = {
    "tiny_hallusion": "hallusion_words",
    "tiny_captions": "cider",
    "tiny_mmmu_pro": "accuracy",
    "tiny_sizes": "accuracy",
}
NEW_TOKENS = {"tiny_captions": 32}  # eight letters with their colours


def suite(name: str, family: str = "llava") -> Suite:
    """An embedded suite by name, read from data/tiny, or a published
    benchmark as a family of models is asked it (see `published`). ValueError for an unknown name,
    and for a benchmark that the family cannot be asked."""
    return _read(name, family if name in BENCHMARKS else "")


@cache
def _read(name: str, family: str) -> Suite:
    """family: "" for an embedded suite, which all are asked in the same words."""
    if family:
        return published(name, place(name), family=family)
    if name in VIDEO:
        return video_suite(name)
    if name in CROWDED:
        return crowded_suite(name)
    known = [*METRICS, *MORE, *VIDEO, *CROWDED]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown suite {name!r}{hint} Known: {', '.join(known)}")
    path = DATA / "tiny" / "suites" / f"{name}.parquet"
    if not path.exists():
        raise ValueError(f"data/tiny/suites/{path.name} is missing: run suites")
    metric = (METRICS | MORE)[name]
    kin, room = PAPER_BENCHMARKS.get(name, name), NEW_TOKENS.get(name)
    return Suite(name, kin, metric, pd.read_parquet(path), room)


suite.cache_clear = _read.cache_clear  # for whoever puts other files in their place
