"""Which cells compare the methods: at an equal label, and at an equal mean over the layers.

Papers label a row with `keep`, and mean two things by it: what one cut leaves, or the mean over the
layers of a staged method. So methods are compared twice:

    label   what the method's source calls this budget: the count after a single cut; a staged
            method's published list, scaled to the model's depth and tokens
    mean    the visual tokens that enter a layer, mean over all layers: the same for everybody,
            from below where whole tokens do not meet it
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...algebra.cuts import Cut, Infeasible, Staged, tokens_per_layer
from ...methods import METHODS, Method
from ..cost.budgets import exchange

__all__ = ["COMPARED", "LEFT_OUT", "READINGS", "Entry", "at_budget", "entries", "keep_after"]

READINGS = ("label", "mean")

#: Methods that the comparison on LLaVA leaves out, each with the reason.
LEFT_OUT: dict[str, str] = {
    "sigma_weighted": "the column norm under another name (the paper's appendix E)",
    "hired": "on LLaVA-1.5 the same choice as fastervlm: one row of class attention",
    "svd_prune_per_frame": "one picture has one frame: svd_prune",
    "fastv_k3": "layers 2 and 3 of 32 are one layer in a model of twelve: fastv",
    "v2drop_qwen2_vl": "the layers and shares of another model",
    "sparsevlm_in_place": "our adaptation to positions along several axes",
    **{
        name: "our adaptation to towers without a class token"
        for name in METHODS
        if name.endswith("_received")
    },
}

#: Methods that the comparison holds.
COMPARED: tuple[str, ...] = tuple(name for name in METHODS if name not in LEFT_OUT)


#: The ten of a figure that tells the story: the two papers' methods, their rivals, and random.
STORY = ("qvid", "column_norm", "fastv", "sparsevlm", "pyramiddrop", "v2drop", "visionzip",
         "divprune", "svd_prune", "random")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A method at a budget under one reading.

    keep: what to ask the method for; None where the budget cannot be met, `floor` says why; lists:
    the use of its published lists ("" as it is by default); layer: of a single cut, else None.
    """

    reading: str
    budget: int
    method: str
    keep: int | None
    lists: str = ""
    layer: int | None = None
    floor: str = ""


def entries(
    config: Any,
    budgets: Iterable[int],
    methods: Sequence[str] = COMPARED,
    readings: Sequence[str] = READINGS,
) -> list[Entry]:
    """Every method at every budget, under each reading; config: of a model with one picture size.

    Two readings may ask for one cell: the input of the language model makes all layers equal.
    """
    budgets = list(budgets)
    return [
        _entry(config, reading, budget, METHODS[name])
        for reading in readings
        for name in methods
        for budget in budgets
    ]


def _entry(config: Any, reading: str, budget: int, method: Method) -> Entry:
    n, depth = config.image_seq_length, config.get_text_config().num_hidden_layers
    known = {"reading": reading, "budget": budget, "method": method.name}
    if isinstance(method.schedule, Staged):
        lists = {"label": "scaled", "mean": "none"}[reading]
        try:
            cuts = method.schedule.using(lists)(budget, n, depth)
        except Infeasible as floor:
            return Entry(**known, keep=None, floor=str(floor))
        try:
            usual = method.schedule(budget, n, depth)
        except Infeasible:
            usual = None
        return Entry(**known, keep=budget, lists="" if cuts == usual else lists)
    (cut,) = method.schedule(1, n, depth)
    keep = budget
    if reading == "mean":
        try:
            keep = keep_after([], budget, config, layer=cut.layer)
        except ValueError as floor:
            return Entry(**known, keep=None, floor=str(floor))
    return Entry(**known, keep=keep, layer=cut.layer)


def keep_after(before: Sequence[Cut], mean: int, config: Any, layer: int) -> int:
    """The largest count after a last cut at `layer` whose mean over the layers is within `mean`.

    before: the cuts above it. ValueError with the floor where even one token costs more.
    """
    n, depth = config.image_seq_length, config.get_text_config().num_hidden_layers
    most = before[-1].keep if before else n

    def tokens(keep: int) -> list[int]:
        return tokens_per_layer([*before, Cut(layer, keep)], n, depth)

    return exchange(config, most, 0, mean_tokens=mean, tokens_of=tokens, convention="macs").keep


def at_budget(
    records: pd.DataFrame, asked: Iterable[Entry], keep_full: bool = True
) -> pd.DataFrame:
    """The records of these entries (of one reading), with `keep` = the budget they stand for.

    `asked_keep` holds what the method was asked for, and the variant is empty, so that a row of
    every method has the same name whatever its schedule. Records of the full model stay.
    Raises ValueError where an entry was not measured.
    """
    frames = [records[records["method"] == "full"].assign(asked_keep=pd.NA)] if keep_full else []
    by_method = dict(tuple(records.groupby("method", sort=False)))
    for one in asked:
        if one.keep is None:
            continue
        mine = by_method.get(one.method, records.iloc[:0])
        rank = METHODS[one.method].params.get("rank")
        variant = f"lists={one.lists}" if one.lists else ""
        chosen = (mine["variant"] == variant) & (mine["keep"] == one.keep)
        chosen &= mine["layer"].isna() if one.layer is None else mine["layer"].eq(one.layer)
        chosen &= mine["rank"].isna() if rank is None else mine["rank"].eq(rank)
        found = mine[chosen.fillna(False).astype(bool)]
        if found.empty:
            raise ValueError(f"not measured: {one}; run python -m qvid_utils run again")
        frames.append(found.assign(asked_keep=one.keep, keep=one.budget, variant=""))
    frame = pd.concat(frames, ignore_index=True)
    return frame.astype({"keep": "Int64", "asked_keep": "Int64"})
