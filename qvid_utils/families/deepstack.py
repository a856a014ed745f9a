"""Features that a model adds to its stream after its first layers (deepstack), behind a cut."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .calls import instead
from .template import Unavailable


def deepstack_depth(config: Any) -> int:
    """After how many of its first layers a model adds features of its pictures; 0: it adds none."""
    vision = getattr(config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


def check_merging(config: Any, layer: int, rows: Tensor, tokens: Tensor) -> None:
    """Unavailable where rows (K, d) that enter a layer are not the tokens (K, d) themselves, and
    features of single tokens are still to be added: of a sum of tokens nobody knows which."""
    depth = deepstack_depth(config)
    if layer < depth and not torch.equal(rows.to(tokens), tokens):
        raise Unavailable(
            f"this method merges tokens at layer {layer}, and {config.model_type} adds a feature "
            f"of each single token after its first {depth} layers: merge at layer {depth} or "
            "later, or use a method that selects"
        )


@contextmanager
def deepstack_follows(text: nn.Module, shortened: Callable[[], Any]) -> Iterator[None]:
    """Inside the block each added feature goes to its own token, wherever cuts have moved that, and
    features of what is gone go nowhere.

    text: the language model; shortened: the `Scene` of the call, whose `column` (B, S') says which
    of the caller's tokens stand in the stream and whose `visual` (B, S') which of them are
    candidates; None where the call has no pictures.
    """
    own = getattr(text, "_deepstack_process", None)
    if own is None:
        yield
        return

    def add(hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        scene = shortened()
        if scene is None:
            return own(hidden, mask, features)
        mask, features = mask.to(hidden.device), features.to(hidden.device, hidden.dtype)
        number = (mask.flatten().cumsum(0) - 1).view_as(mask).gather(1, scene.column)
        here, hidden = scene.visual, hidden.clone()
        hidden[here] = hidden[here] + features[number[here]]
        return hidden

    with instead(text, "_deepstack_process", add):
        yield
