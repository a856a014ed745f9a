"""The words of evidence that a rule may ask for: each with its shape and one sentence.

A rule names what it reads as positional parameters; the names come from `WORDS` and from nowhere
else. `evidence.py` computes one property per word, so adding a word means touching these two files.
Letters: H heads, N_q question tokens, N_v visual tokens of one prompt, N_t tokens of the text after
the last of them (template included), d width, d_h head width, ℓ the layer about to run; H_t heads,
D width, d_t head width of the vision tower.
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
        "text_rows_before",
        "(H, N_t, N_v)",
        "Attention that the text after the picture paid in layer ℓ-1.",
    ),
    (
        "text_relevance",
        "(N_t,)",
        "How much the picture calls for each token of the text after it, where layer 0 begins: dot "
        "products, softmax over the text, mean over the visual tokens.",
    ),
    (
        "rope_bias",
        "(N_t, N_v)",
        "What RoPE alone says of a text and a visual token: the logit of all-ones query and key, "
        "2 Σ_i cos((m-n)θ_i) / √d_h.",
    ),
    (
        "received_from_visual",
        "(N_v,)",
        "Attention received in layer ℓ-1 from the visual tokens: maximum over the heads of each "
        "entry of the map, then the sum over its rows.",
    ),
    ("received_from_text", "(N_v,)", "The same from the text after the picture."),
    (
        "key_norms_before",
        "(N_v,)",
        "L1 norm of a visual token's keys in layer ℓ-1, all heads together, rotated, as cached.",
    ),
    ("text_key_norms_before", "(N_t,)", "The same of the text after the picture."),
    (
        "normed",
        "(N_v, d)",
        "Visual rows of the stream that enters layer ℓ, through the model's last norm.",
    ),
    ("text_normed", "(N_t, d)", "The same of the text after the picture."),
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
        "frames",
        "(N_v,) ints",
        "Which picture, tile or frame of the prompt a token shows a place of, from 0; -1 for one "
        "that shows none (a line break, a class token).",
    ),
    (
        "patches",
        "(N_v, D)",
        "What the vision tower fed to the projector: of a token that joins patches, all of them in "
        "a row; 0 for a line break.",
    ),
    (
        "tower_keys",
        "(H_t, N_v, d_t)",
        "Keys of the tower's layer that gives the patches, as it multiplies them; mean over the "
        "patches that a token joins.",
    ),
    (
        "received",
        "(N_v,)",
        "Attention that a token receives in that layer, mean over heads and queries, pooled as the "
        "model pools its features; 0 for a token that shows no place.",
    ),
    (
        "cls_row",
        "(H_t, N_v)",
        "Attention that the class token pays in that layer to the tokens of its picture; 0 for a "
        "token that shows no place.",
    ),
    ("cls_patch", "(N_v, D)", "The feature of the class token of each token's picture."),
    (
        "last_cls_row",
        "(N_v,)",
        "Softmax of the class token's query times all keys of the tower's last layer, heads not "
        "separated; 0 for a token that shows no place.",
    ),
    ("last_keys", "(N_v, D)", "Keys of the tower's last layer, all heads in a row."),
    (
        "prompt",
        "int",
        "A stable number made from the prompt's token ids without padding: the same in any batch.",
    ),
)

WORDS: Mapping[str, Word] = MappingProxyType({row[0]: Word(*row) for row in _TABLE})
