"""What a benchmark is: its questions, and the scorer that its literature names.

`suite` gives the embedded ones, `published.published` those of the literature.
"""

from .base import SCORERS, Suite, score
from .published import BENCHMARKS
from .tiny import TINY, TINY_VIDEO, suite

__all__ = ["BENCHMARKS", "SCORERS", "TINY", "TINY_VIDEO", "Suite", "score", "suite"]
