"""Videos of the published benchmarks: which file belongs to a question, and its frames.

Frames are evenly spaced over the video, first and last included, as lmms-eval samples them: 8 for
Video-LLaVA, 32 for the others. Files need the extra `video`; a folder of pictures needs nothing.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ...families import Unavailable
from .entries import Benchmark

FRAMES = {"video_llava": 8, "llava_onevision": 32, "qwen2_vl": 32, "qwen2_5_vl": 32}
# Where MVBench's archives put the videos of a task.
_MVBENCH = {
    "star/Charades_segment": "object_interaction action_sequence action_prediction",
    "sta/sta_video_segment": "action_localization",
    "clevrer/video_validation": "moving_count moving_direction moving_attribute "
    "counterfactual_inference object_existence",
    "nturgbd_convert": "fine_grained_pose",
    "perception/videos": "character_order object_shuffle state_change action_count",
    "vlnqa": "egocentric_navigation",
    "tvqa/video_fps3_hq_segment": "episodic_reasoning",
    "Moments_in_Time_Raw/videos": "fine_grained_action",
    "scene_qa/video": "scene_transition",
    "ssv2_video_mp4": "action_antonym",
    "FunQA_test/test": "unexpected_action",
}
MVBENCH = {task: folder for folder, tasks in _MVBENCH.items() for task in tasks.split()}
TICK = 100  # milliseconds of a frame of an animated picture
ENDINGS = ("", ".mp4", ".MP4", ".mkv", ".webm", ".avi")


def video_cell(entry: Benchmark, root: Path, row: Any, family: str) -> dict:
    """{"video": path, "frames": how many} of a question. ValueError where the file is missing."""
    inside = MVBENCH.get(row.split, "")
    places = [Path(x) for x in (inside, f"video/{inside}", f"data0613/{inside}", "data", "videos")]
    near = [root / place / f"{row.picture}{end}" for place in places for end in ENDINGS]
    path = next((path for path in near if path.exists()), None)
    if path is None:
        raise ValueError(
            f"sample {row.id!r}: its video {row.picture} is missing; looked in "
            f"{', '.join(dict.fromkeys(str(root / place) for place in places))}"
        )
    return {"video": str(path), "frames": FRAMES[family]}


def frames(video: str | Path | Mapping[str, Any], number: int) -> list[Image.Image]:
    """`number` evenly spaced frames, first and last among them; a film is streamed, and only these
    are held.

    video: a file; a folder of frames in the order of their names; or {"bytes", "path"}, an animated
    picture as the embedded suites hold it. A shorter video shows some frames twice, as the
    published harness does, with a warning.
    Raises ValueError, with the path, for a number below 1, and for a video that cannot be read, has
    no frame, or has a codec that is not installed; Unavailable where a file needs the extra
    `video`.
    """
    if number < 1:
        raise ValueError(f"frames={number}: ask for one frame of a video at least")
    if isinstance(video, Mapping):
        return _of_picture(video, number)
    place = Path(video)
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
        if not files:
            raise ValueError(f"video {video}: a folder without a frame")
        return [Image.open(files[i]).convert("RGB") for i in _spaced(len(files), number, place)]
    try:
        import av
    except ImportError as missing:
        raise Unavailable(
            f"video {video}: reading it needs the extra video: pip install 'qvid-workbook[video]'"
        ) from missing
    try:
        with av.open(str(video)) as film:
            if not film.streams.video:
                raise ValueError("it has no picture track")
            count = sum(packet.size > 0 for packet in film.demux(video=0))  # without decoding
        wanted = _spaced(count, number, place)
        with av.open(str(video)) as film:
            film.streams.video[0].thread_type = "AUTO"
            kept, last = {}, None
            for i, frame in enumerate(film.decode(video=0)):
                last = frame
                if i in set(wanted):
                    kept[i] = frame.to_image()
    except _Short:
        raise
    except av.error.DecoderNotFoundError as cause:
        raise ValueError(
            f"video {video}: this PyAV has no decoder for its codec; convert it, e.g. to H.264"
        ) from cause
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as cause:
        raise ValueError(f"video {video} cannot be read ({cause})") from cause
    if last is None:
        raise ValueError(f"video {video} cannot be read (none of its frames can be decoded)")
    return [kept[i] if i in kept else last.to_image() for i in wanted]  # a cut-off file's end


def _of_picture(cell: Mapping[str, Any], number: int) -> list[Image.Image]:
    """Of an animated picture, ten frames a second: one shown for longer counts several times."""
    try:
        with Image.open(io.BytesIO(cell["bytes"])) as film:
            shown, times = [], []
            for frame in ImageSequence.Iterator(film):
                shown.append(frame.convert("RGB"))
                times.append(frame.info.get("duration", TICK))
    except (OSError, KeyError, TypeError) as cause:
        raise ValueError(f"video {cell.get('path')} cannot be read ({cause})") from cause
    ticks = [max(1, round(time / TICK)) for time in times]
    every = [picture for picture, n in zip(shown, ticks, strict=True) for _ in range(n)]
    return [every[i] for i in _spaced(len(every), number, cell.get("path"))]


class _Short(ValueError):
    """A video without a frame."""


def _spaced(count: int, number: int, which: Any) -> list[int]:
    """Places of `number` evenly spaced frames of `count`; a short video repeats some."""
    if not count:
        raise _Short(f"video {which}: no frame in it")
    if count < number:
        warnings.warn(
            f"video {which} has {count} frames and {number} are asked for: some are shown twice",
            stacklevel=3,
        )
    return np.linspace(0, count - 1, number, dtype=int).tolist()
