"""What the runner adds to an answer: a run of it against a bare loop over the same questions.

    python tests/overhead.py --divide 8 --questions 3 --rounds 5 --cpu-time

The model is a LLaVA of 7B proportions with random weights, so that an answer takes about as many
operations as a real one and no checkpoint is needed. Both sides read the picture, make the prompt,
generate as many tokens and read the words, one question at a time; the runner also keeps a store on
disk (with fsync), hashes prompts, shares work between cells, scores, and makes its table. What a
run costs whatever it asks (hashes of model, processor and data; the table) is told apart: it is the
time of the same command once more, which finds all its answers.
"""

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data" / "tiny" / "make"))

import architecture
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from qvid_utils import load
from qvid_utils.families import remember
from qvid_utils.prune import CutRecord, pruned
from qvid_utils.startup import start
from qvid_utils.workbook.benchmarks import Suite, suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.cost.rounds import clock_of, interleaved, paired, spread
from qvid_utils.workbook.cost.workloads import config_of, make
from qvid_utils.workbook.run import asker
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.grid import Answer, visual_counts

__all__ = ["bare", "compared", "main", "workload"]

QUESTIONS = ("What color is the star?", "Is there a letter K in the picture?",
             "How many things are left of the ring?", "Which letter is at the top?")  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """A model, its processor, and questions for both sides."""

    model: nn.Module
    processor: Any
    suite: Suite


def workload(divide: int = 8, layers: int = 32, questions: int = 3, tokens: int = 16) -> Workload:
    """A LLaVA-1.5-7B whose width is divided, with random weights, and questions about noise.

    layers: of the language model and, if fewer than its 24, of the tower; tokens: of each answer.
    """
    config = config_of("llava", layers, min(layers, 24), divide)
    config.image_token_id = architecture.vocabulary().index(architecture.IMAGE)
    model = make(config, torch.float32)
    model.generation_config.eos_token_id = None  # all answers are of one length
    model.generation_config.pad_token_id = 0
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    pictures = architecture.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor = architecture.LlavaProcessor(
        pictures, _tokenizer(config.get_text_config().vocab_size), patch_size=patch,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=architecture.CHAT_TEMPLATE, image_token=architecture.IMAGE,
    )  # fmt: skip
    remember(model, processor)
    rng, rows = np.random.default_rng(0), []
    for i in range(questions):
        held = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(held, "png")
        rows.append({
            "id": f"noise/{i}", "picture": str(i), "question": QUESTIONS[i % len(QUESTIONS)],
            "image": {"bytes": held.getvalue(), "path": ""}, "answer": "red",
            "kind": "", "split": "", "group": "",
        })  # fmt: skip
    suite = Suite("noise", "noise", "accuracy", pd.DataFrame(rows), new_tokens=tokens)
    return Workload(model, processor, suite)


def _tokenizer(size: int) -> Any:
    """The embedded model's words, and as many more as the vocabulary has room for."""
    words = architecture.vocabulary()
    words += [f"word{i}" for i in range(len(words), size)]
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    image = {"extra_special_tokens": {"image_token": architecture.IMAGE}}
    return architecture.word_level(words, padding_side="left", **named, **image)


@torch.inference_mode()
def bare(work: Workload, cells: Sequence[Cell]) -> list[str]:
    """The answers of each cell, question by question, by `pruned` and `generate` alone."""
    model, processor, said = work.model, work.processor, []
    for cell in cells:
        for place in range(len(work.suite.samples)):
            inputs = prompts(processor, work.suite.samples.iloc[[place]], model.device)
            cuts = None if cell.method is None else cell.stages(visual_counts(model, inputs))
            with nullcontext() if cuts is None else pruned(model, cuts):
                ids = model.generate(
                    **inputs, max_new_tokens=work.suite.new_tokens, do_sample=False
                )
            new = ids[:, inputs["input_ids"].shape[1] :]
            said += processor.batch_decode(new, skip_special_tokens=True)
    return [words.strip() for words in said]


def runner(work: Workload, cells: Sequence[Cell], folder: Path) -> list[str]:
    """The same by the runner, one question at a time, with a store that is new."""
    shutil.rmtree(folder, ignore_errors=True)
    return again(work, cells, folder)


def again(work: Workload, cells: Sequence[Cell], folder: Path) -> list[str]:
    """The same by the runner with a store that may have answers."""
    how = {"batch_size": 1, "store": folder, "sharers": 1}
    found = evaluate(work.model, work.processor, [work.suite], cells, **how)
    by_cell = [part.set_index("sample")["prediction"] for _, part in found.groupby(
        ["method", "keep"], sort=False, dropna=False)]  # fmt: skip
    return [part[name] for part in by_cell for name in work.suite.samples["id"]]


