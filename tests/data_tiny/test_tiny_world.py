"""The generated world: what it says about its pictures is true, and it is the same for everyone."""

import io

import architecture
import numpy as np
import pandas as pd
import pytest
import suites
import world
from PIL import Image
from world import Thing

SCENE = (
    Thing("star", "red", 0, 0),
    Thing("circle", "blue", 0, 4),
    Thing("ring", "green", 5, 2),
    Thing("K", "red", 3, 1),
    Thing("M", "green", 2, 5),
    Thing("M", "blue", 4, 4),
)


def many(kind, number=200, **wishes):
    rng = np.random.default_rng(1)
    asked = [world.ask(kind, SCENE, rng, **wishes) for _ in range(number)]
    return {(q.text.removesuffix(world.QUESTIONS[kind][1]).strip(), q.answer) for q in asked if q}


def test_colour_asks_only_about_kinds_that_are_there_once():
    assert many("colour") == {
        ("What color is the star?", "red"),
        ("What color is the circle?", "blue"),
        ("What color is the ring?", "green"),
        ("What color is the letter K?", "red"),
    }


def test_letter_and_shape_ask_by_a_colour_that_only_one_of_them_has():
    assert {answer for _, answer in many("letter")} == {"K", "M"}
    assert ("Which letter is red?", "K") in many("letter")
    assert ("What is the blue shape?", "circle") in many("shape")


def test_two_step_goes_over_the_colour():
    assert many("two_step") == {
        ("Which letter has the color of the star?", "K"),
        ("Which letter has the color of the circle?", "M"),
        ("Which letter has the color of the ring?", "M"),
        ("Which shape has the color of the letter K?", "star"),
    }


@pytest.mark.parametrize(
    "text, answer",
    [
        ("Is the star left of the circle?", "yes"),
        ("Is the ring above the star?", "no"),
        ("Is the ring below the star?", "yes"),
        ("Is the circle right of the letter K?", "yes"),
    ],
)
def test_relation_by_hand(text, answer):
    assert (text, answer) in many("relation", 2000)
    assert (text, {"yes": "no", "no": "yes"}[answer]) not in many("relation", 2000)


def test_half_and_counts_by_hand():
    assert ("Is the star in the left half of the picture?", "yes") in many("half")
    assert ("Is the ring in the top half of the picture?", "no") in many("half")
    assert ("How many red things are in the picture?", "two") in many("count")
    assert all(said == "two" for _, said in many("count"))
    assert ("Is the number of green things in the picture one?", "no") in many("is_count")


def test_same_colour_by_hand():
    said = many("same_colour")
    assert ("Do the star and the letter K have the same color?", "yes") in said
    assert ("Do the star and the ring have the same color?", "no") in said
    assert not any("letter M" in text for text, _ in said)


def test_negatives_are_absent_and_of_their_sort():
    rng = np.random.default_rng(2)
    there = {t.kind for t in SCENE}
    for how in ("random", "popular", "adversarial"):
        kinds = {world._absent(SCENE, rng, how) for _ in range(100)}
        assert not kinds & there
        if how == "adversarial":
            assert all(world.COMPANION[kind] in there for kind in kinds)
        if how == "popular":
            absent = set(world.KINDS) - there
            assert min(map(world.POPULARITY.get, kinds)) >= np.median(
                [world.POPULARITY[kind] for kind in absent]
            )


def test_choices_name_the_right_option():
    open_questions = many("colour") | many("shape") | many("letter")
    for text, answer in many("choice"):
        asked, options = text.split("?")
        value = options.split(f"{answer}. ")[1].split()[0]
        assert (f"{asked}?", value) in open_questions


def test_a_scene_and_its_picture_follow_the_seed():
    def draw(seed):
        rng = np.random.default_rng(seed)
        scene = world.draw_scene(rng)
        return scene, world.render(scene, rng)

    (one, a), (two, b), (_, c) = draw(5), draw(5), draw(6)
    assert one == two and (a == b).all() and (a != c).any()
    assert 5 <= len(one) <= 8 and a.shape == (96, 96, 3) and a.dtype == np.uint8


def test_a_thing_is_painted_in_its_cell_and_colour():
    rng = np.random.default_rng(0)
    picture = world.render((Thing("square", "white", 2, 3),), rng).astype(float)
    spot = picture[2 * 16 + 4 : 3 * 16 - 4, 3 * 16 + 4 : 4 * 16 - 4]
    assert spot.mean() > 225 > 190 > picture[:32].mean()


def test_every_word_of_every_question_is_in_the_vocabulary():
    tok = architecture.tokenizer()
    rng = np.random.default_rng(3)
    for _ in range(30):
        scene = world.draw_scene(rng)
        for kind in world.QUESTIONS:
            question = world.ask(kind, scene, rng)
            if question:
                ids = tok(f"{question.text} {question.answer}")["input_ids"]
                assert tok.unk_token_id not in ids, question.text
                assert 8 <= len(ids) - 2 <= 30


@pytest.fixture(scope="module")
def stored():
    return {name: pd.read_parquet(suites.SUITES / f"{name}.parquet") for name in suites.BUILDERS}


def test_the_stored_suites_are_what_the_seed_builds(stored):
    for name, frame in suites.build().items():
        pd.testing.assert_frame_equal(
            frame.drop(columns="image"), stored[name].drop(columns="image"), check_dtype=False
        )
        was = np.asarray(Image.open(io.BytesIO(stored[name]["image"].iloc[0]["bytes"])), int)
        now = np.asarray(Image.open(io.BytesIO(frame["image"].iloc[0]["bytes"])), int)
        assert abs(was - now).max() <= 16  # fonts and rasterisers may differ by a shade


def test_the_stored_suites_are_balanced_and_small(stored):
    assert all(len(frame) >= 500 and frame["id"].is_unique for frame in stored.values())
    for name in ("tiny_pope", "tiny_mme"):
        assert (stored[name]["answer"] == "yes").mean() == 0.5
    files = {path.stem: path.stat().st_size for path in suites.SUITES.glob("*.parquet")}
    assert sum(files[name] for name in stored) < 10e6  # the six; others have pictures of their own
    assert max(files.values()) < 3e6


def test_pairs_and_rotations_are_whole(stored):
    assert (stored["tiny_mme"].groupby("group")["answer"].agg(set) == {"yes", "no"}).all()
    turns = stored["tiny_mmb"].groupby("group")["answer"].agg(lambda a: "".join(sorted(a)))
    assert (turns == "ABCD").all()
