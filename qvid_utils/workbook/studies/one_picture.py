"""Answers to single questions, and what the first cut of each method keeps of their picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pandas as pd
import torch
from torch import Tensor

from ...families import family_of
from ...families.calls import pictures_once
from ...methods import Method, method
from ...prune import pruned
from ..benchmarks.base import Suite
from ..benchmarks.prompts import prompts
from ..benchmarks.scoring import right

NEW_TOKENS = 3  # an answer of the embedded world is one word; a longer one is wrong


@torch.inference_mode()
def watch(
    model, processor, samples: pd.DataFrame, methods: Sequence[str | Method], keep: int
) -> pd.DataFrame:
    """Answers of every method to a few samples, one by one, with what its first cut kept.

    samples: rows of a suite; methods: names or Methods, or "full" for the model as it is. One row
    per (sample, method): sample, question, answer, method, label (the name for tables), prediction,
    right, layer (of the first cut), mean_tokens, kept (numbers of the visual tokens that survive
    the first cut, rising), scores (of all N_v; None for the full model) and board, the (rows,
    columns) that the visual tokens are laid out in.
    """
    rows = []
    for place, sample in enumerate(samples.itertuples()):
        inputs = prompts(processor, samples.iloc[[place]], model.device)
        n_visual = int((inputs["input_ids"] == model.config.image_token_id).sum())
        board = tuple(family_of(model).grid(model.config, n_visual, inputs)[1:])
        with pictures_once(model):
            for name in methods:
                chosen = None if name == "full" else method(name)
                with pruned(model, chosen, keep) if chosen else nullcontext() as trace:
                    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
                cut = trace.cuts[0] if trace else None
                said = _words(processor, ids, inputs)[0]
                rows.append(
                    {
                        "sample": sample.id,
                        "question": sample.question,
                        "answer": sample.answer,
                        "method": chosen.name if chosen else "full",
                        "label": chosen.label if chosen else "Full model",
                        "prediction": said,
                        "right": right(said, sample.answer),
                        "layer": cut.layer if cut else None,
                        "mean_tokens": trace.mean_tokens[0] if cut else float(n_visual),
                        "kept": cut.kept.tolist() if cut else list(range(n_visual)),
                        "scores": cut.scores.tolist() if cut else None,
                        "board": board,
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _words(processor, ids: Tensor, inputs: dict) -> list[str]:
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [said.strip() for said in processor.batch_decode(new, skip_special_tokens=True)]


@torch.inference_mode()
def first_pair(model, processor, suite: Suite, kind: str, batch_size: int = 50) -> pd.DataFrame:
    """Two samples: two questions of one kind about one picture, chosen without looking at pruning.

    The first picture, in the suite's order, of which the full model answers the first two questions
    of that kind rightly and the two answers differ. Raises ValueError where there is none.
    """
    asked = suite.samples[suite.samples["kind"] == kind]
    pairs = [part.head(2) for _, part in asked.groupby("picture", sort=False)]
    pairs = [pair for pair in pairs if pair["answer"].nunique() == 2]
    step = max(1, batch_size // 2)
    for start in range(0, len(pairs), step):
        batch = pd.concat(pairs[start : start + step])
        inputs = prompts(processor, batch, model.device)
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        good = list(map(right, _words(processor, ids, inputs), batch["answer"]))
        for place, pair in enumerate(pairs[start : start + step]):
            if good[2 * place] and good[2 * place + 1]:
                return pair.reset_index(drop=True)
    raise ValueError(
        f"suite {suite.name!r}: the full model answers no picture's first two {kind!r} questions "
        "rightly; use another kind or a trained model"
    )


def kept_table(watched: pd.DataFrame) -> pd.DataFrame:
    """`watch` as plain text and numbers: kept as "3 17 18", board as "12x12", no scores."""
    plain = watched.drop(columns=["scores"])
    kept = [" ".join(map(str, tokens)) for tokens in watched["kept"]]
    return plain.assign(kept=kept, board=["x".join(map(str, board)) for board in watched["board"]])


def kept_by_both(watched: pd.DataFrame) -> pd.DataFrame:
    """How many patches each method keeps for one question and for two: label, kept, both.

    watched: `watch` of two samples. kept: patches that its first cut keeps; both: those among them
    that it keeps for either question.
    """
    rows = []
    for label, part in watched.groupby("label", sort=False):
        first, second = (set(kept) for kept in part["kept"])
        rows.append({"label": label, "kept": len(first), "both": len(first & second)})
    return pd.DataFrame(rows)
