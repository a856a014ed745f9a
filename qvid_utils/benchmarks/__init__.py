"""What a benchmark is: its questions, and the scorer that its literature names."""

from .base import SCORERS, Suite, score
from .tiny import TINY, suite

__all__ = ["SCORERS", "TINY", "Suite", "score", "suite"]
