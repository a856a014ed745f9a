"""Looking at single questions: what a cut keeps of a picture, and what M says before any cut.

Everything here runs few samples and returns what figures and tables are made of. Frames are long,
one row per thing that is plotted or averaged; nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import world
from torch import Tensor

from ...algebra import leverage, spectrum
from ...families import family_of, query_tokens
from ...families.calls import pictures_once
from ...methods import METHODS, Method, method
from ...models.load import load
from ...prune import observed, pruned
from ..benchmarks.base import Suite
from ..benchmarks.prompts import PROFILE_MODELS, prompts
from ..benchmarks.scoring import right

NEW_TOKENS = 3  # an answer of the embedded world is one word; a longer one is wrong


# --------------------------------------------------------------------------- a profile's setting
def load_profile(profile: str, name: str = "", **options: Any) -> tuple:
    """Model and processor of a profile, or of `name` where one is given; options as of `load`."""
    if profile not in PROFILE_MODELS:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILE_MODELS)}")
    return load(name or PROFILE_MODELS[profile], **options)


def default_layer(model) -> int:
    """The layer where QViD cuts this model: the depth-equivalent of 3 of 32."""
    layers = len(family_of(model).part(model, "layers"))
    return METHODS["qvid"].schedule(1, 1, layers, None)[0].layer


# ----------------------------------------------------------------- answers, and what was kept
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


# --------------------------------------------------------------------------- M before any cut
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


# Words that name what a question of the embedded world is about; the others say how it asks.
NAMES = frozenset(
    word.lower()
    for word in (
        *world.COLOURS, *world.KINDS, *world.NUMBERS,
        *("left", "right", "above", "below", "top", "bottom", "half"),
        *("color", "letter", "letters", "shape", "shapes", "number", "many", "same"),
    )
)  # fmt: skip


CLASSES = ("name", "other word", "answer format")


def word_class(word: str, tail: bool) -> str:
    """Which of CLASSES a query token is; tail: it belongs to the answer-format sentence."""
    if tail:
        return CLASSES[2]
    return CLASSES[0] if word.lower() in NAMES else CLASSES[1]


def word_scores(found: Sequence[Reading], rank: int = 4) -> pd.DataFrame:
    """Part of every query token in the leading modes of M, mean over heads.

    Rows, one per word: suite, stands_for, sample, place (from 0), word, word_class, times (how
    often the word stands in this question), dominant (Σ_{k<=rank} U_ik²), residual (the later
    directions), relative (dominant over its mean in this question: 1 is an equal share), loudness
    (the word's share of Σ M²) and explained (share of the word's own energy that the leading modes
    hold). Source: QViD, equation 3 and appendix K.2; the last two are ours, and free of the tie
    between dominant and residual.
    """
    frames = []
    for reading in found:
        M = reading.interaction
        dominant = leverage.query_leverage(M, rank).mean(0)
        energy = leverage.energy(M.mT)
        leading = leverage.energy(M.mT, rank)
        classes = [word_class(w, t) for w, t in zip(reading.words, reading.tail, strict=True)]
        frames.append(
            pd.DataFrame(
                {
                    "suite": reading.suite,
                    "stands_for": reading.stands_for,
                    "sample": reading.sample,
                    "place": range(len(reading.words)),
                    "word": reading.words,
                    "word_class": classes,
                    "times": [reading.words.count(word) for word in reading.words],
                    "dominant": dominant.tolist(),
                    "residual": leverage.residual_query_leverage(M, rank).mean(0).tolist(),
                    "relative": (dominant / dominant.mean()).tolist(),
                    "loudness": (energy / energy.sum(-1, keepdim=True)).mean(0).tolist(),
                    "explained": (leading / energy.clamp_min(1e-300)).mean(0).tolist(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def word_ranks(reading: Reading, ranks: Sequence[int]) -> pd.DataFrame:
    """Dominant score of each word of a question at several ranks: place, word, rank, dominant."""
    scores = {r: leverage.query_leverage(reading.interaction, r).mean(0).tolist() for r in ranks}
    return pd.DataFrame(
        [
            {"place": i, "word": word, "rank": r, "dominant": scores[r][i]}
            for r in ranks
            for i, word in enumerate(reading.words)
        ]
    )


def word_classes(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean relative dominant score of each class of words, per suite, with the standard error.

    Words of one question are averaged first, so `n` counts questions and the error is over them.
    """
    each = scores.groupby(["suite", "stands_for", "sample", "word_class"], sort=False)
    each = each[["relative", "loudness", "explained"]].mean().reset_index()
    rows = []
    for (suite, kin), mine in each.groupby(["suite", "stands_for"], sort=False):
        for sort in CLASSES:
            part = mine[mine["word_class"] == sort]
            rows.append(
                {
                    "suite": suite,
                    "stands for": kin,
                    "words": sort,
                    "dominant, 1 = equal share": part["relative"].mean(),
                    "stderr": part["relative"].sem(),
                    "loudness %": 100 * part["loudness"].mean(),
                    "explained %": 100 * part["explained"].mean(),
                    "n": len(part),
                }
            )
    return pd.DataFrame([row for row in rows if row["n"]])
