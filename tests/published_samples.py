"""A few rows of each published benchmark, in the schema that the hub has, with little pictures."""

import io
import json

import numpy as np
import pandas as pd
from PIL import Image

from qvid_utils.workbook.benchmarks.published import BENCHMARKS, entries


def picture(number: int = 0) -> dict:
    """A PNG of 24 x 24 as a parquet cell; another number is another picture."""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return {"bytes": held.getvalue(), "path": f"{number}.png"}


def _asked(question="is it red ?", answer="yes", **more):
    return {"question": question, "answer": answer, "image": picture(), **more}


MME = ["color", *(part for part in entries.MME if part not in ("color", "code_reasoning")),
       "code_reasoning"]  # fmt: skip
TEN = ["brand"] * 4 + ["The  Brand."] * 2 + ["other"] * 4
OPTIONS = ["red", "blue", "two", "one"]
ROWS = {
    "gqa": [
        {"id": "20", "imageId": "n1", "question": "what color is the star ?", "answer": "red"},
        {"id": "21", "imageId": "n1", "question": "is the star blue ?", "answer": "no"},
    ],
    "scienceqa_img": [
        _asked("which letter ?", 1, choices=["red", "blue"], hint="See the star."),
        _asked("which letter ?", 0, choices=["red", "blue"], hint=""),
    ],
    "textvqa": [
        _asked("what is the BRAND?", None, question_id=7, answers=TEN, ocr_tokens=["QV", "iD"]),
    ],
    "pope": [
        _asked(answer=a, question_id=str(i), category=c, image_source=f"coco{i}")
        for c in ("adversarial", "popular", "random") for i, a in enumerate(("yes", "no"))
    ],
    "mme": [
        _asked("Is it red? Please answer yes or no.", a, question_id=f"{c}/1.png", category=c)
        for c in MME for a in ("Yes", "No")
    ],
    "mmbench_en_dev": [
        _asked("what color ?", a, index=i, hint=h, category="color", source="x",
               A="red", B="blue", C="nan", D="nan", **{"L2-category": "y", "split": "dev"})
        for i, a, h in ((5, "A", "nan"), (1_000_005, "B", "nan"), (6, "B", "Look."))
    ],
    "ai2d": [_asked("which part ?", "2", options=OPTIONS)],
    "chartqa": [_asked("how many ?", "10", type="human_test"),
                _asked("how many ?", "two", type="augmented_test")],
    "mmmu_val": [
        {"id": "validation_Art_1", "question": "<image 1> beside <image 2> is ?",
         "options": str(OPTIONS), "answer": "B", "question_type": "multiple-choice",
         "image_1": picture(1), "image_2": picture(2)},
        {"id": "validation_Math_2", "question": "<image 1> how many ?", "options": "[]",
         "answer": "2", "question_type": "open", "image_1": picture(3), "image_2": None},
    ],
    "ocrbench": [
        _asked("what is written ?", ["Star"], dataset="IIIT5K",
               question_type="Regular Text Recognition"),
        _asked("what is the line ?", ["x ^ 2"], dataset="HME100k",
               question_type="Handwritten Mathematical Expression Recognition"),
    ],
    "seedbench_image": [
        {"question_id": "1", "data_type": kind, "question": "what is it ?", "answer": "C",
         "image": [picture(i)], **{f"choice_{x}": o for x, o in zip("abcd", OPTIONS, strict=True)}}
        for i, kind in enumerate(("image", "video"))
    ],
    "mmmu_pro_standard": [
        {"id": "test_Art_1", "question": "<image 1> is ?", "subject": "Art", "answer": "J",
         "options": str([f"option {i}" for i in range(10)]), "image_1": picture(1)},
    ],
    "hallusionbench": [
        {"category": "VD", "subcategory": "figure", "visual_input": "1", "set_id": "0",
         "figure_id": f, "question_id": q, "question": "Is it longer?", "gt_answer": g,
         "gt_answer_details": "It is longer." if g == "1" else "It is not.",
         "image": picture(int(f))}
        for f, q, g in (("0", "0", "1"), ("1", "0", "0"), ("1", "1", "1"))
    ],
    "coco2014_cap_val": [
        {"question_id": f"COCO_val2014_{i:012d}.jpg", "question": "Please describe.", "id": i,
         "answer": [f"a red star number {i}.", f"one star in red {i}"], "image": picture(i)}
        for i in (1, 2)
    ],
    "mvbench": [
        {"video": f"{i}.mp4", "question": "what happens ?", "candidates": ["rise", "fall"],
         "answer": "fall"} for i in (1, 2)
    ],
    "videomme": [
        {"question_id": f"00{i}-1", "videoID": f"v{i}", "duration": d, "question": "Who is it?",
         "options": ["A. I.", "B. You.", "C. He.", "D. She."], "answer": "D"}
        for i, d in enumerate(("short", "medium", "long"))
    ],
}  # fmt: skip
ROWS["textvqa_ocr"], ROWS["hallusionbench_yes_no"] = ROWS["textvqa"], ROWS["hallusionbench"]


def write(name: str, folder, rows=None, form: str = "parquet"):
    """The sample in a folder, as the hub lays it out (parquet), or as JSON with picture files."""
    entry, rows = BENCHMARKS[name], ROWS[name] if rows is None else rows
    place = folder / (entry.config or "data")
    place.mkdir(parents=True)
    if form == "jsonl":
        rows = [{k: _as_file(v, folder) for k, v in row.items()} for row in rows]
        text = "\n".join(json.dumps(row) for row in rows)
        (folder / f"{entry.splits[0]}.jsonl").write_text(text, encoding="utf-8")
        return folder
    for split in entry.splits:
        if entry.media == "video" and entry.config == "json":
            (place / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
        else:
            pd.DataFrame(rows).to_parquet(place / f"{split}-00000-of-00001.parquet")
    if entry.join and "image" not in rows[0]:
        config, _, key = entry.join
        (folder / config).mkdir()
        frame = pd.DataFrame([{key: "n1", "image": picture(1)}, {key: "n2", "image": picture(2)}])
        frame.to_parquet(folder / config / f"{entry.splits[0]}-00000-of-00001.parquet")
    return folder


def _as_file(cell, folder):
    if isinstance(cell, dict) and "bytes" in cell:
        (folder / cell["path"]).write_bytes(cell["bytes"])
        return cell["path"]
    return [_as_file(part, folder) for part in cell] if isinstance(cell, list) else cell


def film(folder, frames: int = 5):
    """A video as a folder of frames; frame i is a picture of the grey i."""
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.new("RGB", (24, 24), (i, i, i)).save(folder / f"{i:03d}.png")
