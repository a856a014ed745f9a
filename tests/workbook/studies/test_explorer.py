"""The explorer without its sliders: a session's changes, its figure, and what a page gets."""

import sys
import time
from types import SimpleNamespace

import matplotlib.text
import numpy as np
import pytest
from PIL import Image
from twins import embedded

from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import pixels
from qvid_utils.workbook.plots import base as figures
from qvid_utils.workbook.studies import explorer, explorer_session
from qvid_utils.workbook.studies import explorer_figure as figures_explorer
from qvid_utils.workbook.studies.explorer import attended, explore
from qvid_utils.workbook.studies.explorer_session import Session, examples
from qvid_utils.workbook.studies.one_look import look
from qvid_utils.workbook.studies.one_question import ask

SAMPLE = suite("tiny_gqa").samples.iloc[[0]]
QUESTION = SAMPLE["question"].item()
PICTURE = pixels(SAMPLE)[SAMPLE["id"].item()]


@pytest.fixture(scope="module")
def tiny():
    return embedded("tiny/llava")


@pytest.fixture
def session(tiny):
    return Session(*tiny, PICTURE, QUESTION)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Figures go to a folder of the test's own."""
    monkeypatch.setattr(figures, "figures_dir", lambda profile: tmp_path / "figures" / profile)
    monkeypatch.setattr(explorer_session, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures" / "tiny"


# ------------------------------------------------------------------------------------- a session
def test_a_change_looks_again_and_asks_again_only_where_it_must(session, monkeypatch):
    calls = []
    monkeypatch.setattr(explorer_session, "ask", lambda *given: calls.append(given) or ask(*given))
    first = session.update()
    changes = [{"keep": 20}, {"rank": 2}, {"methods": ["qvid", "fastv"]}]
    looks = [session.update(**change) for change in changes]
    assert len(calls) == 1
    assert [len(seen.sides[0].kept) for seen in (first, *looks)] == [16, 20, 20, 20]
    assert looks[-1].sides[1].method.name == "fastv" and looks[-1].rank == 2
    for change in ({"question": "How many letters?"}, {"picture": PICTURE[::-1]}, {"layer": 3}):
        session.update(**change)
    assert len(calls) == 4
    assert session.asked.question == "How many letters?"
    assert np.array_equal(session.asked.seen, PICTURE[::-1])
    assert session.asked.layer == 3 and session.seen.sides[0].layers == (3,)


def test_after_an_error_everything_is_as_it_was(session):
    session.update(keep=20)
    before = dict(vars(session))
    for change in ({"question": ""}, {"picture": "/no/such.png"}, {"rank": 0}, {"model": "tiny/no"},
                   {"keep": 0}, {"colour": 1}):  # fmt: skip
        with pytest.raises((ValueError, RuntimeError)):
            session.update(**change)
        assert vars(session) == before


def test_a_budget_is_capped_by_the_picture(session):
    assert session.update(keep=9999).keep == session.keep == 144
    assert session.seen.sides[0].answer.text == session.asked.answer.text


def test_a_model_may_come_by_name(session, tiny):
    session.update(model="tiny/llava")
    assert session.model is not tiny[0] and session.asked.model is session.model
    assert session.asked.processor is session.processor


def test_examples_are_pictures_with_their_questions():
    found = examples()
    assert {name for name, _ in found.values()} == set(explorer_session.TINY)
    for name in explorer_session.TINY:
        ids = [sample for suite_name, sample in found.values() if suite_name == name]
        samples = suite(name).samples.set_index("id")
        assert samples.loc[ids, "picture"].nunique() == len(ids) == explorer_session.EACH
    label, place = next(iter(found.items()))
    assert label == "tiny_gqa/0000: What color is the letter K?"
    change = explorer_session.example(place)
    assert change["question"] == QUESTION and np.array_equal(np.asarray(change["picture"]), PICTURE)
    assert explorer_session.example(found[[*found][-1]])["question"]  # of a suite with rotations


def test_embedded_models_can_be_loaded():
    names = explorer_session.embedded()
    assert names == ["tiny/llava", "tiny/qwen2_vl", "tiny/video_llava"]  # OneVision breaks lines


@pytest.mark.parametrize("name", explorer_session.embedded())
def test_every_model_that_is_offered_can_be_drawn(name):
    session = Session(*embedded(name), PICTURE, QUESTION)
    words = texts(figures_explorer.explorer(session.update()))
    assert name in words and session.asked.answer.text in words


# ------------------------------------------------------------------------------------ the figure
def texts(figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_the_figure_shows_what_was_found(session):
    seen = session.update(methods=["qvid", "v2drop"], rank=4)
    figure = figures_explorer.explorer(seen)
    words = texts(figure)
    for side in seen.sides:
        assert side.method.label in words
        assert f"“{side.answer.text}”, p = {side.answer.probability:.2f}" in words
        assert f"mean {side.mean_tokens:.1f} tokens" in words
    assert "What color is the letter\nK?" in words and "rank 4: 4 of 15 modes vote" in words
    assert f"at QViD's cost: keep {seen.sides[1].same_cost}" in words
    assert "first of 3 cuts" in words and "layer 1" in words
    top = figure.axes[0]
    veils = [i.get_array() for i in top.images if np.ndim(i.get_array()) == 3]
    veils = [veil for veil in veils if veil.shape == (12, 12, 4)]
    for veil, side in zip(veils, seen.sides, strict=True):
        clear = np.flatnonzero(np.asarray(veil)[..., 3].ravel() == 0)
        assert tuple(clear) == side.kept
    frames = [len(c.get_paths()) for c in top.collections]
    assert frames == [len(side.kept) for side in seen.sides]
    maps = [i.get_array() for i in top.images if i.get_array().shape == (12, 12)]
    assert [m.ravel().tolist() for m in maps] == [side.scores.tolist() for side in seen.sides]


def test_frames_stand_where_the_tokens_are(session):
    seen = session.update(methods=["qvid"])
    (frames,) = figures_explorer.explorer(seen).axes[0].collections
    row, column = divmod(seen.sides[0].kept[0], 12)
    left = figures_explorer.STEP  # of the first method's picture
    corner = frames.get_paths()[0].vertices.min(0)
    assert corner == pytest.approx([left + column / 12, row / 12])


def test_a_refusal_stands_in_its_place(session):
    words = texts(figures_explorer.explorer(session.update(methods=["v2drop", "qvid"], keep=3)))
    assert "can reach a mean" in " ".join(words.split())
    assert "QViD" in words and "3 of 144 tokens" in words


def test_merged_tokens_are_said_to_have_no_place(session):
    words = texts(figures_explorer.explorer(session.update(methods=["prumerge", "tome"], keep=20)))
    assert words.count("slots: it merges tokens") == 2


def test_captions_end_where_their_panels_do(session):
    long = f"What color is the {'big ' * 20}star?"
    seen = session.update(methods=["qvid", "sparsevlm"], question=long)
    top = figures_explorer.explorer(seen).axes[0]
    lines = [line for text in top.texts for line in text.get_text().split("\n")]
    assert max(map(len, lines)) <= figures_explorer.COLUMNS + 2
    assert any(line.endswith("…") for line in lines)


def test_a_map_has_a_bar_with_its_ends(session):
    seen = session.update(methods=["qvid"])
    words = texts(figures_explorer.explorer(seen)).split("\n")
    assert {f"{seen.sides[0].scores.min():.2g}", f"{seen.sides[0].scores.max():.2g}"} <= set(words)


def test_an_answer_without_words_is_said_so():
    assert figures_explorer._said("") == "(nothing)" and figures_explorer._said("red") == "“red”"


def test_wide_pictures_keep_their_shape(session):
    seen = session.update()
    flat = type(seen.asked)(**vars(seen.asked) | {"seen": np.zeros((50, 100, 3), np.uint8)})
    top = figures_explorer.explorer(look(flat, ["qvid"], 16)).axes[0]
    assert {tuple(image.get_extent())[2] for image in top.images} == {0.5, -0.17}  # and a bar


def test_numbers_are_short():
    assert [figures_explorer._count(n) for n in (12, 1234567, 7.02e8, 9.1e12)] == [
        "12", "1.23 M", "702 M", "9.1 T",
    ]  # fmt: skip


def test_an_interaction_is_no_pause(session):
    """Half a second is promised, and measured elsewhere; here only what would be felt."""
    session.update()
    times = []
    for keep in (20, 24, 28):
        began = time.process_time()
        figures_explorer.png(figures_explorer.explorer(session.update(keep=keep)))
        times.append(time.process_time() - began)
    assert min(times) < 1.0


# -------------------------------------------------------------------------- a page, a batch run
def test_without_anybody_the_figure_is_saved_and_equal_byte_for_byte(tiny, folder):
    files = []
    for _ in range(2):
        explore(*tiny, PICTURE, QUESTION, name="fig_x", rank=4)
        files.append({f.name: f.read_bytes() for f in folder.iterdir()})
    assert set(files[0]) == {"fig_x.png", "fig_x.pdf", "fig_x.csv"}
    assert files[0] == files[1]
    with Image.open(folder / "fig_x.png") as drawn:
        assert drawn.size == (1760, 1040)


def test_saving_says_where(session, folder):
    assert session.save("mine") == "figures/tiny/mine.png"
    with pytest.raises(ValueError, match="there is a figure 'mine' already"):
        session.save("mine", anew=True)
    assert (folder / "mine.csv").read_text().startswith("panel,who,name,place,value")
    with pytest.raises(ValueError, match="use letters"):
        session.save("a/b")


@pytest.mark.parametrize(
    ("shell", "there"),
    [
        (None, False),
        (SimpleNamespace(), False),  # IPython in a terminal
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False)), False),  # papermill, nbval
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True)), True),
    ],
)
def test_somebody_is_there_where_input_can_be_asked_for(monkeypatch, shell, there):
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert attended() is there


def test_the_kernel_still_says_whether_input_can_be_asked_for():
    """The one private name that is read: a kernel without it would never get sliders."""
    from ipykernel.kernelbase import Kernel

    assert Kernel._allow_stdin.default_value is False


def test_without_ipywidgets_a_line_says_how_to_get_sliders(tiny, folder, monkeypatch, capsys):
    monkeypatch.setattr(explorer, "attended", lambda: True)
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    explore(*tiny, PICTURE, QUESTION, name="fig_x")
    assert 'pip install -c constraints.txt -e ".[lab]"' in capsys.readouterr().out
    assert (folder / "fig_x.png").exists()


def test_sliders_asked_for_and_not_installed_are_an_error(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r'need ipywidgets: pip install .* "\.\[lab\]"'):
        explore(*tiny, PICTURE, QUESTION, name="fig_x", live=True)
