"""What a result depends on, and the key that is a hash of it.

Two runs with one key give the same answers; what may change an answer changes the key: the sources
of the folders that can change it, weights and settings, pictures and films by their bytes, and a
rule of one's own with all that it names (`plain`). A source file counts by its syntax tree without
docstrings, so that comments and line breaks are free. Where a folder lies, and what it is called,
is no part of a key. The library versions, but not the machine, are part of it: the last bits of a
GPU's sums are left out on purpose.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from .content import weights_hash
from .plain import COUNTED, PACKAGE, key_of, plain

__all__ = ["code_version", "libraries", "model_parts", "record_key"]

LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow")
PLACES = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"})
#: Parts that say what a model is called: the weights say what it is.
NAMES = frozenset({"model", "revision"})


def record_key(parts: Mapping[str, Any]) -> str:
    """The key of a cell's records on a suite; parts: all that they depend on, and names."""
    return key_of({name: part for name, part in parts.items() if name not in NAMES})


def model_parts(model: nn.Module, processor: Any) -> dict[str, Any]:
    """What a model and its processor bring into a key: weights and settings; and its names."""
    config = model.config
    generation = getattr(model, "generation_config", None)
    name = str(getattr(config, "_name_or_path", "") or type(model).__name__)
    if Path(name).is_dir():
        name = Path(name).name
    return {
        "model": name,
        "revision": getattr(config, "_commit_hash", None),
        "weights": weights_hash(model),
        "config": _settings(config.to_dict()),
        "generation_config": None if generation is None else _settings(generation.to_dict()),
        "processor": _processor(processor),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(getattr(config, "_attn_implementation", None)),
        "device": model.device.type,
    }


def _settings(told: Mapping[str, Any]) -> str:
    """Hash of a configuration, without where it was read from and by which version."""

    def stripped(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {k: stripped(v) for k, v in part.items() if k not in PLACES}
        return part

    return key_of({"settings": plain(stripped(told))})


def _processor(processor: Any) -> str:
    """Hash of tokenizer, chat template and picture processing."""
    tokenizer = getattr(processor, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        words = json.loads(backend.to_str())
        words = {k: v for k, v in words.items() if k not in ("padding", "truncation")}  # of a call
    else:
        words = tokenizer.get_vocab() if tokenizer is not None else None
    told = {"words": words, "template": getattr(processor, "chat_template", None)}
    for name in ("image_processor", "video_processor"):
        part = getattr(processor, name, None)
        told[name] = None if part is None else part.to_dict()
    return _settings(told)


def libraries() -> dict[str, str]:
    """Versions of the libraries that compute an answer, of those that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_version(folder: Path = PACKAGE) -> str:
    """Hash of the sources that can change an answer, by their folder; read once per process, so
    that a session in which a file was edited should be started anew."""
    told = []
    for part in COUNTED:
        place = folder / part
        files = place.rglob("*.py") if place.is_dir() else filter(Path.exists, [place])
        told += [[part, hashlib.sha256(_syntax(path).encode()).hexdigest()] for path in files]
    return key_of({"sources": sorted(told)})


def _syntax(path: Path) -> str:
    """A source as its syntax tree, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return ast.dump(tree)
