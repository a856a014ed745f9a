"""Models of their real size on a CPU: random weights mapped from a scratch folder, timed by method.

    with weights_on_disk(config_of("llava"), torch.bfloat16) as model: ...

A model of 7B parameters in 16 bits has 14 GB of weights. They are written once, in files of a few
GB, and mapped into memory, so that no more than these 14 GB is held, and what is not in use can
leave. What is timed is stored after each method; the same call goes on with the others.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import psutil
import torch
from safetensors.torch import save_file
from torch import nn

from ...algebra.cuts import mean_tokens
from ...families import family_of
from ...methods import method
from ..benchmarks.base import FULL
from ..tables.schema import read, write
from .cases import cases_of, infeasible, measure
from .workloads import Prompt

__all__ = ["EQUAL_MEAN", "advance_notice", "keeps_of_means", "time_methods", "weights_on_disk"]

SHARD = 3 * 2**30  # bytes of one file of weights
EQUAL_MEAN = "qvid@mean"  # QViD with the budgets as means over the layers, as V²Drop labels them
ANSWER = 16  # tokens; timed in one round, since every further token reads all weights


# ---------------------------------------------------------------------------------------- weights


def _shapes(config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).state_dict()


@contextmanager
def weights_on_disk(
    config: Any, dtype: torch.dtype, attention: str = "sdpa", scratch: Path | None = None
) -> Iterator[nn.Module]:
    """A model of that configuration with random weights that lie in a scratch folder, which goes
    with the block, also after an error. scratch: where to put it (default: the system's place)."""
    from transformers import AutoModelForImageTextToText

    with tempfile.TemporaryDirectory(prefix="qvid-weights-", dir=scratch) as folder:
        _write(config, dtype, Path(folder))
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True
        )
        yield model.eval().requires_grad_(False)


def _write(config: Any, dtype: torch.dtype, folder: Path) -> None:
    noise, files, shard, size = torch.Generator().manual_seed(0), {}, {}, 0

    def close() -> None:
        name = f"model-{len(set(files.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, like in _shapes(config, dtype).items():
        weight = torch.empty(like.shape, dtype=like.dtype)
        norm = "norm" in name and name.endswith("weight") and weight.dim() == 1
        shard[name] = weight.fill_(1) if norm else weight.normal_(0, 0.02, generator=noise)
        size += weight.nbytes
        if size >= SHARD:
            close()
            size = 0
    if shard:
        close()
    index = {"metadata": {}, "weight_map": files}
    text = json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config.dtype = dtype
    config.save_pretrained(folder)


def advance_notice(
    config: Any, dtype: torch.dtype, flops: float, runs: int, scratch: Path | None = None
) -> str:
    """What a measurement will take, in a sentence: disk and memory, and minutes.

    flops: operations of all prefills; runs: how many answers of `ANSWER` tokens. Minutes from the
    rate of one matrix product and of one matrix-vector product here and now, doubled for what else
    a model does. Raises ValueError where disk or memory are too small.
    """
    weights = sum(t.numel() * t.element_size() for t in _shapes(config, dtype).values())
    disk = shutil.disk_usage(scratch or tempfile.gettempdir()).free
    memory = psutil.virtual_memory().available
    need = f"{weights / 1e9:.1f} GB of weights"
    for name, free in (("disk", disk), ("memory", memory)):
        if free < 1.1 * weights:
            raise ValueError(f"{need}, and {free / 1e9:.1f} GB of {name} are free: use --divide")
    x, w = torch.randn(576, 2048).to(dtype), torch.randn(2048, 8192).to(dtype)
    rate = 2 * x.numel() * w.shape[1] / _seconds(lambda: x @ w)
    stream = w.nbytes / _seconds(lambda: x[:1] @ w)
    minutes = 2 * (flops / rate + runs * (ANSWER - 1) * weights / stream) / 60
    return (
        f"{need}, in a scratch folder that is removed at the end; about as much memory "
        f"({memory / 1e9:.0f} GB are free); about {minutes:.0f} minutes"
    )


