"""Figures: what is drawn is what the frame says, and what is saved is the same every time."""

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qvid_utils.paths import ROOT
from qvid_utils.workbook.plots import base as figures
from qvid_utils.workbook.plots import pictures, spectra, words

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
WORDS = ("What", "is", "red", "?")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "figures_dir", lambda profile="tiny": tmp_path / profile)
    return tmp_path / "tiny"


def make_spectra(suites=("tiny_pope", "tiny_gqa"), lengths=(3, 5), heads=2):
    """The long frame of `observation.spectra`: σ_k/σ_1 = (head + 1 + sample) ** -(k - 1), …"""
    rows = [
        (suite, suite[5:].upper(), f"{suite}/{n}", curve, head, k, base ** (1 - k))
        for suite in suites
        for n, length in enumerate(lengths)
        for head in range(heads)
        for curve, base in (
            ("interaction", 2.0 + head + 2 * n),
            ("shuffled", 1.2),
            ("random factors", 1.1),
        )
        for k in range(1, length + 1)
    ]
    columns = ["suite", "stands_for", "sample", "curve", "head", "mode", "relative"]
    return pd.DataFrame(rows, columns=columns)


def make_scores(samples=("tiny_gqa/0",)):
    dominant = np.array([0.1, 0.2, 0.9, 0.3])
    frames = [
        pd.DataFrame(
            {
                "suite": sample.split("/")[0],
                "stands_for": "GQA",
                "sample": sample,
                "place": range(4),
                "word": WORDS,
                "dominant": dominant,
                "residual": 1 - dominant,
                "loudness": [0.1, 0.2, 0.3, 0.4],
            }
        )
        for sample in samples
    ]
    return pd.concat(frames, ignore_index=True)


def make_watched(n=9):
    rows = [
        {
            "question": f"What color is the {what}? Answer the question using a single word.",
            "answer": "red",
            "label": label,
            "prediction": said,
            "right": said == "red",
            "kept": kept,
            "scores": RNG.random(n).tolist(),
            "board": (3, 3),
        }
        for what in ("star", "ring")
        for label, said, kept in (("Full", "red", list(range(n))), ("QViD", "blue", [1, 5]))
    ]
    return pd.DataFrame(rows)


def make_steps():
    values = {
        "interaction": (RNG.normal(size=(4, 9)), 0),
        "sigma": (np.array([[4.0], [2.0], [1.0], [0.5]]), 1),
        "participation": (RNG.random((3, 9)), 1),
        "score": (RNG.random((1, 9)), 0),
    }
    rows = [
        (step, i + first, j, value)
        for step, (table, first) in values.items()
        for (i, j), value in np.ndenumerate(table)
    ]
    return pd.DataFrame(rows, columns=["step", "row", "token", "value"])


def texts(fig):
    return [t.get_text() for t in fig.findobj(lambda artist: hasattr(artist, "get_text"))]


def line(ax, label):
    return next(one for one in ax.lines if one.get_label() == label)


# ------------------------------------------------------------------------------------------ saving
def test_save_writes_three_files_that_hold_the_figure(folder):
    fig = spectra.spectrum(spectra.spectrum_curves(make_spectra(("tiny_pope",))))
    data = pd.DataFrame({"k": [1, 2], "value": [1 / 3, 2e-5]})
    assert figures.save(fig, "fig00_x", data) is None
    assert sorted(path.name for path in folder.iterdir()) == [
        "fig00_x.csv",
        "fig00_x.pdf",
        "fig00_x.png",
    ]
    assert (folder / "fig00_x.csv").read_bytes() == b"k,value\n1,0.3333\n2,2e-05\n"
    with Image.open(folder / "fig00_x.png") as picture:
        assert picture.size == tuple(int(x) for x in fig.get_size_inches() * 200)


def test_saved_files_name_no_date_and_no_software(folder):
    figures.save(spectra.spectrum(curves()), "fig00_x", pd.DataFrame({"a": [1]}))
    with Image.open(folder / "fig00_x.png") as picture:
        assert set(picture.info) <= {"dpi", "Description"}
        assert str(picture.info["Description"]).startswith("The singular values of M do not")
    pdf = (folder / "fig00_x.pdf").read_bytes()
    for word in (b"CreationDate", b"ModDate", b"Producer", b"Creator", b"atplotlib"):
        assert word not in pdf


def test_paper_white_stays_white_and_rare_colours_stay(folder):
    picture = np.tile(RNG.integers(90, 170, (96, 96, 1)), (1, 1, 3)).astype(np.uint8)
    picture[40:50, 40:50] = (40, 80, 220)
    figures.save(pictures.same_picture_two_questions(picture, make_watched()), "f", make_steps())
    with Image.open(folder / "f.png") as saved:
        pixels = np.asarray(saved.convert("RGB")).astype(int)
        assert saved.mode == "RGB"  # a picture and a colour bar keep all their colours
    assert (pixels == 255).all(-1).mean() > 0.2
    assert (np.abs(pixels - (40, 80, 220)).sum(-1) < 12).sum() > 100


