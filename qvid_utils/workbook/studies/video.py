"""Notebook 05's numbers: video suites at shares of their tokens, and what stands beside them.

A budget is a share of a clip's visual tokens (`Cell(share=…)`), so that clips of all lengths stand
in one table. Beside the methods stand the honest baselines of video: fewer frames at the same
number of tokens, and the first frame alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ...algebra.cuts import count_at
from ...algebra.selection import top_k_by_picture, top_k_in_pictures
from ...families import Unavailable, takes_videos
from ...methods import Method, method
from ...models.load import LoadError, load
from ...paths import DATA, PROFILES
from ..benchmarks import TINY_VIDEO, Suite, video_suite
from ..benchmarks.base import metrics
from ..benchmarks.paper_profile import here, place
from ..benchmarks.published import published
from ..benchmarks.published.video import frames
from ..benchmarks.scoring import error_of, pull_of, value_of
from ..run.cell import Cell, grid
from ..run.evaluate import evaluate
from ..tables import schema as results

__all__ = [
    "COMPARED", "FEWER", "FIRST", "SHARES", "baselines", "by_type", "chance", "evaluate_shares",
    "films", "frames_kept", "in_frames", "lengths", "per_frame", "rows", "setting",
    "with_frames", "with_share_of_frames",
]  # fmt: skip

SHARES = {"2b": (33.3, 22.2, 11.1), "12": (25.0, 15.0, 10.0)}  # % of the tokens, by paper table
FEWER, FIRST = "fewer_frames", "first_frame"  # the baselines' names in a table
COMPARED = (
    "qvid", "v2drop", "fastv", "pyramiddrop", "sparsevlm", "svd_prune", "svd_prune_per_frame",
    "divprune", "random", "stride",
)  # fmt: skip
SPLITS = {"short": "VideoMME-Short", "medium": "VideoMME-Medium", "long": "VideoMME-Long"}
EMBEDDED = "tiny/llava_onevision"
TWIN = "tiny/video_llava"  # of Table 12
CHECKPOINTS = {  # of each table, and the family whose number of frames is shown
    "2b": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision"),
    "12": ("LanguageBind/Video-LLaVA-7B-hf", "video_llava"),
}
PUBLISHED = ("mvbench", "videomme")
NAMES = {  # of the models, in tables
    ("tiny", "2b"): EMBEDDED, ("paper", "2b"): "LLaVA-OneVision-7B",
    ("tiny", "12"): TWIN, ("paper", "12"): "Video-LLaVA-7B",
}  # fmt: skip


def setting(profile: str, table: str = "2b") -> tuple[nn.Module, Any, list[Suite]]:
    """Model, processor and video suites of a profile; table: whose checkpoint "paper" takes, and
    whose embedded twin "tiny" does.

    ValueError for an unknown profile or table; Unavailable names what is not on this machine.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    if table not in CHECKPOINTS:
        raise ValueError(f"table={table!r}: it must be one of {', '.join(CHECKPOINTS)}")
    if profile == "paper":
        return _paper(*CHECKPOINTS[table])
    try:
        suites = [video_suite(name) for name in TINY_VIDEO]
        return *load(TWIN if table == "12" else EMBEDDED), suites
    except LoadError as missing:
        family = CHECKPOINTS[table][1]
        raise Unavailable(
            f"{missing}: train it with `python -m train --family {family}`"
        ) from missing


def _paper(checkpoint: str, family: str) -> tuple[nn.Module, Any, list[Suite]]:
    lacking = [name for name in (checkpoint, *PUBLISHED) if not here(name)]
    if lacking:
        raise Unavailable(
            f"profile='paper' needs {', '.join(lacking)}, which are not on this machine: fetch "
            "them with `python -m qvid_utils benchmarks fetch` where there is a network, or use "
            "profile='tiny'"
        )
    suites = [published(name, place(name), family=family) for name in PUBLISHED]
    return *load(place(checkpoint) or checkpoint), suites


# ------------------------------------------------------------------------------ suites and budgets
def lengths(one: Suite) -> list[Suite]:
    """The suite in parts of one number of frames each, from few to many."""
    shown = one.samples["image"].map(lambda image: image["frames"])
    parts = [one.samples[shown == n].reset_index(drop=True) for n in sorted(shown.unique())]
    return [dataclasses.replace(one, samples=part) for part in parts]


