"""`load(name)`: a model and its processor, from the embedded set, a local folder or the hub.

Weights come from safetensors files and code from the installed library, from nowhere else. What is
wrong with a checkpoint is said in one sentence, before anything large is read.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    check_loaded,
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
    source, local = locate(str(name))
    device = _device(device, device_map, torch.cuda.is_available() and EMBEDDED not in str(name))
    if dtype is None:
        dtype = torch.float32 if device is not None and device.type == "cpu" else "auto"
    where = {"local_files_only": True} if local else {"revision": revision}
    config = _config(source, local, where)
    with _explaining(source, local, "config.json"):
        check_memory(source, config, dtype, device)
    with _explaining(source, local, "processor files"):
        processor = processor_from(source, config, **where)
        completed(processor, config, FAMILIES[config.model_type])
    with _explaining(source, local, "weights", attention):
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
    check_loaded(source, info)
    processor.tokenizer.padding_side = "left"
    model = (model if device is None else model.to(device)).eval()
    remember(model, processor)
    return model, processor


def config_of(name: str | Path, revision: str | None = None) -> Any:
    """The configuration of what `load` takes by that name, whose `model_type` is the family; no
    weights are read. Raises as `load`."""
    source, local = locate(str(name))
    return _config(source, local, {"local_files_only": True} if local else {"revision": revision})


def _config(source: str, local: bool, where: Mapping[str, Any]) -> Any:
    with _explaining(source, local, "config.json"):
        check_config(source, local, where)
        if local:
            check_files(Path(source))
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **where)


def _device(device: Any, device_map: Any, on_gpu: bool) -> torch.device | None:
    """Where the whole model goes; None where a map says it for each part."""
    if device_map is None:
        return device_of(device or ("cuda" if on_gpu else "cpu"))
    if device is not None:
        raise ValueError(f"device={device!r} and device_map={device_map!r}: give one of them")
    if not is_accelerate_available():
        raise Unavailable("device_map= needs the package accelerate: install it, or give device=")
    return None


@contextmanager
def _explaining(source: str, local: bool, reading: str, attention: str = "") -> Iterator[None]:
    """One sentence for whatever the libraries say to a foreign file: they fail in every way."""
    try:
        yield
    except (LoadError, Unavailable):
        raise
    except Exception as error:
        raise _explained(source, local, attention, reading, error) from error


def _explained(
    source: str, local: bool, attention: str, reading: str, error: Exception
) -> Exception:
    """One sentence for what the libraries said, `reading` one part of a checkpoint."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    said = " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
    text = " ".join(map(str, causes)).lower()

    def any_is(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if isinstance(error, ValueError) and "device_map" in text:
        return ValueError(f"device_map= cannot be used: {said}")
    if attention == "flash_attention_2" and ("flash" in text):
        return Unavailable(
            "attention='flash_attention_2' needs the flash-attn package and a GPU: install it, or "
            "use attention='sdpa'"
        )
    if isinstance(error, ImportError):
        return Unavailable(f"{source}: its {reading} need a package that is not here ({said})")
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
