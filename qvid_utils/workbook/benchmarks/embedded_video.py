"""The two embedded video suites and the published benchmarks that each stands for.

They are scored by the published benchmarks' own rules.
"""

from functools import cache

import pandas as pd

from ...paths import DATA
from .base import Suite

#: Suite -> the benchmark that it stands for, and its metric.
VIDEO = {"tiny_mvbench": ("MVBench", "mvbench"), "tiny_videomme": ("VideoMME", "videomme")}
TINY_VIDEO = tuple(VIDEO)


@cache
def video_suite(name: str) -> Suite:
    """An embedded video suite by name, read from data/tiny/videos. ValueError for an unknown one,
    and where its file is missing."""
    if name not in VIDEO:
        raise ValueError(f"unknown video suite {name!r}. Known: {', '.join(TINY_VIDEO)}")
    path = DATA / "tiny" / "videos" / f"{name}.parquet"
    if not path.exists():
        raise ValueError(f"data/tiny/videos/{path.name} is missing: run clip_suites")
    kin, metric = VIDEO[name]
    return Suite(name, kin, metric, pd.read_parquet(path), media="video")
