"""Model families: one file each, found by looking into this folder; `FAMILIES[model_type]`."""

import importlib
import pkgutil

from .base import Family, family_of, processor_of, query_tokens, remember, takes_videos, template_of
from .layout import Block, score_maps
from .template import Template, Unavailable

_FOUND = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
FAMILIES: dict[str, Family] = {
    module.family.model_type: module.family for module in _FOUND if hasattr(module, "family")
}

__all__ = [
    "FAMILIES", "Block", "Family", "Template", "Unavailable",
    "family_of", "processor_of", "query_tokens", "remember", "score_maps", "takes_videos",
    "template_of",
]  # fmt: skip
