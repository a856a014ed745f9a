"""Which words of a prompt are the user's: read off the chat template, not from constants.

A `Template` is what a chat template leaves in the token ids around the user's words. It is found by
rendering prompts that differ in one place: what they share around that place is the template's own.
"""

from collections.abc import Iterable, Sequence
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
    (
        "Answer with the option letter from the given choices directly.",
        "lmms-eval: MMMU-Pro standard",
    ),
    ("Answer the question with a single word.", "lmms-eval: ChartQA"),
    ("Only give the best option.", "lmms-eval: MVBench"),
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

    `heads` open a user's turn (before words, a picture or a video: a template may write, and a
    tokenizer join, each differently), `tail` closes it, `glues` stand between a picture or video
    and the words, `special` are ids no user types, `sentences` the answer-format sentences as they
    are tokenised.
    """

    heads: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]
    glues: tuple[tuple[int, ...], ...]
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

        def render(words: str, system: str | None = None, *shown: str) -> list[int]:
            content = [{"type": kind} for kind in shown] + [{"type": "text", "text": words}]
            chat = [{"role": "user", "content": content}]
            if system is not None:
                chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
            text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        one, two = _sentinels(tokenizer, str(processor.chat_template))
        special = frozenset(tokenizer.added_tokens_decoder)
        tail = _shared(render(one)[::-1], render(two)[::-1])[::-1]
        closing = next((i + 1 for i, token in enumerate(tail) if token in special), len(tail))
        heads, glues = set(), set()
        for shown in ((), ("image",), ("video",)):
            try:
                opening = _shared(render(one, None, *shown), render(two, None, *shown))
            except (TemplateError, TypeError):  # a template without videos
                continue
            seen = [i for i, token in enumerate(opening) if token in visual]
            if shown and not seen:
                continue
            try:
                # under a system turn of one's own, a default system text is gone: no part of it
                told = _shared(render(one, one, *shown), render(two, one, *shown))
            except (TemplateError, TypeError):  # a template without system turns
                told = opening
            if seen:
                glues.add(tuple(opening[seen[-1] + 1 :]))
                told = told[: next(i for i, token in enumerate(told) if token in visual)]
                opening = opening[: seen[0]]
            head = _shared(opening[::-1], told[::-1])[::-1]
            # later turns open without it
            heads.add(tuple(head[1:] if head[:1] == [tokenizer.bos_token_id] else head))

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
            heads=_longest_first(heads),
            tail=tuple(tail[:closing]),  # after it, history turns may differ from the prompt's end
            glues=_longest_first(glues),
            special=special,
            sentences=_longest_first(known),
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
        turns, i, inside = [[]], 0, not self.heads

        def at(i: int, *patterns: tuple[int, ...]) -> int:
            """The length of the first pattern that stands at i, else 0."""
            return next((len(p) for p in patterns if tuple(ids[i : i + len(p)]) == p), 0)

        while i < len(ids):
            if opened := at(i, *self.heads):
                turns.append([])
                i, inside = i + opened, True
            elif closed := at(i, self.tail):
                i, inside = i + closed, False
            else:
                if inside:
                    turns[-1].append(i)
                i += 1 + (at(i + 1, *self.glues) if inside and visual[i] else 0)
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


def _longest_first(patterns: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(filter(None, patterns), key=lambda p: (-len(p), p)))


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
