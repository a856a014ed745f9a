"""One question about a picture, answered: the call that comes before and inside every block."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .pictures import opened


@torch.inference_mode()
def ask(
    model: nn.Module,
    processor: Any,
    picture: Any,
    question: str,
    max_new_tokens: int = 64,
    **generate: Any,
) -> str:
    """The model's answer to a question about a picture, as text.

    picture: a file, its bytes, an array (h, w, 3) uint8 or a PIL picture; a list of them for a
    question about several; None for words alone. The prompt is the processor's chat template with
    the pictures first. The answer is greedy, of at most `max_new_tokens` tokens; further keywords
    go to `model.generate`. Inside `pruned(model, …)` the same call is pruned.
    ValueError for an empty question, one of words that the tokenizer does not know, and a picture
    that cannot be read, with its place.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"question={question!r}: give the words to ask")
    unknown = unknown_words(processor, question)
    if len(unknown) == len(question.split()):
        raise ValueError(
            f"the tokenizer does not know a word of the question ({', '.join(unknown)[:200]}): ask "
            "in words that it knows"
        )
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [*_shown(picture), {"type": "text", "text": question}]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    ).to(model.device)  # fmt: skip
    inputs = {name: _as_the_weights(value, model.dtype) for name, value in inputs.items()}
    options = {"do_sample": False, "max_new_tokens": max_new_tokens, **generate}
    ids = model.generate(**inputs, **options)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return processor.decode(new, skip_special_tokens=True).strip()


def unknown_words(processor: Any, question: str) -> list[str]:
    """The words of a question that the tokenizer does not know, whole or in part."""
    tokenizer = processor.tokenizer
    return [
        word
        for word in question.split()
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]


def _shown(picture: Any) -> list[dict[str, Any]]:
    several = isinstance(picture, Sequence) and not isinstance(picture, str | bytes | bytearray)
    parts = []
    for number, one in enumerate(picture if several else [] if picture is None else [picture]):
        try:
            parts.append({"type": "image", "image": opened(one)})
        except ValueError as cause:
            which = f"picture {number} of the list" if several else "the picture"
            name = f" {one}" if not isinstance(one, bytes | bytearray) else ""
            raise ValueError(f"{which}{name[:200]} cannot be read: {cause}") from cause
    return parts


def _as_the_weights(value: Any, dtype: torch.dtype) -> Any:
    """Pixels in the model's precision; ids and masks as they are."""
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if floats else value
