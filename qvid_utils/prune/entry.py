"""What is looked at before a block opens: whether hooks would run in this model at all."""

from collections.abc import Iterator

import torch
from torch import nn

from ..families import Family

__all__ = ["check_parts"]


def check_parts(model: nn.Module, family: Family, tower: bool) -> None:
    """ValueError, with its name, for a part that is compiled, and so may run without its hooks.

    tower: whether the block looks at the vision tower, too. Parts inside a decoder layer may be
    compiled: nothing stands on them.
    """
    addresses = [family.layers, family.language]
    addresses += [family.vision, family.vision_of_videos] if tower else []
    prefix = next((f"{name}." for name, m in model.named_modules() if m is model.base_model), "")
    watched = [prefix + address for address in addresses if address]
    for name, kind in _compiled(model):
        inner = name.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
        above = any(f"{address}.".startswith(f"{inner}.") or not inner for address in watched)
        layer = inner.rpartition(".")[0] == prefix + family.layers
        below = tower and any(f"{inner}.".startswith(f"{address}.") for address in watched[2:])
        if above or layer or below:
            raise ValueError(
                f"model{inner and '.'}{inner} is {kind}, and compiled parts run without the hooks "
                "that prune: give the model as it was before torch.compile"
            )


def _compiled(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(address, how) of each compiled part."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield name, "a ScriptModule (torch.jit)"
        elif getattr(type(module), "__name__", "") == "OptimizedModule":
            yield name, "wrapped by torch.compile (OptimizedModule)"
        elif getattr(module, "_compiled_call_impl", None) is not None:
            yield name, "compiled in place (module.compile())"
