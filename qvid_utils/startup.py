"""The first line of every notebook: seeds, threads, quiet progress bars, one figure style."""

import os
import random
import sys
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# The same on every machine, not "as many as there are": sums are then split in the same way
# everywhere, and a stored output stays comparable. One is no slower for the embedded model, and
# much faster on a busy machine; give more for a real checkpoint on a CPU.
THREADS = 1

STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "figure.dpi": 110,
        "savefig.dpi": 200,
        "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "image.interpolation": "nearest",  # a patch stays a square
        "image.cmap": "viridis",
        "pdf.fonttype": 42,  # text stays text
        "svg.hashsalt": "qvid",
    }
)


def start(seed: int = 0, threads: int | None = None):
    """Make a session repeatable and quiet; returns a CPU torch.Generator seeded with `seed`.

    seed: int >= 0, given to `random`, NumPy and torch. threads: int >= 1 for torch on the CPU;
    None is `THREADS`. Also turns off the progress bars of model loading (they would end up in
    stored outputs). The figure style `STYLE` is set where `workbook.plots` is imported. Safe to
    call twice.
    Raises ValueError for a negative seed or fewer than one thread.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r}: it must be a whole number, 0 or more")
    threads = THREADS if threads is None else threads
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads={threads!r}: it must be a whole number, 1 or more")

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    _quiet()
    return torch.Generator().manual_seed(seed)


def _quiet() -> None:
    """No progress bars and no fork warning from the model libraries, imported already or not."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # An embedded model that is pruned and answers nothing is a result: tables have it.
    warnings.filterwarnings("ignore", r"tiny_\w+, .* of the answers are not read")
    # Without ipywidgets the notebook bar warns that it cannot be drawn; nobody is to see one here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.auto  # noqa: F401
    # Read at import: too late for a library that is there already, which is asked instead.
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
