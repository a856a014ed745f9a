"""The exam: four options, nearly all of them in the picture, one of them right."""

import re

import architecture
import exam
import numpy as np
import pandas as pd
import pytest
import qwen
import suites
import world
from test_tiny_sized import pixels

from qvid_utils.workbook.benchmarks import suite


@pytest.fixture(scope="module")
def stored():
    return pd.read_parquet(suites.SUITES / f"{exam.NAME}.parquet")


def fits(scene: world.Scene, text: str, option: str) -> bool:
    """Whether an option answers the question, read off the words and looked up in the scene."""
    named = re.search(r"(?:color is the|color of the) (?:letter )?(\w+)\?", text)
    if text.startswith("What color"):
        return any(t.kind == named[1] and t.colour == option for t in scene)
    if named:
        colour = next(t.colour for t in scene if t.kind == named[1])
    else:
        colour = next(word for word in world.COLOURS if re.search(rf"\b{word}\b", text))
    return any(t.kind == option and t.colour == colour for t in scene)


@pytest.mark.parametrize("steps", exam.STEPS)
def test_exactly_one_option_fits_and_the_wrong_ones_are_there(steps):
    there = []
    for seed in range(60):
        scene, text, options, answer = exam.asked(np.random.default_rng(seed), steps)
        assert len(set(options)) == len(world.OPTIONS)
        assert [option for option in options if fits(scene, text, option)] == [answer]
        assert ("has the color of" in text) == (steps == 2)
        seen = {t.colour for t in scene} | {t.kind for t in scene}
        there.append(sum(option in seen for option in options))
    assert min(there) >= exam.LEAST and np.mean(there) > 3.4


def test_the_stored_suite_is_what_the_seed_builds(stored):
    frame = exam.build()
    pd.testing.assert_frame_equal(
        frame.drop(columns="image"), stored.drop(columns="image"), check_dtype=False
    )
    for i in (0, 60, 119):
        was, now = (pixels(f["image"].iloc[i]) for f in (stored, frame))
        assert abs(was - now).max() <= 16  # fonts and rasterisers may differ by a shade


def test_a_habit_is_right_once_in_four_in_every_split(stored):
    assert stored.groupby(["split", "answer"]).size().tolist() == [15] * 8
    assert stored["picture"].is_unique and stored["question"].nunique() > 110
    shown = suite(exam.NAME)
    assert (shown.stands_for, shown.metric, len(shown.samples)) == ("MMMU-Pro", "accuracy", 120)


def test_the_answer_stands_at_its_label_and_words_are_known(stored):
    """And there are no more labels to ask with: the four are all that the models know."""
    for row in stored.itertuples():
        options = dict(re.findall(r"([A-D])\. (\w+)", row.question))
        assert list(options) == ["A", "B", "C", "D"]
        sorts = {"colour": world.COLOURS, "shape": world.SHAPES, "letter": world.LETTERS}
        assert all(word in sorts[row.kind] for word in options.values())
    for tok in (architecture.tokenizer(), qwen.tokenizer()):
        ids = tok(stored["question"].tolist())["input_ids"]
        assert all(tok.unk_token_id not in row for row in ids)
        assert tok.unk_token_id in tok("E. red")["input_ids"]
