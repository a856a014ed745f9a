"""Published benchmarks from their files to suites and numbers; and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import published_samples as samples
import pytest
import twins

from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.workbook.benchmarks import base
from qvid_utils.workbook.benchmarks.prompts import content
from qvid_utils.workbook.benchmarks.published import (
    BENCHMARKS,
    entries,
    published,
    scorers,
    source,
    video,
)
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.tables import report
from qvid_utils.workbook.tables import schema as results

WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LISTED = "A. red\nB. blue\nC. two\nD. one"
MMMU = "Answer with the option's letter from the given choices directly."
PRO = "\n".join(f"{x}. option {i}" for i, x in enumerate("ABCDEFGHIJ"))
GOLDEN = {
    "gqa": "what color is the star ?" + WORD,
    "scienceqa_img": "Context: See the star.\nwhich letter ?\nA. red\nB. blue" + LETTER,
    "textvqa": "What is the brand?" + WORD,
    "textvqa_ocr": "What is the brand?\nReference OCR token: QV, iD" + WORD,
    "pope": "is it red ?" + WORD,
    "mme": "Is it red?" + WORD,
    "mmbench_en_dev": "what color ? There are several options:\nA. red\nB. blue\n" + LETTER,
    "ai2d": f"which part ?\n{LISTED}" + LETTER,
    "chartqa": "how many ?\nAnswer the question with a single word.",
    "mmmu_val": f"<image 1> beside <image 2> is ?\n{LISTED}\n\n{MMMU}",
    "ocrbench": "what is written ?",
    "seedbench_image": f"what is it ?\n{LISTED}" + LETTER,
    "mmmu_pro_standard": f"<image 1> is ?\n{PRO}\n\n"
    "Answer with the option letter from the given choices directly.",
    "hallusionbench": "Is it longer?",
    "hallusionbench_yes_no": "Is it longer?",
    "coco2014_cap_val": "Provide a one-sentence caption for the provided image.",
    "mvbench": "Question:what happens ?\nOption:\n(A) rise\n(B) fall\nOnly give the best option.\n",
    "videomme": "Select the best answer to the following multiple-choice question based on the "
    "video and the subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
    "\nWho is it?\nA. I.\nB. You.\nC. He.\nD. She.\n" + LETTER,
}
IMAGES = [name for name, entry in BENCHMARKS.items() if entry.media == "image"]
CAPTION = "coco2014_cap_val"


def judge(prompt):
    """Finds every answer correct that says yes."""
    return "correct" if "Prediction: yes" in prompt else "incorrect"


@pytest.fixture(autouse=True)
def caption_tools(monkeypatch):
    """As on a machine that has pycocoevalcap and Java; `test_published_scorers` runs the real ones.

    The tests of their absence undo this.
    """
    monkeypatch.setattr("qvid_utils.workbook.benchmarks.published.caption_tools", lambda: None)


def load(name, tmp_path, *, rows=None, form="parquet", **options):
    samples.write(name, tmp_path, rows, form)
    entry = BENCHMARKS[name]
    if entry.media == "video":
        options.setdefault("family", "qwen2_vl")
        for task in entry.splits:
            inside = video.MVBENCH.get(task, "data")
            for one in samples.ROWS[name]:
                folder = tmp_path / inside / one.get("videoID", one.get("video"))
                if not folder.exists():
                    samples.film(folder)
    if name == "hallusionbench":
        options.setdefault("judge", judge)
    return published(name, tmp_path, **options)


# ---------------------------------------------------------------- prompts, tables


def test_the_table_is_whole():
    assert set(samples.ROWS) == set(GOLDEN) == set(BENCHMARKS)
    assert {entry.metric for entry in BENCHMARKS.values()} == set(scorers.PUBLISHED_SCORERS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_fills_tables_that_print_it(name):
    for table in BENCHMARKS[name].tables:
        assert BENCHMARKS[name].stands_for in {
            {"MME-P": "MME"}.get(b, b) for b in results.paper(table)["benchmark"]
        }, table


def test_every_benchmark_of_the_papers_is_here():
    printed = {b for t in (1, "2a", "2b", 10, 11, 12, 13, 14, 15, "svd_1")
               for b in results.paper(t)["benchmark"]}  # fmt: skip
    printed -= {"Avg", "MME-P", "MME-C", *results.PARTS}
    assert printed == {entry.stands_for for entry in BENCHMARKS.values()}


@pytest.mark.parametrize(
    "name, family", [(n, f) for n, entry in BENCHMARKS.items() for f in entry.families]
)
def test_golden_prompts(name, family, tmp_path):
    assert load(name, tmp_path, family=family).samples["question"].iloc[0] == GOLDEN[name]


def test_mmmu_asks_open_questions_for_words(tmp_path):
    assert load("mmmu_val", tmp_path).samples["question"].iloc[1] == (
        "<image 1> how many ?\n\nAnswer the question using a single word or phrase."
    )


def test_a_hint_stands_before_the_question(tmp_path):
    third = load("mmbench_en_dev", tmp_path).samples["question"].iloc[2]
    assert third.startswith("Look. what color ? There are")


def test_a_family_may_have_words_of_its_own():
    entry = replace(BENCHMARKS["pope"], post={"default": "d", "qwen2_vl": "q"})
    assert [entry.words_after(f) for f in ("llava", "qwen2_vl")] == ["d", "q"]


# ---------------------------------------------------------------- rows become questions


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_sample_becomes_a_suite(name, tmp_path):
    one = load(name, tmp_path)
    kept = [row for row in samples.ROWS[name] if row.get("data_type") != "video"]
    count = len(kept) * len(BENCHMARKS[name].splits)
    assert len(one.samples) == count and (one.name, one.metric) == (name, BENCHMARKS[name].metric)
    assert (one.samples["answer"] != "").all() and (one.samples["picture"] != "").all()
    assert one.stands_for == BENCHMARKS[name].stands_for
    assert one.samples["id"].str.startswith(f"{name}/").all()


def test_answers_are_letters_where_letters_are_asked(tmp_path):
    wanted = {"scienceqa_img": ["B", "A"], "ai2d": ["C"], "mvbench": ["B"] * 40}
    for name, answers in wanted.items():
        assert load(name, tmp_path / name).samples["answer"].tolist() == answers


def test_the_most_common_answer_stands_for_the_ten(tmp_path):
    row = load("textvqa", tmp_path).samples.iloc[0]
    assert row["answer"] == "brand" and row["answers"] == samples.TEN


def test_pairs_and_rotations_are_groups(tmp_path):
    assert load("mme", tmp_path / "a").samples["group"].nunique() == 14
    assert load("mmbench_en_dev", tmp_path / "b").samples["group"].tolist() == ["5", "5", "6"]


def test_gqa_finds_its_pictures_in_the_other_configuration(tmp_path):
    frame = load("gqa", tmp_path).samples
    held = samples.picture(1)["bytes"]
    assert [cell[0]["bytes"] for cell in frame["image"]] == [held, held]
    assert frame["picture"].tolist() == ["n1", "n1"]


def test_gqa_takes_pictures_beside_the_questions(tmp_path):
    rows = [row | {"image": samples.picture(4)} for row in samples.ROWS["gqa"]]
    frame = load("gqa", tmp_path, rows=rows).samples
    assert frame["image"].iloc[0][0]["bytes"] == samples.picture(4)["bytes"]


def test_mmmu_shows_the_pictures_that_the_question_names(tmp_path):
    cells = load("mmmu_val", tmp_path).samples["image"]
    held = [[cell["bytes"] for cell in each] for each in cells]
    assert held == [[samples.picture(i)["bytes"] for i in named] for named in ((1, 2), (3,))]


def test_questions_about_one_picture_share_its_name(tmp_path):
    names = load("chartqa", tmp_path).samples["picture"]
    assert names.nunique() == 1 and names.iloc[0]


def test_a_folder_of_jsonl_and_picture_files_is_the_same(tmp_path):
    a = load("pope", tmp_path / "a")
    b = load("pope", tmp_path / "b", form="jsonl")
    same = [c for c in a.samples if c != "image"]
    pd.testing.assert_frame_equal(a.samples[same], b.samples[same])
    seen = [np.asarray(content(one.samples.iloc[0])[0]["image"]) for one in (a, b)]
    assert np.array_equal(*seen)


def test_limit_draws_before_pictures_are_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "qvid_utils.workbook.benchmarks.published.pictures._look", lambda c, s: read.append(s)
    )
    rows = [row | {"image": samples.picture(i)} for i, row in enumerate(samples.ROWS["pope"])]
    one = load("pope", tmp_path, rows=rows, limit=2, seed=1)
    assert len(one.samples) == 2 and read == one.samples["id"].tolist()
    whole = published("pope", tmp_path)
    assert one.samples["id"].tolist() == whole.head(2, 1).samples["id"].tolist()
    cells = dict(zip(whole.samples["id"], whole.samples["image"], strict=True))
    assert all(cells[row.id] == row.image for row in one.samples.itertuples())


def test_videos_become_evenly_spaced_frames(tmp_path):
    samples.film(tmp_path / "v", 5)
    shades = [np.asarray(f)[0, 0, 0] for f in video.frames(str(tmp_path / "v"), 3)]
    assert shades == [0, 2, 4]
    with pytest.warns(UserWarning, match="has 5 frames and 8 are asked for: some are shown twice"):
        assert len(video.frames(str(tmp_path / "v"), 8)) == 8
    for number in (0, -1, 2.5, "8", True, None):
        with pytest.raises(ValueError, match=f"frames={number!r}: ask for one frame of a video at"):
            video.frames(str(tmp_path / "v"), number)
    assert len(video.frames(str(tmp_path / "v"), np.int64(2))) == 2
    for nothing in (None, [], 3):
        with pytest.raises(ValueError, match=r"give a file, a folder of frames, or its bytes and"):
            video.frames(nothing, 2)


def test_a_broken_frame_of_a_folder_is_named(tmp_path):
    samples.film(tmp_path / "v", 3)
    whole = (tmp_path / "v" / "001.png").read_bytes()
    said = "v: its frame 001.png cannot be read"
    for held in (b"junk", whole[:50], whole[:33] + b"\0\0\0\4" + b"ABCD" * 3):
        (tmp_path / "v" / "001.png").write_bytes(held)
        with pytest.raises(ValueError, match=said):
            video.frames(tmp_path / "v", 3)


@pytest.mark.parametrize(
    "cell, why",
    [
        ({"bytes": b"junk"}, "it is no picture"),
        ({"bytes": None}, "it has no bytes"),
        ({}, "it has no bytes"),
    ],
)
def test_a_broken_animated_picture_is_named(cell, why):
    """Without an address in memory, which would be another one each time."""
    with pytest.raises(ValueError) as told:
        video.frames(cell | {"path": "m.png"}, 2)
    assert str(told.value) == f"video m.png cannot be read ({why})"


def film(av, path, sound=0, count=10):
    """Ten greys, 25 apart, five a second; sound: how many seconds of silence with them."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        heard = made.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 25 * i, np.uint8))
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
        for i in range(sound):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            silence.rate, silence.pts = 8000, 8000 * i
            made.mux(heard.encode(silence))


