"""Benchmarks that are not whole, released files, odd rows, and pictures of all kinds."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import published_samples as samples
import pytest
import twins
from PIL import Image

from qvid_utils.models.pictures import opened
from qvid_utils.workbook.benchmarks import fetch
from qvid_utils.workbook.benchmarks.prompts import picture
from qvid_utils.workbook.benchmarks.published import published
from qvid_utils.workbook.run import evaluate as runner
from qvid_utils.workbook.run.cell import Cell


def encoded(image, form="PNG", **options):
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


# ---------------------------------------------------------------- parts that never came


def sharded(folder, names):
    samples.write("pope", folder)
    (file,) = (folder / "data").iterdir()
    rows = pd.read_parquet(file)
    file.unlink()
    for name in names:
        rows.iloc[:3].to_parquet(folder / "data" / name)
        rows = rows.iloc[3:]
    return folder


@pytest.mark.parametrize(
    "names, says",
    [
        (["test-00000-of-00002.parquet"], "needed is part 00001 of 00002"),
        (["test-00001-of-00002.parquet"], "needed is part 00000 of 00002"),
        (["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"], "files of one counting"),
        (["test-00000-of-00001.parquet", "test-more.parquet"], "files of one counting alone"),
    ],
)
def test_a_part_that_never_came_is_named(names, says, tmp_path):
    with pytest.raises(ValueError, match=f"pope: the split 'test' is not whole .*{says}"):
        published("pope", sharded(tmp_path, names))


def test_all_parts_are_the_whole(tmp_path):
    folder = sharded(tmp_path, ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"])
    whole = published("pope", samples.write("pope", tmp_path / "whole"))
    assert published("pope", folder).samples["id"].tolist() == whole.samples["id"].tolist()


def test_the_pictures_of_gqa_are_whole_too(tmp_path):
    samples.write("gqa", tmp_path)
    (file,) = (tmp_path / "testdev_balanced_images").iterdir()
    file.rename(file.parent / "testdev-00000-of-00003.parquet")
    with pytest.raises(ValueError, match="gqa: the split 'testdev' is not whole .*part 00001"):
        published("gqa", tmp_path)


@pytest.mark.parametrize(
    "name, kept, says",
    [
        ("pope", lambda row: row["category"] == "random", "adversarial, popular, .* random alone"),
        ("mme", lambda row: row["category"] != "OCR", "OCR, so its score is over artwork"),
        ("chartqa", lambda row: row["type"] == "human_test", "augmented, .* over human alone"),
    ],
)
def test_a_part_of_which_the_score_is_made_is_missed(name, kept, says, tmp_path):
    rows = [row for row in samples.ROWS[name] if kept(row)]
    with pytest.warns(UserWarning, match=f"{name} is not whole: no question of {says}"):
        one = published(name, samples.write(name, tmp_path, rows))
    assert len(one.samples) == len(rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["pope", "mme", "chartqa"])
def test_a_whole_benchmark_is_loaded_without_a_word(name, tmp_path):
    published(name, samples.write(name, tmp_path))


# ---------------------------------------------------------------- files as they were released


def released(folder, parts=("adversarial", "popular", "random")):
    folder.mkdir(exist_ok=True)
    (folder / "val2014").mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        (folder / "val2014" / f"{number}.jpg").write_bytes(samples.picture(number)["bytes"])
        lines = [{"question_id": i, "image": f"{number}.jpg", "text": "Is there a star?",
                  "label": label} for i, label in enumerate(("yes", "no"))]  # fmt: skip
        text = "\n".join(map(json.dumps, lines)) + "\n"
        (folder / f"coco_pope_{part}.json").write_text(text, encoding="utf-8")
    return folder


def test_pope_loads_as_it_was_released(tmp_path):
    made = published("pope", released(tmp_path)).samples
    assert made["id"].tolist()[:3] == ["pope/adversarial/0", "pope/adversarial/1", "pope/popular/0"]
    assert made["answer"].tolist() == ["yes", "no"] * 3 and made["picture"].nunique() == 3
    assert made["question"].iloc[0].startswith("Is there a star?\nAnswer")
    assert made["split"].tolist() == sorted(["adversarial", "popular", "random"] * 2)


def test_one_of_popes_three_files_is_not_pope(tmp_path):
    with pytest.warns(UserWarning, match="pope is not whole: no question of random, so"):
        published("pope", released(tmp_path, ("adversarial", "popular")))


def test_hub_files_may_have_the_released_names(tmp_path):
    rows = [{{"question": "text", "answer": "label"}.get(k, k): v for k, v in row.items()}
            for row in samples.ROWS["pope"]]  # fmt: skip
    one = published("pope", samples.write("pope", tmp_path / "a", rows))
    want = published("pope", samples.write("pope", tmp_path / "b"))
    pd.testing.assert_frame_equal(one.samples, want.samples)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1c", "\x0b"])
def test_a_line_of_jsonl_ends_at_a_line_feed_alone(mark, tmp_path):
    rows = [dict(row) for row in samples.ROWS["pope"]]
    rows[0]["question"] = f"is it{mark}red ?"
    file = samples.write("pope", tmp_path, rows, "jsonl") / "test.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")]
    held = "\r\n".join(json.dumps(line, ensure_ascii=False).replace("\\u000b", "\x0b")
                       for line in lines)  # fmt: skip
    if mark not in ("\x1c", "\x0b"):  # control characters are escaped in JSON
        assert mark in held
    file.write_bytes(b"\xef\xbb\xbf" + held.replace("\x0b", "\\u000b").encode())
    assert published("pope", tmp_path).samples["question"].iloc[0].startswith(f"is it{mark}red ?")


def test_rows_that_are_none_are_refused(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "?"}\n[1]\n')
    with pytest.raises(ValueError, match="test.jsonl holds a list; needed is a list of rows"):
        published("pope", tmp_path)


def test_hallusionbench_asks_its_questions_without_a_picture(tmp_path):
    folder = samples.write("hallusionbench", tmp_path)
    bare = {"category": "VS", "visual_input": "0", "figure_id": "0", "gt_answer": "0"}
    rows = [row | bare | {"question_id": str(i), "image": None}
            for i, row in enumerate(samples.ROWS["hallusionbench"][:2])]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "data" / "non_image-00000-of-00001.parquet")
    one = published("hallusionbench_yes_no", folder)
    assert len(one.samples) == 5 and one.samples["image"].map(len).tolist() == [1, 1, 1, 0, 0]
    assert one.samples["without"].tolist() == [False] * 3 + [True] * 2
    assert one.samples["picture"].nunique() == 4, "two pictures; no two questions share none"
    model, cells = twins.twin("llava"), [Cell(), Cell("qvid", 4), Cell("divprune", share=25.0)]
    records = runner.evaluate(model, twins.PROCESSOR, [one], cells, batch_size=8)
    told = records[records["sample"].str.contains("VS")]
    assert len(records) == 15 and (told["mean_tokens"] == 0).all()
    alone = runner.evaluate(model, twins.PROCESSOR, [one], cells, batch_size=1)
    assert alone["prediction"].tolist() == records["prediction"].tolist()


def test_one_odd_row_of_mmmu_pro_scores_nothing_and_is_named(tmp_path):
    odd = {"id": "validation_Accounting_29", "options": "[['A', 'B', 'None']]", "answer": "B"}
    rows = [*samples.ROWS["mmmu_pro_standard"], samples.ROWS["mmmu_pro_standard"][0] | odd]
    folder = samples.write("mmmu_pro_standard", tmp_path, rows)
    with pytest.warns(UserWarning, match="Accounting_29' scores 0 whatever is said: its options"):
        one = published("mmmu_pro_standard", folder)
    *_, last = one.samples.itertuples()
    assert len(one.samples) == 2
    assert [one.hit(said, last) for said in ("A", "B", "(B)", "?", "")] == [0] * 5


# ---------------------------------------------------------------- pictures


def test_grey_of_sixteen_bits_is_scaled():
    grey = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    for form in ("PNG", "TIFF", "PPM"):
        cell = {"bytes": encoded(Image.fromarray(grey), form), "path": ""}
        seen = np.asarray(picture(cell, "s"))
        assert np.array_equal(seen, np.repeat((grey >> 8)[..., None], 3, 2)), form
    assert np.array_equal(
        np.asarray(opened(Image.fromarray(grey.astype(">u2"))))[..., 0], grey >> 8
    )
    assert np.array_equal(np.asarray(opened(encoded(Image.fromarray(grey >> 8), "PNG"))).max(), 0)


def test_a_photo_is_turned_as_it_says(tmp_path):
    """Orientation 6: the stored picture's left edge is the top."""
    stored = np.zeros((48, 96, 3), np.uint8)
    stored[:, :48] = 255
    tag = Image.Exif()
    tag[0x112] = 6
    held = encoded(Image.fromarray(stored), "JPEG", exif=tag, quality=100)
    seen = np.asarray(picture({"bytes": held, "path": ""}, "s"))
    assert seen.shape == (96, 48, 3) and seen[:40].min() > 200 and seen[56:].max() < 50
    (tmp_path / "a.jpg").write_bytes(held)
    again = picture({"bytes": None, "path": str(tmp_path / "a.jpg")}, "s")
    assert np.array_equal(np.asarray(again), seen)


