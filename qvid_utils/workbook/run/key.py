"""What a result depends on, as plain data, and the key that is a hash of it.

Two runs with one key give the same answers; what may change an answer changes the key. A source
file counts by its syntax tree without docstrings, so that comments and line breaks are free; files
that only show, store or time results do not count. The library versions, but not the machine, are
part of the key: the last bits of a GPU's sums are left out on purpose.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ...paths import ROOT

__all__ = ["code_version", "data_hash", "digest", "key_of", "libraries", "model_parts", "plain"]

PACKAGE = ROOT / "qvid_utils"
#: Folders and files that can change an answer or its score.
COUNTED = (
    *("algebra", "families", "methods", "models", "prune", "workbook/benchmarks"),
    *("workbook/run/evaluate.py", "workbook/run/grid.py"),
)
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow")
#: Fields that say something about a method or a checkpoint and do nothing.
WORDS_ONLY = frozenset(
    ("source", "departures", "venue", "link", "key", "label", "short", "curve", "apart", "cost")
)
PLACES = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"})


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of what `plain` made: 64 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON data that is equal where, and only where, the value does the same.

    Dataclasses field by field; functions by name, and by their code where they are not of this
    package (what such a function calls is not followed); tensors, arrays, pictures and bytes by
    hash; a Path by the file's content. TypeError for an object that none of this describes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | torch.dtype | torch.device):
        return value.item() if isinstance(value, np.generic) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told = (f.name for f in dataclasses.fields(value) if f.name not in WORDS_ONLY)
        return {"is": type(value).__qualname__} | {f: plain(getattr(value, f)) for f in told}
    if isinstance(value, Mapping):
        return [[plain(k), plain(v)] for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))]
    if isinstance(value, set | frozenset):
        return sorted((plain(part) for part in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, functools.partial):
        return {"partial": [plain(value.func), plain(value.args), plain(value.keywords)]}
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return _function(value)
    return {type(value).__name__: digest(value)}


def _function(value: Any) -> dict[str, Any]:
    module = getattr(value, "__module__", None) or ""
    named = {"function": f"{module}.{value.__qualname__}"}
    code = getattr(value, "__code__", None)
    if code is None or module.split(".")[0] == "qvid_utils":
        return named
    inside = [cell.cell_contents for cell in value.__closure__ or ()]
    told = [_code(code), value.__defaults__, value.__kwdefaults__, inside]
    return named | {"code": key_of({"code": plain(told)})}


def _code(code: types.CodeType) -> list[Any]:
    def const(value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return _code(value)
        # the order in which a set prints changes from process to process
        return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)

    consts = [const(value) for value in code.co_consts]
    return [hashlib.sha256(code.co_code).hexdigest(), consts, code.co_names, code.co_varnames]


def digest(value: Any) -> str:
    """Hash of a value's content: bytes, text, numbers, arrays, tensors, pictures, files, frames,
    and lists and dicts of these. TypeError for anything else."""
    running = hashlib.sha256()
    _feed(running, value)
    return running.hexdigest()


def _feed(running: Any, value: Any) -> None:
    def begin(kind: str, size: Any) -> None:
        running.update(f"{kind}:{size};".encode())

    if isinstance(value, bytes | bytearray | memoryview):
        begin("bytes", len(value))
        running.update(value)
    elif isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        begin("tensor", (value.dtype, tuple(value.shape)))
        running.update(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        begin("array", (value.dtype.str, value.shape))
        running.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, Mapping):
        begin("dict", len(value))
        for name in sorted(value, key=str):
            _feed(running, name)
            _feed(running, value[name])
    elif isinstance(value, list | tuple | np.ndarray):
        begin("list", len(value))
        for part in value:
            _feed(running, part)
    elif isinstance(value, pd.DataFrame):
        _feed(running, {column: value[column].tolist() for column in value.columns})
    elif isinstance(value, Path):
        begin("file", value.stat().st_size)
        with value.open("rb") as stream:
            while part := stream.read(1 << 20):
                running.update(part)
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL picture
        begin("picture", (value.mode, value.size))
        running.update(value.tobytes())
    elif (
        value is None or isinstance(value, bool | int | float | str | np.generic) or pd.isna(value)
    ):
        begin(type(value).__name__, repr(value))
    else:
        raise TypeError(
            f"{type(value).__name__} cannot be part of a key: what it does is not known from its "
            "content; use a dataclass or a function"
        )


# --------------------------------------------------------------------------- the parts of a key

_HASHES: WeakKeyDictionary = WeakKeyDictionary()  # model or suite -> (what was seen, its hash)


def data_hash(suite: Any) -> str:
    """Hash of all samples of a suite, whatever their order."""
    samples = suite.samples
    if suite not in _HASHES or _HASHES[suite][0] is not samples:
        _HASHES[suite] = samples, digest(samples.sort_values("id"))
    return _HASHES[suite][1]


def weights_hash(model: nn.Module) -> str:
    """Hash of every parameter and buffer as it is in memory: about a second for 2 GB, once."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    seen = [(name, t.data_ptr(), None if t.is_inference() else t._version)
            for name, t in state.items()]  # fmt: skip
    if model not in _HASHES or _HASHES[model][0] != seen:
        _HASHES[model] = seen, digest(state)
    return _HASHES[model][1]


def model_parts(model: nn.Module, processor: Any) -> dict[str, Any]:
    """What a model and its processor bring into a key: name, revision, weights, settings."""
    config = model.config
    generation = getattr(model, "generation_config", None)
    name = str(getattr(config, "_name_or_path", "") or type(model).__name__)
    if Path(name).is_dir():  # the folder's own place is no part of what it holds
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
    """Hash of the sources that can change an answer; read once per process, so that a session in
    which a file was edited should be started anew."""
    told = {}
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if any(name == part or name.startswith(f"{part}/") for part in COUNTED):
            told[name] = hashlib.sha256(_syntax(path).encode()).hexdigest()
    return key_of(told)


def _syntax(path: Path) -> str:
    """A source as its syntax tree, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[0] = ast.Pass()
    return ast.dump(tree)
