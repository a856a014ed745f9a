"""Videos of the published benchmarks: which file belongs to a question, and its frames.

Frames are evenly spaced over the video, first and last included, as lmms-eval samples them: 8 for
Video-LLaVA, 32 for the others. Files need the extra `video`; a folder of pictures needs nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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


def frames(path: str, number: int) -> list[Image.Image]:
    """Evenly spaced frames of a video file, or of a folder of frames in the order of their names.

    Raises ValueError, with the path, for a video that cannot be read or has no frame; Unavailable
    where a file needs the extra `video`.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in (".jpg", ".png", ".jpeg"))
        if not files:
            raise ValueError(f"video {path}: a folder without a frame")
        return [Image.open(files[i]).convert("RGB") for i in _spaced(len(files), number)]
    try:
        import av
    except ImportError as missing:
        raise Unavailable(
            f"video {path}: reading it needs the extra video: pip install 'qvid-workbook[video]'"
        ) from missing
    try:
        with av.open(path) as film:
            count = sum(1 for _ in film.decode(video=0))
            film.seek(0)
            wanted = _spaced(count, number)
            kept = {i: f.to_image() for i, f in enumerate(film.decode(video=0)) if i in set(wanted)}
    except (OSError, ValueError, IndexError) as cause:
        raise ValueError(f"video {path} cannot be read ({cause})") from cause
    if not count:
        raise ValueError(f"video {path}: no frame in it")
    return [kept[i] for i in wanted]


def _spaced(count: int, number: int) -> list[int]:
    """Places of `number` evenly spaced frames of `count`; a short video repeats some."""
    return np.linspace(0, count - 1, number, dtype=int).tolist()