@pytest.mark.parametrize("name", ["../x", "a b", "", "fig/1"])
def test_a_name_that_is_no_file_name(folder, name):
    with pytest.raises(ValueError, match="use letters"):
        figures.save(spectra.spectrum(curves()), name, pd.DataFrame({"a": [1]}))
    assert not folder.exists()


def test_a_figure_needs_its_numbers(folder):
    with pytest.raises(ValueError, match="no rows"):
        figures.save(spectra.spectrum(curves()), "fig00_x", pd.DataFrame())


def test_an_unknown_profile(tmp_path):
    with pytest.raises(ValueError, match="profile='large'"):
        figures.save(spectra.spectrum(curves()), "x", pd.DataFrame({"a": [1]}), profile="large")


SAVED_TWICE = ("same", "spectrum")  # a picture with panels, and lines by seaborn
SAVE_ALL = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_figures as t
t.figures.figures_dir = lambda profile: Path({out!r})
figures = t.every_figure()
for name in t.SAVED_TWICE:
    t.figures.save(figures[name], name, t.make_steps())
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    """The order of sets and dates would differ between processes, not within one."""
    seen = []
    for number in range(2):
        out = tmp_path / str(number)
        code = SAVE_ALL.format(tests=str(Path(__file__).parent), out=str(out))
        environment = {"PYTHONHASHSEED": str(number + 1), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        seen.append(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}
        )
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3 * len(SAVED_TWICE)


# ------------------------------------------------------------------------------------ all of them
def curves():
    return spectra.spectrum_curves(make_spectra())


@functools.cache
def every_figure():
    steps, watched = make_steps(), make_watched()
    samples = [f"tiny_gqa/{n}" for n in range(3)]
    scores = make_scores(samples)
    long = make_spectra(("tiny_gqa",), lengths=(4, 4, 4))
    by_rank = pd.DataFrame(
        [(i, w, r, min(1, r / 4)) for r in (1, 4) for i, w in enumerate(WORDS)],
        columns=["place", "word", "rank", "dominant"],
    )
    shown = dict.fromkeys(samples, PICTURE)
    return {
        "same": pictures.same_picture_two_questions(PICTURE, watched),
        "pipeline": pictures.pipeline(PICTURE, steps, WORDS, watched.iloc[1], 0),
        "spectrum": spectra.spectrum(curves()[curves()["suite"] == "tiny_gqa"]),
        "by_suite": spectra.spectrum(curves()),
        "tokens": words.query_tokens(make_scores(), by_rank, 4),
        "components": words.components(shown, scores, spectra.component_curves(long), 4),
        "examples": words.query_token_examples(shown, scores, 4),
    }


NAMES = ("same", "pipeline", "spectrum", "by_suite", "tokens", "components", "examples")


