"""How the library hands pictures, masks and prompts from call to call: what pruning has to know."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from .attached import Attached
from .base import unwrapped


def has_pixels(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call brings pictures: only then are placeholder ids visual tokens, since a model
    may generate such an id."""
    raw = any(v is not None for name, v in kwargs.items() if name.startswith("pixel_values"))
    return raw or bool(kwargs.get("mm_encoder_outputs"))


def real_tokens(mask: Any, length: int, aligned: bool) -> Tensor | None:
    """Which tokens, cached ones first, are no padding, (B, length) bool; None: all of them.

    Raises ValueError for a 4-D mask that is more than causal with padding: layers after a cut get a
    mask that is made anew, and what else it says would be lost.
    """
    if isinstance(mask, dict):
        mask = mask["full_attention"]
    if not isinstance(mask, Tensor):
        return None
    if mask.dim() == 4:  # prepared for a static cache: what the last token may see
        if not aligned:  # numbered by layer 0, which has lost columns; all is real then
            return None
        seen = mask[:, 0, :, :length]
        seen = seen if seen.dtype == torch.bool else seen == 0
        mask = seen[:, -1]
        places = torch.arange(length, device=mask.device)
        own = places[length - seen.shape[1] :]
        causal = mask[:, None] & (places <= own[:, None])
        if bool(((seen != causal).any(-1) & mask[:, own]).any()):
            raise ValueError(
                "attention_mask is a 4-D mask that is more than causal with padding, which cannot "
                "be carried past a cut: give a 2-D mask, or leave the pruning out"
            )
    return mask.bool()


def check_outputs(kwargs: Mapping[str, Any]) -> None:
    """ValueError for what the outermost forward cannot give for a shortened prompt."""
    if kwargs.get("labels") is not None:
        raise ValueError(
            "labels=: the logits of a pruned prompt are shorter than its labels; call the model "
            "without labels and score its logits"
        )
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise ValueError(
            "logits_to_keep as a tensor numbers the tokens of the unpruned prompt; give an int, "
            "how many of the last logits to keep"
        )


def check_prompt(given: Tensor, visual: Tensor, past: int, whole: list[str]) -> None:
    """ValueError for a call with pictures that is no complete, left-padded prompt.

    given (not padding) and visual are (B, S) bool; `whole` names what needs the conversation from
    its start, which a call that continues a cache of `past` tokens does not show.
    """
    if not bool(visual.any()):
        raise ValueError(
            "the call has pictures, but no visual token stands in its input_ids: give pictures "
            "only with the ids that hold their placeholders"
        )
    if not bool(given[:, -1].all()):
        raise ValueError("attention_mask ends in padding: pad the prompts on the left")
    if bool((given[:, :-1] & ~given[:, 1:]).any()):  # the cut would move what stands behind it
        raise ValueError("attention_mask has a hole: pad the prompts on the left and nowhere else")
    if bool(visual[:, -1].any()):
        raise ValueError(
            "the prompt ends in a picture: end it with text, as the chat template does "
            "(add_generation_prompt=True), and give it whole in one call"
        )
    if past and whole:
        raise ValueError(
            f"{whole[0]} needs the whole conversation in one call, and this one continues a cache "
            f"of {past} tokens: start afresh"
        )


def check_axes(positions: Tensor | None) -> None:
    """ValueError for pictures of a later turn whose positions do not run along three axes.

    The library numbers a cached conversation as text, unless generate is new enough to see that
    there are pictures; where each picture cell stands would be lost, with pruning or without.
    """
    if positions is None or positions.dim() != 3 or len(positions) == 1:
        raise ValueError(
            "a picture in a later turn on a cache: here its tokens would be numbered as text, not "
            "by row and column; give the whole conversation in one call without the cache"
        )


