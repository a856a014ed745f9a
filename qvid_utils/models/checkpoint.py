"""What can be said about a checkpoint before its weights are read, each in one sentence."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from ..families import FAMILIES, Unavailable
from ..families.refused import REFUSED
from ..paths import DATA

EMBEDDED = "tiny/"  # names below data/tiny
INDEX = "model.safetensors.index.json"
MOST_LAYERS = 1000  # more are no model, but a broken file that would fill the memory


class LoadError(RuntimeError):
    """A checkpoint that cannot be loaded; the message says what is missing and what to do."""


def locate(name: str) -> tuple[str, bool]:
    """(folder or hub id, whether it is a folder) of a name; LoadError where it is neither."""
    if name.startswith(EMBEDDED):
        folder = DATA / name
        if not folder.is_dir():
            there = sorted((DATA / "tiny").glob("*/config.json"))
            known = [
                EMBEDDED + p.parent.name for p in there if _json(p).get("model_type") in FAMILIES
            ]
            if not known:
                raise LoadError(
                    f"{name}: the embedded models come with the checkout, not with the package: "
                    "clone the repository and work there, or give a folder or a hub id"
                )
            known = ", ".join(known)
            raise LoadError(f"{name}: no embedded model of that name; there is {known}")
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


def check_config(source: str, local: bool, where: Mapping[str, Any]) -> None:
    """Whether config.json is one of a supported model, unquantised, in transformers' own format.

    where: `from_pretrained`'s revision and the like. LoadError, or Unavailable for a relative that
    cannot be pruned.
    """
    if local:
        if not (Path(source) / "config.json").is_file():
            raise LoadError(f"{source} is no checkpoint: it has no config.json")
        told = _json(Path(source) / "config.json")
    else:
        told = PreTrainedConfig.get_config_dict(source, **where)[0]
    kind, made = told.get("model_type"), " ".join(map(str, told.get("architectures") or ()))
    towers = {"mm_vision_tower", "mm_image_tower", "mm_video_tower"} & set(told)
    if towers or str(kind) in ("llava_llama", "llava_mistral", "llava_qwen"):
        video = "mm_video_tower" in towers
        like = "video_llava" if video else "llava_onevision" if "Qwen" in made else "llava"
        raise LoadError(
            f"{source} is in the format of LLaVA's own code, which transformers does not read: "
            f"give the converted one, with -hf in its name, such as {FAMILIES[like].checkpoint}"
        )
    if kind in REFUSED:
        raise Unavailable(f"{source}: {kind} {REFUSED[kind]}")
    if kind not in FAMILIES:
        raise LoadError(
            f"{source} has model_type {kind!r}; supported are {', '.join(sorted(FAMILIES))}"
        )
    quantised = told.get("quantization_config")
    if quantised is not None:
        by = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise LoadError(
            f"{source} is quantised ({by or 'no method named'}), and quantised checkpoints are not "
            f"read: give the one it was made from, such as {FAMILIES[kind].checkpoint}"
        )
    for part in (told, told.get("text_config"), told.get("vision_config")):
        for name in ("num_hidden_layers", "depth"):
            count = part.get(name) if isinstance(part, Mapping) else None
            if isinstance(count, int | float) and count > MOST_LAYERS:
                raise LoadError(
                    f"{source}: config.json names {count} layers ({name}), at most {MOST_LAYERS} "
                    "are read; copy the checkpoint's own config.json"
                )


def check_files(folder: Path) -> None:
    """Whether all weights of a folder are there, as whole safetensors files; else LoadError."""
    files = [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / shard for shard in sorted(set(shards.values()))]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LoadError(f"{folder / INDEX} is no valid index; copy it again") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        other = any(next(folder.glob(form), None) for form in ("*.bin", "*.pt*", "*.gguf"))
        only = "; other formats are not read, convert them to safetensors" if other else ""
        raise LoadError(f"{folder}: {', '.join(missing)} is missing{only}; copy it again")
    for file in files:
        with file.open("rb") as stream:
            if stream.read(8) == b"version ":
                raise LoadError(
                    f"{file} is a Git LFS pointer, not the weights: run `git lfs pull`, or copy "
                    "the file itself"
                )
        try:
            with safe_open(file, "pt"):  # reads the header, and holds it to the file's length
                pass
        except (SafetensorError, OSError) as error:
            said = " ".join(str(error).split())[:200]
            raise LoadError(
                f"{file} is cut short or no safetensors file ({said}); copy it again"
            ) from error


def check_memory(
    source: str, config: Any, dtype: torch.dtype | str, device: torch.device | None
) -> None:
    """LoadError where the weights alone are more than what is free, before they are read; device:
    None for all of this machine's together."""
    with torch.device("meta"):  # shapes without numbers
        shapes = AutoModelForImageTextToText.from_config(config)
    count = sum(p.numel() for p in shapes.parameters())
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    need, free = count * dtype.itemsize, free_memory(device)
    if free is None or need <= free:
        return
    half = count * torch.bfloat16.itemsize
    fits = half <= free and dtype.itemsize > torch.bfloat16.itemsize
    place = "all devices together" if device is None else device
    raise LoadError(
        f"{source} needs about {need / 2**30:.1f} GiB on {place} in {str(dtype)[6:]}, "
        f"{free / 2**30:.1f} GiB are free; "
        + (
            f"dtype='bfloat16' ({half / 2**30:.1f} GiB) would fit"
            if fits
            else f"no dtype here would fit (half precision needs {half / 2**30:.1f} GiB), use "
            "another device=, device_map='auto' over several, or a smaller checkpoint"
        )
    )


def check_loaded(source: str, info: Mapping[str, Any]) -> None:
    """LoadError where configuration and weights are of two models; info: transformers' account."""
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


def free_memory(device: torch.device | None) -> int | None:
    """Bytes that are free on a device (None: on all); None where the system does not tell."""
    if device is None:
        cards = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        return sum(free_memory(one) or 0 for one in (torch.device("cpu"), *cards))
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    limits = [psutil.virtual_memory().available]
    group = Path("/sys/fs/cgroup")  # a container may have less than the machine
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        limits.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such limit
        pass
    return max(0, min(limits))


def device_of(name: torch.device | str) -> torch.device:
    """ValueError for a device that torch does not know or that is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = "cpu" + ", cuda" * torch.cuda.is_available()
        raise ValueError(f"device={name!r} cannot be used here; there is {there}") from error
    return device


def _json(config: Path) -> dict[str, Any]:
    """A config.json; LoadError where it is no JSON object."""
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{config} is no valid JSON object; copy the checkpoint again") from error
    if not isinstance(told, dict):
        raise LoadError(f"{config} is no valid JSON object; copy the checkpoint again")
    return told
