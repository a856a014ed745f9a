"""FasterVLM (Zhang et al.): the attention of the class token is all you need.

Idea: what the vision tower's own class token attends to is what a picture shows; attention inside
the language model is shifted towards late tokens.
Formula: s_j = mean over heads of the attention that the class token pays to patch j in the layer
whose output the model projects.
arXiv, 2024, https://arxiv.org/abs/2412.01818v1
"""

from ..algebra.selection import top_k_by_picture
from .base import Method, paper
from .class_token import BEFORE, BY_PICTURE, SAME_ROW, class_attention, received

published = Method(
    "fastervlm",
    class_attention,
    select=top_k_by_picture,
    source="FasterVLM (Zhang et al., 2024), official code",
    departures=SAME_ROW + "In float32, where the code scores in half precision. " + BY_PICTURE,
    label="FasterVLM",
    curve=("sky", "^", "--"),
    **paper("arXiv, 2024", "2412.01818v1", "zhang2024fastervlm"),
    **BEFORE,
)

methods = (
    published,
    received(
        published,
        source="FasterVLM with the mean received attention that VisPruner's author advises",
        departures="HiRED's would be the same.",
    ),
)
