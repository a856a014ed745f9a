"""Model types that pruning does not carry, each with the reason.

A type that stands neither here nor among the families is unknown: nobody has looked.
"""

_WINDOWS = (
    "has layers that look through a window of the sequence: behind a cut the window would reach "
    "over other tokens"
)
_STATE = (
    "has layers that pass on a state or a convolution instead of attending: what a dropped token "
    "has left in it stays"
)
_CROSS = (
    "keeps its pictures outside the decoder's sequence and attends to them across: no visual token "
    "stands in input_ids"
)
_CODES = "writes pictures as codes of its vocabulary, which it also generates"
_PREFIX = (
    "lets the tokens of a picture or prompt see each other in both directions: the mask is not "
    "causal, and a cut makes a causal one"
)

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("aya_vision", "cohere2_vision", "dots3_note", "exaone4_5", "idefics2", "inkling2",
         "inkling_mm_model", "llama4", "muse_glimmer", "muse_spark", "unlimited_ocr"),
        _WINDOWS,
    ),
    **dict.fromkeys(
        ("glm5_next", "lfm2_vl", "lfm3_vl", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7",
         "nemotron_h_omni", "qwen3_5", "qwen3_5_moe"),
        _STATE,
    ),
    **dict.fromkeys(
        ("blip", "evolla", "florence2", "idefics", "mllama", "pix2struct", "pp_formulanet",
         "t5gemma2", "udop", "vision-encoder-decoder"),
        _CROSS,
    ),
    **dict.fromkeys(("chameleon", "emu3"), _CODES),
    **dict.fromkeys(
        ("gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "paligemma", "pi0",
         "shieldgemma2"),
        _PREFIX,
    ),
}  # fmt: skip