BROKEN = {
    "a bomb": (b"P6\n20000 20000\n255\n", "more than 178,956,970 pixels"),
    "no pixels": (b"P6\n0 0\n255\n", "no picture"),
    "half a header": (b"P6\n4", "reading header"),
    "no numbers": (b"P5 a b 255\n", "invalid literal"),
    "a zip": (b"PK\x03\x04", "no picture"),
    "nothing of an array": (Image.new("L", (0, 4)), "it has 0 x 4 pixels"),
    "floats": (Image.new("F", (4, 4)), "floating-point"),
    "wide numbers": (Image.fromarray(np.full((4, 4), 70000, np.int32)), "32-bit numbers"),
}


@pytest.mark.parametrize("held, says", BROKEN.values(), ids=BROKEN)
def test_a_picture_that_is_none_is_one_sentence_with_its_question(held, says, tmp_path):
    with pytest.raises(ValueError, match=rf"sample 's/1': its picture cannot be read \(.*{says}"):
        picture({"bytes": held, "path": ""}, "s/1")
    if isinstance(held, bytes):
        rows = [dict(row) for row in samples.ROWS["pope"]]
        rows[1]["image"] = {"bytes": held, "path": ""}
        with pytest.raises(ValueError, match=rf"'pope/adversarial/1': its picture .*{says}"):
            published("pope", samples.write("pope", tmp_path, rows))