def test_a_film_that_was_cut_off_is_named(tmp_path):
    """A part of it is readable, and would be taken for the whole."""
    av = pytest.importorskip("av", reason="the extra video is not installed")
    film(av, tmp_path / "film.mkv")
    held = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "part.mkv").write_bytes(held[: len(held) * 2 // 3])
    says = r"part.mkv cannot be read .it states 2 s and 1(.2)? s are there: it is cut off"
    with pytest.raises(ValueError, match=says):
        video.frames(tmp_path / "part.mkv", 2)


@pytest.mark.parametrize("end", ["mkv", "mp4", "avi"])
@pytest.mark.parametrize("count, sound", [(10, 6), (10, 1), (2, 0), (1, 0)])
@pytest.mark.filterwarnings("ignore:video .* are shown twice")
def test_a_short_film_or_one_with_longer_sound_is_whole(count, sound, end, tmp_path):
    av = pytest.importorskip("av", reason="the extra video is not installed")
    film(av, tmp_path / f"film.{end}", sound, count)
    first, last = video.frames(tmp_path / f"film.{end}", 2)
    shades = [int(np.asarray(f)[16, 16, 0]) for f in (first, last)]
    assert shades == pytest.approx([0, 25 * (count - 1)], abs=6)


def test_frames_of_a_file_are_evenly_spaced(tmp_path):
    """A film of ten greys, 25 apart; the codec keeps them to a few steps."""
    av = pytest.importorskip("av", reason="the extra video is not installed")
    path = str(tmp_path / "film.mp4")
    film(av, path)
    shades = [int(np.asarray(f)[16, 16, 0]) for f in video.frames(path, 4)]
    assert shades == pytest.approx([0, 75, 150, 225], abs=6)
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match="broken.mp4 cannot be read"):
        video.frames(str(tmp_path / "broken.mp4"), 4)
    with pytest.raises(ValueError, match="none.mp4 cannot be read .*No such file"):
        video.frames(str(tmp_path / "none.mp4"), 4)


# Whole seconds of a film of ten greys at five frames a second: frames 5 to 10, of which 9 is last.
PARTS = [
    ((0, 2), [0, 3, 6, 9], "ten, of which the last is frame 9"),
    ((1.0, 9.9), [5, 6, 7, 9], "frames 5 to 9: it ends before"),
    ((0.5, 1.1), [2, 3, 4, 6], "2.5 and 5.5 round to the even 2 and 6"),
    ((0.29, 0.31), [1, 1, 1, 2], "1.45 and 1.55: two frames, shown twice"),
]


@pytest.mark.parametrize("part, wanted, why", PARTS, ids=[why for *_, why in PARTS])
@pytest.mark.filterwarnings("ignore:video .* are shown twice")
def test_a_part_of_a_film_in_seconds(part, wanted, why, tmp_path):
    """Hand-worked: from round(5 · start) to round(5 · end), four of these evenly spaced."""
    av = pytest.importorskip("av", reason="the extra video is not installed")
    film(av, tmp_path / "film.mp4")
    shades = [int(np.asarray(f)[16, 16, 0]) for f in video.frames(tmp_path / "film.mp4", 4, part)]
    assert shades == pytest.approx([25 * i for i in wanted], abs=6)


@pytest.mark.parametrize("part, wanted", [((1.0, 3.0), [2, 5, 8]), ((0, 0.7), [0, 0, 1])])
@pytest.mark.filterwarnings("ignore:video .* are shown twice")
def test_a_part_of_a_folder_has_three_frames_a_second(part, wanted, tmp_path):
    """Numbered from one, as TVQA's: second 1 is frame 3, the third; 0.7 is frame 2."""
    samples.film(tmp_path / "v", 12)
    shades = [np.asarray(f)[0, 0, 0] for f in video.frames(tmp_path / "v", 3, part)]
    assert shades == wanted


def test_a_part_behind_the_end_is_named(tmp_path):
    samples.film(tmp_path / "v", 12)
    with pytest.raises(ValueError, match="v has 12 frames, 3 a second: nothing from 5 to 7 s"):
        video.frames(tmp_path / "v", 3, (5, 7))


BOUNDED = {"action_sequence", "action_prediction", "object_interaction", "action_localization",
           "episodic_reasoning"}  # fmt: skip


@pytest.mark.parametrize("whole", [True, False], ids=["whole videos", "parts as files"])
def test_five_tasks_of_mvbench_show_a_part(whole, tmp_path):
    rows = [row | {"start": 1.5, "end": 4.0, "accurate_start": 2.0, "accurate_end": 3.0}
            for row in samples.ROWS["mvbench"]]  # fmt: skip
    samples.write("mvbench", tmp_path, rows)
    for task in BENCHMARKS["mvbench"].splits:
        places = video.WHOLE | {t: f for t, f in video.MVBENCH.items() if t not in video.WHOLE}
        for row in rows:
            folder = tmp_path / "video" / (places if whole else video.MVBENCH)[task] / row["video"]
            if not folder.exists():
                samples.film(folder, 12)
    made = published("mvbench", tmp_path, family="video_llava").samples
    told = {row.split for row in made.itertuples() if "part" in row.image}
    assert told == (BOUNDED if whole else set())
    assert all(cell.get("part", [1.5, 4.0]) == [1.5, 4.0] for cell in made["image"])
    assert "part" not in made
    shown = content(made[made["split"] == "action_sequence"].iloc[0])[0]["video"]
    # of 12: frames 4 (round of 4.5, the even one) to 12, numbered from one; else all of them
    wanted = [3, 4, 5, 6, 7, 8, 9, 11] if whole else [0, 1, 3, 4, 6, 7, 9, 11]
    assert [int(np.asarray(f)[0, 0, 0]) for f in shown] == wanted


def test_a_part_in_the_name_of_its_file_is_not_cut_again(tmp_path):
    rows = [dict(samples.ROWS["mvbench"][0], video=f"v_{end}.mp4", start=1.5, end=4.0)
            for end in ("1.5_4.0", "1.5_5.0")]  # fmt: skip
    samples.write("mvbench", tmp_path, rows)
    for row in rows:
        samples.film(tmp_path / "data" / row["video"], 12)
    made = published("mvbench", tmp_path, family="video_llava").samples
    mine = made[made["split"] == "action_sequence"]["image"]
    assert [cell.get("part") for cell in mine] == [None, [1.5, 4.0]]


@pytest.mark.parametrize("start, end", [(3, 2), (2, 2), (-1, 2), ("a", 2)])
def test_a_part_that_is_none_is_named(start, end, tmp_path):
    rows = [samples.ROWS["mvbench"][0] | {"start": start, "end": end}]
    with pytest.raises(ValueError, match="mvbench: row 0 of .* is not as its benchmark writes it"):
        load("mvbench", tmp_path, rows=rows)


def test_a_film_without_a_codec_or_pictures_is_named(tmp_path):
    av = pytest.importorskip("av", reason="the extra video is not installed")
    film(av, tmp_path / "film.avi")
    held = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "odd.avi").write_bytes(held.replace(b"FMP4", b"ZQZQ"))
    with pytest.raises(ValueError, match="odd.avi: this PyAV has no decoder for its codec"):
        video.frames(tmp_path / "odd.avi", 4)
    with av.open(str(tmp_path / "sound.wav"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.rate = 8000
        sound.mux(stream.encode(silence))
        sound.mux(stream.encode())
    with pytest.raises(ValueError, match="sound.wav cannot be read .it has no picture track"):
        video.frames(tmp_path / "sound.wav", 4)


def test_a_video_file_without_the_extra_names_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "film.mp4").write_bytes(b"a film")
    with pytest.raises(Unavailable, match=r"pip install 'qvid-workbook\[video\]'"):
        video.frames(tmp_path / "film.mp4", 2)
    with pytest.raises(ValueError, match="none.mp4 cannot be read .No such file or folder"):
        video.frames(tmp_path / "none.mp4", 2)


@pytest.mark.parametrize("family, number", [("video_llava", 8), ("llava_onevision", 32)])
def test_a_question_about_a_video_shows_as_many_frames_as_its_family_takes(
    family, number, tmp_path
):
    row = next(load("videomme", tmp_path, family=family).samples.itertuples())
    shown, words = content(row)
    assert len(shown["video"]) == number and words["text"] == row.question


# ---------------------------------------------------------------- from load to numbers


@pytest.fixture(scope="module")
def twin():
    return twins.twin("llava")


@pytest.mark.parametrize("name", [n for n in IMAGES if n not in (CAPTION, "mmmu_val")])
def test_a_benchmark_runs_end_to_end(name, tmp_path, twin, monkeypatch):
    """Files, suite, prompts, a pruned and a full model, records, metrics, the long table."""
    one = replace(load(name, tmp_path), new_tokens=3)
    room, generate = [], twin.generate

    def watched(**inputs):
        room.append(inputs["max_new_tokens"])
        return generate(**inputs)

    monkeypatch.setattr(twin, "generate", watched)
    cells = [Cell(), Cell("qvid", 4)]
    records = runner.evaluate(twin, twins.PROCESSOR, [one], cells, batch_size=2)
    assert len(records) == 2 * len(one.samples)
    assert records["score"].between(0, 1).all()
    assert set(room) == {3}
    long = report.summary(records, [one])
    assert set(long["benchmark"]) == {name} and long["value"].notna().all()
    headline = report.headlines([one])[0][1]
    assert headline == long["metric"].iloc[0]


def test_two_pictures_are_asked_about_at_once(tmp_path, twin):
    one = replace(load("mmmu_val", tmp_path), new_tokens=3)
    records = runner.evaluate(twin, twins.PROCESSOR, [one], [Cell()], batch_size=2)
    tokens = records.set_index("sample")["mean_tokens"].to_dict()
    assert tokens == {"mmmu_val/validation_Art_1": 32, "mmmu_val/validation_Math_2": 16}


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if n != CAPTION])
def test_right_answers_get_everything(name, tmp_path):
    one = load(name, tmp_path)
    words = one.samples["answer"].tolist()
    if name == "hallusionbench":
        words = ["yes"] * len(words)
    found = base.score(one, recorded(one, words))
    full = {"points": 2800, "perception": 2000, "cognition": 800, "unread": 0}
    for metric, value in found.items():
        assert value == pytest.approx(full.get(metric, 100)), metric


