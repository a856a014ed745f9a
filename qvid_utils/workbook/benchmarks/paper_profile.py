"""The profile "paper": LLaVA-1.5-7B and the six benchmarks of QViD's Table 1, where they are.

Files come from the hub's cache, or from the folder that `QVID_FILES` names: what
`python -m qvid_utils benchmarks fetch NAME… --to FOLDER` has filled. What is missing is fetched,
where there is a network.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ...families import Unavailable
from ...models.load import EMBEDDED, LoadError, load
from ...paths import DATA
from .base import RUN, Suite
from .prompts import PROFILE_MODELS
from .published import BENCHMARKS, benchmark, published, source

__all__ = [
    "CHECKPOINT", "FILES", "SUITES", "described", "here", "lacking_told", "name_of",
    "named", "paper_setting", "place",
]  # fmt: skip

CHECKPOINT = PROFILE_MODELS["paper"]
SUITES = ("gqa", "scienceqa_img", "textvqa_ocr", "pope", "mme", "mmbench_en_dev")
FILES = "QVID_FILES"  # environment: a folder that `fetch --to` filled


def paper_setting(names: Sequence[str] = SUITES) -> tuple[nn.Module, Any, list[Suite]]:
    """Model, processor and suites of the papers. The questions are read first: they are the small
    part. Unavailable names all that is missing here, and why it could not be had."""
    with lacking_told(CHECKPOINT, names):
        suites = [published(name, place(name)) for name in names]
        return *load(place(CHECKPOINT) or CHECKPOINT), suites


@contextmanager
def lacking_told(checkpoint: str, names: Sequence[str]) -> Iterator[None]:
    """In the block, what cannot be read because it is not here becomes one sentence: Unavailable
    names all of the checkpoint and the published benchmarks that this machine lacks."""
    asked = [name for name in names if name in BENCHMARKS]
    lacking = [name for name in (checkpoint, *asked) if not here(name)]
    try:
        yield
    except (Unavailable, LoadError) as cause:
        if not lacking:
            raise
        raise Unavailable(
            f"profile='paper' needs {', '.join(lacking)}, which are not on this machine: fetch "
            "them with `python -m qvid_utils benchmarks fetch NAME… --to FOLDER` where there is a "
            f"network and set QVID_FILES=FOLDER, or use profile='tiny' ({cause})"
        ) from cause


def place(name: str) -> Path | None:
    """The folder of a benchmark or checkpoint below `QVID_FILES`, where it is set and has one."""
    root = os.environ.get(FILES)
    folder = Path(root) / name.replace("/", "--") if root else None
    return folder if folder is not None and folder.is_dir() else None


def here(name: str) -> bool:
    """Whether a benchmark or a checkpoint (a name with a slash) is on this machine; asks no hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    entry = None if "/" in name else benchmark(name)
    folder = place(name)
    if folder is None:
        repo, kind = (name, "model") if entry is None else (entry.hub, "dataset")
        try:
            folder = Path(snapshot_download(repo, repo_type=kind, local_files_only=True))
        except (LocalEntryNotFoundError, OSError):
            return False
    if entry is None:
        return any(folder.glob("*.safetensors"))
    try:
        return bool(source.split_files(entry, folder))
    except ValueError:
        return False


def name_of(model: nn.Module) -> str:
    """The name of a loaded model in our tables, as `named` gives it."""
    return named(str(getattr(model.config, "_name_or_path", "") or type(model).__name__))


def named(name: str) -> str:
    """What `load` was given as our tables name it: tiny/…, a hub id, else the folder's name."""
    path = Path(name)
    if not path.is_dir():
        return name
    if path.resolve().parent == (DATA / "tiny").resolve():
        return EMBEDDED + path.name
    return path.name.replace("--", "/")  # as `fetch --to` names a folder


def described(records: pd.DataFrame, model: nn.Module) -> pd.DataFrame:
    """Records with the columns model, device and dtype, unless they are the embedded model's on the
    CPU in float32, which records without these columns are."""
    where = model.device
    if where.type == "cuda":
        import torch

        device = torch.cuda.get_device_name(where)
    else:
        device = where.type
    run = {"model": name_of(model), "device": device, "dtype": str(model.dtype).split(".")[-1]}
    return records if run == RUN else records.assign(**run)
