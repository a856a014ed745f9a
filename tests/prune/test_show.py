"""A trace as text and as a page: what it says is what was kept."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from twins import BOTH, FILM, STAR, ask, built

from qvid_utils import pruned
from qvid_utils.families import FAMILIES
from qvid_utils.prune.trace import Trace


def images(page):
    found = re.findall(r'<img alt="([^"]+)".*?base64,([^"]+)"', page)
    return [(alt, np.asarray(Image.open(io.BytesIO(b64decode(data))))) for alt, data in found]


def test_three_lines():
    model, inputs = built(), ask(STAR)
    with pruned(model, "qvid", 5, layer=3) as trace:
        model(**inputs)
    words = trace.cuts[0].n_query
    mean = (3 * 16 + 5 * 5) / 8
    expected = f"qvid: layer 3: 5 of 16 kept\nmean tokens: {mean:.1f}\n{words} query tokens"
    assert str(trace) == expected


def test_nothing_was_cut():
    assert "no cut" in str(Trace()) and "no cut" in Trace()._repr_html_()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_page_for_every_family(family):
    """One picture for each picture of a prompt (tiles and frames are pictures, too), and in all of
    them as many clear patches as tokens that show a place were kept."""
    model = built(family)
    inputs = ask(BOTH, STAR, model_type=family)
    with torch.no_grad(), pruned(model, "qvid", 7) as trace:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    page = trace._repr_html_()
    assert page.count("<tr>") == 1 + len(trace.cuts) == 3
    kept = 0
    for alt, picture in images(page):
        clear, patches = map(int, re.findall(r"\d+", alt))
        assert picture.ndim == 3 and 0 <= clear <= patches
        kept += clear
    assert 0 < kept <= 14


def test_dropped_patches_are_veiled():
    model, inputs = built(), ask(STAR)
    with pruned(model, "qvid", 5, layer=0) as trace:
        model(**inputs)
    ((alt, veiled),) = images(trace._repr_html_())
    assert alt == "5 of 16 patches kept"
    with pruned(model, "qvid", 16, layer=0) as whole:
        model(**inputs)
    ((_, clear),) = images(whole._repr_html_())
    side = len(clear) // 4
    means = [part.reshape(4, side, 4, side, 3).mean((1, 3, 4)).ravel() for part in (veiled, clear)]
    same = np.flatnonzero(np.isclose(*means))
    assert same.tolist() == sorted(trace.cuts[0].kept.tolist())


def test_frames_of_a_clip_are_shown():
    model, inputs = built("video_llava"), ask(FILM, model_type="video_llava")
    with torch.no_grad(), pruned(model, "qvid", 9) as trace:
        model(**inputs)
    assert len(images(trace._repr_html_())) == 2