def recorded(one, words):
    frame = one.samples.rename(columns={"id": "sample"})[
        ["sample", "picture", "question", "answer", "kind", "split", "group"]
    ]
    return frame.assign(suite=one.name, prediction=words)


def test_the_score_of_a_record_is_the_benchmarks_own(tmp_path):
    one = load("textvqa", tmp_path)
    row = next(one.samples.itertuples())
    assert one.hit("Other", row) == pytest.approx(1)
    assert one.hit("nothing", row) == 0
    tiny = base.Suite("x", "x", "accuracy", one.samples.assign(answer="Other"))
    assert tiny.hit("other ", next(tiny.samples.itertuples())) == 1


# ---------------------------------------------------------------- what is refused


def test_an_unknown_benchmark_is_told_the_nearest():
    with pytest.raises(ValueError, match="'mmbench'; did you mean 'mmbench_en_dev'"):
        published("mmbench")
    with pytest.raises(ValueError, match="did you mean 'chartqa'"):
        published("CartQA")


@pytest.mark.parametrize("name", [n for n, e in BENCHMARKS.items() if e.media == "video"])
def test_llava_takes_no_video(name, tmp_path):
    with pytest.raises(ValueError, match="LLaVA-1.5 does not take: use one of .*video_llava"):
        published(name, tmp_path, family="llava")


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown family 'lava'; known: "):
        published("pope", tmp_path, family="lava")
    assert set(entries.IMAGE_FAMILIES) <= set(FAMILIES)


