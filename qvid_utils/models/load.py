"""`load(name)`: a model and its processor, from the embedded set, a local folder or the hub.

Weights come from safetensors files and code from the installed library, from nowhere else. What is
wrong with a checkpoint is said in one sentence, before anything large is read.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from ..families import FAMILIES, Unavailable, remember
from ..families.refused import REFUSED
from ..paths import DATA
from .processors import processor_from

__all__ = ["ATTENTION", "EMBEDDED", "LoadError", "config_of", "device_of", "load"]

ATTENTION = ("sdpa", "eager", "flash_attention_2")
EMBEDDED = "tiny/"  # names below data/tiny
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


class LoadError(RuntimeError):
    """A checkpoint that cannot be loaded; the message says what is missing and what to do."""


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
) -> tuple[nn.Module, Any]:
    """A model in eval mode and its processor.

    name: "tiny/llava" (embedded), a local folder, or a hub id such as "llava-hf/llava-1.5-7b-hf";
    dtype: default float32 on the CPU, elsewhere the checkpoint's own; device: default the CPU for
    embedded models, else a GPU where there is one; attention: one of ATTENTION; revision: of a hub
    id. The processor pads on the left, and `pruned` finds the question with its chat template.
    Raises LoadError with one sentence where the checkpoint is missing, broken, of another kind or
    larger than the memory that is free,
    Unavailable where the kernel is not installed, ValueError for a bad argument.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention={attention!r}: choose one of {', '.join(ATTENTION)}")
    dtype = getattr(torch, dtype, None) or dtype if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={dtype!r}: give a torch dtype, e.g. torch.bfloat16")
    source, local = _locate(str(name))
    if device is None:
        on_gpu = torch.cuda.is_available() and not str(name).startswith(EMBEDDED)
        device = "cuda" if on_gpu else "cpu"
    device = device_of(device)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else "auto"
    where = {"local_files_only": True} if local else {"revision": revision}
    if local:
        _check_folder(Path(source))
    reading = "config.json"
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        _check_type(source, config.model_type)
        _check_memory(source, config, dtype, device)
        reading = "processor files"
        processor = processor_from(source, config, **where)
        reading = "weights"
        model, info = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told apart below, in one sentence
            **where,
        )
    except (LoadError, Unavailable):
        raise
    except Exception as error:  # foreign files: the libraries fail in every way there is
        raise _explained(source, local, attention, reading, error) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
    if lacking:
        # the library would go on with random numbers in their place
        raise LoadError(
            f"{source}: {len(lacking)} weights are missing or have another shape, first "
            f"{lacking[0]}; copy the checkpoint again"
        )
    deeper = [k for k in sorted(info["unexpected_keys"]) if re.search(r"\b(layers|blocks)\.\d", k)]
    if deeper:
        # what is left would run, as another model
        raise LoadError(
            f"{source}: its weights have {len(deeper)} tensors of layers that config.json does not "
            f"know, first {deeper[0]}; copy the checkpoint's own config.json"
        )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise LoadError(f"{source}: no processor with a tokenizer; copy its processor files, too")
    tokenizer.padding_side = "left"
    model = model.to(device).eval()
    remember(model, processor)
    return model, processor


def config_of(name: str | Path, revision: str | None = None) -> Any:
    """The configuration of what `load` takes by that name, whose `model_type` is the family; no
    weights are read. Raises as `load`."""
    source, local = _locate(str(name))
    where = {"local_files_only": True} if local else {"revision": revision}
    if local:
        _check_folder(Path(source))
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
    except Exception as error:
        raise _explained(source, local, "", "config.json", error) from error
    _check_type(source, config.model_type)
    return config


