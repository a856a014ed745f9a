"""The crowded pictures and films: their truth records are true, and they are the same for all."""

import io

import architecture
import clips
import crowded
import crowded_clips
import numpy as np
import pandas as pd
import pytest
import world
from PIL import Image
from world import Thing

EVERY = [(setting, part) for setting, known in crowded.SETTINGS.items() for part in known.pictures]
SCENE = (
    Thing("star", "red", 0, 0),
    Thing("circle", "blue", 0, 4),
    Thing("K", "red", 3, 1),
    Thing("M", "green", 2, 5),
)


def stored(name):
    return pd.read_parquet(crowded_clips.FOLDER / f"{name}.parquet")


@pytest.mark.parametrize(
    "text, things",
    [
        ("What color is the star?", [0]),
        ("Which letter is red?", [2]),
        ("What is the red shape?", [0]),
        ("Is the star left of the circle?", [0, 1]),
        ("Is there a heart in the picture?", []),
        ("Which letter has the color of the star? A. K B. M C. P", [0, 2]),
        ("What color is the letter M? A. red B. green", [3]),
        ("Do the letter K and the star have the same color?", [0, 2]),
    ],
)
def test_named_things_by_hand(text, things):
    assert crowded.named(world.Question("", text, ""), SCENE) == things


def test_a_patch_shows_the_thing_that_covers_it():
    setting = crowded.SETTINGS["sparse"]
    pixels, shown = crowded.render(SCENE[:2], np.random.default_rng(0), setting)
    cells = np.array(shown).reshape(12, 12)
    assert set(cells[:2, :2].ravel()) <= {0, -1} and (cells[:2, :2] == 0).sum() >= 3
    assert set(cells[:2, 8:10].ravel()) <= {1, -1} and (cells == 1).sum() >= 3
    assert (cells[2:] == -1).all()
    vivid = pixels.max(2).astype(int) - pixels.min(2) > 120  # the ground is greyish
    seen = vivid.reshape(12, 8, 12, 8).sum((1, 3))
    assert (seen[cells == -1] <= 4).all() and (seen[cells == 0].sum() > 40)


@pytest.mark.parametrize("setting, part", EVERY)
def test_a_swap_has_the_same_form_other_things_and_another_answer(setting, part):
    frame = stored(f"{setting}_{part}")
    assert frame["id"].is_unique and (frame["answer"] != frame["swap_answer"]).all()
    for row in frame.itertuples():
        assert crowded.form(row.question) == crowded.form(row.swap) and row.question != row.swap
    fewest, most = crowded.SETTINGS[setting].things
    number = frame["shown"].map(max).add(1)
    assert number.between(fewest, most).all()
    assert frame["picture"].nunique() == crowded.SETTINGS[setting].pictures[part]


def test_long_questions_have_forty_tokens():
    words = architecture.tokenizer()
    long = stored("crowded_reported").query("kind == 'long'")
    assert len(long) > 40 and set(long["split"]) == set(crowded.LONG)
    assert all(len(words(text, add_special_tokens=False).input_ids) >= 40 for text in long.question)


@pytest.mark.parametrize(
    "setting, part",
    [("sparse", "deciding"), pytest.param("crowded", "deciding", marks=pytest.mark.full)],
)
def test_the_same_seed_draws_what_is_stored(setting, part):
    """Words, records and pixels; the bytes of WebP are its encoder's."""
    made, kept = crowded.build(setting, part), stored(f"{setting}_{part}")
    same = ["id", "picture", "question", "answer", "kind", "split", "swap", "swap_answer", "suite"]
    pd.testing.assert_frame_equal(made[same], kept[same])
    for name in ("named", "shown"):
        assert all(list(a) == list(b) for a, b in zip(made[name], kept[name], strict=True))
    for a, b in zip(made["image"][::40], kept["image"][::40], strict=True):
        pair = [np.asarray(Image.open(io.BytesIO(one["bytes"])), dtype=float) for one in (a, b)]
        assert (pair[0] == pair[1]).all()


def test_clips_show_and_name_their_things():
    rng = np.random.default_rng(3)
    clip = clips.draw_clip(rng, 8, 6, 8)
    shown = np.array(crowded_clips.shown(clip)).reshape(8, 4, 4)
    for number, actor in enumerate(clip):
        for t, cell in enumerate(actor.cells):
            assert cell is None or shown[t, *cell] == number
    assert (shown >= 0).sum() == sum(cell is not None for actor in clip for cell in actor.cells)
    own, other = next(crowded_clips.pairs("still_colour", clip, rng))
    named = clip[crowded_clips.named(own, clip)]
    assert named.colours[0] == own.answer != other.answer


def test_the_same_seed_draws_the_stored_clips():
    made, kept = crowded_clips.build("sparse", "deciding"), stored("sparse_clips_deciding")
    same = ["id", "question", "answer", "kind", "swap", "swap_answer"]
    pd.testing.assert_frame_equal(made[same], kept[same])
    films = [one["video"]["bytes"] for one in kept["image"]]
    assert [one["video"]["bytes"] for one in made["image"]] == films


def test_the_folder_is_small():
    assert sum(path.stat().st_size for path in crowded_clips.FOLDER.iterdir()) < 3e6
