"""Video without torchvision and notebook 05's numbers, on a random model of the embedded kind."""

import dataclasses
import warnings

import numpy as np
import onevision
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import LlavaOnevisionForConditionalGeneration
from twins import twin

from qvid_utils import load, pruned
from qvid_utils.families import Unavailable, family_of
from qvid_utils.families.layout import frames_of
from qvid_utils.workbook.benchmarks import Suite, video_suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.benchmarks.published.video import frames
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.look import look
from qvid_utils.workbook.studies import video, video_run
from qvid_utils.workbook.tables import beside_paper
from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.stored import STORED


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A random model with the embedded one's shapes, as a folder that was saved and loaded."""
    folder = tmp_path_factory.mktemp("onevision")
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(onevision.config())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 1.2 / weight[0].numel() ** 0.5)
    model.save_pretrained(folder)
    onevision.processor().save_pretrained(folder)
    return load(folder)


def few(name, each=2):
    """Some questions of every length of a suite."""
    one = video_suite(name)
    parts = [part.samples.head(each) for part in video.lengths(one)]
    return dataclasses.replace(one, samples=pd.concat(parts, ignore_index=True))


def test_a_video_is_its_frames_as_pictures(loaded):
    model, processor = loaded
    one = few("tiny_mvbench", 1).samples
    inputs = prompts(processor, one, model.device)
    shown = frames(one.image[0]["video"], 8)
    alone = np.stack([np.asarray(frame) for frame in shown]).astype(np.float32)
    want = torch.from_numpy(alone).permute(0, 3, 1, 2) / 127.5 - 1
    assert inputs["pixel_values_videos"].shape == (1, 8, 3, 64, 64)
    assert torch.allclose(inputs["pixel_values_videos"][0], want, atol=1e-6)
    assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == 8 * 16 + 1
    large = [frame.resize((200, 100)) for frame in shown]
    chat = [{"role": "user", "content": [{"type": "video", "video": large},
                                         {"type": "text", "text": "What flashes?"}]}]  # fmt: skip
    more = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    again = processor.apply_chat_template(chat, **more)
    assert again["pixel_values_videos"].shape == (1, 8, 3, 64, 64)


@pytest.mark.parametrize(
    ("videos", "error", "says"),
    [
        ([[]], ValueError, "video 0 of the call has no frame: give at least one"),
        ([3, 5], ValueError, r"the videos of one batch have \[3, 5\] frames"),
        (["film.mp4"], Unavailable, "video film.mp4: decode it first"),
    ],
)
def test_what_is_no_batch_of_videos_is_told(loaded, videos, error, says):
    _, processor = loaded
    blank = np.zeros((6, 64, 64, 3), np.uint8)
    videos = [list(map(Image.fromarray, blank[:v])) if isinstance(v, int) else v for v in videos]
    with pytest.raises(error, match=says):
        processor.video_processor(videos)


def test_a_model_without_videos_is_told(monkeypatch):
    monkeypatch.setattr(video, "here", lambda name: False)
    with pytest.raises(ValueError, match=r"LLaVA-1.5 takes no videos; those that do: .*OneVision"):
        video.takes_videos(twin("llava"))
    with pytest.raises(ValueError, match="profile='small'"):
        video.setting("small")
    with pytest.raises(ValueError, match="table='3': it must be one of 2b, 12"):
        video.setting("tiny", "3")
    needs = "profile='paper' needs LanguageBind/Video-LLaVA-7B-hf, mvbench, videomme, which are not"
    with pytest.raises(Unavailable, match=needs):
        video.setting("paper", "12")


def test_fewer_frames_are_evenly_spaced_over_the_clip():
    one = video.lengths(few("tiny_videomme"))[-1]
    cell = video.with_frames(one, 3).samples.image[0]
    every, some = (frames(cell["video"], n) for n in (16, cell["frames"]))
    assert len(some) == 3
    for got, place in zip(some, (0, 7, 15), strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(every[place]))
    assert one.samples.image[0]["frames"] == 16  # the suite itself is as it was


