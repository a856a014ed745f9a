"""The six embedded suites and the published benchmarks that each stands for."""

import difflib
from functools import cache

import pandas as pd

from ..paths import DATA
from ..results import PAPER_BENCHMARKS
from .base import Suite
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


@cache
def suite(name: str) -> Suite:
    """An embedded suite by name, read from data/tiny/suites, or a published benchmark (see
    `published`) in the words of LLaVA. ValueError for an unknown name."""
    if name in BENCHMARKS:
        return published(name, place(name))
    if name not in METRICS:
        near = difflib.get_close_matches(name, TINY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown suite {name!r}{hint} Known: {', '.join(TINY)}")
    path = DATA / "tiny" / "suites" / f"{name}.parquet"
    if not path.exists():
        raise ValueError(f"data/tiny/suites/{path.name} is missing: run qvid_utils.tiny.suites")
    return Suite(name, PAPER_BENCHMARKS[name], METRICS[name], pd.read_parquet(path))
