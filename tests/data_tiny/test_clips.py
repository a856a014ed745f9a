"""The video world: clips mean what they say, questions have the answers that the frames show."""

import clip_suites
import clips
import first_frame
import numpy as np
import onevision
import pandas as pd
import pytest
from clips import Actor

from qvid_utils.workbook.benchmarks import suite, video_suite
from qvid_utils.workbook.benchmarks.published.video import frames


def actor(kind, story="stays", cells=((0, 0),) * 4, colours=("red",) * 4, direction=""):
    return Actor(kind, story, direction, cells, colours)


SPOT = [(1, 2)] * 4
CLIP = (
    actor("star", "moves", ((0, 0), (0, 1), (0, 1), (0, 2)), direction="right"),
    actor("K", "appears", (None, None, *SPOT[:2])),
    actor("T", "appears", (None, *[(3, 3)] * 3)),
    actor("ring", "vanishes", ((2, 0), (2, 0), None, None)),
    actor("heart", "vanishes", ((2, 1), (2, 1), (2, 1), None)),
    actor("cross", "changes", ((3, 0),) * 4, ("blue", "blue", "green", "green")),
)


def said(kind, clip=CLIP, times=60):
    """What a type asks of a clip over many draws: {(words, answer)}."""
    rng = np.random.default_rng(0)
    asked = [clips.QUESTIONS[kind][0](clip, rng) for _ in range(times)]
    return {(one[0], one[1]) for one in asked if one}


def test_answers_of_a_clip_worked_out_by_hand():
    assert said("direction") == {("Which direction does the star move?", "right")}
    assert said("colour") == {("What color does the cross become?", "green")}
    assert said("letter") == {("Which letter appears first?", "T")}
    assert said("order") == {
        ("What appears first?", "T"),
        ("What appears last?", "K"),
        ("What vanishes first?", "ring"),
        ("What vanishes last?", "heart"),
    }
    assert said("count") == {
        ("How many things appear?", "two"),
        ("How many things vanish?", "two"),
        ("How many things move?", "one"),
    }
    assert ("What does the letter K do?", "appears") in said("action")
    assert said("flash") == set()
    assert ("What color is the star?", "red") in said("still_colour")


def test_what_flashes_makes_counting_and_order_ambiguous():
    blink = actor("circle", "flashes", (None, (3, 2), None, None))
    assert said("flash", (*CLIP, blink)) == {("What flashes?", "circle")}
    assert said("count", (*CLIP, blink)) == said("order", (*CLIP, blink)) == set()
    letter = actor("Z", "flashes", (None, (3, 2), None, None))
    assert said("letter", (*CLIP, blink)) and not said("letter", (*CLIP, letter))


