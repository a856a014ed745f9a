"""Model types that pruning does not carry, each with the reason.

A type that stands neither here nor among the families is unknown: nobody has looked.
"""

#: A word for each reason -> the reason, and the model types that it keeps out.
REASONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "window": (
        "has layers that look through a window of the sequence: behind a cut it would reach over "
        "other tokens than in the whole sequence",
        ("aya_vision", "cohere2_vision", "dots3_note", "exaone4_5", "idefics2", "inkling2",
         "inkling_mm_model", "llama4", "muse_glimmer", "muse_spark", "unlimited_ocr"),
    ),
    "state": (
        "has layers that hand on a state or a convolution instead of attending: a token that is "
        "dropped later has left its trace there, and hiding it is not dropping it",
        ("glm5_next", "lfm2_vl", "lfm3_vl", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7",
         "nemotron_h_omni", "qwen3_5", "qwen3_5_moe"),
    ),
    "across": (
        "keeps its pictures outside the decoder's sequence, which attends to them across: no "
        "visual token stands in input_ids",
        ("blip", "evolla", "florence2", "git", "idefics", "mllama", "pix2struct", "pp_formulanet",
         "t5gemma2", "udop", "vision-encoder-decoder"),
    ),
    "codes": (
        "writes pictures as codes of its own vocabulary, with no features in their place",
        ("chameleon", "emu3"),
    ),
    "both directions": (
        "lets the tokens of a picture or prompt see each other in both directions: layers behind "
        "a cut get a causal mask that is made anew",
        ("gemma3", "gemma3n", "gemma4", "gemma4_unified", "paligemma", "pi0", "shieldgemma2"),
    ),
}  # fmt: skip

REFUSED: dict[str, str] = {kind: why for why, kinds in REASONS.values() for kind in kinds}
