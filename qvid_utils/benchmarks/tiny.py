"""The embedded suites, six of pictures and two of videos, and the published benchmarks that each
stands for."""

import difflib
from functools import cache

import pandas as pd

from ..paths import DATA
from ..results import PAPER_BENCHMARKS
from .base import Suite

METRICS = {
    "tiny_gqa": "accuracy",
    "tiny_sqa": "accuracy",
    "tiny_textvqa": "accuracy",
    "tiny_pope": "pope",
    "tiny_mme": "mme",
    "tiny_mmb": "circular",
}
TINY = tuple(METRICS)
# The video suites are scored by the published rules themselves.
VIDEO_METRICS = {"tiny_mvbench": "mvbench", "tiny_videomme": "videomme"}
VIDEO_BENCHMARKS = {"tiny_mvbench": "MVBench", "tiny_videomme": "VideoMME"}
TINY_VIDEO = tuple(VIDEO_METRICS)
_KNOWN = {**METRICS, **VIDEO_METRICS}


@cache
def suite(name: str) -> Suite:
    """An embedded suite by name, read from data/tiny/suites. ValueError for an unknown name."""
    if name not in _KNOWN:
        near = difflib.get_close_matches(name, _KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown suite {name!r}{hint} Known: {', '.join(_KNOWN)}")
    path = DATA / "tiny" / "suites" / f"{name}.parquet"
    if not path.exists():
        made = "clip_suites" if name in VIDEO_METRICS else "suites"
        raise ValueError(f"data/tiny/suites/{path.name} is missing: run qvid_utils.tiny.{made}")
    if name in VIDEO_METRICS:
        samples = pd.read_parquet(path)
        kin = VIDEO_BENCHMARKS[name]
        return Suite(name, kin, VIDEO_METRICS[name], samples, media="video")
    return Suite(name, PAPER_BENCHMARKS[name], METRICS[name], pd.read_parquet(path))
