"""Videos of the published benchmarks: which file belongs to a question, and its frames.

Frames are evenly spaced over the video, first and last included, as lmms-eval samples them: 8 for
Video-LLaVA, 32 for the others. Files need the extra `video`; a folder of pictures needs nothing.

Five tasks of MVBench show a part of a video only, `start` to `end` in seconds. Its dataset exists
in two forms: the hub's revision `video`, which lmms-eval reads, holds these parts as files of their
own; the other holds whole videos, of which MVBench's own code (`mvbench.ipynb`) takes the frames
from round(start · rate) to round(end · rate). Both are read here, and never cut twice; within the
part frames are spaced as above. `accurate_start` and `accurate_end` are the action's own bounds,
which neither harness reads.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ....families import FAMILIES, Unavailable
from ....models.pictures import header, opened
from .entries import Benchmark

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
#: Where they are in MVBench's form with whole videos, if elsewhere.
WHOLE = {
    **dict.fromkeys(("object_interaction", "action_sequence", "action_prediction"),
                    "star/Charades_v1_480"),
    "action_localization": "sta/sta_video", "episodic_reasoning": "tvqa/frames_fps3_hq",
    "fine_grained_pose": "nturgbd", "action_antonym": "ssv2_video",
}  # fmt: skip
IN_PART = {task for task, folder in MVBENCH.items() if folder.endswith("_segment")}
TICK = 100  # milliseconds of a frame of an animated picture
FOLDER_RATE = 3  # frames a second of a folder of pictures: TVQA's
WHOLE_FILE = 0.9  # of the length that a film states: if less can be read, it was cut off
ENDINGS = ("", ".mp4", ".MP4", ".mkv", ".webm", ".avi")


def video_cell(entry: Benchmark, root: Path, row: Any, family: str) -> dict:
    """{"video": path, "frames": how many} of a question, and "part", [start, end] in seconds, where
    only that of the file is shown. ValueError where the file is missing."""
    folders = [f for f in (MVBENCH.get(row.split, ""), WHOLE.get(row.split)) if f is not None]
    inside = [f"{above}{folder}" for folder in folders for above in ("", "video/", "data0613/")]
    places = [Path(x) for x in (*inside, "data", "videos")]
    near = [root / place / f"{row.picture}{end}" for place in places for end in ENDINGS]
    path = next((path for path in near if path.exists()), None)
    if path is None:
        raise ValueError(
            f"sample {row.id!r}: its video {row.picture} is missing; looked in "
            f"{', '.join(dict.fromkeys(str(root / place) for place in places))}"
        )
    cell = {"video": str(path), "frames": FAMILIES[family].frames}
    part = row.part if row.split in IN_PART else None
    return cell if part is None or _is_part(path, part) else cell | {"part": list(part)}


def _is_part(path: Path, part: Sequence[float]) -> bool:
    """Whether a file holds this part of its video and no more: by its folder, or by its name, such
    as ABCDE_1.3_15.4.mp4."""
    stem = path.name.removesuffix(path.suffix)
    return path.parent.name.endswith("_segment") or stem.endswith(f"_{part[0]}_{part[1]}")


def frames(
    video: str | Path | Mapping[str, Any], number: int, part: Sequence[float] | None = None
) -> list[Image.Image]:
    """`number` evenly spaced frames, first and last among them; a film is streamed, and only these
    are held.

    video: a file; a folder of frames in the order of their names; or {"bytes", "path"}, an animated
    picture as the embedded suites hold it. part: (start, end) in seconds, of which frames are
    taken; a folder has three frames a second. A shorter video shows some frames twice, as the
    published harness does, with a warning.
    Raises ValueError for a number that is not whole or below 1 and for what is no video; with the
    path for one that is missing, cannot be read, ends before 90 % of the length that it states (of
    a file that states none a missing end is not seen), has no frame, or has a codec that is not
    installed, and for a part behind its end; Unavailable where a file needs the extra `video`.
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(
            f"frames={number!r}: ask for one frame of a video at least, and for a whole number"
        )
    if isinstance(video, Mapping):
        return _of_picture(video, number, part)
    if not isinstance(video, str | Path):
        raise ValueError(f"video {video!r}: give a file, a folder of frames, or its bytes and path")
    place = Path(video)
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
        if not files:
            raise ValueError(f"video {video}: a folder without a frame")
        # numbered from one: second 0 is before the first
        inside = _inside(len(files), part, FOLDER_RATE, place, first=1)
        return [_picture(files[i], place) for i in _spaced(inside, number, place)]
    if not place.exists():
        raise ValueError(f"video {video} cannot be read (No such file or folder)")
    return _of_film(place, number, part)


