"""Captions: all that is in a picture, in one order, as the model reads and says them."""

import io
from dataclasses import replace

import captions
import graft
import numpy as np
import pandas as pd
import qwen
import suites
import turns
import world
from PIL import Image

from qvid_utils import load
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate

Thing = world.Thing
SCENE = (
    Thing("K", "red", 0, 0),
    Thing("star", "cyan", 1, 1),
    Thing("star", "blue", 2, 5),
    Thing("circle", "white", 3, 3),
)
SAID = "white circle and blue star and cyan star and red letter K"


def test_a_caption_names_all_things_by_kind_and_colour():
    assert captions.said(captions.in_order(SCENE)) == SAID
    assert captions.said(captions.in_order(SCENE[::-1])) == SAID


def test_the_stored_suite_is_what_the_seed_builds():
    stored = pd.read_parquet(suites.SUITES / f"{captions.NAME}.parquet")
    frame = captions.build()
    plain = ["image", "answers"]
    pd.testing.assert_frame_equal(
        frame.drop(columns=plain), stored.drop(columns=plain), check_dtype=False
    )
    assert [list(a) for a in stored["answers"]] == frame["answers"].tolist()
    was, now = (
        np.asarray(Image.open(io.BytesIO(f["image"].iloc[7]["bytes"])), int)
        for f in (stored, frame)
    )
    assert abs(was - now).max() <= 16  # fonts and rasterisers may differ by a shade


def test_references_say_the_same_things_in_other_orders():
    one = suite(captions.NAME)
    for _, row in one.samples.iterrows():
        things = [sorted(answer.split(" and ")) for answer in row["answers"]]
        assert len(things) == captions.REFERENCES and all(t == things[0] for t in things)
        assert row["answer"] == row["answers"][0] and 5 <= len(things[0]) <= 8
    longest = max(len(ids) for ids in qwen.tokenizer()(one.samples["answer"].tolist())["input_ids"])
    assert longest + 1 <= one.new_tokens  # with the end


def test_training_reads_a_caption_as_the_processor_writes_it():
    other = SCENE[:2]
    ids, target = turns.described([other, SCENE], qwen.tokenizer())
    assert ids.shape == target.shape == (2, 1, ids.shape[2])
    for b, text in enumerate(["cyan star and red letter K", SAID]):
        parts = [{"type": "image"}, {"type": "text", "text": captions.REQUEST}]
        chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": parts[1:]}]
        chat[1]["content"] = [{"type": "text", "text": text}]
        prompt = qwen.processor().apply_chat_template(chat, tokenize=False)
        inputs = qwen.processor()(text=[prompt], images=[Image.new("RGB", (32, 32))])
        wanted = inputs["input_ids"][0]
        wanted = wanted[wanted.index(graft.WORD["<|vision_end|>"]) + 1 :]
        row, said = ids[b, 0].tolist(), target[b, 0]
        assert row[: len(wanted)] == wanted and set(row[len(wanted) :]) <= {0}
        told = (said >= 0).nonzero()[:, 0]
        assert [row[i + 1] for i in told] == said[told].tolist()  # each is the next word
        assert qwen.tokenizer().decode(said[told]) == f"{text} <|im_end|>"


def test_short_rows_are_filled_up():
    rows = turns.described([SCENE, SCENE[:1]], qwen.tokenizer())
    both = turns.stacked([rows[1], rows[1][:, :, :3]], -100)
    assert both.shape == (2, 2, rows[1].shape[2]) and (both[:, 1, 3:] == -100).all()


def test_answers_without_a_score_of_their_own_are_stored(tmp_path):
    few = replace(suite(captions.NAME).head(2), new_tokens=2)
    made, read = (evaluate(*load("tiny/llava"), [few], [Cell()], store=tmp_path) for _ in "ab")
    assert made["score"].isna().all() and made["prediction"].str.len().all()
    pd.testing.assert_frame_equal(made, read)
