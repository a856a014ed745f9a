"""Processors where torchvision is missing: pictures as ever; a video says what to install."""

import inspect
from functools import cache
from typing import Any

import torch
from transformers import PROCESSOR_MAPPING, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.utils import is_torchvision_available

from .template import Unavailable

__all__ = ["image_only", "processor_from"]


def processor_from(source: str, config: PreTrainedConfig, **where: Any) -> Any:
    """The processor of a folder or hub id, without its video part where torchvision is missing."""
    kind = PROCESSOR_MAPPING[type(config)]
    if "video_processor" in kind.get_attributes() and not is_torchvision_available():
        return image_only(kind).from_pretrained(source, **where)
    return AutoProcessor.from_pretrained(source, trust_remote_code=False, **where)


class _WithoutVideo(ProcessorMixin):
    """Comes between a processor class and the library's base: parts that are None are left out."""

    def __init__(self, *parts: Any, **more: Any):
        super().__init__(*(part for part in parts if part is not None), **more)


@cache
def image_only(kind: type) -> type:
    """A processor class without its video processor, under the same name, so that a folder saved
    by it is one that the library reads. A video raises Unavailable with what to install."""

    # The library saves and loads what it reads off these names: all that the families' own have.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str | None = None,
        video_token: str | None = None,
        patch_size: int | None = None,
        num_image_tokens: int | None = None,
        num_additional_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        vision_aspect_ratio: str | None = None,
    ) -> None:
        given = {n: v for n, v in locals().items() if n in names and v is not None}
        kind.__init__(self, **given)

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, **more: Any
    ) -> Any:
        if videos is not None:
            raise _no_videos()
        return kind.__call__(self, images=images, text=text, **more)

    names = set(inspect.signature(kind.__init__).parameters) - {"self"}
    methods = (__init__, __call__)
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    bases = (kind, _WithoutVideo)
    return type(kind.__name__, bases, about | {method.__name__: method for method in methods})


def _no_videos() -> Unavailable:
    return Unavailable(
        "without torchvision only pictures can be read: for videos install this project's extra "
        f"`video` and the torchvision that is made for torch {torch.__version__.split('+')[0]}"
    )
