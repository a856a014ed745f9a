"""What a benchmark is: its questions, and the scorer that its literature names."""

from .base import SCORERS, Suite, score
from .published import BENCHMARKS, published
from .tiny import TINY, suite

__all__ = ["BENCHMARKS", "SCORERS", "TINY", "Suite", "published", "score", "suite"]
