"""The explorer's sliders, without a browser: a control is moved, the picture follows."""

from datetime import UTC, datetime

import pytest
from twins import embedded

from qvid_utils.methods import method
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import pixels
from qvid_utils.workbook.plots import base as figures
from qvid_utils.workbook.studies import explorer_figure, explorer_panel, explorer_session
from qvid_utils.workbook.studies.explorer import explore
from qvid_utils.workbook.studies.explorer_panel import NONE, OWN, Panel
from qvid_utils.workbook.studies.explorer_session import Session

widgets = pytest.importorskip("ipywidgets", reason="the extra `lab` is not installed")

SAMPLE = suite("tiny_gqa").samples.iloc[[0]]
QUESTION = SAMPLE["question"].item()
PICTURE = pixels(SAMPLE)[SAMPLE["id"].item()]


@pytest.fixture(scope="module")
def tiny():
    return embedded("tiny/llava")


@pytest.fixture
def panel(tiny):
    return Panel(widgets, Session(*tiny, PICTURE, QUESTION), "fig_x")


def moved(panel, name, value) -> bool:
    """Whether the picture changed when a control did."""
    before = panel.image.value
    panel.controls[name].value = value
    return panel.image.value != before


@pytest.mark.parametrize(
    ("name", "value", "has"),
    [
        ("keep", 40, {"keep": 40}),
        ("rank", 2, {"rank": 2}),
        ("rank", 0.9, {"rank": 0.9}),
        ("layer", 5, {"layer": 5}),
        ("question", "How many letters?", {"question": "How many letters?"}),
        ("method 2", "v2drop", {"methods": ["qvid", "v2drop"]}),
    ],
)
def test_a_control_changes_the_session_and_the_picture(panel, name, value, has):
    assert moved(panel, name, value)
    assert {key: getattr(panel.session, key) for key in has} == has
    assert panel.message.value.endswith(" s</span>")


def test_the_layer_goes_back_to_each_methods_own(panel):
    moved(panel, "layer", 5)
    assert moved(panel, "layer", OWN)
    assert panel.session.layer is None


def test_an_example_brings_its_question(panel):
    place = explorer_session.examples()["tiny_mme/0000: Is there a letter H in the picture?"]
    assert moved(panel, "example", place)
    assert panel.controls["question"].value.startswith("Is there a letter H in the picture?")
    assert panel.session.asked.question == panel.controls["question"].value
    panel.message.value = "as before"
    assert not moved(panel, "example", NONE) and panel.message.value == "as before"


def test_a_file_and_an_upload(panel, tmp_path):
    file = tmp_path / "a.png"
    explorer_session.example(("tiny_sqa", suite("tiny_sqa").samples["id"].iloc[50]))[
        "picture"
    ].save(file)
    assert moved(panel, "file", str(file))
    first = panel.session.asked.seen
    assert not moved(panel, "file", "")
    panel.controls["file"].value = str(tmp_path / "none.png")
    assert "none.png cannot be read as one" in panel.message.value
    assert panel.session.asked.seen is first
    upload = {"name": "b.png", "type": "image/png", "size": 1, "last_modified": datetime.now(UTC),
              "content": memoryview(explorer_figure.png(drawing()))}  # fmt: skip
    panel.controls["upload"].set_trait("value", (upload,))
    assert panel.session.asked.seen is not first and panel.session.asked.seen.max() == 255


def drawing():
    fig = figures.Figure(figsize=(2, 2))
    fig.text(0.5, 0.5, "K")
    return fig


def test_a_wrong_value_is_said_and_changes_nothing(panel):
    assert not moved(panel, "question", " ")
    assert "the question is empty" in panel.message.value
    assert figures.VERMILION in panel.message.value
    assert not moved(panel, "model", "tiny/no")
    assert "no embedded model" in panel.message.value
    assert panel.controls["question"].value == QUESTION  # back to what is drawn
    assert panel.controls["model"].value == "tiny/llava"
    assert moved(panel, "question", "How many letters ?")  # and on it goes
    assert figures.VERMILION not in panel.message.value


def test_an_error_of_another_kind_is_said_with_its_name(panel, monkeypatch):
    monkeypatch.setattr(panel.session, "update", lambda **changes: 1 // 0)
    moved(panel, "keep", 20)
    assert "ZeroDivisionError" in panel.message.value


def test_markup_in_a_message_is_text(panel):
    moved(panel, "question", "What <b>is</b> this?")
    assert "&lt;b&gt;is&lt;/b&gt;" in panel.message.value


def test_limits_follow_the_picture(panel, monkeypatch):
    assert panel.controls["keep"].max == 144
    moved(panel, "keep", 100)
    update = panel.session.update

    def fewer(**changes):
        seen = update(**changes, keep=60)
        vars(panel.session.asked)["n_visual"] = 64
        return seen

    monkeypatch.setattr(panel.session, "update", fewer)
    moved(panel, "rank", 3)
    assert (panel.controls["keep"].max, panel.controls["keep"].value) == (64, 60)


def test_saving_tells_where(panel, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "figures_dir", lambda profile: tmp_path / "figures" / profile)
    monkeypatch.setattr(explorer_session, "FIGURES", tmp_path / "figures")
    panel.controls["save"].click()
    assert "saved figures/tiny/fig_x_mine.png" in panel.message.value
    assert (tmp_path / "figures" / "tiny" / "fig_x_mine.pdf").exists()
    panel.controls["save"].click()
    assert "there is a figure" in panel.message.value and "already" in panel.message.value
    panel.controls["name"].value = "a/b"
    panel.controls["save"].click()
    assert "use letters" in panel.message.value


def test_a_method_of_ones_own_is_among_the_choices(tiny):
    mine = method("random", seed=3, label="mine")
    panel = Panel(widgets, Session(*tiny, PICTURE, QUESTION, methods=["qvid", mine]), "fig_x")
    assert panel.controls["method 2"].value is mine
    labels = [label for label, _ in panel.controls["method 2"].options]
    assert labels[0] == "mine (as given)" and len(labels) == len(explorer_panel.every_method()) + 1


def test_a_page_that_cannot_have_sliders_gets_the_figure(tiny, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *data, **more: shown.append((data, more)))
    explore(*tiny, PICTURE, QUESTION, name="fig_x", live=True)
    ((bundle,), more) = shown[0]
    assert more == {"raw": True}
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert bundle["image/png"].startswith("iVBOR")