def test_an_empty_cell_is_a_picture_that_is_missing(tmp_path):
    rows = [dict(row) for row in samples.ROWS["pope"]]
    rows[1]["image"] = {"bytes": b"", "path": ""}
    with pytest.raises(ValueError, match="'pope/adversarial/1': a picture is missing"):
        published("pope", samples.write("pope", tmp_path, rows))


def test_a_broken_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="a.zip cannot be unpacked .*: delete it and fetch it"):
        fetch._unpack(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("v/1.mp4", b"film" * 100)
    held = bytearray((tmp_path / "a.zip").read_bytes())
    held[45] ^= 255
    (tmp_path / "a.zip").write_bytes(held)
    with pytest.raises(ValueError, match="a.zip cannot be unpacked .*CRC"):
        fetch._unpack(tmp_path)
    assert not list(tmp_path.glob("*.unpacked"))


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_equal_pictures_are_held_once_also_while_they_are_read(form, tmp_path):
    """400 questions about 8 pictures of 100 kB: less than three times their size at any moment."""
    rng, rows = np.random.default_rng(0), []
    pictures = [encoded(Image.fromarray(rng.integers(0, 256, (180, 180, 3), dtype=np.uint8)))
                for _ in range(8)]  # fmt: skip
    for i in range(400):
        category = ("adversarial", "popular", "random")[i % 3]
        rows.append(dict(question_id=i, question="q", answer="yes", category=category,
                         image={"bytes": pictures[i % 8], "path": f"{i % 8}.png"}))  # fmt: skip
    samples.write("pope", tmp_path, rows, form)
    rows, once = None, sum(map(len, pictures))
    tracemalloc.start()
    one = published("pope", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({id(cells[0]) for cells in one.samples["image"]}) == 8
    assert peak < 3 * once, f"{peak / once:.1f} times"
