"""The hallucination suite: one thing is changed, and it alone turns answers over."""

import io

import architecture
import edited
import numpy as np
import pandas as pd
import pytest
import suites
import world
from PIL import Image


@pytest.fixture(scope="module")
def stored():
    return pd.read_parquet(suites.SUITES / f"{edited.NAME}.parquet")


def answer(scene: world.Scene, text: str) -> str:
    """The answer from the words alone, by another way than the suite's builder goes."""
    words = text.split("?")[0].split()
    kind = next(w for w in words if w in world.KINDS)
    there = [t for t in scene if t.kind == kind]
    if words[1] == "there":
        return "yes" if there else "no"
    (thing,) = there
    if words[-1] in world.COLOURS:
        return "yes" if thing.colour == words[-1] else "no"
    side = next(w for w in words if w in ("left", "right", "top", "bottom"))
    low = (thing.column if side in ("left", "right") else thing.row) < 3
    return "yes" if low == (side in ("left", "top")) else "no"


@pytest.mark.parametrize("edit", edited.EDITS)
def test_one_thing_changes_and_the_answers_follow(edit):
    for seed in range(40):
        before, after, turning, staying = edited.edited(np.random.default_rng(seed), edit)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert len({(t.row, t.column) for t in after}) == len(after)
        said = [[answer(s, text) for _, text in turning + staying] for s in (before, after)]
        assert said == [["yes", "no", "yes", "no"], ["no", "yes", "yes", "no"]]


def test_the_stored_suite_is_what_the_seed_builds(stored):
    frame = edited.build()
    pd.testing.assert_frame_equal(
        frame.drop(columns="image"), stored.drop(columns="image"), check_dtype=False
    )
    was, now = (
        np.asarray(Image.open(io.BytesIO(f["image"].iloc[5]["bytes"])), int)
        for f in (stored, frame)
    )
    assert abs(was - now).max() <= 16  # fonts and rasterisers may differ by a shade


def test_both_pictures_of_a_set_differ_in_few_cells(stored):
    for _, rows in list(stored.groupby("group"))[:9]:
        one, two = (
            np.asarray(Image.open(io.BytesIO(cell["bytes"])), int)
            for cell in rows.drop_duplicates("picture")["image"]
        )
        apart = (abs(one - two).max(2) > 24).reshape(6, 16, 6, 16).any((1, 3))
        assert 1 <= apart.sum() <= 2  # a thing's cell, and where it moved to


def test_pairs_and_figures_are_whole_balanced_and_in_the_words(stored):
    assert (stored.groupby("figure").size() == 4).all() and stored["group"].nunique() == 80
    assert (stored.groupby("pair")["figure"].nunique() == 2).all()
    assert (stored["answer"] == "yes").mean() == 0.5
    turns = stored[stored["split"] == "turns"].groupby("pair")["answer"].agg(set)
    assert (turns == {"yes", "no"}).all()
    assert (stored[stored["split"] == "stays"].groupby("pair")["answer"].nunique() == 1).all()
    ids = architecture.tokenizer()(stored["question"].tolist())["input_ids"]
    assert all(architecture.tokenizer().unk_token_id not in row for row in ids)
