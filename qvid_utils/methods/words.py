"""What a word of evidence is: the decorator that makes a property of `Evidence` one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: What a word may need, beyond the stream that enters layer ℓ.
NEEDS = {
    "query": "the tokens of the question",
    "text": "text tokens, though not the question's span: a rule that sees it reads the text",
    "sequence": "the whole prompt in this call, with no cache before it",
    "before": "the stream that entered layer ℓ-1",
    "entry": "the stream that entered layer 0",
    "layout": "how the visual tokens lie in pictures and frames",
    "tower": "what the vision tower held",
    "class token": "a vision tower with a class token",
    "clip": "both towers of CLIP",
}


@dataclass(frozen=True)
class Word:
    """A word of evidence: its name, its shape as text, one sentence, and which of NEEDS it has."""

    name: str
    shape: str
    sentence: str
    needs: tuple[str, ...] = ()


def word(shape: str, *needs: str) -> Callable[[Callable[..., Any]], cached_property]:
    """Decorator of a property of `Evidence`: a word of that shape; its docstring is the sentence.

    Raises ValueError at import for a need that NEEDS does not list.
    """
    if unknown := sorted(set(needs) - set(NEEDS)):
        raise ValueError(f"word needs {', '.join(unknown)}; known needs: {', '.join(NEEDS)}")

    def mark(function: Callable[..., Any]) -> cached_property:
        lazy, sentence = cached_property(function), " ".join((function.__doc__ or "").split())
        lazy.word = Word(function.__name__, shape, sentence, needs)
        return lazy

    return mark
