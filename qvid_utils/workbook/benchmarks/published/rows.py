"""From a row of a benchmark's file to a question: one function for each benchmark.

row(doc, post) -> the sample: question, answer and what the scorer reads; "id" and "picture" where
the file has them, "shown" where a row names its pictures, and `valid_answers.COLUMNS` where only
some answers can be right. post: the sentence after the question. Questions are in the words of
lmms-eval 0.7.3's task files.
"""

from collections.abc import Mapping
from typing import Any

from .reading import LETTERS, listed
from .valid_answers import YES_NO, among, choice, number, numbers


def _text(cell: Any) -> str:
    """A cell as text; what a file leaves empty, in any of the ways files have, is ""."""
    text = "" if cell is None or cell != cell else str(cell)
    return "" if text == "nan" else text


def _lettered(options: list[str]) -> str:
    return "\n".join(f"{x}. {option}" for x, option in zip(LETTERS, options, strict=False))


def asked(doc: Mapping[str, Any], post: str) -> dict:
    """The question as it stands (GQA, ChartQA, POPE, OCRBench)."""
    return {"question": _text(doc["question"]).strip() + post, "answer": _text(doc["answer"])}


def gqa(doc, post):
    return asked(doc, post) | {"id": doc["id"], "picture": _text(doc.get("imageId"))}


def scienceqa(doc, post):
    context = f"Context: {doc['hint']}\n" if _text(doc["hint"]) else ""
    options = listed(doc["choices"])
    question = f"{context}{doc['question']}\n{_lettered(options)}{post}"
    return {"question": question} | choice(number(_text(doc["answer"])), numbers(options))


def textvqa(doc, post, ocr=False):
    answers = listed(doc["answers"])
    tokens = f"\nReference OCR token: {', '.join(listed(doc['ocr_tokens']))}" if ocr else ""
    return {
        "id": doc["question_id"],
        "question": f"{_text(doc['question']).capitalize()}{tokens}{post}",
        "answer": max(answers, key=answers.count) if answers else "",
        "answers": answers,
    }


def textvqa_ocr(doc, post):
    return textvqa(doc, post, ocr=True)


def pope(doc, post):
    told = asked(doc, post)
    told |= among(told["answer"].strip().lower(), YES_NO)
    return told | {
        "id": f"{doc['category']}/{doc['question_id']}",
        "split": doc["category"],
        "picture": _text(doc.get("image_source")),
    }


def mme(doc, post):
    question = _text(doc["question"]).strip().replace(" Please answer yes or no.", "")
    category, pair = _text(doc["category"]), _text(doc["question_id"])
    return among(_text(doc["answer"]).strip().lower().replace(".", ""), YES_NO) | {
        "question": question + post,
        "answer": _text(doc["answer"]),
        "split": category,
        "group": f"{category}/{pair}",
    }


def mmbench(doc, post):
    options = {x: text for x in LETTERS[:5] if (text := _text(doc.get(x)))}
    hint = f"{doc['hint']} " if _text(doc["hint"]) else ""
    listing = "\n".join(f"{x}. {option}" for x, option in options.items())
    answer = _text(doc["answer"]).strip()
    return among(answer, list(options)) | {
        "id": doc["index"],
        "question": f"{hint}{doc['question']} There are several options:\n{listing}\n{post}",
        "answer": answer,
        "kind": _text(doc.get("category")),
        # an option order turned by k has the index + k million
        "group": str(int(doc["index"]) % 1_000_000),
        "options": list(options.values()),
        "asked": doc["question"],
    }


def ai2d(doc, post):
    options = listed(doc["options"])
    question = f"{doc['question']}\n{_lettered(options)}{post}"
    return {"question": question} | choice(number(_text(doc["answer"])), numbers(options))


def chartqa(doc, post):
    split = "human" if doc["type"] == "human_test" else "augmented"
    return asked(doc, post) | {"split": split}


OPEN = "Answer the question using a single word or phrase."
CHOICE = "Answer with the option's letter from the given choices directly."