def _of_film(video: Path, number: int, part: Sequence[float] | None) -> list[Image.Image]:
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
            rate = float(film.streams.video[0].average_rate or 0)
            count = _count(film)
        wanted = _spaced(_inside(count, part, rate, video), number, video)
        with av.open(str(video)) as film:
            film.streams.video[0].thread_type = "AUTO"
            kept, last, these = {}, None, set(wanted)
            for i, frame in enumerate(film.decode(video=0)):
                last = frame
                if i in these:
                    kept[i] = frame.to_image()
                if i == wanted[-1]:
                    break
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


def _count(film: Any) -> int:
    """Frames of a film's first picture track, without decoding. ValueError for a cut-off film.

    The length is of all tracks, in microseconds as the file states its own: sound may outlast the
    pictures.
    """
    count, starts, ends = 0, [], []
    shown = film.streams.video[0]
    for packet in film.demux():
        if not packet.size:
            continue
        count += packet.stream.index == shown.index
        if packet.pts is not None:
            starts.append(1e6 * packet.pts * packet.time_base)
            ends.append(starts[-1] + 1e6 * (packet.duration or 0) * packet.time_base)
    read = max(ends, default=0) - min(starts, default=0)
    if ends and film.duration and read < WHOLE_FILE * film.duration:
        raise ValueError(
            f"it states {film.duration / 1e6:.4g} s and {float(read) / 1e6:.4g} s are there: it is "
            "cut off, fetch it again"
        )
    return count


def _picture(file: Path, folder: Path) -> Image.Image:
    try:
        return opened(file)
    except ValueError as cause:
        raise ValueError(
            f"video {folder}: its frame {file.name} cannot be read ({cause})"
        ) from cause


def _of_picture(
    cell: Mapping[str, Any], number: int, part: Sequence[float] | None
) -> list[Image.Image]:
    """Of an animated picture, ten frames a second: one shown for longer counts several times."""
    if not isinstance(cell.get("bytes"), bytes):
        raise ValueError(f"video {cell.get('path')} cannot be read (it has no bytes)")
    try:
        header(cell["bytes"])
        with Image.open(io.BytesIO(cell["bytes"])) as film:
            shown, times = [], []
            for frame in ImageSequence.Iterator(film):
                shown.append(opened(frame.copy()))
                times.append(frame.info.get("duration", TICK))
    except (OSError, SyntaxError, ValueError) as cause:
        raise ValueError(f"video {cell.get('path')} cannot be read ({cause})") from cause
    ticks = [max(1, round(time / TICK)) for time in times]
    every = [picture for picture, n in zip(shown, ticks, strict=True) for _ in range(n)]
    inside = _inside(len(every), part, 1000 / TICK, cell.get("path"))
    return [every[i] for i in _spaced(inside, number, cell.get("path"))]


class _Short(ValueError):
    """A video without a frame to show."""


def _inside(
    count: int, part: Sequence[float] | None, rate: float, which: Any, first: int = 0
) -> range:
    """Places of the frames that may be shown: all of `count`, or those of a part in seconds.

    rate: frames a second; first: the number of the first frame, 0 or 1. As MVBench has it.
    """
    if not count:
        raise _Short(f"video {which}: no frame in it")
    if part is None:
        return range(count)
    if not rate:
        raise _Short(f"video {which}: it does not say how many frames a second it has")
    start, end = (round(second * rate) - first for second in part)
    if start >= count or end < 0:
        raise _Short(
            f"video {which} has {count} frames, {rate:g} a second: nothing from {part[0]} to "
            f"{part[1]} s"
        )
    return range(max(0, start), min(end, count - 1) + 1)


def _spaced(inside: range, number: int, which: Any) -> list[int]:
    """Places of `number` evenly spaced frames among these; a short video repeats some."""
    if len(inside) < number:
        warnings.warn(
            f"video {which} has {len(inside)} frames and {number} are asked for: some are shown "
            "twice",
            stacklevel=3,
        )
    return np.linspace(inside[0], inside[-1], number, dtype=int).tolist()