def device_of(name: torch.device | str) -> torch.device:
    """ValueError for a device that torch does not know or that is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = "cpu" + ", cuda" * torch.cuda.is_available()
        raise ValueError(f"device={name!r} cannot be used here; there is {there}") from error
    return device


def _locate(name: str) -> tuple[str, bool]:
    """(folder or hub id, whether it is a folder)."""
    if name.startswith(EMBEDDED):
        folder = DATA / name
        if not folder.is_dir():
            there = sorted((DATA / "tiny").glob("*/config.json"))
            known = [EMBEDDED + p.parent.name for p in there if _kind(p) in FAMILIES]
            if not known:
                raise LoadError(
                    f"{name}: the embedded models come with the checkout, not with the package: "
                    "clone the repository and work there, or give a folder or a hub id"
                )
            raise LoadError(f"{name}: no embedded model of that name; there is {', '.join(known)}")
        return str(folder), True
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), True
    if path.is_file():
        raise LoadError(f"{name} is a file: give the folder that holds config.json and the weights")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return name, False
    raise LoadError(
        f"{name}: no such folder, and no hub id of the form owner/name; embedded models are "
        f"called {EMBEDDED}..."
    )


def _check_folder(folder: Path) -> None:
    """Everything that can be said about a local checkpoint without reading its weights."""
    config = folder / "config.json"
    if not config.is_file():
        raise LoadError(f"{folder} is no checkpoint: it has no config.json")
    _check_type(str(folder), _kind(config))
    files = [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            shards = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / shard for shard in sorted(set(shards.values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{folder / _INDEX} is no valid index; copy it again") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        other = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        only = "; other formats are not read, convert them to safetensors" if other else ""
        raise LoadError(f"{folder}: {', '.join(missing)} is missing{only}")
    for file in files:
        _check_safetensors(file)


def _kind(config: Path) -> str | None:
    """The model_type that a config.json names; LoadError where it is no JSON object."""
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise LoadError(f"{config} is no valid JSON object; copy the checkpoint again") from error


def _check_safetensors(file: Path) -> None:
    """The header of a safetensors file says how long the file must be."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = stream.read(length) if 0 < length <= size else b""
    if start.startswith(b"version "):
        raise LoadError(f"{file} is a Git LFS pointer, not the weights: run `git lfs pull`")
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for key, e in entries.items() if key != "__metadata__"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{file} is cut short or no safetensors file; copy it again") from error
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise LoadError(f"{file} is truncated: {size} of {wanted} bytes; copy it again")


def _check_memory(source: str, config: Any, dtype: torch.dtype | str, device: torch.device) -> None:
    """LoadError where the weights alone are more than what is free, before they are read."""
    with torch.device("meta"):  # shapes without numbers
        shapes = AutoModelForImageTextToText.from_config(config)
    count = sum(p.numel() for p in shapes.parameters())
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    need, free = count * dtype.itemsize, _free_memory(device)
    if free is None or need <= free:
        return
    half = count * torch.bfloat16.itemsize
    fits = half <= free and dtype.itemsize > torch.bfloat16.itemsize
    raise LoadError(
        f"{source} needs about {need / 2**30:.1f} GiB on {device} in {str(dtype)[6:]}, "
        f"{free / 2**30:.1f} GiB are free; "
        + (
            f"dtype='bfloat16' ({half / 2**30:.1f} GiB) would fit"
            if fits
            else f"no dtype here would fit (half precision needs {half / 2**30:.1f} GiB), use "
            "another device= or a smaller checkpoint"
        )
    )


def _free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    if device.type != "cpu" or not table.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", table.read_text(encoding="ascii"))
    limits = [int(found[1]) * 1024] if found else []
    group = Path("/sys/fs/cgroup")  # a container may have less than the machine
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        limits.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such limit
        pass
    return max(0, min(limits)) if limits else None


def _check_type(source: str, kind: str | None) -> None:
    if kind in REFUSED:
        raise Unavailable(f"{source}: {kind} {REFUSED[kind]}")
    if kind not in FAMILIES:
        raise LoadError(
            f"{source} has model_type {kind!r}; supported are {', '.join(sorted(FAMILIES))}"
        )


def _explained(
    source: str, local: bool, attention: str, reading: str, error: Exception
) -> RuntimeError:
    """One sentence for what the libraries said, `reading` one part of a checkpoint."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    said = " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
    text = " ".join(map(str, causes)).lower()

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if attention == "flash_attention_2" and ("flash" in text):
        return Unavailable(
            "attention='flash_attention_2' needs the flash-attn package and a GPU: install it, or "
            "use attention='sdpa'"
        )
    if local:
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return LoadError(f"{source}: its {reading} cannot be used ({kind}{said}); copy them again")
    if any_is(hub.GatedRepoError):
        return LoadError(f"{source} is gated: accept its terms on the hub and log in")
    if any_is(hub.RevisionNotFoundError):
        return LoadError(f"{source} has no such revision on the hub")
    if any_is(hub.RepositoryNotFoundError):
        return LoadError(f"{source} is neither a folder here nor a repository on the hub")
    if any_is(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError) or (
        "connect" in text or "offline" in text
    ):
        return LoadError(
            f"{source} is not in the local cache and the hub cannot be reached: go online once, "
            "or give a local folder"
        )
    return LoadError(f"{source} cannot be loaded ({said})")
