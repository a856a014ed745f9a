"""M before any cut: what one question says to its picture where a layer begins, and its spectrum.

Frames are long, one row per thing that is plotted or averaged; nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...algebra import spectrum
from ...families import family_of, query_tokens
from ...methods import METHODS
from ...models.load import load
from ...prune import observed
from ..benchmarks.base import Suite
from ..benchmarks.prompts import PROFILE_MODELS, prompts


def load_profile(profile: str, name: str = "", **options: Any) -> tuple:
    """Model and processor of a profile, or of `name` where one is given; options as of `load`."""
    if profile not in PROFILE_MODELS:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILE_MODELS)}")
    return load(name or PROFILE_MODELS[profile], **options)


def default_layer(model) -> int:
    """The layer where QViD cuts this model: the depth-equivalent of 3 of 32."""
    layers = len(family_of(model).part(model, "layers"))
    return METHODS["qvid"].schedule(1, 1, layers, None)[0].layer


@dataclass(frozen=True, eq=False)
class Reading:
    """What one question says to its picture where a layer begins.

    words (N_q,): the query tokens as text; tail (N_q,): whether a word belongs to the sentence that
    asks for a form of answer; interaction (H, N_q, N_v): the paper's M; width: d_h.
    """

    suite: str
    stands_for: str
    sample: str
    question: str
    words: tuple[str, ...]
    tail: tuple[bool, ...]
    interaction: Tensor
    width: int


@torch.inference_mode()
def readings(
    model,
    processor,
    suites: Sequence[Suite],
    *,
    layer: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    rope: bool = False,
    batch_size: int = 25,
) -> list[Reading]:
    """The interaction matrix of `limit` samples of each suite at the input of `layer`.

    layer: default where QViD cuts. One prefill per sample; nothing is pruned.
    """
    layer = default_layer(model) if layer is None else layer
    found = []
    for suite in (s.head(limit, seed) for s in suites):
        for start in range(0, len(suite.samples), batch_size):
            batch = suite.samples.iloc[start : start + batch_size]
            inputs = prompts(processor, batch, model.device)
            with observed(model, "interaction", "queries", layer=layer, rope=rope) as seen:
                model(**inputs, logits_to_keep=1)
            ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
            visual = ids == model.config.image_token_id
            spans = [
                query_tokens(model, span, ids, valid, visual, processor=processor)
                for span in ("question", "content")
            ]
            for i, sample in enumerate(batch.itertuples()):
                here = ids[i, spans[0][i]].tolist()
                found.append(
                    Reading(
                        suite.name,
                        suite.stands_for,
                        sample.id,
                        sample.question,
                        tuple(processor.tokenizer.decode([token]).strip() for token in here),
                        tuple((~spans[1][i, spans[0][i]]).tolist()),
                        seen[i]["interaction"].cpu(),
                        seen[i]["queries"].shape[-1],
                    )
                )
    return found


def without_structure(reading: Reading, how: str, seed: int = 0) -> Reading:
    """The same reading with a matrix of M's shape that has nothing to say.

    how: "shuffled", each head's own entries in random places (same values, no rows or columns); or
    "random factors", (N_q, d_h) times (d_h, N_v) with normal entries, the shape of a product of
    queries and keys without what they hold. Raises ValueError for another word.
    """
    M = reading.interaction
    generator = torch.Generator().manual_seed(seed)
    if how == "shuffled":
        flat = M.flatten(1)
        order = torch.stack([torch.randperm(flat.shape[1], generator=generator) for _ in flat])
        made = flat.gather(1, order).view_as(M)
    elif how == "random factors":
        heads, n_query, n_visual = M.shape
        left = torch.randn(heads, n_query, reading.width, generator=generator)
        made = left @ torch.randn(heads, reading.width, n_visual, generator=generator)
    else:
        raise ValueError(f"how={how!r}: it must be 'shuffled' or 'random factors'")
    return replace(reading, interaction=made)


def steps(reading: Reading, watched: pd.Series, head: int = 0, modes: int = 3) -> pd.DataFrame:
    """The tensors of one QViD run, long: step, row, token, value.

    step "interaction": M of `head`, row = word; "sigma": its singular values, row = mode, token 0;
    "participation": V_jk² of its first `modes` modes, row = mode; "score": what the cut scored
    (`watched`, a row of `watch`), row 0. Words and tokens count from 0, modes from 1.
    """
    M = reading.interaction[head].double()
    _, sigma, right_vectors = torch.linalg.svd(M, full_matrices=False)
    parts = {
        "interaction": (M, 0),
        "sigma": (sigma[:, None], 1),
        "participation": (right_vectors[:modes].square(), 1),
        "score": (torch.tensor(watched["scores"])[None], 0),
    }
    frames = []
    for step, (values, first) in parts.items():
        row, token = np.indices(values.shape)
        frames.append(
            pd.DataFrame(
                {
                    "step": step,
                    "row": row.ravel() + first,
                    "token": token.ravel(),
                    "value": values.flatten().tolist(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


CURVES = ("interaction", "shuffled", "random factors")


def spectra(found: Sequence[Reading], seed: int = 0) -> pd.DataFrame:
    """σ_k/σ_1 of every head of every reading, beside those of matrices without structure.

    Rows: suite, stands_for, sample, curve (one of CURVES), head, mode (k, from 1) and relative.
    """
    frames = []
    for number, reading in enumerate(found):
        for curve in CURVES:
            like = reading
            if curve != CURVES[0]:
                like = without_structure(reading, curve, seed + number)
            sigma = spectrum.singular_values(like.interaction)
            heads, modes = sigma.shape
            index = pd.MultiIndex.from_product(
                [range(heads), range(1, modes + 1)], names=["head", "mode"]
            )
            values = (sigma / sigma[:, :1]).flatten().tolist()
            frame = pd.DataFrame({"relative": values}, index=index).reset_index()
            frame.insert(0, "curve", curve)
            frame.insert(0, "sample", reading.sample)
            frame.insert(0, "stands_for", reading.stands_for)
            frame.insert(0, "suite", reading.suite)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def effective_ranks(found: Sequence[Reading], seed: int = 0) -> pd.DataFrame:
    """How many modes hold 90 % and 99 % of Σσ², per suite, over samples and heads.

    Columns: suite, stands for, questions, N_q and rank (numerical), each as fewest–most, then for
    90 % and 99 % the mean and the range, and the mean for M without what all patches share
    (`centred`: each row's mean over the visual tokens taken out) and for its shuffled entries.
    """
    rows = []
    for number, reading in enumerate(found):
        M = reading.interaction
        others = {
            "": M,
            " centred": M - M.mean(-1, keepdim=True),
            " shuffled": without_structure(reading, "shuffled", seed + number).interaction,
        }
        counts = {
            f"modes {100 * share:.0f} %{name}": spectrum.effective_rank(matrix, share).tolist()
            for share in (0.9, 0.99)
            for name, matrix in others.items()
        }
        rank = spectrum.numerical_rank(M).tolist()
        rows.append(pd.DataFrame({"N_q": M.shape[1], "rank": rank} | counts))
        rows[-1].insert(0, "stands for", reading.stands_for)
        rows[-1].insert(0, "suite", reading.suite)
    heads = len(rows[0])
    lines = []
    for (suite, kin), part in pd.concat(rows).groupby(["suite", "stands for"], sort=False):
        line = {"suite": suite, "stands for": kin, "questions": len(part) // heads}
        for column in ("N_q", "rank"):
            line[column] = _range(part[column])
        for share in (90, 99):
            column = f"modes {share} %"
            line[column] = part[column].mean()
            line[f"range {share} %"] = _range(part[column])
            for name in ("centred", "shuffled"):
                line[f"{share} % {name}"] = part[f"{column} {name}"].mean()
        lines.append(line)
    return pd.DataFrame(lines)


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"
