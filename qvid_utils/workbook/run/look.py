"""What a cell keeps of pictures and films: the one place where it is looked at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...families import family_of
from ...families.layout import Block, frames_of
from ...prune import pruned
from ..benchmarks.scoring import right
from .asker import NEW_TOKENS, prompts_of
from .cell import Cell
from .grid import visual_counts

__all__ = ["look"]


@torch.inference_mode()
def look(
    model: nn.Module, processor: Any, samples: pd.DataFrame, cells: Sequence[Cell]
) -> pd.DataFrame:
    """What the first cut of each cell scores and keeps: one row per question, cell and token.

    samples: rows of a suite, of films with one number of frames. Columns: sample, question, answer,
    method, layer, prediction, right, token, frame (of the picture or frame that the token shows a
    place of, from 0; -1 for none), row and column in it, spot (its number within it), score, kept.
    """
    family, made = family_of(model), []
    inputs = prompts_of(model, processor, samples)
    counts = visual_counts(model, inputs)
    for cell in cells:
        with pruned(model, cell.stages(counts)) as trace:
            ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        said = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
        for i, row in enumerate(samples.itertuples()):
            cut = next(cut for cut in trace.cuts if cut.row == i)
            token = cut.scored.numpy(force=True)
            places = _places(family.blocks(model.config, inputs, i))
            places = {name: place[token] for name, place in places.items()}
            made.append(pd.DataFrame({
                "sample": row.id, "question": row.question, "answer": row.answer,
                "method": cell.labels["method"], "layer": cut.layer, "prediction": said[i],
                "right": right(said[i], row.answer), "token": token, **places,
                "score": cut.scores.double().numpy(force=True),
                "kept": np.isin(token, cut.kept.numpy(force=True)),
            }))  # fmt: skip
    return pd.concat(made, ignore_index=True)


def _places(blocks: Sequence[Block]) -> dict[str, np.ndarray]:
    """Where each visual token lies: frame, row, column, and its number within the frame."""
    frame = frames_of(blocks).numpy()
    spot = pd.Series(frame).groupby(frame).cumcount().to_numpy()
    columns = np.concatenate([np.full(block.tokens, block.cols) for block in blocks])
    placed = frame >= 0
    row, column = np.where(placed, spot // columns, -1), np.where(placed, spot % columns, -1)
    return {"frame": frame, "row": row, "column": column, "spot": spot}
