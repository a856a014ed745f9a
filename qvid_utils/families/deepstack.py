"""Features that a model adds to its stream after its first layers (deepstack), behind a cut."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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


def added_behind_cuts(text: nn.Module, scene_of: Callable[[], Any]) -> Callable | None:
    """What stands in for the language model's own adding inside a block; None where it adds none.

    Each feature goes to its own token, wherever cuts have moved that, and features of what is gone
    go nowhere. scene_of: the `Scene` of the pass that runs, whose `visual` (B, S') says which
    tokens of the stream are a picture's, `number` (B, S') which of its row's, and `counts` how many
    each row had; None where the call has no pictures.
    """
    own = getattr(text, "_deepstack_process", None)
    if own is None:
        return None

    def add(hidden: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        scene = scene_of()
        if scene is None:
            return own(hidden, mask, features)
        first = torch.tensor([0, *scene.counts[:-1]], device=hidden.device).cumsum(0)
        features, here = features.to(hidden.device, hidden.dtype), scene.visual
        hidden = hidden.clone()
        hidden[here] = hidden[here] + features[(scene.number + first[:, None])[here]]
        return hidden

    return add