def mmmu(doc, post):
    closed = doc["question_type"] == "multiple-choice"
    options = listed(doc["options"]) if closed else []
    listing = f"{_lettered(options)}\n\n{post}" if closed else f"\n{OPEN}"
    answers = listed(doc["answer"])
    answer = answers[0].strip() if answers else ""
    told = among(answer, LETTERS[: len(options)]) if closed else {}
    return told | {
        "id": doc["id"],
        "question": f"{doc['question']}\n{listing}",
        "answer": answer,
        "kind": doc["question_type"],
        "options": options,
        "answers": answers,
        "shown": named(doc, options),
    }


def mmmu_pro(doc, post):
    """One released row has its options as a list within a list: one option, which no answer is."""
    told = mmmu({**doc, "question_type": "multiple-choice"}, post)
    if len(told["options"]) == 1 and told["options"][0].startswith("["):
        told |= {"allowed": None, "odd": "its options are a list within a list, as released"}
    return told


def named(doc: Mapping[str, Any], options: list[str]) -> list[str]:
    """The columns of the pictures that question and options name, <image 1> first."""
    text = f"{doc['question']}\n{_lettered(options)}"
    return [f"image_{i}" for i in range(1, 8) if f"<image {i}>" in text]


def ocrbench(doc, post):
    answers = listed(doc["answer"]) if not isinstance(doc["answer"], str) else [doc["answer"]]
    return {
        "question": _text(doc["question"]).strip() + post,
        "answer": answers[0] if answers else "",
        "kind": _text(doc["dataset"]),
        "split": _text(doc["question_type"]),
        "answers": answers,
    }


def seedbench(doc, post):
    options = [doc[f"choice_{x}"] for x in "abcd"]
    question = f"{doc['question']}\n{_lettered(options)}{post}"
    answer = _text(doc["answer"]).strip()
    told = {"id": doc["question_id"], "question": question, "answer": answer}
    return told | among(answer.upper(), LETTERS[: len(options)])


def hallusion(doc, post):
    kind, figure = _text(doc["category"]), _text(doc["figure_id"])
    group = "_".join(_text(doc[key]) for key in ("category", "subcategory", "set_id"))
    truth = number(_text(doc["gt_answer"]))
    return among(truth, ("0", "1")) | {
        "id": f"{group}_{figure}_{doc['question_id']}",
        "question": _text(doc["question"]) + post,
        "answer": {"1": "yes", "0": "no"}.get(truth, ""),
        "kind": kind,
        "group": group,
        "asked": doc["question"],
        "details": _text(doc["gt_answer_details"]),
        "figure": f"{group}_{figure}",
        "pair": f"{group}_{doc['question_id']}",
        "without": kind == "VS" and figure == "0",
        "shown": [] if _text(doc.get("visual_input")) == "0" else None,
    }


def caption(doc, post):
    answers = listed(doc["answer"])
    return {
        "id": doc["question_id"],
        "question": "Provide a one-sentence caption for the provided image.",
        "answer": answers[0] if answers else "",
        "answers": answers,
    }


def mvbench(doc, post):
    options = listed(doc["candidates"])
    listing = "".join(f"({x}) {option}\n" for x, option in zip(LETTERS, options, strict=False))
    return choice(_text(doc["answer"]), options) | {
        "question": f"Question:{doc['question']}\nOption:\n{listing}{post}",
        "picture": doc["video"],
        "part": _part(doc.get("start"), doc.get("end")),
    }


def _part(start: float | None, end: float | None) -> tuple[float, float] | None:
    """Which seconds of a video are shown; None for all."""
    if start is None or end is None:
        return None
    if not 0 <= start < end:
        raise ValueError(f"start {start} and end {end}")
    return start, end


def videomme(doc, post):
    head = (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
    )
    options, answer = listed(doc["options"]), _text(doc["answer"]).strip()
    listing = "\n".join(options)
    return among(answer, "ABCD"[: len(options)]) | {
        "id": doc["question_id"],
        "question": f"{head}\n{doc['question']}\n{listing}\n{post}",
        "answer": answer,
        "split": doc["duration"],
        "picture": doc["videoID"],
    }