def with_frames(one: Suite, number: int) -> Suite:
    """The same questions with `number` evenly spaced frames of each clip (1: the first)."""
    return _showing(one, lambda frames: number)


def with_share_of_frames(one: Suite, share: float) -> Suite:
    """The same questions with a share of each clip's frames, in %, evenly spaced, at least one."""
    return _showing(one, lambda frames: count_at(share, frames))


def _showing(one: Suite, count: Callable[[int], int]) -> Suite:
    images = [{**image, "frames": count(image["frames"])} for image in one.samples["image"]]
    return dataclasses.replace(one, samples=one.samples.assign(image=images))


def per_frame(name: str) -> Method:
    """A method of METHODS with an equal budget for every frame instead of one over the clip.

    ValueError for an unknown name, with the nearest, and for a method that does not simply keep its
    best tokens.
    """
    chosen = method(name)
    if getattr(chosen.select, "__name__", "") != "top_k":
        raise ValueError(
            f"method {name!r} does not keep the best-scored tokens as they are, so its budget "
            "cannot be told frame by frame"
        )
    return dataclasses.replace(
        chosen,
        name=f"{name}_per_frame",
        select=top_k_by_picture,
        departures=f"{chosen.departures} Equal budgets for all frames: ours.".strip(),
        label=f"{chosen.label}, per frame",
    )


def in_frames(name: str) -> Method:
    """A method of METHODS with one budget over the clip, like itself, and no class tokens or line
    breaks before all else is kept: what `per_frame` does apart from time. Errors as there."""
    return dataclasses.replace(
        per_frame(name),
        name=f"{name}_in_frames",
        select=top_k_in_pictures,
        departures=f"{method(name).departures} Tokens that show no place come last: ours.".strip(),
        label=f"{method(name).label}, no class tokens",
    )


def evaluate_shares(
    model: nn.Module,
    processor: Any,
    suites: Sequence[Suite],
    methods: Sequence[str | Method] = COMPARED,
    shares: Sequence[float] = SHARES["2b"],
    **options: Any,
) -> pd.DataFrame:
    """`runner.evaluate` of the unpruned model, of each method at each share, and of the baselines.

    shares: in % of a clip's tokens. More columns: share (100 for the full model and for the first
    frame alone), frames (that were shown), n_visual (of the clip as the full model sees it); keep
    is the count that the share is of it. `fewer_frames` shows that share of the frames, at least
    one. options: of `evaluate`; its `limit` counts a suite's questions of one length.
    """
    takes_videos(model)
    limit, seed = options.pop("limit", None), options.get("seed", 0)
    cells = [Cell(), *grid(methods, [], shares=shares)]
    found = []
    for one in (_of_each_length(one, limit, seed) for one in suites):
        told = evaluate(model, processor, [one], cells, **options)
        told = told.assign(share=told["retention_pct"].fillna(100.0), frames=_frames(one, told))
        told = pd.concat([told, *baselines(model, processor, one, shares, **options)])
        whole = told[told["method"] == "full"].set_index("sample")["mean_tokens"]
        found.append(told.assign(n_visual=told["sample"].map(whole).astype("Int64")))
    frame = pd.concat(found, ignore_index=True)
    pruned = frame.pop("retention_pct").notna() & frame["n_visual"].notna()  # a failure has none
    pairs = frame.loc[pruned, ["share", "n_visual"]].itertuples(index=False)
    frame.loc[pruned, "keep"] = [count_at(*pair) for pair in pairs]
    return frame


def _of_each_length(one: Suite, limit: int | None, seed: int) -> Suite:
    """The suite with at most `limit` questions of each number of frames."""
    parts = [part.head(limit, seed).samples for part in lengths(one)]
    return dataclasses.replace(one, samples=pd.concat(parts, ignore_index=True))


def _frames(one: Suite, records: pd.DataFrame) -> pd.Series:
    """How many frames each record's question was shown."""
    shown = one.samples.set_index("id")["image"].map(lambda image: image["frames"])
    return records["sample"].map(shown)


def baselines(
    model: nn.Module, processor: Any, one: Suite, shares: Sequence[float], **options: Any
) -> list[pd.DataFrame]:
    """The first frame alone, and a share of each clip's frames for each share of its tokens."""
    shown = [(FIRST, 100.0, with_frames(one, 1))]
    shown += [(FEWER, share, with_share_of_frames(one, share)) for share in shares]
    found = []
    for name, share, less in shown:
        told = evaluate(model, processor, [less], [Cell()], **options)
        found.append(told.assign(method=name, share=share, frames=_frames(less, told)))
    return found


