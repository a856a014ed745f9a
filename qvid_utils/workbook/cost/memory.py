"""How much memory a computation holds at its peak, counted and not sampled: the same everywhere."""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...algebra.leverage import leverage

__all__ = ["held", "score_bytes"]


class _Counting(TorchDispatchMode):
    """Knows every storage that an operation has made, and how many bytes were alive at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() not in given:  # a view or an argument is nothing new
                    self.alive[StorageWeakRef(storage)] = storage.nbytes()
        self.most = max(self.most, sum(self.alive.values()))
        return out


def held(task: Callable[[], Any]) -> int:
    """Most bytes of tensors that `task` makes and that are alive at once, seen after every torch
    operation; what an operation needs inside itself is not counted. torch has one CPU thread
    meanwhile: what other threads make is not seen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _Counting() as count:
            task()
    finally:
        torch.set_num_threads(threads)
    return count.most


def score_bytes(heads: int, n_query: int, n_visual: int, rank: int = 16) -> int:
    """`held` of the leverage of a random M of this shape, float32; M itself is not counted."""
    M = torch.randn(heads, n_query, n_visual, generator=torch.Generator().manual_seed(0))
    return held(lambda: leverage(M, rank))
