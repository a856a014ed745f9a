"""The suite of several sizes: a picture of more cells is larger, its things are not."""

import io

import architecture
import numpy as np
import pandas as pd
import pytest
import sized
import suites
import world
from PIL import Image

from qvid_utils.workbook.benchmarks import suite


@pytest.fixture(scope="module")
def stored():
    return pd.read_parquet(suites.SUITES / f"{sized.NAME}.parquet")


def pixels(cell: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])), int)


@pytest.mark.parametrize("board", sized.BOARDS)
def test_a_board_of_any_size_is_drawn_whole(board):
    rng, things = np.random.default_rng(2), []
    for _ in range(30):
        scene = world.draw_scene(rng, board=board)
        assert world.render(scene, rng, board).shape == (board[0] * 16, board[1] * 16, 3)
        things += scene
    assert {t.row for t in things} == set(range(board[0]))
    assert {t.column for t in things} == set(range(board[1]))


def test_the_stored_suite_is_what_the_seed_builds(stored):
    frame = sized.build()
    pd.testing.assert_frame_equal(
        frame.drop(columns="image"), stored.drop(columns="image"), check_dtype=False
    )
    for i in (0, 200, 440):
        was, now = (pixels(f["image"].iloc[i]) for f in (stored, frame))
        assert abs(was - now).max() <= 16  # fonts and rasterisers may differ by a shade


def test_the_split_is_the_size_and_every_size_is_asked(stored):
    for _, row in stored.drop_duplicates("picture").iterrows():
        height, width, _ = pixels(row["image"]).shape
        assert row["split"] == f"{height}x{width}"
    asked = stored["split"].value_counts()
    assert len(asked) == len(sized.BOARDS) and asked.min() >= 40
    assert len(suite(sized.NAME).samples) == len(stored)


def test_the_picture_shows_the_colour_that_is_the_answer(stored):
    """And no colour that is wrong fits all questions: the words are about these pictures."""
    asked = stored[stored["kind"] == "colour"]
    shown = []
    for _, row in asked.iterrows():
        apart = {
            name: np.linalg.norm(pixels(row["image"]) - np.array(rgb), axis=2)
            for name, rgb in world.COLOURS.items()
        }
        held = {name for name, far in apart.items() if (far < 40).sum() >= 12}
        shown.append((row["answer"] in held, len(held) < len(world.COLOURS)))
    assert np.mean(shown, axis=0).min() > 0.98


def test_words_are_known_and_yes_is_no_habit(stored):
    tok = architecture.tokenizer()
    assert all(tok.unk_token_id not in ids for ids in tok(stored["question"].tolist())["input_ids"])
    told = stored[stored["answer"].isin(["yes", "no"])]
    assert 0.4 < (told["answer"] == "yes").mean() < 0.6
