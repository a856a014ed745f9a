"""Which words of a question stand in the leading modes of M."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...algebra import leverage
from .low_rank import Reading

# Words that name what a question of the embedded world is about; the others say how it asks.
NAMES = frozenset(
    "red green blue yellow purple cyan white black "
    "circle square triangle star cross ring heart diamond h k m p r t x z "
    "zero one two three four five six left right above below top bottom half "
    "color letter letters shape shapes number many same".split()
)


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