@pytest.mark.parametrize("column", ["category", "image", "answer"])
def test_a_missing_column_is_named(column, tmp_path):
    rows = [{k: v for k, v in row.items() if k != column} for row in samples.ROWS["pope"]]
    with pytest.raises(ValueError, match=rf"pope: .*lacks the column\(s\) \['{column}'\]; it has"):
        load("pope", tmp_path, rows=rows)


def test_a_missing_folder_split_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="pope: there is no folder .*nowhere"):
        published("pope", tmp_path / "nowhere")
    (tmp_path / "other.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no file of the split 'test' .* there are \['other"):
        published("pope", tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="test.parquet cannot be read"):
        published("pope", tmp_path)


def test_a_json_file_that_is_no_list_is_refused(tmp_path):
    (tmp_path / "test.json").write_text(json.dumps({"question": "?"}))
    with pytest.raises(ValueError, match="holds a dict; needed is a list of rows"):
        published("pope", tmp_path)


@pytest.mark.parametrize("spoilt", [b"no picture", samples.picture()["bytes"][:200]])
def test_a_broken_picture_is_named(spoilt, tmp_path):
    rows = [dict(row) for row in samples.ROWS["pope"]]
    rows[1]["image"] = {"bytes": spoilt, "path": "spoilt.png"}
    with pytest.raises(ValueError, match=r"adversarial/1': its picture \(spoilt.png\) is brok"):
        load("pope", tmp_path, rows=rows)


