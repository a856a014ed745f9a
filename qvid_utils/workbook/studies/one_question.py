"""One question about one picture, asked of the whole model; `one_look` has what methods do with it.

    asked = ask(model, processor, picture, "What color is the star?")
    one_look.look(asked, ["qvid", "random"], keep=16).costs

Nothing here draws, and nothing here needs a notebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...families import family_of, query_tokens
from ...models import pictures
from ...models.ask import unknown_words
from ...paths import DATA
from ...prune import observed
from ..cost import flops
from .low_rank import Reading, default_layer

NEW_TOKENS = 8
CONVENTION = "macs"  # the language model's layers: the part that pruning changes, for every method
SHRUNK = 2048  # pixels: longer pictures are shrunk as they are opened
WORDS = 80  # of a question; more are no question, and the figure has no room for them
MARKS = '.,;:!?"()'  # around a word
LARGEST = 512  # pixels: a picture is not drawn larger than this


@dataclass(frozen=True, eq=False)
class Answer:
    """text: greedy; probability: of its words one after the other, the end not counted; first (V,):
    probability of each token of the vocabulary as the first one."""

    text: str
    probability: float
    first: np.ndarray


@dataclass(frozen=True, eq=False)
class Asked:
    """A question about a picture, answered by the whole model: what all methods start from.

    seen (h, w, 3) uint8: the picture as the vision tower gets it; board: (rows, columns) of its
    visual tokens; reading: the interaction where `layer` begins; unknown: words that the tokenizer
    does not have; n_visual, n_text: tokens of the prompt.
    """

    model: nn.Module
    processor: Any
    inputs: Any
    question: str
    seen: np.ndarray
    board: tuple[int, int]
    layer: int
    reading: Reading
    answer: Answer
    unknown: tuple[str, ...]
    n_visual: int
    n_text: int

    @property
    def depth(self) -> int:
        """L, decoder layers."""
        return len(family_of(self.model).part(self.model, "layers"))

    def operations(self, tokens: Sequence[float]) -> float:
        """Multiply-adds of the decoder's layers with that many visual tokens in each of them."""
        config = self.model.config
        return flops.prefill(config, tokens, self.n_text, convention=CONVENTION).total


# --------------------------------------------------------------------------------- a question
def opened(source: Any) -> Image.Image:
    """A picture as `models.pictures.opened` has it, `SHRUNK` pixels long at most.

    ValueError, naming what came, where it is none.
    """
    try:
        picture = pictures.opened(source)
    except ValueError as cause:
        came = str(source)
        if not isinstance(source, str | Path):
            came = f"{len(source)} bytes" if isinstance(source, bytes) else type(source).__name__
        raise ValueError(
            f"picture: {came} cannot be read as one ({cause}); give a PNG or JPEG file, its bytes, "
            "or an array (h, w, 3) of uint8"
        ) from cause
    picture.thumbnail((SHRUNK, SHRUNK))
    return picture


def _checked(question: str, processor: Any) -> tuple[str, ...]:
    """The words of a question that the tokenizer does not have; ValueError where it cannot be
    asked: empty, longer than `WORDS`, or without a single word that is known."""
    words = [word for word in question.split() if any(map(str.isalnum, word))]
    if not words:
        raise ValueError("the question is empty: type one, QViD reads the picture for its words")
    if len(words) > WORDS:
        raise ValueError(
            f"the question has {len(words)} words; up to {WORDS} are asked: shorten it"
        )
    unknown = tuple(word.strip(MARKS) for word in unknown_words(processor, question))
    if len(unknown) >= len(words):
        said = ", ".join(f"“{word}”" for word in dict.fromkeys(unknown))
        raise ValueError(f"this model knows none of these words: {said}; ask with others")
    return unknown


@torch.inference_mode()
def ask(
    model: nn.Module, processor: Any, picture: Any, question: str, layer: int | None = None
) -> Asked:
    """Ask the whole model, and read M where `layer` begins (default: where QViD cuts).

    picture: as in `opened`. ValueError for a question that is empty, too long or of unknown words
    alone, a layer that the model does not have,
    and a picture whose visual tokens form no single grid (tiles, line breaks).
    """
    unknown = _checked(question, processor)
    picture = opened(picture)
    layer = default_layer(model) if layer is None else layer
    words = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": words}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    ).to(model.device)  # fmt: skip
    ids, family = inputs["input_ids"], family_of(model)
    visual = torch.isin(ids, ids.new_tensor(family.visual_tokens(model.config)))
    board = family.grid(model.config, int(visual.sum()), inputs)[1:]
    with observed(model, "interaction", "queries", layer=layer, processor=processor) as found:
        answer = answered(model, processor, inputs)
    reading = _reading(model, processor, question, inputs, visual, found[0])
    return Asked(
        model, processor, inputs, question, _as_seen(processor, inputs, picture), tuple(board),
        layer, reading, answer, unknown,
        int(visual.sum()), int((~visual).sum()),
    )  # fmt: skip


def answered(model: nn.Module, processor: Any, inputs: Any) -> Answer:
    """The greedy answer with its probabilities."""
    given = model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    new = given.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chances = [step[0].double().softmax(-1) for step in given.logits]
    special = set(processor.tokenizer.all_special_ids)
    said = [float(p[i]) for i, p in zip(new, chances, strict=True) if i not in special]
    text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return Answer(text, prod(said), chances[0].numpy(force=True))


def _reading(
    model: nn.Module, processor: Any, question: str, inputs: Any, visual: Tensor, found: dict
) -> Reading:
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    spans = [
        query_tokens(model, span, ids, valid, visual, processor=processor)[0]
        for span in ("question", "content")
    ]
    words = tuple(processor.tokenizer.decode([i]).strip() for i in ids[0, spans[0]].tolist())
    tail = tuple((~spans[1][spans[0]]).tolist())
    width = found["queries"].shape[-1]
    return Reading("", "", "", question, words, tail, found["interaction"].cpu(), width)


def _as_seen(processor: Any, inputs: Any, picture: Image.Image) -> np.ndarray:
    """The picture under the visual tokens: cropped, where the processor crops. (h, w, 3) uint8"""
    names = ("pixel_values", "pixel_values_images")  # Video-LLaVA's pictures have the second
    pixels = next(inputs[name] for name in names if name in inputs)
    images = processor.image_processor
    if pixels.dim() == 4:
        mean, std = (pixels.new_tensor(getattr(images, f"image_{n}")) for n in ("mean", "std"))
        shown = pixels[0] * std[:, None, None] + mean[:, None, None]
        shown = (shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        picture = Image.fromarray(shown.numpy(force=True))
    picture = picture.copy()
    picture.thumbnail((LARGEST, LARGEST))
    return np.asarray(picture)


def name_of(model: nn.Module) -> str:
    """What `load` calls it; an embedded model by its short name."""
    name = str(getattr(model.config, "_name_or_path", ""))
    return name.removeprefix(f"{DATA}/") if name.startswith(f"{DATA}/tiny/") else name
