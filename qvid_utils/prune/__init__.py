"""Drop visual tokens inside the language model: `pruned`, `observed`."""

from .hooks import CutRecord, Trace, block_of, observed, pictures_once, pruned

__all__ = ["CutRecord", "Trace", "block_of", "observed", "pictures_once", "pruned"]
