"""What a benchmark is: its questions, and the scorer that its literature names.

`suite` and `video_suite` give the embedded ones, `published.published` those of the literature.
"""

from .base import Suite, score
from .embedded import TINY, suite
from .embedded_video import TINY_VIDEO, video_suite
from .published import BENCHMARKS
from .scoring import SCORERS

__all__ = ["BENCHMARKS", "SCORERS", "TINY", "TINY_VIDEO", "Suite", "score", "suite", "video_suite"]
