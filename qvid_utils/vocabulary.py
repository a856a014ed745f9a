"""The words of evidence that a rule may ask for: each with its shape and one sentence.

A rule names what it reads as positional parameters; the names come from `WORDS` and from nowhere
else. `evidence.py` computes one property per word, so adding a word means touching these two files.
Letters: H heads, N_q question tokens, N_v visual tokens of one prompt, d width, d_h head width,
ℓ the layer about to run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["WORDS", "Word"]


@dataclass(frozen=True)
class Word:
    """One piece of evidence: its name, its shape as text, and one sentence that says what it is."""

    name: str
    shape: str
    sentence: str


_TABLE = (
    ("hidden", "(N_v, d)", "Visual rows of the residual stream that enters layer ℓ."),
    ("previous", "(N_v, d)", "The same tokens in the stream that entered layer ℓ-1."),
    ("features", "(N_v, d)", "What the projector handed to the language model."),
    (
        "queries",
        "(H, N_q, d_h)",
        "Question tokens through layer ℓ's input norm and W_Q, before RoPE.",
    ),
    (
        "keys",
        "(H, N_v, d_h)",
        "Visual tokens through layer ℓ's input norm and W_K, before RoPE; shared heads repeated.",
    ),
    (
        "interaction",
        "(H, N_q, N_v)",
        "Queries times keys in float32: the paper's M (both rotated first where rope=True).",
    ),
    (
        "attention",
        "(H, N_q, N_v)",
        "Attention that the question tokens pay in layer ℓ: RoPE, causal mask, softmax over the "
        "whole sequence, then the visual columns.",
    ),
    ("last_row", "(H, N_v)", "Attention that the last prompt token pays in layer ℓ."),
    (
        "last_row_before",
        "(H, N_v)",
        "Attention that the last prompt token paid in layer ℓ-1, the one that has just run.",
    ),
    (
        "patches",
        "(N_v, D)",
        "What the vision tower fed to the projector.",
    ),
    (
        "clip_image",
        "(N_v, D_p)",
        "The patches through CLIP's own last norm and projection, where the words of its text "
        "tower lie; not normalised.",
    ),
    (
        "clip_text",
        "(segments, D_p)",
        "The query's words through CLIP's text tower, in segments that fit; not normalised.",
    ),
    (
        "filled",
        "(N_v,) bool",
        "Which slots the vision tower filled: all, unless the method shortens pictures inside it.",
    ),
    ("grid", "(3,) ints", "How the visual tokens lie: frames, rows, columns."),
    (
        "prompt",
        "int",
        "A stable number made from the prompt's token ids without padding: the same in any batch.",
    ),
)

WORDS: Mapping[str, Word] = MappingProxyType({row[0]: Word(*row) for row in _TABLE})
