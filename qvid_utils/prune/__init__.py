"""Drop visual tokens inside the language model: `pruned`, `observed`.

    with pruned(model, "qvid", keep=16) as trace:
        model.generate(**inputs)

A rule scores the visual tokens where a decoder layer begins; the best `keep` enter, the others are
gone for that layer and all later ones. Layer 0 begins where the language model does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..families.calls import pictures_once
from ..methods import Method
from ..methods import method as find_method
from ..methods.evidence import WORDS, Evidence
from .hooks import Engine
from .plan import DEFAULT_KEEP, check_numbers, stages_of
from .stages import Looking, Stage
from .trace import CutRecord, Trace

__all__ = ["CutRecord", "Trace", "block_of", "observed", "pictures_once", "pruned"]


@contextmanager
def pruned(
    model: nn.Module,
    method: str | Method | Sequence[tuple] = "qvid",
    keep: int | Sequence[int] = DEFAULT_KEEP,
    *,
    share: float | Sequence[float] | None = None,
    layer: int | None = None,
    query: str | Tensor | None = None,
    positions: str | None = None,
    reading: str | None = None,
    score_question: str | Sequence[str] | None = None,
    control: str | None = None,
    control_seed: int | None = None,
    processor: Any = None,
    clip: Any = None,
    **params: Any,
) -> Iterator[Trace]:
    """Prune visual tokens inside the block; leave the model as it was found, also after an error.

    method: a name in METHODS, a rule's name, or a Method; keep (default 64): visual tokens per
    prompt, after the cut of a single-cut method, as the mean over layers of a staged one, or a list
    with such a number for each row of the batch; share: instead of keep, in % of each prompt's own
    visual tokens, to the nearest count; layer: where a single cut is made (0..L-1; default: the
    method's depth); query: "question", "content", "prompt", or a bool mask over the prompt's
    tokens; positions: "original" or "contiguous"; reading: "in_place", or "two_pass" (score at the
    layer, then start over without the losers); processor: whose chat template finds the question,
    where `load` did not already say; clip: folder or hub id of the CLIP pair, for methods that need
    its text tower (default: beside the model, else its family's); params: of the rule, e.g. rank=8,
    or of a selection that has options, e.g. official_counts=True.

    Does the question matter? score_question: every cut is the one that the same prompt would get
    with this question in place of the user's own words; the answer is to the prompt as it is (one
    text, or one for each row). control="noise": the queries are Gaussian, each of the norm of the
    model's own (control_seed: of the noise); control="keys": the keys alone, M = Kᵀ.

    Methods compose: [("divprune", 72), ("qvid", 16, {"rank": 8})] cuts with each in turn, at its
    own layer and with its own options, and each sees what the ones before have left. `keep` of a
    staged method is then the mean that it would have alone. Where two cut at one layer, the order
    is yours, and positions are counted anew where one of the two does so.

    Every call with pictures is a new prompt, each row of a batch for itself. A cache pruned in the
    block must be continued in the block. Without a cache (use_cache=False) each step is scored
    anew, so rules that read the last token or the prompt number choose anew, too. Drafted tokens of
    assisted decoding are neither question nor last token. The block belongs to the thread that
    opened it, one call at a time; a deep copy of the model is a plain model.
    ValueError, TypeError or Unavailable, with what is allowed, where something cannot be done;
    RuntimeError where a planned cut was not made, blocks nest, or threads meet. UserWarning where
    the block ends and no call with pictures has come.
    """
    options = {
        "share": share, "layer": layer, "query": query, "positions": positions, "reading": reading,
        "score_question": score_question, "control": control, "control_seed": control_seed,
    }  # fmt: skip
    stages = stages_of(model, method, keep, {**options, **params})
    with Engine(model, stages, processor, clip).attached() as trace:
        yield trace


@contextmanager
def observed(
    model: nn.Module,
    *words: str,
    layer: int,
    query: str | Tensor = "question",
    rope: bool = False,
    processor: Any = None,
) -> Iterator[list[dict[str, Any]]]:
    """Collect evidence where a layer begins and change nothing: one dict for each prompt with
    pictures, e.g. `observed(model, "interaction", layer=3)`, with the words as keys."""
    check_numbers(model, 1, layer)
    unknown = sorted(set(words) - set(WORDS))
    if unknown:
        raise ValueError(f"no evidence is called {', '.join(unknown)}; known: {', '.join(WORDS)}")
    seen: list[dict[str, Any]] = []

    def look(evidence: Evidence) -> None:
        seen.append({word: getattr(evidence, word) for word in words})

    neutral = replace(find_method("qvid"), query=query, rope=rope)
    stage = Looking(neutral, set(words), layer=layer, look=look)
    with Engine(model, [stage], processor).attached():
        yield seen


@contextmanager
def block_of(model: nn.Module, stages: Sequence[Stage], processor: Any = None) -> Iterator[Trace]:
    """The block of `pruned` for stages that were made elsewhere (`grid`)."""
    with Engine(model, stages, processor).attached() as trace:
        yield trace