def test_a_missing_picture_is_named(tmp_path):
    samples.write("pope", tmp_path, form="jsonl")
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match="'pope/adversarial/0': its picture .*0.png is missing"):
        published("pope", tmp_path)
    rows = [row | {"image": None} for row in samples.ROWS["ai2d"]] + samples.ROWS["ai2d"]
    with pytest.raises(ValueError, match="'ai2d/0': a picture is missing"):
        load("ai2d", tmp_path / "b", rows=rows)


def test_a_picture_that_gqa_does_not_hold_is_named(tmp_path):
    rows = [row | {"imageId": "n7"} for row in samples.ROWS["gqa"]]
    with pytest.raises(ValueError, match="'gqa/20': a picture is missing"):
        load("gqa", tmp_path, rows=rows)


def test_a_missing_video_is_named(tmp_path):
    samples.write("videomme", tmp_path)
    with pytest.raises(ValueError, match="'videomme/000-1': its video v0 is missing; looked in"):
        published("videomme", tmp_path, family="video_llava")


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ValueError, match="a folder without a frame"):
        video.frames(str(tmp_path), 2)


def test_an_empty_answer_is_named(tmp_path):
    rows = [dict(row) for row in samples.ROWS["pope"]]
    rows[2]["answer"] = ""
    with pytest.raises(ValueError, match="the answer of 'pope/popular/0' is empty .*row 2"):
        load("pope", tmp_path, rows=rows)