def _seconds(task: Callable[[], Any]) -> float:
    task()
    start = perf_counter()
    for _ in range(3):
        task()
    return (perf_counter() - start) / 3


# ----------------------------------------------------------------------------------------- timing


def keeps_of_means(means: Sequence[int], n_visual: int, depth: int, layer: int) -> list[int]:
    """For one cut at `layer`: how many tokens to keep so that the mean over the layers is nearest
    to each of `means`; a mean that this cut cannot have is left out."""
    keeps = [round((mean * depth - n_visual * layer) / (depth - layer)) for mean in means]
    return [keep for keep in keeps if 1 <= keep <= n_visual]


def time_methods(
    model: nn.Module,
    prompt: Prompt,
    methods: Sequence[str],
    keeps: Sequence[int],
    out: Path,
    *,
    name: str,
    rounds: int = 3,
    clock: Callable[[], float] | None = None,
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Every method at every budget beside the unpruned model in the same rounds, into `out`.

    methods: as `measure` takes them, and EQUAL_MEAN. First tokens in `rounds` rounds, an answer of
    16 tokens in one. Methods that `out` has are not run again; it is written after each of them.
    Raises ValueError where `out` holds another model.
    """
    found = [read(out)] if out.exists() else []
    others = {one for frame in found for one in frame["model"].unique()} - {name}
    if others:
        raise ValueError(f"{out} holds {', '.join(sorted(others))}, not {name}: give another --out")
    pairs = [zip(f["method"], f["variant"].fillna(""), strict=True) for f in found]
    done = {pair for one in pairs for pair in one}
    for text in methods:
        if _row_of(text) in done:
            tell(f"{text}: done before")
            continue
        start = perf_counter()
        frame = _time_one(model, prompt, text, keeps, name, rounds, clock)
        if found:  # the unpruned model once, from the first method's rounds
            frame = frame[frame["method"] != FULL]
        found.append(frame)
        write(pd.concat(found, ignore_index=True), out)
        tell(f"{text}: {perf_counter() - start:.0f} s")
    return read(out)


def _row_of(text: str) -> tuple[str, str]:
    """The columns method and variant."""
    if text == EQUAL_MEAN:
        return text.partition("@")[0], "equal mean"
    name, _, reading = text.partition(":")
    return name, reading


def _time_one(
    model: nn.Module, prompt: Prompt, text: str, keeps: Sequence[int], name: str, rounds: int,
    clock: Callable[[], float] | None,
) -> pd.DataFrame:  # fmt: skip
    depth = len(family_of(model).part(model, "layers"))
    chosen, variant = text.partition("@")[0], _row_of(text)[1]
    if text == EQUAL_MEAN:
        layer = method(chosen).schedule(1, prompt.n_visual, depth)[0].layer
        keeps = keeps_of_means(keeps, prompt.n_visual, depth, layer)
    cases = cases_of([FULL, chosen], keeps)
    out = infeasible(model, cases, prompt.n_visual)
    cases = [case for case in cases if case not in out]
    more = {"name": name, "memory": False, "warm_up": 0, "clock": clock}
    first = measure(model, prompt, cases, lengths=[1], rounds=rounds, **more)
    answer = measure(model, prompt, cases, lengths=[ANSWER], rounds=1, **more)
    answer = answer[answer["metric"].str.contains(rf"_{ANSWER}|decode")]
    means = {
        case.keep: mean_tokens(
            case.method.schedule(case.keep, prompt.n_visual, depth), prompt.n_visual, depth
        )
        for case in cases
        if case.method is not None and case.method.reading == "in_place"
    }
    both = pd.concat([first, answer], ignore_index=True)
    ours = both["method"] != FULL
    variants = both["variant"].mask(ours, variant)
    return both.assign(mean_tokens=both["keep"].map(means).where(ours), variant=variants)
