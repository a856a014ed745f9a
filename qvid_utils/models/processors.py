"""Processors where torchvision is missing: pictures as ever; LLaVA-OneVision and Video-LLaVA take a
video as its frames, each through the image processor; elsewhere a video says what to install."""

import inspect
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PROCESSOR_MAPPING, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.utils import is_torchvision_available

from ..families import Family, Unavailable

__all__ = ["completed", "image_only", "processor_from"]


def processor_from(source: str, config: PreTrainedConfig, **where: Any) -> Any:
    """The processor of a folder or hub id, without its video part where torchvision is missing, or
    where a folder was saved without it."""
    kind = PROCESSOR_MAPPING[type(config)]
    if "video_processor" in kind.get_attributes() and (
        not is_torchvision_available() or _has_no_video_part(Path(source))
    ):
        return image_only(kind).from_pretrained(source, **where)
    return AutoProcessor.from_pretrained(source, trust_remote_code=False, **where)


def completed(processor: Any, config: PreTrainedConfig, family: Family) -> None:
    """Write into a processor what the model's configuration decides (its files may lack it, as
    those of 2024 do), and the family's chat template where it has none."""
    if getattr(processor, "tokenizer", None) is None:
        raise ValueError("no tokenizer among them")
    vision = config.vision_config
    if not getattr(processor, "chat_template", None):
        processor.chat_template = family.template
    known = {
        "patch_size": lambda: vision.patch_size,
        "num_image_tokens": lambda: (vision.image_size // vision.patch_size) ** 2,
        # a tower's class token; SigLIP has none
        "num_additional_image_tokens": lambda: int("siglip" not in vision.model_type),
        "vision_feature_select_strategy": lambda: config.vision_feature_select_strategy,
        "vision_aspect_ratio": lambda: config.vision_aspect_ratio,
    }
    for name, value in known.items():
        if hasattr(processor, name):
            setattr(processor, name, value())


def _has_no_video_part(folder: Path) -> bool:
    """Whether a folder has processor_config.json, and nothing in it or beside it of a video."""
    try:
        saved = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or said by the library in its own words
        return False
    beside = ("video_preprocessor_config.json", "preprocessor_config.json")
    return "video_processor" not in saved and not any((folder / name).exists() for name in beside)


LEGACY = "return_legacy_image_output"  # newer versions of Video-LLaVA's warn unless it is off


class Frames:
    """Stands where a video processor does: every frame is a picture, resized to the tower's side,
    rescaled and normalised by the image processor. What the video processors of LLaVA-OneVision and
    Video-LLaVA (which crops frames to a square) do."""

    def __init__(self, image_processor: Any):
        self.image_processor = image_processor

    def __call__(self, videos: Any, **_: Any) -> Mapping[str, torch.Tensor]:
        """videos: one, or a list of them, each a list of pictures or an array (T, h, w, 3) uint8.

        Gives "pixel_values_videos", (B, T, 3, side, side). Raises ValueError for a video without a
        frame, and for videos of different lengths; Unavailable for one that is not decoded.
        """
        videos = list(videos)
        if videos and not _is_batch(videos):
            videos = [videos]
        while videos and isinstance(videos[0], list) and videos[0] and _is_batch(videos[0]):
            videos = [one for several in videos for one in several]  # one list for each prompt
        for n, video in enumerate(videos):
            if isinstance(video, str | Path):
                raise Unavailable(
                    f"video {video}: decode it first (benchmarks.published.video.frames gives its "
                    "frames), or install torchvision, whose video processor reads files"
                )
            if not len(video):
                raise ValueError(f"video {n} of the call has no frame: give at least one")
        lengths = sorted({len(video) for video in videos})
        if len(lengths) > 1:
            raise ValueError(
                f"the videos of one batch have {lengths} frames: ask those of one length together"
            )
        pictures = [frame for video in videos for frame in video]
        known = inspect.signature(self.image_processor.preprocess).parameters
        legacy = {LEGACY: False} if LEGACY in known else {}
        made = self.image_processor(pictures, return_tensors="pt", **legacy)
        made = made["pixel_values" if "pixel_values" in made else "pixel_values_images"]
        if made.dim() == 5:  # (N, tiles, 3, side, side): the first shows the whole picture
            made = made[:, 0]
        return {"pixel_values_videos": made.unflatten(0, (len(videos), -1))}

    def to_dict(self) -> dict[str, Any]:
        """Its settings, as a processor tells its own: those of the image processor are all."""
        return {"video_processor_type": "Frames", **self.image_processor.to_dict()}


def _is_batch(videos: list) -> bool:
    """Whether these are videos, and not the frames of one."""
    first = videos[0]
    return isinstance(first, list | tuple | str | Path) or getattr(first, "ndim", 0) == 4


FRAMEWISE = (
    "LlavaOnevisionProcessor",
    "VideoLlavaProcessor",
)  # whose videos need nothing but their frames


class _WithoutVideo(ProcessorMixin):
    """Comes between a processor class and the library's base: parts that are None are left out."""

    def __init__(self, *parts: Any, **more: Any):
        super().__init__(*(part for part in parts if part is not None), **more)


@cache
def image_only(kind: type) -> type:
    """A processor class without its video processor, under the same name, so that a folder saved
    by it is one that the library reads. A video goes through `Frames` where that is all that the
    family's own video processor does; else it raises Unavailable with what to install."""

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
        image_seq_length: int | None = None,
        image_seq_len: int | None = None,
        num_additional_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        vision_aspect_ratio: str | None = None,
    ) -> None:
        given = {n: v for n, v in locals().items() if n in names and v is not None}
        given |= dict.fromkeys({"video_processor"} & names)  # some classes insist on it
        kind.__init__(self, **given)

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, **more: Any
    ) -> Any:
        if videos is not None:
            if kind.__name__ not in FRAMEWISE:
                raise _no_videos()
            more["videos"] = videos
        return kind.__call__(self, images=images, text=text, **more)

    def __reduce__(self) -> tuple:  # a class of this name is elsewhere another one
        return _restored, (kind, vars(self))

    names = set(inspect.signature(kind.__init__).parameters) - {"self"}
    methods = (__init__, __call__, __reduce__)
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__, **_video_part(kind)}
    bases = (kind, _WithoutVideo)
    return type(kind.__name__, bases, about | {method.__name__: method for method in methods})


def _video_part(kind: type) -> dict[str, property]:
    """What stands where a class asks for its video processor."""
    if kind.__name__ in FRAMEWISE:
        return {"video_processor": property(lambda self: Frames(self.image_processor))}
    if kind.__name__ == "SmolVLMProcessor":  # asks for its frames and rate even without a video
        none = SimpleNamespace(num_frames=None, fps=None)
        return {"video_processor": property(lambda self: none)}
    return {}


def _restored(kind: type, state: Mapping[str, Any]) -> Any:
    """A pickled processor of `image_only(kind)`."""
    made = object.__new__(image_only(kind))
    vars(made).update(state)
    return made


def _no_videos() -> Unavailable:
    return Unavailable(
        "without torchvision only pictures can be read: for videos install this project's extra "
        f"`video` and the torchvision that is made for torch {torch.__version__.split('+')[0]}"
    )
