"""Which words of a prompt are the user's: read off the chat template, not from constants.

A `Template` is what a chat template leaves in the token ids around the user's words. It is found by
rendering prompts that differ in one place: what they share around that place is the template's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

SPANS = ("question", "content", "prompt")

# Sentences that ask for a form of answer and say nothing about the picture; query="content" leaves
# them out. (sentence, where it is appended.) Longer ones win over their own endings.
ANSWER_FORMAT = (
    (
        "Answer the question using a single word or phrase.",
        "lmms-eval: GQA, POPE, MME, TextVQA, VQAv2; LLaVA-1.5's evaluation scripts",
    ),
    (
        "When the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase.",
        "lmms-eval: VizWiz",
    ),
    (
        "Answer with the option's letter from the given choices directly.",
        "lmms-eval: ScienceQA, MMBench; LLaVA-1.5's evaluation scripts",
    ),
    ("Answer the question with A, B, C, or D.", "lmms-eval: Video-MME"),
    ("Please answer yes or no.", "MME: the end of each question of the data set itself"),
    ("Answer the question using a single word.", "the embedded world"),
    ("answer the question using a single word .", "the embedded world, as its tokens are spaced"),
)


class Unavailable(RuntimeError):
    """Something asked for that this model, family or installation does not have."""


@dataclass(frozen=True)
class Template:
    """What a chat template writes around the user's words, as token ids.

    `head` opens a user's turn, `tail` closes it, `glue` stands between a picture and the words,
    `special` are ids no user types, `sentences` the answer-format sentences as they are tokenised.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...]
    glue: tuple[int, ...]
    special: frozenset[int]
    sentences: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, processor: Any, visual: Sequence[int]) -> "Template":
        """Read the template off a processor (or tokenizer) by rendering prompts that differ in one
        place: what they share around that place is the template's own."""
        tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None):
            raise Unavailable(
                "the processor has no chat template, so the question cannot be found: "
                "pass query= as a mask over the prompt's tokens"
            )

        def render(words: str, system: str | None = None, picture: bool = False) -> list[int]:
            content = [{"type": "image"}] * picture + [{"type": "text", "text": words}]
            chat = [{"role": "user", "content": content}]
            if system is not None:
                chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
            text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        one, two = _sentinels(tokenizer, str(processor.chat_template))
        special = frozenset(tokenizer.added_tokens_decoder)
        a, b = render(one), render(two)
        opening, tail = _shared(a, b), _shared(a[::-1], b[::-1])[::-1]
        try:
            # under a system turn of one's own, a default system text is gone: no part of the head
            told = _shared(render(one, one), render(two, one))
        except (TemplateError, TypeError):  # a template without system turns
            told = opening
        head = _shared(opening[::-1], told[::-1])[::-1]
        if head[:1] == [tokenizer.bos_token_id]:  # later turns open without it
            head = head[1:]
        closing = next((i + 1 for i, token in enumerate(tail) if token in special), len(tail))
        pictured = _shared(render(one, picture=True), render(two, picture=True))
        last = max([i for i, token in enumerate(pictured) if token in visual] or [len(pictured)])

        found = set()
        for sentence, _ in ANSWER_FORMAT:
            for gap in ("\n", " "):
                pair = [render(word + gap + sentence)[::-1] for word in (one, two)]
                ids = _shared(*pair)[::-1]
                if tail and ids[-len(tail) :] == tail:
                    ids = ids[: -len(tail)]
                blank = next((i for i, t in enumerate(ids) if tokenizer.decode([t]).strip()), 0)
                # "?\n" may be one token of the question: then the sentence starts without its gap
                found |= {tuple(ids), tuple(ids[blank:])}
        known = {s for s in found if len(s) > 2 and tokenizer.unk_token_id not in s}
        return cls(
            head=tuple(head),
            tail=tuple(tail[:closing]),  # after it, history turns may differ from the prompt's end
            glue=tuple(pictured[last + 1 :]),
            special=special,
            sentences=tuple(sorted(known, key=lambda s: (-len(s), s))),
        )

    def span(self, kind: str, ids: Sequence[int], visual: Sequence[bool]) -> list[bool]:
        """Which tokens of one unpadded prompt are the query.

        `question`: the words of the last user turn that has words, without template and pictures;
        where some come after the turn's first picture, only those. `content`: the same without the
        answer-format sentence. `prompt`: all text after the last visual token, template included;
        ValueError where no word of the user's follows the picture.
        """
        words = self._question(list(ids), list(visual))
        if kind == "question":
            return words
        if kind == "content":
            return self._without_sentences(list(ids), words)
        if kind != "prompt":
            raise ValueError(f"query={kind!r}: choose one of {', '.join(SPANS)}, or pass a mask")
        start = max((i for i, seen in enumerate(visual) if seen), default=-1) + 1
        if not any(words[start:]):
            raise ValueError(
                "query='prompt' takes the text after the visual tokens, and the image comes last "
                "in this prompt: use query='question'"
            )
        return [i >= start for i in range(len(words))]

    def _question(self, ids: list[int], visual: list[bool]) -> list[bool]:
        turns, i, inside = [[]], 0, not self.head
        while i < len(ids):
            if self.head and tuple(ids[i : i + len(self.head)]) == self.head:
                turns.append([])
                i, inside = i + len(self.head), True
            elif self.tail and tuple(ids[i : i + len(self.tail)]) == self.tail:
                i, inside = i + len(self.tail), False
            elif inside and visual[i] and tuple(ids[i + 1 : i + 1 + len(self.glue)]) == self.glue:
                turns[-1].append(i)
                i += 1 + len(self.glue)
            else:
                if inside:
                    turns[-1].append(i)
                i += 1
        for turn in reversed(turns):
            words = [i for i in turn if not visual[i] and ids[i] not in self.special]
            if words:
                first = next((i for i in turn if visual[i]), -1)
                chosen = set([i for i in words if i > first] or words)
                return [i in chosen for i in range(len(ids))]
        return [False] * len(ids)

    def _without_sentences(self, ids: list[int], words: list[bool]) -> list[bool]:
        words = list(words)
        for sentence in self.sentences:
            size = len(sentence)
            for i in range(len(ids) - size + 1):
                if tuple(ids[i : i + size]) == sentence and all(words[i : i + size]):
                    words[i : i + size] = [False] * size
        return words


def _shared(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """The common beginning of two lists."""
    both = list(zip(a, b, strict=False))
    return [x for x, _ in both[: next((i for i, (x, y) in enumerate(both) if x != y), len(both))]]


def _sentinels(tokenizer: Any, template: str) -> tuple[str, str]:
    """Two texts that this tokenizer knows, different in their first and in their last token."""

    def usable(*texts: str) -> bool:
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        known = tokenizer.unk_token_id is None or tokenizer.unk_token_id not in a + b
        return bool(a and b) and known and a[0] != b[0] and a[-1] != b[-1]

    if usable("alpha k", "9 omega z"):
        return "alpha k", "9 omega z"
    # a small word-level vocabulary: two of its own words, rare ones, which no template contains
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1])
    words = [word for word, _ in words if word.isalpha() and word not in template]
    for other in words[1:]:
        if usable(words[0], other):
            return words[0], other
    raise Unavailable("the tokenizer knows too few words to tell its chat template from a question")