# ------------------------------------------------------------------------------------------ tables
def rows(records: pd.DataFrame, suites: Sequence[Suite], **about: Any) -> pd.DataFrame:
    """Long rows of the results schema under the paper's names: MVBench, VideoMME and its lengths.

    records: of `evaluate_shares`; about: `table`, `model`, … of the rows. Errors are over clips.
    """
    about = {"table": "tiny_video", "model": EMBEDDED, "device": "cpu", "dtype": "float32"} | about
    made = []
    for one in suites:
        mine = records[records["suite"] == one.name]
        asked = one.only(mine["sample"])
        for (name, variant, share), part in mine.groupby(["method", "variant", "share"]):
            for metric, ratios in metrics(asked, part).items():
                length = metric.removeprefix("accuracy_")
                if metric != "accuracy" and length not in SPLITS:
                    continue
                made.append(
                    {
                        **about,
                        "method": name,
                        "variant": variant,
                        "retention_pct": share,
                        "mean_tokens": round(part["mean_tokens"].mean(), 6),
                        "benchmark": SPLITS.get(length, one.stands_for),
                        "metric": "score",
                        "value": value_of(ratios),
                        "unit": "%",
                        "n": len(part)
                        if metric == "accuracy"
                        else int(part.split.eq(length).sum()),
                        "stderr": error_of(pull_of(ratios, part["picture"])),
                        "seed": about.get("seed", 0),
                        "source": "measured",
                    }
                )
    return results.tidy(pd.DataFrame(made))


def chance(samples: pd.DataFrame) -> pd.Series:
    """What guessing among the options of each question gives, in [0, 1]."""
    return 1 / samples["question"].str.count(r"(?:\b[A-H]\.|\([A-H]\)) ")


def by_type(records: pd.DataFrame, suites: Sequence[Suite]) -> pd.DataFrame:
    """Accuracy in % by suite and type of question: chance; eliminating: of who guesses among what
    the first frame leaves possible (`tiny.first_frame`, missing for other suites); first_frame: of
    the model that sees nothing else; the full model, and its error over clips."""
    asked = pd.concat([one.samples for one in suites])
    guess = asked.assign(chance=chance(asked)).groupby("id")["chance"].first()
    odds = pd.read_csv(DATA / "tiny" / "videos" / "first_frame.csv", index_col="id")
    left = odds["first_frame"]
    made = []
    for (one, kind), part in records.groupby(["suite", "kind"]):
        full = part[part["method"] == "full"]
        hits = full.assign(off=full["score"] - full["score"].mean())
        pull = hits.groupby("picture")["off"].sum() / len(full)
        first = part[part["method"] == FIRST]
        made.append(
            {
                "suite": one,
                "kind": kind,
                "n": len(full),
                "chance": 100 * full["sample"].map(guess).mean(),
                "eliminating": 100 * full["sample"].map(left).mean(),
                "first_frame": 100 * first["score"].mean(),
                "full": 100 * full["score"].mean(),
                "stderr": 100 * error_of(pull),
            }
        )
    return pd.DataFrame(made)


# --------------------------------------------------------------------------------- what is kept
def films(samples: pd.DataFrame) -> dict[str, np.ndarray]:
    """The frames that each question is shown, uint8 (T, h, w, 3), by sample."""
    shown = {
        row.id: frames(row.image["video"], row.image["frames"]) for row in samples.itertuples()
    }
    return {name: np.stack([np.asarray(frame) for frame in film]) for name, film in shown.items()}


def frames_kept(shown: pd.DataFrame) -> pd.DataFrame:
    """How the budget spreads over time: by method and frame, the mean share of a clip's kept tokens
    that stand in it, and of the frame's own tokens that are kept; both in %. shown: of
    `run.look`."""
    placed = shown[shown["frame"] >= 0]
    all_kept = placed.groupby(["method", "sample"])["kept"].transform("sum")
    each = placed.assign(part=placed["kept"] / all_kept.where(all_kept > 0))
    by = ["method", "sample", "frame"]
    each = each.groupby(by).agg(of_kept=("part", "sum"), of_frame=("kept", "mean"))
    return (100 * each).groupby(["method", "frame"]).mean().reset_index()