IMPOSSIBLE = [  # benchmark, what is changed in its last row, what the sentence says
    ("pope", {"answer": "maybe"}, "'pope/random/1' is 'maybe', and allowed are 'yes', 'no'"),
    ("mme", {"answer": "maybe"}, "'mme/27' is 'maybe', and allowed are 'yes', 'no'"),
    ("scienceqa_img", {"answer": 9}, "'scienceqa_img/1' is '9', and allowed are '0', '1'"),
    ("scienceqa_img", {"answer": -1}, "'scienceqa_img/1' is '-1', and allowed are '0', '1'"),
    ("ai2d", {"answer": "4"}, "'ai2d/0' is '4', and allowed are '0', '1', '2', '3'"),
    ("mmbench_en_dev", {"answer": "E"}, "'mmbench_en_dev/6' is 'E', and allowed are 'A', 'B'"),
    ("seedbench_image", {"answer": "Q"}, "'seedbench_image/1' is 'Q', and allowed are 'A', 'B',"),
    ("hallusionbench_yes_no", {"gt_answer": "2"}, "'2', and allowed are '0', '1'"),
    ("hallusionbench", {"gt_answer": "2"}, "'2', and allowed are '0', '1'"),
    ("mmmu_val", {"question_type": "multiple-choice", "options": "[]", "answer": "B"},
     "'mmmu_val/validation_Math_2' is 'B', and it has no options to choose from"),
    ("mmmu_pro_standard", {"options": "[]"}, "'J', and it has no options to choose from"),
    ("mmmu_pro_standard", {"answer": "K"}, "'K', and allowed are 'A', 'B', .*'J' "),
    ("mvbench", {"answer": "float"}, "'float', and allowed are 'rise', 'fall'"),
    ("videomme", {"answer": "E"}, "'videomme/002-1' is 'E', and allowed are 'A', 'B', 'C', 'D'"),
]  # fmt: skip


