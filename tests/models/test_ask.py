"""`ask`: one call from a picture and a question to an answer, pruned inside a block."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers import pipeline
from twins import embedded

from qvid_utils import ask, pruned
from qvid_utils.paths import DATA


@pytest.fixture(scope="module")
def row():
    return pd.read_parquet(DATA / "tiny" / "suites" / "tiny_gqa.parquet").iloc[0]


def test_a_picture_may_come_as_file_bytes_array_or_picture(row, tmp_path):
    data = row["image"]["bytes"]
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.save(tmp_path / "photo.png")
    model, processor = embedded("tiny/llava")
    for given in (data, picture, np.asarray(picture), tmp_path / "photo.png", [picture]):
        assert ask(model, processor, given, row["question"], max_new_tokens=4) == row["answer"]


def test_inside_the_block_it_is_pruned(row):
    model, processor = embedded("tiny/llava")
    with pruned(model, "qvid", 16) as trace:
        answer = ask(model, processor, row["image"]["bytes"], row["question"], max_new_tokens=4)
    assert answer and [len(cut.kept) for cut in trace.cuts] == [16]


@pytest.mark.parametrize(
    ("picture", "question", "match"),
    [
        ("missing.png", "What?", "the picture missing.png cannot be read: there is no such file"),
        ([b"no picture"], "What?", "picture 0 of the list cannot be read"),
        (None, "  ", "question='  ': give the words to ask"),
    ],
)
def test_bad_input_is_one_sentence(picture, question, match):
    model, processor = embedded("tiny/llava")
    with pytest.raises(ValueError, match=match):
        ask(model, processor, picture, question)


def test_the_librarys_pipeline_is_pruned_inside_the_block(row):
    """As README says: transformers' own pipeline for questions about pictures."""
    model, processor = embedded("tiny/llava")
    asks = pipeline("image-text-to-text", model=model, processor=processor)
    picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": row["question"]}]
    chat = [{"role": "user", "content": content}]
    options = {"max_new_tokens": 4, "return_full_text": False}
    plain = asks(text=chat, **options)[0]["generated_text"]
    assert plain.strip() == row["answer"]
    with pruned(model, "qvid", 16) as trace:
        asks(text=chat, **options)
    assert [len(cut.kept) for cut in trace.cuts] == [16]