def compared(
    work: Workload, runs: dict[str, Sequence[Cell]], rounds: int, clock: Callable[[], float]
) -> pd.DataFrame:
    """For each named run its answers, seconds of one by either side, seconds that a run costs
    whatever it asks ("start"), and what the runner adds beside these in % (negative where cells of
    a run share work), the median of the rounds with quartiles.

    The sides take turns round by round, after a round that does not count. RuntimeError where they
    do not answer alike.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, cells in runs.items():

            def timed(ask: Callable, *more: Any, cells: Sequence[Cell] = cells) -> tuple:
                began = clock()
                said = ask(work, cells, *more)
                return clock() - began, said

            found = interleaved(
                {"bare": lambda t=timed: t(bare),
                 "runner": lambda t=timed: t(runner, Path(folder) / "store"),
                 "start": lambda t=timed: t(again, Path(folder) / "store")}, rounds,
            )  # fmt: skip
            answers = [said for side in found.values() for _, said in side]
            if any(said != answers[0] for said in answers):
                raise RuntimeError(f"{name}: the runner and the bare loop do not answer alike")
            times = {side: [seconds for seconds, _ in them] for side, them in found.items()}
            asking = [a - b for a, b in zip(times["runner"], times["start"], strict=True)]
            more, n = paired(asking, times["bare"]), len(answers[0])
            rows.append({
                "cells": name, "answers": n, "rounds": rounds,
                "bare (s)": spread(times["bare"]).median / n,
                "runner (s)": spread(asking).median / n,
                "start (s)": spread(times["start"]).median,
                "added %": 100 * (more.median - 1), "low": 100 * (more.low - 1),
                "high": 100 * (more.high - 1),
            })  # fmt: skip
    return pd.DataFrame(rows)


class _Answered:
    """Stands for `grid.Grid`: what a cell answers is known before it is asked."""

    counts = (144,)

    def __init__(self, model: nn.Module, inputs: Any, **options: Any):
        self.cut = CutRecord(
            call=0, row=0, layer=1, method="qvid", scores=torch.zeros(144),
            scored=torch.arange(144), kept=torch.arange(16), n_visual=144, n_query=9, seconds=0.0,
        )  # fmt: skip

    def shares(self, cell: Any) -> bool:
        return True

    def together(self, cells: Sequence[Any]) -> Iterator[tuple[int, Answer]]:
        for number in range(len(cells)):
            yield number, Answer(torch.tensor([[5, 2]]), [self.cut], [16.0])


def own(questions: int, cells: int = 1) -> float:
    """Milliseconds of the processor that the runner takes for an answer by itself, at batch size 1
    with a store: the model and its prompt are left out, what a run costs whatever it asks is not
    counted."""
    model, processor = load("tiny/llava")
    samples = suite("tiny_gqa").samples
    rows = samples.iloc[np.arange(questions) % len(samples)].copy()
    rows["id"] = [f"q/{i}" for i in range(questions)]
    one = Suite("many", "many", "accuracy", rows.reset_index(drop=True))
    inputs = prompts(processor, samples.head(1), model.device)
    asked = [Cell("qvid", keep) for keep in range(16, 16 + cells)]
    with ExitStack() as left, tempfile.TemporaryDirectory() as folder:
        for name, value in (("Grid", _Answered), ("prompts_of", lambda *_: inputs)):
            left.callback(setattr, asker, name, getattr(asker, name))
            setattr(asker, name, value)
        how = {"batch_size": 1, "sharers": 1, "progress": False}
        evaluate(model, processor, [one], asked, limit=1, store=Path(folder) / "first", **how)
        spent = []
        for _ in range(2):  # the second finds all its answers
            began = process_time()
            evaluate(model, processor, [one], asked, store=folder, **how)
            spent.append(process_time() - began)
    return 1000 * (spent[0] - spent[1]) / (questions * cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the runner adds: the full model, QViD, and both in one run; or --own."""
    new = argparse.ArgumentParser("python tests/overhead.py", description=main.__doc__)
    add = new.add_argument
    add("--divide", type=int, default=8, help="width, heads and FFN by this number (default: 8)")
    add("--layers", type=int, default=32, help="of the language model (default: 32)")
    add("--questions", type=int, default=3, metavar="N")
    add("--tokens", type=int, default=16, metavar="N", help="of each answer (default: 16)")
    add("--rounds", type=int, default=5, metavar="N")
    add("--keep", type=int, default=64, metavar="K", help="of QViD (default: 64)")
    add("--own", type=int, nargs="+", metavar="N", help="only the runner's own time for an answer, "
        "without a model, with so many questions")  # fmt: skip
    add("--cpu-time", action="store_true", help="seconds of the processor, on a busy machine")
    chosen = new.parse_args(argv)
    start(0)
    if chosen.own:
        for number in chosen.own:
            print(f"{number} questions: {own(number):.3f} ms of the processor for an answer")
        return 0
    try:
        work = workload(chosen.divide, chosen.layers, chosen.questions, chosen.tokens)
        qvid = Cell("qvid", chosen.keep)
        runs = {"full": [Cell()], "qvid": [qvid], "full and qvid": [Cell(), qvid]}
        found = compared(work, runs, chosen.rounds, clock_of("cpu", chosen.cpu_time))
    except ValueError as wrong:
        new.error(str(wrong))
    print(found.round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    main()
