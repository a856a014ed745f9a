"""`load(name)`: a model and its processor, from the embedded set, a local folder or the hub.

Weights come from safetensors files and code from the installed library, from nowhere else. What is
wrong with a checkpoint is said in one sentence, before anything large is read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import is_accelerate_available

from ..families import FAMILIES, Unavailable, remember
from .checkpoint import (
    EMBEDDED,
    LoadError,
    check_config,
    check_files,
    check_memory,
    device_of,
    locate,
)  # fmt: skip
from .processors import completed, processor_from

__all__ = ["ATTENTION", "EMBEDDED", "LoadError", "config_of", "device_of", "load"]

ATTENTION = ("sdpa", "eager", "flash_attention_2")


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
) -> tuple[nn.Module, Any]:
    """A model in eval mode and its processor.

    name: "tiny/llava" (embedded), a local folder, or a hub id such as "llava-hf/llava-1.5-7b-hf";
    dtype: default float32 on the CPU, elsewhere the checkpoint's own; device: default the CPU for
    embedded models, else a GPU where there is one; device_map, in place of device: "auto" spreads
    the layers over the GPUs (and the CPU), or a map as accelerate takes it; attention: one of
    ATTENTION; revision: of a hub id. What a folder's processor files lack comes from its config and
    the family's published chat template. The processor pads on the left, and `pruned` finds the
    question with its chat template. Raises LoadError with one sentence where the checkpoint is
    missing, broken, of another kind or larger than the memory that is free, Unavailable where the
    kernel is not installed, ValueError for a bad argument.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention={attention!r}: choose one of {', '.join(ATTENTION)}")
    dtype = getattr(torch, dtype, None) or dtype if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={dtype!r}: give a torch dtype, e.g. torch.bfloat16")
    if device is not None and device_map is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r}: give one of them")
    if device_map is not None and not is_accelerate_available():
        raise Unavailable("device_map= needs the package accelerate: install it, or give device=")
    source, local = locate(str(name))
    on_gpu = torch.cuda.is_available() and not str(name).startswith(EMBEDDED)
    if device_map is None:
        device = device_of(device or ("cuda" if on_gpu else "cpu"))
        on_gpu = device.type != "cpu"
    if dtype is None:
        dtype = "auto" if on_gpu else torch.float32
    where = {"local_files_only": True} if local else {"revision": revision}
    reading = "config.json"
    try:
        check_config(source, local, where)
        if local:
            check_files(Path(source))
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        check_memory(source, config, dtype, device)
        reading = "processor files"
        processor = processor_from(source, config, **where)
        completed(processor, config, FAMILIES[config.model_type])
        reading = "weights"
        model, info = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            device_map=device_map,
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
        if isinstance(error, ValueError) and "device_map" in str(error):
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"device_map={device_map!r} cannot be used: {said}") from error
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
    model = (model if device_map else model.to(device)).eval()
    remember(model, processor)
    return model, processor


def config_of(name: str | Path, revision: str | None = None) -> Any:
    """The configuration of what `load` takes by that name, whose `model_type` is the family; no
    weights are read. Raises as `load`."""
    source, local = locate(str(name))
    where = {"local_files_only": True} if local else {"revision": revision}
    try:
        check_config(source, local, where)
        if local:
            check_files(Path(source))
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
    except (LoadError, Unavailable):
        raise
    except Exception as error:
        raise _explained(source, local, "", "config.json", error) from error


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
        lacking = "" if reading != "processor files" else _lacking(Path(source))
        return LoadError(
            f"{source}: its {reading} cannot be used ({kind}{said}){lacking}; copy them again"
        )
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


def _lacking(folder: Path) -> str:
    """Which of a processor's files a folder does not have, as a clause."""
    files = ["tokenizer.json"]
    if not (folder / "processor_config.json").is_file():  # may hold the picture part
        files.append("preprocessor_config.json")
    missing = [name for name in files if not (folder / name).is_file()]
    return f", the folder has no {', '.join(missing)}" if missing else ""
