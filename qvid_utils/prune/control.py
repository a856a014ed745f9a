"""The question control: a method scored with another question than the prompt's own, or with none.

    with pruned(model, "qvid", keep=64, score_question="What is on the table?"): ...
    with pruned(model, "qvid", keep=64, control="noise", control_seed=3): ...

`score_question`: every cut is the one that the same prompt would get with this question in place of
its own; the answer is to its own. `control="noise"`: the queries are Gaussian, of the same norms.
`control="keys"`: the keys alone, M = Kᵀ, so QViD's score is the leverage of the keys.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..families.projections import attention_rows, project, rotated, wide
from ..methods import Method
from ..methods.evidence import Evidence, needing

__all__ = ["CONTROLS", "Control"]


@dataclass(frozen=True)
class Control:
    """What a method is scored with in place of the question: nothing else, unless one is given.

    question: a text, or one for each row of the batch; kind: "noise" or "keys"; seed: of the noise.
    """

    question: str | tuple[str, ...] | None = None
    kind: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.question, list):
            object.__setattr__(self, "question", tuple(self.question))
        texts = (self.question,) if isinstance(self.question, str) else self.question or ()
        good = isinstance(texts, tuple) and all(isinstance(t, str) and t.strip() for t in texts)
        if self.question is not None and not (texts and good):
            raise TypeError(
                f"score_question={self.question!r}: give a question as text, or a list with one "
                "for each row of the batch"
            )
        if self.kind is not None and self.kind not in CONTROLS:
            raise ValueError(f"control={self.kind!r}: choose one of {', '.join(CONTROLS)}")
        if self.kind is not None and self.question is not None:
            raise ValueError("give score_question or control, not both")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"control_seed={self.seed!r}: give a whole number")

    def evidence(self, **shown: Any) -> Evidence:
        """The evidence that the method sees, of one prompt."""
        made = CONTROLS.get(self.kind, Evidence)(**shown)
        made.control_seed = self.seed
        return made

    def question_of(self, row: int, rows: int) -> str:
        """The other question of a row; beams repeat each prompt. ValueError where the number of
        questions does not fit."""
        texts = (self.question,) if isinstance(self.question, str) else self.question
        if rows % len(texts):
            raise ValueError(
                f"score_question: {len(texts)} questions for a batch of {rows} prompts, give one "
                "for all or one for each"
            )
        return texts[row * len(texts) // rows]

    def check(self, method: Method) -> None:
        """ValueError for a method that this control says nothing about."""
        reads = method.sees & needing("query", "text")
        able = {
            None: reads,
            "noise": reads & _NOISY if reads <= _NOISY else (),
            "keys": method.sees & {"interaction", "queries"} if reads <= _KEYED else (),
        }
        asked = f"control={self.kind!r}" if self.kind else "score_question"
        if (self.kind or self.question) and not able[self.kind]:
            why = f"reads {', '.join(sorted(reads))}" if reads else "reads no question and no text"
            raise ValueError(f"{asked} does not apply to method {method.name!r}, which {why}")
        if self.question and isinstance(method.query, Tensor):
            raise ValueError(
                "score_question: query is a mask over the prompt's own tokens; name a span, such "
                "as query='question'"
            )


_KEYED = frozenset({"interaction", "queries"})
_NOISY = _KEYED | {
    "attention", "last_row", "last_row_before", "text_rows_before", "received_from_text",
    "text_relevance", "clip_text",
}  # fmt: skip


class _Noise(Evidence):
    """Evidence whose queries, and features of the text, are Gaussian, each of the same norm."""

    @cached_property
    def dice(self) -> torch.Generator:
        """Of the prompt, the layer and the seed: the same in any batch."""
        name = f"{self.prompt} {self.layer} {self.control_seed}".encode()
        seed = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big")
        return torch.Generator().manual_seed(seed)

    @cached_property
    def queries(self) -> Tensor:
        return self._alike(project(self.module, "q_proj", self.stream[self.query]))

    @cached_property
    def text_relevance(self) -> Tensor:
        visual, text = (wide(rows) for rows in self.at_entry())
        return (visual @ self._alike(text).mT).softmax(-1).mean(0)

    @cached_property
    def clip_text(self) -> Tensor:
        return self._alike(self.clip.words(self.text_of()))

    def _blocks(self, module: nn.Module, stream: Tensor, rows: Tensor) -> Iterator[Tensor]:
        for block in attention_rows(module, stream, rows, self.cos, self.sin, self._alike):
            yield block[..., self.visual]

    def _alike(self, rows: Tensor) -> Tensor:
        """(..., n, d): Gaussian directions with the norms of `rows`."""
        noise = torch.randn(rows.shape, generator=self.dice, dtype=torch.float64).to(rows)
        return noise * (rows.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))


class _Keys(Evidence):
    """Evidence whose queries are the unit vectors: M is the keys themselves."""

    @cached_property
    def queries(self) -> Tensor:
        heads, _, width = self.keys.shape
        return torch.eye(width).to(self.keys).expand(heads, width, width)

    @cached_property
    def interaction(self) -> Tensor:
        keys = self.keys
        if self.rope:
            keys = rotated(keys, self.cos[self.visual], self.sin[self.visual])
        return keys.mT


CONTROLS: dict[Any, type[Evidence]] = {"noise": _Noise, "keys": _Keys}
