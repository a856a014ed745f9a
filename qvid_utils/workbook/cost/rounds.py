"""Interleaved rounds, medians with quartiles, paired ratios, peak memory."""

import ctypes
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["Spread", "clock_of", "interleaved", "paired", "peak_bytes", "spread"]


@dataclass(frozen=True)
class Spread:
    """Median, lower and upper quartile of n values."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear between neighbours). ValueError for no values."""
    if not values:
        raise ValueError("no values to take a median of: run at least one round")
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return Spread(median(ordered), at(0.25), at(0.75), len(ordered))


def clock_of(device: torch.device | str, cpu_time: bool = False) -> Callable[[], float]:
    """Seconds, read when the device has done all it was given.

    cpu_time: those that this process has computed, so that others on the machine do not count;
    with one thread on an idle machine the two are equal. ValueError for another device than a CPU.
    """
    if cpu_time:
        if torch.device(device).type != "cpu":
            raise ValueError(f"cpu_time: the work is done on {device}; leave it out")
        return process_time
    if torch.device(device).type != "cuda":
        return perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return clock


def interleaved(
    tasks: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[Any]]:
    """What each task returned, round by round; the first `warm_up` rounds are run and forgotten.

    A round runs every task once and begins one task further than the round before, so that none
    always follows the same neighbour. In a terminal a bar says how far it is. Raises ValueError for
    fewer than one round.
    """
    if rounds < 1 or warm_up < 0:
        raise ValueError(f"rounds={rounds}, warm_up={warm_up}: give 1 or more, and 0 or more")
    names, found = list(tasks), {name: [] for name in tasks}
    # disable=None: silent unless somebody watches
    with tqdm(total=(warm_up + rounds) * len(names), unit="run", disable=None, leave=False) as bar:
        for number in range(warm_up + rounds):
            turn = number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                value = tasks[name]()
                bar.update()
                if number >= warm_up:
                    found[name].append(value)
    return found


def paired(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times faster: the ratio within each round, then median and quartiles."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def peak_bytes(task: Callable[[], Any], device: torch.device | str) -> int | None:
    """Most bytes held at once while `task` runs, above what is held before; None where unknown.

    CUDA: the allocator's own count. Linux CPU: resident memory of the process, after a first run
    that fills the allocator's pools; small tasks drown in its pages of 4 KiB. Elsewhere None.
    """
    device = torch.device(device)
    if device.type == "cuda":
        task()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        task()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    peak = 0
    gc.collect()
    for _ in range(2):
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
        before = resident("VmRSS")
        task()
        peak = resident("VmHWM") - before
    return max(0, peak)


def resident(name: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(name + ":")[1].split()[0]) * 1024