def check_continuation(ids: Tensor, positions: Tensor | None, expected: Tensor | int) -> None:
    """ValueError unless the tokens of a call go on where a prompt cut at layer 0 has ended.

    That layer's cache is shorter than the conversation, and by its length the library slices new
    tokens and numbers them: right only within one generate. expected: (B,) the next position.
    """
    if positions is not None:
        if ids.shape[1] == 1:  # spares a decoding step the comparison
            return
        first = (positions if positions.dim() == 2 else positions[0])[:, 0]
        if bool((first == expected).all()):
            return
    raise ValueError(
        "after a cut at layer 0 the cache cannot take another turn, nor tokens without "
        "position_ids: start the conversation afresh, or cut at layer 1 or later"
    )


@contextmanager
def pictures_once(model: nn.Module) -> Iterator[None]:
    """Inside the block the same picture tensor is encoded once, however many calls use it.

    The same means: the same object, not written to since. The memory of a tensor ends with it.
    """
    base = unwrapped(model).base_model
    if {"get_image_features", "get_video_features"} & set(vars(base)):
        raise RuntimeError(
            "pictures_once is already on for this model, or a pruned block is open: blocks do not "
            "nest, and pictures_once comes first"
        )
    with Attached() as hung:
        wrap_encoders(hung, model, lambda name, encode: _remembering(encode, base.config))
        yield


def watch_sizes(hung: Attached, model: nn.Module) -> dict[str, Any]:
    """What the vision encoders are told from now on, and `encoded`, the count of visual tokens that
    each kind last gave: generate calls them itself and hands on nothing but their output."""
    seen: dict[str, Any] = {"encoded": {}}

    def watching(name: str, encode: Callable) -> Callable:
        names = tuple(inspect.signature(encode).parameters)

        @functools.wraps(encode)
        def watched(*args: Any, **kwargs: Any) -> Any:
            out = encode(*args, **kwargs)
            seen.update({**dict(zip(names, args, strict=False)), **kwargs})
            pictures = out.pooler_output
            pictures = [pictures] if isinstance(pictures, Tensor) else pictures
            seen["encoded"][name] = sum(p.shape[:-1].numel() for p in pictures)
            return out

        return watched

    wrap_encoders(hung, model, watching)
    return seen


def wrap_encoders(
    hung: Attached, model: nn.Module, wrap: Callable[[str, Callable], Callable]
) -> None:
    """Wrap the model's picture and video encoders, for as long as `hung` is; one that calls the
    other calls it as it is."""
    base, inside = unwrapped(model).base_model, []

    def outermost(encode: Callable, wrapped: Callable) -> Callable:
        @functools.wraps(encode)
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return encode(*args, **kwargs)
            inside.append(True)
            try:
                return wrapped(*args, **kwargs)
            finally:
                inside.pop()

        return call

    names = [n for n in ("get_image_features", "get_video_features") if hasattr(base, n)]
    for name in names:
        encode = getattr(base, name)
        hung.instead(base, name, outermost(encode, wrap(name, encode)))


def _remembering(encode: Callable, config: Any) -> Callable:
    memory: dict[tuple, tuple[list[ref], Any]] = {}
    names = tuple(inspect.signature(encode).parameters)

    def stamp(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return repr(value)
        return id(value), 0 if value.is_inference() else value._version

    @functools.wraps(encode)  # generate reads the signature to know what to hand over
    def once(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        # some callers spell out what others leave to the configuration
        given |= {n: getattr(config, n, None) for n in names if given.get(n) is None}
        # generate hands on an old name as it came, the model a new one
        alias = {"pixel_values_images": "pixel_values"}
        # a flag that is off is spelled out by some callers, too; and an encoder has no cache
        given = {k: v for k, v in given.items() if v is not None and v is not False}
        given.pop("use_cache", None)
        told = sorted((alias.get(k, k), stamp(v)) for k, v in given.items())
        key = (torch.is_grad_enabled(), *told)
        if key not in memory:
            tensors = [v for v in given.values() if isinstance(v, Tensor)]
            # an id may be used again once its tensor is gone: forget the entry with it
            refs = [ref(t, lambda _: memory.pop(key, None)) for t in tensors]
            memory[key] = refs, encode(*args, **kwargs)
        return copy.copy(memory[key][1])  # callers may replace a field of theirs

    return once
