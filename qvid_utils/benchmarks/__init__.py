"""What a benchmark is: its questions, and the scorer that its literature names.

`suite` gives the embedded ones, `published.published` those of the literature.
"""

from .base import SCORERS, Suite, score
from .published import BENCHMARKS
from .tiny import TINY, suite

__all__ = ["BENCHMARKS", "SCORERS", "TINY", "Suite", "score", "suite"]