@pytest.mark.parametrize("name, changed, says", IMPOSSIBLE, ids=[one for one, *_ in IMPOSSIBLE])
def test_an_answer_that_no_reply_can_match_is_named(name, changed, says, tmp_path):
    rows = [row for row in samples.ROWS[name] if row.get("data_type") != "video"]
    rows[-1] = rows[-1] | changed
    with pytest.raises(ValueError, match=f"^{name}: the answer of .*{says}.*, row "):
        load(name, tmp_path, rows=rows)


def test_answers_may_be_written_in_the_ways_that_their_scorers_read(tmp_path):
    """Capitals, outer space, and whole numbers that a gap in the column made 1.0."""
    ways = {"pope": " Yes", "mme": "No.", "seedbench_image": " c", "scienceqa_img": 1.0,
            "mmbench_en_dev": "B "}  # fmt: skip
    for name, answer in ways.items():
        rows = [row for row in samples.ROWS[name] if row.get("data_type") != "video"]
        rows[-1] = rows[-1] | {"answer": answer}
        one = load(name, tmp_path / name, rows=rows, form="jsonl")
        last = list(one.samples.itertuples())[-1]
        said = last.answer.strip().strip(".").lower()
        assert one.hit(said.upper() if name == "mmbench_en_dev" else said, last) == 1, name