@pytest.mark.parametrize("length", [4, 8, 16])
def test_a_clip_keeps_the_rules_of_its_world(length):
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(150):
        clip = clips.draw_clip(rng, length)
        assert 3 <= len(clip) <= 5 and len({a.kind for a in clip}) == len(clip)
        for t in range(length):
            there = [a.cells[t] for a in clip if a.cells[t]]
            assert len(there) == len(set(there))
            assert all(0 <= place < clips.BOARD for cell in there for place in cell)
        for story, when in (("appears", "first"), ("vanishes", "last")):
            times = [getattr(a, when) for a in clip if a.story == story]
            assert len(times) == len(set(times))
        for a in clip:
            seen.add(a.story)
            moved = np.subtract(a.cells[a.last], a.cells[a.first])
            down, across = clips.DIRECTIONS.get(a.direction, (0, 0))
            assert (moved == np.abs(moved).sum() * np.array([down, across])).all()
            assert (a.story == "moves") == bool(moved.any())
            assert (a.story == "changes") == (a.colours[0] != a.colours[-1])
            assert (a.first > 0) == (a.story in ("appears", "flashes"))
            assert (a.last < length - 1) == (a.story == "vanishes") or a.story == "flashes"
            if a.story == "flashes":
                assert sum(c is not None for c in a.cells) == max(1, length // 8)
    assert seen == {*clips.STORIES, "flashes"}


def test_things_are_painted_where_and_when_they_are():
    pixels = clips.render(CLIP, np.random.default_rng(0)).astype(int)
    assert pixels.shape == (4, 64, 64, 3)
    changed = np.abs(np.diff(pixels, axis=0)).reshape(3, 4, 16, 4, 16, 3).max((2, 4, 5)) > 0
    cells = [{tuple(c) for c in np.argwhere(step)} for step in changed]
    assert cells == [
        {(0, 0), (0, 1), (3, 3)},  # the star moves, T appears
        {(1, 2), (2, 0), (3, 0)},  # K appears, the ring is gone, the cross turns green
        {(0, 1), (0, 2), (2, 1)},
    ]
    cross = pixels[:, 56, 8]  # the middle of its cell
    assert (cross[1].argmax(), cross[2].argmax()) == (2, 1)


@pytest.mark.parametrize("length", [4, 8, 16])
def test_a_film_holds_its_frames_also_those_that_are_alike(length):
    rng = np.random.default_rng(2)
    late = actor("T", "changes", SPOT * (length // 4), ("red",) * (length - 1) + ("blue",))
    for clip in ((late,), clips.draw_clip(rng, length)):
        pixels = clips.render(clip, rng)
        read = frames({"bytes": clips.film(pixels), "path": "film.png"}, length)
        assert (np.stack([np.asarray(f) for f in read]) == pixels // 8 * 8 + 4).all()
        assert len(clips.film(pixels)) < 11_000  # what stays is stored once
    with pytest.raises(ValueError, match="all frames are alike"):
        clips.film(pixels[:1])


def test_a_question_is_open_or_has_its_answer_among_the_options():
    rng = np.random.default_rng(4)
    for _ in range(80):
        clip = clips.draw_clip(rng, 8)
        for kind, (_, number) in clips.QUESTIONS.items():
            question = clips.ask(kind, clip, rng)
            if question is None:
                continue
            shown = question.text.split("? ")[1].removesuffix(f" {clips.CHOICE_TAIL}").split()
            assert shown[::2] == [f"{letter}." for letter in "ABCD"[:number]]
            assert len(set(shown[1::2])) == number and question.answer in "ABCD"[:number]
            value = shown[shown.index(f"{question.answer}.") + 1]
            asked = question.text.split("? ")[0]
            assert (f"{asked}?", value) in said(kind, clip, 200)
            free = clips.ask(kind, clip, rng, options=False)
            assert free is None or free.text.endswith(clips.SHORT_TAIL)


def test_every_word_is_in_the_vocabulary_of_the_video_model():
    tok, rng = onevision.tokenizer(), np.random.default_rng(3)
    for _ in range(60):
        clip = clips.draw_clip(rng, 8)
        for kind in clips.QUESTIONS:
            for options in (True, False):
                question = clips.ask(kind, clip, rng, options)
                if question:
                    ids = tok(f"{question.text} {question.answer}")["input_ids"]
                    assert tok.unk_token_id not in ids, question.text


# ---------------------------------------------------------------------------------- stored suites
def test_the_stored_video_suites_are_what_the_seed_builds():
    odds = clip_suites.read_first_frame()
    for name, frame in clip_suites.build().items():
        told = frame.pop("first_frame")
        assert np.allclose(told, odds[frame["id"]], atol=1e-6)
        stored = video_suite(name).samples
        pd.testing.assert_frame_equal(
            frame.drop(columns="image"), stored.drop(columns="image"), check_dtype=False
        )
        was, now = (f["image"].iloc[0] for f in (stored, frame))
        assert was["frames"] == now["frames"]
        pair = [np.asarray(frames(x["video"], x["frames"])[-1], int) for x in (was, now)]
        assert abs(pair[0] - pair[1]).max() <= 16  # fonts may differ by a shade


@pytest.mark.parametrize("name", ["tiny_mvbench", "tiny_videomme"])
def test_no_answer_is_given_away_by_its_place(name):
    samples = video_suite(name).samples
    assert len(samples) == 480
    for _, part in samples.groupby("kind"):
        options = part["question"].str.count(r"\b[A-D]\. ")
        assert part["answer"].value_counts(normalize=True).max() < 1 / options.mean() + 0.12


def test_what_the_first_frame_rules_out():
    """A star on its way right, a T that is not there yet, a ring that goes."""
    clip = (
        Actor("star", "moves", "right", ((0, 0), (0, 1), (0, 2), (0, 3)), ("red",) * 4),
        Actor("T", "appears", "", (None, (2, 2), (2, 2), (2, 2)), ("blue",) * 4),
        Actor("ring", "vanishes", "", ((3, 3), (3, 3), None, None), ("green",) * 4),
    )
    asked = {  # kind, question, what the first frame leaves
        ("flash", "What flashes? A. star B. K C. T D. ring Answer with"): "BC",
        ("order", "What vanishes first? A. ring B. T C. K Answer with"): "A",
        ("letter", "Which letter appears first? A. T B. K C. H Answer with"): "ABC",
        (
            "colour",
            "What color does the star become? A. red B. blue C. white D. cyan Answer",
        ): "BCD",
        ("action", "What does the star do? A. moves B. appears C. flashes D. changes Answer"): "AD",
        ("action", "What does the letter T do? A. moves B. appears C. vanishes D. flashes"): "BD",
        ("direction", "Which direction does the star move? A. left B. right C. up D. down"): "BD",
        ("count", "How many things move? A. zero B. one C. two D. three Answer with"): "ABCD",
    }
    for (kind, text), left in asked.items():
        assert "".join(first_frame.possible(kind, text, clip)) == left, text
    assert (
        first_frame.odds("action", "What does the star do? A. moves B. changes", "A", clip) == 0.5
    )
    # a frame that rules out everything rules out nothing
    assert first_frame.possible("flash", "What flashes? A. star B. ring", clip) == ["A", "B"]


def test_the_lengths_of_tiny_videomme():
    samples = video_suite("tiny_videomme").samples
    shown = samples["image"].map(lambda image: image["frames"])
    assert shown.groupby(samples["split"]).unique().map(list).to_dict() == {
        "short": [4],
        "medium": [8],
        "long": [16],
    }
    assert (samples["split"].value_counts() == 160).all()


def test_a_video_suite_is_a_suite_by_name():
    assert suite("tiny_mvbench") is video_suite("tiny_mvbench")
    with pytest.raises(ValueError, match="did you mean .tiny_mvbench.. Known: .*tiny_videomme"):
        suite("tiny_mvbensh")


def test_an_unknown_video_suite_is_told():
    with pytest.raises(ValueError, match="unknown video suite 'tiny_gqa'. Known: tiny_mvbench, t"):
        video_suite("tiny_gqa")
    assert sum(path.stat().st_size for path in clip_suites.VIDEOS.iterdir()) < 10e6