def test_shares_become_counts_of_each_length(loaded):
    """Rows of every cell on every question; keep is the share of 65, 129 and 257 tokens."""
    suites = [few("tiny_mvbench"), few("tiny_videomme")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "tiny_.*are not read")
        found = video.evaluate_shares(*loaded, suites, ["random", "divprune"], (25.0, 10.0))
    assert found.groupby(["method", "share"]).size().to_dict() == {
        (name, share): 8
        for name, share in [
            *((n, s) for n in ("random", "divprune", video.FEWER) for s in (25.0, 10.0)),
            ("full", 100.0),
            (video.FIRST, 100.0),
        ]  # fmt: skip
    }
    chosen = found[found.method == "divprune"]  # cut at the LLM input: all layers see what is kept
    counts = chosen.groupby(["n_visual", "share"])["mean_tokens"].unique().map(list).to_dict()
    assert counts == {
        (65, 10.0): [6], (65, 25.0): [16], (129, 10.0): [13], (129, 25.0): [32],
        (257, 10.0): [26], (257, 25.0): [64],
    }  # fmt: skip
    assert found.loc[chosen.index, "keep"].tolist() == chosen["mean_tokens"].tolist()
    assert found.loc[~found.method.isin(["random", "divprune"]), "keep"].isna().all()
    assert "retention_pct" not in found
    shown = found[found.method == video.FEWER].groupby(["n_visual", "share"])["frames"].unique()
    assert shown.map(list).to_dict() == {  # of 4, 8 and 16 frames: 0.4, 1; 0.8, 2; 1.6, 4
        (65, 10.0): [1], (65, 25.0): [1], (129, 10.0): [1], (129, 25.0): [2],
        (257, 10.0): [2], (257, 25.0): [4],
    }  # fmt: skip
    alike = found[found.method.isin(["full", "random", "divprune"])]
    assert alike.groupby("n_visual")["frames"].unique().map(list).to_dict() == {
        65: [4], 129: [8], 257: [16],
    }  # fmt: skip
    less = found[found.method == video.FEWER].groupby(["n_visual", "share"])
    assert less["mean_tokens"].unique().map(list).to_dict() == {
        (65, 10.0): [17], (65, 25.0): [17], (129, 10.0): [17], (129, 25.0): [33],
        (257, 10.0): [33], (257, 25.0): [65],
    }  # fmt: skip
    alone = evaluate(*loaded, [video.lengths(suites[1])[1]], [Cell("random", 13)], batch_size=1)
    mine = found[(found.method == "random") & (found.share == 10) & (found.n_visual == 129)]
    both = alone.set_index("sample").prediction, mine.set_index("sample").prediction
    assert both[0].to_dict() == both[1][both[0].index].to_dict()
    with pytest.raises(ValueError, match=r"share=0: give a percentage in \(0, 100\]"):
        video.evaluate_shares(*loaded, suites, ["random"], (0,))


def test_a_limit_counts_the_clips_of_each_length(loaded):
    found = video.evaluate_shares(*loaded, [few("tiny_videomme")], ["random"], (25.0,), limit=1)
    cells = found.groupby(["method", "n_visual"])["sample"].agg(list)
    assert cells.map(len).to_dict() == {
        (name, n): 1
        for name in ("full", "random", video.FEWER, video.FIRST)
        for n in (65, 129, 257)
    }
    assert found["sample"].nunique() == 3, "the baselines are asked the same"


def test_the_runner_asks_clips_of_one_length_together(loaded):
    """A suite of three lengths in one go: each question's answer is its own."""
    one = few("tiny_videomme")
    cells = [Cell(), Cell("stride", 9)]
    mixed = evaluate(*loaded, [one], cells, batch_size=4)
    alone = evaluate(*loaded, [one], cells, batch_size=1)
    assert mixed["prediction"].tolist() == alone["prediction"].tolist()
    tokens = mixed[mixed["method"] == "full"].groupby("split")["mean_tokens"].unique()
    assert tokens.map(list).to_dict() == {"short": [65], "medium": [129], "long": [257]}


def test_a_method_per_frame_keeps_as_many_of_every_frame(loaded):
    model, processor = loaded
    one = few("tiny_mvbench").samples
    shown = look(*loaded, one, [Cell(video.per_frame("qvid"), 24), Cell("qvid", 24)])
    assert len(shown) == 2 * 2 * 129 and (shown.frame < 0).sum() == 4  # the line breaks
    each = shown[shown.kept].groupby(["method", "sample", "frame"]).size().unstack(fill_value=0)
    assert (each.loc["qvid_per_frame", list(range(8))] == 3).all(axis=None)
    assert not (each.loc["qvid"].get(list(range(8))) == 3).all(axis=None)
    for (_, _, frame), part in shown[shown.frame >= 0].groupby(["method", "sample", "frame"]):
        assert part.token.tolist() == list(range(16 * frame, 16 * frame + 16))
        assert part.spot.tolist() == list(range(16))
    spread = video.frames_kept(shown).set_index(["method", "frame"])
    assert spread.loc["qvid_per_frame", "of_kept"].tolist() == pytest.approx([12.5] * 8)
    assert spread.loc["qvid_per_frame", "of_frame"].tolist() == pytest.approx([18.75] * 8)
    for name in ("visionzip", "divprune"):
        with pytest.raises(ValueError, match=f"method '{name}' does not keep the best-scored"):
            video.per_frame(name)
    with pytest.raises(ValueError, match="unknown method 'qvit': did you mean qvid"):
        video.per_frame("qvit")


def test_the_frames_of_tokens_are_the_familys(loaded):
    model, processor = loaded
    inputs = prompts(processor, few("tiny_mvbench", 1).samples, model.device)
    placed = frames_of(family_of(model).blocks(model.config, inputs))
    assert placed.tolist() == [t for t in range(8) for _ in range(16)] + [-1]
    with pruned(model, "qvid", 129), torch.no_grad():
        whole = model(**inputs).logits
    assert torch.equal(whole, model(**inputs).logits)