@pytest.mark.parametrize("number, rows", [(1, slice(1)), (3, [0, 1, 1])], ids=["half", "triple"])
def test_half_a_pair_is_named(number, rows, tmp_path):
    others, code = samples.ROWS["mme"][:-2], samples.ROWS["mme"][-2:]
    held = code[rows] if isinstance(rows, slice) else [code[i] for i in rows]
    says = rf"^mme: the picture of 'mme/26' has {number} question\(s\) in its category"
    with pytest.raises(ValueError, match=says):
        load("mme", tmp_path, rows=[*others, *held], limit=2)


def test_a_row_of_another_form_is_named(tmp_path):
    rows = [dict(samples.ROWS["ai2d"][0], options="['red', ")]
    with pytest.raises(ValueError, match="ai2d: row 0 of .* is not as its benchmark writes it"):
        load("ai2d", tmp_path, rows=rows)


def test_a_benchmark_that_needs_a_judge_says_so(tmp_path):
    samples.write("hallusionbench", tmp_path)
    with pytest.raises(ValueError, match="is read by a judge .* ask hallusionbench_yes_no"):
        published("hallusionbench", tmp_path)
    frame = load("hallusionbench", tmp_path / "b").samples
    with pytest.raises(ValueError, match="'hallusion' reads answers with a judge"):
        base.Suite("mine", "mine", "hallusion", frame)


def test_what_stands_in_for_a_judge_is_there():
    for name, entry in BENCHMARKS.items():
        if entry.judge.startswith("needed"):
            other = BENCHMARKS[f"{name}_yes_no"]
            assert not other.judge and other.hub == entry.hub and other.row == entry.row


def test_java_is_looked_for_before_anything_else(monkeypatch):
    monkeypatch.setattr(
        "qvid_utils.workbook.benchmarks.published.caption_tools", scorers.caption_tools
    )
    for name in ("cider", "cider.cider", "tokenizer", "tokenizer.ptbtokenizer"):
        stub = type("stub", (), {"Cider": None, "PTBTokenizer": None, "__path__": []})
        monkeypatch.setitem(__import__("sys").modules, f"pycocoevalcap.{name}", stub)
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap", stub)
    monkeypatch.setattr(scorers.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="there is no java on this machine"):
        published(CAPTION, "nowhere")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        "qvid_utils.workbook.benchmarks.published.caption_tools", scorers.caption_tools
    )
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(Unavailable, match=r"pip install 'qvid-workbook\[caption\]'"):
        published(CAPTION, "nowhere")


def test_without_a_network_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="POPE is not in the cache, and the hub cannot be"):
        published("pope")


def test_patterns_of_the_hub_are_those_that_are_read(tmp_path):
    """What is downloaded is what `split_files` looks for."""
    for name in BENCHMARKS:
        samples.write(name, tmp_path / name)
        found = [file for _, file in source.split_files(BENCHMARKS[name], tmp_path / name)]
        wanted = {p for each in source.patterns(BENCHMARKS[name])
                  for p in (tmp_path / name).glob(each)}  # fmt: skip
        assert set(found) <= wanted and all(isinstance(file, Path) for file in found)
