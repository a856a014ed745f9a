"""Where a family's vision towers are, and how their tokens become the language model's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .template import Unavailable


@dataclass(frozen=True)
class Tower:
    """The vision towers of one family.

    address: for each kind of picture ("image", "video"), the tower below `model.base_model`;
    tokens(base, kind, values, given): numbers of all the tower's tokens, (F, n, C) as its layers
    hold them ((n, C) where pictures lie one after another), → (N, G, C) for the N visual tokens
    that an encoder call gives, G tower tokens in each; `given` are the encoder's arguments, with
    the shape in place of the pixels. Tokens that no tower token stands behind are zero.
    layers: addresses inside a tower, the first that exists; attention: inside one layer; norm:
    inside a tower, where its projector is fed what that makes of the layers' output; spans(base,
    given): tower tokens of each picture, where pictures lie one after another in one row and the
    layers are not told.
    """

    address: Mapping[str, str]
    tokens: Callable[[nn.Module, str, Tensor, Mapping[str, Any]], Tensor]
    layers: tuple[str, ...] = ("encoder.layers", "vision_model.encoder.layers")
    attention: str = "self_attn"
    norm: str = ""
    spans: Callable[[nn.Module, Mapping[str, Any]], list[int]] | None = None

    def module(self, base: nn.Module, kind: str) -> nn.Module:
        return base.get_submodule(self.address[kind])

    def blocks(self, base: nn.Module, kind: str) -> nn.ModuleList:
        """The tower's layers."""
        inside = dict(self.module(base, kind).named_modules())
        return next(inside[name] for name in self.layers if name in inside)

    def fed(self, base: nn.Module, kind: str, states: Tensor) -> Tensor:
        """What a projector gets of the feature layer's output."""
        return self.module(base, kind).get_submodule(self.norm)(states) if self.norm else states

    def has_class_token(self, base: nn.Module) -> bool:
        """Whether the towers of this very model have one: SigLIP's, for one, has none."""
        towers = [self.module(base, kind) for kind in self.address]
        names = [[name for name, _ in tower.named_parameters()] for tower in towers]
        marks = ("class_embedding", "cls_token")
        return all(any(n.endswith(marks) for n in found) for found in names)

    def feature_layer(self, base: nn.Module, kind: str, given: Mapping[str, Any]) -> int:
        """Number of the layer whose output the model reads, and hands to its projector."""
        depth = len(self.blocks(base, kind))
        chosen = given.get("vision_feature_layer")
        if chosen is None:
            chosen = getattr(base.config, "vision_feature_layer", -1)
        if not isinstance(chosen, int):
            raise Unavailable(
                f"this model reads {len(chosen)} layers of its vision tower at once; methods that "
                "score the tower need one"
            )
        layer = depth + chosen if chosen < 0 else chosen - 1
        if not 0 <= layer < depth:
            raise Unavailable("this model reads its vision tower's embeddings, before any layer")
        return layer


def clip_tokens(base: nn.Module, kind: str, values: Tensor, given: Mapping[str, Any]) -> Tensor:
    """One visual token for each tower token; pictures go without their class token where the model
    drops it, frames of a video keep it."""
    strategy = given.get("vision_feature_select_strategy")
    strategy = strategy or base.config.vision_feature_select_strategy
    drop = kind == "image" and strategy == "default"
    return values[:, int(drop) :].flatten(0, 1)[:, None]


def clip_cost(config: Any) -> dict[str, Any]:
    """What a CLIP or SigLIP tower and two projector matrices cost: the numbers of `cost.Tower`."""
    vision, width = config.vision_config, config.text_config.hidden_size
    taken, patch = getattr(config, "vision_feature_layer", -2), vision.patch_size
    edge = patch if isinstance(patch, int) else patch[0]
    inputs = vision.hidden_size * (1 if isinstance(taken, int) else len(taken))
    return {
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "ffn": vision.intermediate_size,
        "pixels": vision.num_channels * edge**2,
        "projector": ((inputs, width), (width, width)),
        "lead": int("siglip" not in getattr(vision, "model_type", "")),  # it has no class token
    }