def test_all_figures_are_tested():
    drawing = {
        name
        for module in (pictures, spectra, words)
        for name, thing in vars(module).items()
        if hasattr(thing, "__wrapped__")
    }
    assert tuple(every_figure()) == NAMES
    assert drawing - {"score_maps", "by_place"} == {
        "same_picture_two_questions", "pipeline", "spectrum", "query_tokens", "components",
        "query_token_examples",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_what_it_shows(name):
    fig = every_figure()[name]
    text = figures.described(fig)
    assert len(fig.get_suptitle()) > 20 and text.startswith(" ".join(fig.get_suptitle().split()))
    assert "Up: " in text or "Across: " in text


@pytest.mark.parametrize("name", NAMES)
def test_numbers_have_a_label(name):
    """Axes that show numbers on y say what they are, unless they share them with a neighbour."""
    for ax in every_figure()[name].axes:
        shared = ax.get_subplotspec() is None or ax.get_subplotspec().colspan.start > 0
        words = [label.get_text() for label in ax.get_yticklabels()]
        if ax.axison and words and not shared:
            assert ax.get_ylabel() or not words[0].replace(".", "").isdigit(), ax


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off(name):
    """Every text lies within the page, with a pixel to spare for rounding."""
    fig = every_figure()[name]
    fig.savefig("/dev/null", format="png", dpi="figure")
    page = fig.bbox
    for text in fig.findobj(lambda artist: hasattr(artist, "get_text")):
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            if box.width and not is_hidden_tick(text, fig):
                assert box.x0 > page.x0 - 1 and box.x1 < page.x1 + 1, text
                assert box.y0 > page.y0 - 1 and box.y1 < page.y1 + 1, text


def is_hidden_tick(text, fig):
    """A tick label outside its axis' range is made, but not drawn."""
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            if any(text in (tick.label1, tick.label2) for tick in ticks):
                low, high = sorted(axis.get_view_interval())
                place = next(t for t in ticks if text in (t.label1, t.label2)).get_loc()
                return not low <= place <= high or not ax.axison
    return False


# ----------------------------------------------------------------------------------- each of them
def test_kept_patches_are_clear_and_framed_and_answers_are_judged_in_words():
    fig = pictures.same_picture_two_questions(PICTURE, make_watched())
    words = texts(fig)
    assert "“red”: right" in words and "“blue”: wrong" in words
    assert "QViD\n2 of 9 patches\nkept for both: 2" in words
    assert fig.get_suptitle() == "Patches kept for both questions: QViD 2 of 2"
    panels = [ax for ax in fig.axes if ax.images]
    assert [len(ax.patches) for ax in panels] == [0, 2, 0, 2]
    veil = panels[1].images[1].get_array()[..., 3].ravel()
    assert np.flatnonzero(veil == 0).tolist() == [1, 5]
    assert (np.delete(veil, [1, 5]) == pictures.VEIL).all()
    assert [p.get_xy() for p in panels[1].patches] == [(1 / 3, 0), (2 / 3, 1 / 3)]


def test_the_pipeline_shows_the_tensors_it_was_given():
    steps = make_steps()
    fig = pictures.pipeline(PICTURE, steps, WORDS, make_watched().iloc[1], 0)
    of = {name: part["value"].to_numpy() for name, part in steps.groupby("step")}
    images = [im.get_array() for ax in fig.axes for im in ax.images]
    drawn = [np.asarray(image).ravel() for image in images if image.ndim == 2]
    for wanted in (of["interaction"], *of["participation"].reshape(3, 9), of["score"]):
        assert any(len(d) == len(wanted) and np.allclose(d, wanted) for d in drawn)
    bars = [p.get_height() for ax in fig.axes for p in ax.patches if ax.get_xlabel() == "mode k"]
    assert bars == [1, 0.5, 0.25, 0.125]
    marks = next(one for ax in fig.axes for one in ax.lines if one.get_marker() == "v")
    assert marks.get_xdata().tolist() == [1, 5]


def test_curves_by_hand():
    """Two questions of 3 and 5 modes, two heads: bases 2, 3 and 4, 5."""
    at = spectra.spectrum_curves(make_spectra(("tiny_pope",))).set_index(["curve", "mode"])
    second = at.xs(2, level="mode")["relative"]
    assert second["mean"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4)
    assert second["highest head"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert second["lowest head"] == pytest.approx((1 / 3 + 1 / 5) / 2)
    assert second["shuffled"] == pytest.approx(1 / 1.2)
    assert second["sample"].tolist() == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 / 4 + 1 / 5) / 2])
    longest = {c: int(m.max()) for c, m in at.reset_index().groupby("curve")["mode"]}
    assert longest.pop("sample") == 5
    assert set(longest.values()) == {3}  # a mean ends where the shortest question ends


def test_spectrum_draws_its_curves_on_a_logarithmic_axis():
    data = spectra.spectrum_curves(make_spectra(("tiny_pope",)))
    ax = spectra.spectrum(data).axes[0]
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] > 0
    drawn = [one.get_ydata().tolist() for one in ax.lines]
    for curve in ("mean", "shuffled", "random factors"):
        wanted = data.loc[data["curve"] == curve, "relative"].tolist()
        assert any(np.allclose(y, wanted) for y in drawn if len(y) == len(wanted)), curve
    assert len(ax.lines) == 2 + 3  # two questions, the mean and two nulls


def test_one_panel_for_each_suite():
    names = [f"tiny_{n}" for n in "abcd"]
    fig = spectra.spectrum(spectra.spectrum_curves(make_spectra(names)))
    assert [ax.get_title() for ax in fig.axes if ax.axison] == [
        f"tiny_{n} ({n.upper()})" for n in "abcd"
    ]


def test_bars_are_the_dominant_scores():
    scores = make_scores()
    by_rank = scores.assign(rank=4)[["place", "word", "rank", "dominant"]]
    bars = words.query_tokens(scores, by_rank, 4).axes[0]
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == scores["dominant"].tolist()  # the residual is 1 - dominant
    level = line(bars, "if all words were alike")
    assert set(level.get_ydata()) == {scores["dominant"].mean()}


def test_components_and_examples_have_a_row_for_each_question():
    fig = every_figure()["components"]
    assert len([ax for ax in fig.axes if ax.images]) == 3
    examples = every_figure()["examples"]
    worded = [[t.get_text() for t in ax.get_xticklabels()] for ax in examples.axes if ax.patches]
    assert worded == [list(WORDS)] * 3


def test_a_frame_without_a_column_is_named():
    with pytest.raises(ValueError, match="lacks the columns \\['kept'\\]"):
        pictures.same_picture_two_questions(PICTURE, make_watched().drop(columns="kept"))


@pytest.mark.parametrize(
    "question, split",
    [
        ("Is it red? Answer with yes.", ("Is it red?", "Answer with yes.")),
        ("Is it red?", ("Is it red?", "")),
    ],
)
def test_a_question_and_its_format_sentence(question, split):
    assert pictures.split_question(question) == split


def test_drawing_leaves_the_style_of_others_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    every_figure.__wrapped__()
    assert dict(matplotlib.rcParams) == before