SAMPLES = [("short", "x"), ("short", "y"), ("long", "z"), ("long", "z")]  # split, clip
SAID = {("full", 100.0): "AABA", ("qvid", 25.0): "ABCA", (video.FIRST, 100.0): "AAAA"}


def test_a_stored_run_comes_back_as_it_was(loaded, tmp_path):
    suites = [few("tiny_mvbench", 3)]
    found = video.evaluate_shares(*loaded, suites, [video.per_frame("random")], (25.0,))
    table, answers = video_run.store(found, suites, tmp_path, "tiny_video")
    back = video_run.stored("tiny", tmp_path)
    assert len(back) == len(found) == 4 * 3
    for column in (*STORED, "kind", "answer", "score", "picture"):
        if column in found:
            assert back[column].fillna(-1).tolist() == found[column].fillna(-1).tolist(), column
    assert results.read(table).equals(results.tidy(video.rows(back, suites)))
    told = pd.read_parquet(answers)
    told.assign(asked=told["asked"] + 1).to_parquet(answers)
    with pytest.raises(ValueError, match="answers another question than 'tiny_mvbench/0"):
        video_run.stored("tiny", tmp_path)
    with pytest.raises(ValueError, match="no stored run paper_video_answers.parquet"):
        video_run.stored("paper", tmp_path)


def test_the_paper_profile_without_its_files_is_one_sentence(capsys):
    assert main("run --stored video --profile paper --table 12".split()) == 2
    said = capsys.readouterr().err
    assert "profile='paper' needs LanguageBind/Video-LLaVA-7B-hf, mvbench, videomme" in said


def test_guessing_among_options_of_either_form():
    asked = pd.DataFrame(
        {"question": ["What? A. red B. blue", "What? (A) up (B) in (C) on (D) at"]}
    )
    assert video.chance(asked).tolist() == [0.5, 0.25]


def test_without_the_model_the_command_says_how_to_train_it(monkeypatch, capsys):
    monkeypatch.setattr(video, "EMBEDDED", "tiny/none")
    assert main(["run", "--stored", "video"]) == 2
    assert "train it with `python -m train" in capsys.readouterr().err


RECORDS = [  # answers are A, A, B, B
    (method, share, i, *SAMPLES[i], letter)
    for (method, share), letters in SAID.items()
    for i, letter in enumerate(letters)
]


@pytest.fixture
def records():
    names = ["method", "share", "sample", "split", "picture", "prediction"]
    found = pd.DataFrame(RECORDS, columns=names)
    answers = np.array(list("AABB"))[found["sample"]]
    kinds = np.array(["flash", "order", "order", "order"])[found["sample"]]
    found = found.assign(suite="tiny_videomme", variant="", mean_tokens=9.0, kind=kinds)
    right = (answers == found["prediction"]).astype(float)
    return found.assign(answer=answers, score=right, sample=found["sample"].map("q{}".format))


@pytest.fixture
def asked(records):
    first = records[records.method == "full"]
    options = ["A. x B. y", "A. x B. y C. z D. w", "A. x B. y", "A. x B. y"]
    samples = first[["sample", "picture", "answer", "kind", "split"]].rename(
        columns={"sample": "id"}
    )
    samples = samples.assign(question=[f"What? {o}" for o in options], group="", image=None)
    return Suite("tiny_videomme", "VideoMME", "videomme", samples, media="video")


def test_rows_carry_the_papers_names_and_meet_its_table(records, asked):
    made = video.rows(records, [asked])
    value = made.set_index(["method", "benchmark"])["value"].to_dict()
    assert value["full", "VideoMME"] == 75 and value["full", "VideoMME-Long"] == 50
    assert value["qvid", "VideoMME"] == 25 and value["qvid", "VideoMME-Short"] == 50
    # errors over three clips x, y, z: off the mean by 0.25, 0.25, -0.5 of four questions
    error = made.set_index(["method", "benchmark"]).stderr["full", "VideoMME"]
    assert error == pytest.approx(100 * (1.5 * (0.25**2 + 0.25**2 + 0.5**2) / 16) ** 0.5)
    ours = made[made.method != video.FIRST]
    both = beside_paper.beside_paper(ours, "12")
    met = both[(both.method == "qvid") & (both.benchmark == "VideoMME")].set_index("budget_pct")
    assert met.measured_pct_of_full[25.0] == pytest.approx(100 / 3)
    assert met.paper_pct_of_full[25.0] == pytest.approx(100 * 37.7 / 36.2)


def test_the_video_matters_where_the_first_frame_is_not_enough(records, asked):
    assert video.chance(asked.samples).tolist() == [0.5, 0.25, 0.5, 0.5]
    table = video.by_type(records, [asked]).set_index("kind")
    assert table.loc["order", ["n", "chance", "first_frame", "full"]].tolist() == pytest.approx(
        [3, 100 * 1.25 / 3, 100 / 3, 200 / 3]
    )
    assert table.full["flash"] == 100
