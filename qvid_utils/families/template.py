"""Which words of a prompt are the user's: read off the chat template, matched as text.

A `Template` is what a chat template writes around the user's words. Real tokenisers join a word
with the blank, the full stop or the line break beside it, and each prompt differently; so heads and
tails are looked for in the decoded text, where blanks do not count, and mapped back to tokens.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from os.path import commonprefix
from typing import Any

from jinja2 import TemplateError

from .answer_format import ANSWER_FORMAT

SPANS = ("question", "content", "prompt")

PICTURE = "\ufffc"  # stands for a run of visual tokens
_FIRST_MARK = 0xF0000  # private characters, one for each special token
_MARK = f"[{chr(_FIRST_MARK)}-{chr(0x10FFFF)}]"


class Unavailable(RuntimeError):
    """Something asked for that this model, family or installation does not have."""


@dataclass(frozen=True)
class _Line:
    """A prompt as text without blanks.

    owner: the token of each character; apart: whether a blank, a picture, a special token or the
    start of the prompt stands before it; blank: the tokens that are nothing but blanks.
    """

    text: str
    owner: list[int]
    apart: list[bool]
    blank: set[int]


@dataclass(frozen=True)
class Template:
    """What a chat template writes around the user's words, as text without blanks.

    `heads` open a user's turn, `tail` closes it and opens the answer, `glues` stand between a
    picture or video and the words, `labels` (a pattern) right before a picture. `marks` are the
    special tokens, which no user types, each with a character of its own.
    """

    heads: tuple[str, ...]
    tail: str
    glues: tuple[str, ...]
    labels: str
    sentences: tuple[str, ...]
    marks: Mapping[int, str]
    unknown: int | None
    backend: Any = field(repr=False, compare=False)
    pieces: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, processor: Any, visual: Sequence[int], labels: str = "") -> "Template":
        """Read the template off a processor (or tokenizer) by rendering prompts with known words.

        visual: the placeholder ids; labels: as in the class, blanks left out. Unavailable for a
        processor without a template, or whose tokenizer does not know the template's words.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None):
            raise Unavailable(
                "the processor has no chat template, so the question cannot be found: "
                "pass query= as a mask over the prompt's tokens"
            )
        marks = {
            i: chr(_FIRST_MARK + n) for n, i in enumerate(sorted(tokenizer.added_tokens_decoder))
        }
        # the part below the tokenizer: a template is kept by its processor, and must not keep it
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        bare = cls((), "", (), labels, (), marks, tokenizer.unk_token_id, backend)

        def plain(text: str) -> str:
            """The text as it comes back from the tokenizer, without blanks."""
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return bare._line(ids, [False] * len(ids)).text

        unknown = marks.get(tokenizer.unk_token_id, "")
        places = [str(tokenizer.convert_ids_to_tokens(i)) for i in visual]
        heads, tail, glues = _parts(processor, places)
        heads, tail = {plain(head) for head in heads}, plain(tail)
        if unknown and not all(part.replace(unknown, "") for part in (*heads, tail)):
            raise Unavailable(
                "the tokenizer knows too few words to tell its chat template from a question"
            )
        closing = re.match(f".*?{_MARK}", tail)
        if closing:  # a later turn's head follows what closes the turn before it
            heads = {head.removeprefix(closing[0]) for head in heads}
        sentences = {plain(sentence) for sentence, _ in ANSWER_FORMAT}
        return cls(
            heads=_longest_first(heads),
            tail=tail,
            glues=_longest_first(re.sub(f"^{_MARK}*", "", plain(glue)) for glue in glues),
            labels=labels,
            sentences=_longest_first(s for s in sentences if not unknown or unknown not in s),
            marks=marks,
            unknown=tokenizer.unk_token_id,
            backend=backend,
        )

    def span(self, kind: str, ids: Sequence[int], visual: Sequence[bool]) -> list[bool]:
        """Which tokens of one unpadded prompt are the query.

        `question`: the words of the last user turn that has words, without template, pictures and
        the blanks around them; where words come after the turn's first picture, only those.
        `content`: the same without the answer-format sentence. `prompt`: all text after the last
        visual token, template included. ValueError where no word of the user's follows the picture
        (`prompt`), and where the tokenizer knows none of the question's words.
        """
        if kind not in SPANS:
            raise ValueError(f"query={kind!r}: choose one of {', '.join(SPANS)}, or pass a mask")
        line = self._line(ids, visual)
        if kind == "prompt":
            behind = line.text.rfind(PICTURE) + 1
            answer = line.text.rfind(self.tail, behind) if self.tail else -1
            if not re.sub(_MARK, "", line.text[behind : answer if answer >= 0 else None]):
                raise ValueError(
                    "query='prompt' takes the text after the visual tokens, and the image comes "
                    "last in this prompt: use query='question'"
                )
            start = max((i for i, seen in enumerate(visual) if seen), default=-1) + 1
            return [i >= start for i in range(len(ids))]
        chosen = self._question(line, ids)
        if kind == "content":
            chosen -= self._sentences(line, chosen)
        return _tokens(line, chosen, len(ids))

    def _line(self, ids: Sequence[int], visual: Sequence[bool]) -> _Line:
        text, owner, apart, blank, loose = [], [], [], set(), True
        for i, (token, seen) in enumerate(zip(ids, visual, strict=True)):
            if seen:
                piece = PICTURE if not i or not visual[i - 1] else ""
            else:
                piece = self.marks.get(token) or self._piece(token)
                if not piece.strip():
                    blank.add(i)
            for letter in piece:
                if letter.isspace():
                    loose = True
                    continue
                text.append(letter)
                owner.append(i)
                apart.append(loose)
                loose = letter >= chr(_FIRST_MARK) or letter == PICTURE
        return _Line("".join(text), owner, apart, blank)

    def _piece(self, token: int) -> str:
        """A token's text, with its blank: what it adds behind another token (itself)."""
        if token not in self.pieces:
            once, twice = (
                self.backend.decode([token] * n, skip_special_tokens=False) for n in (1, 2)
            )
            self.pieces[token] = twice[len(once) :]
        return self.pieces[token]

    def _turns(self, line: _Line) -> list[tuple[int, int]]:
        """Where the words of each user turn lie in the text, from and to.

        Heads and tails with special tokens are no user's. A role in plain words may be part of a
        question: then a turn opens first of all, or behind a tail and not amid a sentence, and the
        last one ends at the last tail.
        """
        text, size = line.text, len(line.text)
        mark = re.search(_MARK, self.tail)
        closing = self.tail[: mark.end()] if mark else self.tail
        ends = [m.start() for m in re.finditer(re.escape(closing), text)] if closing else []
        if not mark:
            ends = [i for i in ends if line.apart[i] or i + len(closing) == size]
        heads = "|".join(map(re.escape, self.heads))
        opened: list[tuple[int, int]] = []
        for start, stop in [m.span() for m in re.finditer(heads, text)] if heads else [(0, 0)]:
            if heads and not re.search(_MARK, text[start:stop]):
                free = line.apart[start] or (not opened and text[start - 1] in ".!?:")
                closed = [end for end in ends if opened and opened[-1][1] <= end < start]
                if not free or (opened and (not closed or _amid(text, closed[-1], start, stop))):
                    continue
            opened.append((start, stop))
        turns = []
        for n, (_, begin) in enumerate(opened):
            limit = opened[n + 1][0] if n + 1 < len(opened) else size
            own = [end for end in ends if begin <= end < limit]
            last = not mark and n + 1 == len(opened)
            turns.append((begin, own[-1 if last else 0] if own else limit))
        return turns

    def _question(self, line: _Line, ids: Sequence[int]) -> set[int]:
        """The characters of the question."""
        text = line.text
        aside = {
            i for i, letter in enumerate(text) if letter == PICTURE or letter >= chr(_FIRST_MARK)
        }
        for shown in re.finditer(f"{PICTURE}{_MARK}*", text):
            glue = next((g for g in self.glues if text.startswith(g, shown.end())), "")
            aside |= set(range(shown.end(), shown.end() + len(glue)))
        if self.labels:
            for label in re.finditer(f"(?:{self.labels})(?={_MARK}*{PICTURE})", text):
                aside |= set(range(*label.span()))
        for start, stop in reversed(self._turns(line)):
            words = {i for i in range(start, stop) if i not in aside}
            if not words:
                unread = sum(ids[line.owner[i]] == self.unknown for i in range(start, stop))
                if unread and self.unknown is not None:
                    raise ValueError(
                        f"the tokenizer does not know a word of the question ({unread} unknown "
                        "words): ask in words that it knows"
                    )
                continue
            behind = {i for i in words if i > text.find(PICTURE, start, stop)}
            # a full stop behind the picture is no question
            return behind if any(text[i].isalnum() or text[i] > "\x7f" for i in behind) else words
        return set()

    def _sentences(self, line: _Line, chosen: set[int]) -> set[int]:
        """The characters of answer-format sentences among those chosen."""
        found: set[int] = set()
        for sentence in self.sentences:
            for match in re.finditer(re.escape(sentence), line.text):
                here = set(range(*match.span()))
                before = line.text[max(match.start() - 1, 0)]
                if here <= chosen and (line.apart[match.start()] or not before.isalnum()):
                    found |= here
        return found


def _parts(processor: Any, places: Sequence[str]) -> tuple[set[str], str, set[str]]:
    """Heads, tail and glues of a chat template as it writes them; places: the placeholders."""
    words = "qvidwords"

    def said(text: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text}]

    def before(*shown: str, system: bool = False, later: bool = False) -> tuple[str, str]:
        parts = [*({"type": kind} for kind in shown), *said(words)]
        chat = [("user", parts)]
        if later:
            chat = [("user", said("turn")), ("assistant", said("answered")), *chat]
        if system:
            chat = [("system", said("system")), *chat]
        chat = [{"role": role, "content": content} for role, content in chat]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return text.partition(words)[::2]

    heads, glues, tail = set(), set(), before()[1]
    for shown in ((), ("image",), ("video",)):
        openings = []
        for more in ({}, {"system": True}, {"later": True}):
            try:
                opening = before(*shown, **more)[0]
            except (TemplateError, TypeError):  # a template without videos, or system turns
                continue
            at = [m.span() for m in re.finditer("|".join(map(re.escape, places)), opening)]
            if bool(at) != bool(shown):
                continue
            if shown:
                glues.add(opening[at[-1][1] :])
                opening = opening[: at[0][0]]
            openings.append(opening)
        if openings:
            # a default system text and what opens the prompt are no part of a turn's head
            heads.add(commonprefix([opening[::-1] for opening in openings])[::-1])
    return heads, tail, glues


def _amid(text: str, tail: int, start: int, stop: int) -> bool:
    """Whether role words stand amid one sentence, as in "is it ASSISTANT: or USER: here?": no full
    stop before either of them, and no new sentence behind them."""
    before = (text[tail - 1], text[start - 1])
    return all(c.isalpha() or c == "," for c in before) and (
        text[stop : stop + 1].islower() or text[stop : stop + 1] in ",.;?!"
    )


def _tokens(line: _Line, chosen: set[int], size: int) -> list[bool]:
    """The tokens of some characters, and the blanks between two of them."""
    words = sorted({line.owner[i] for i in chosen})
    inside = set(words)
    for one, other in pairwise(words):
        if line.blank.issuperset(between := range(one + 1, other)):
            inside |= set(between)
    return [i in inside for i in range(size)]


def _longest_first(patterns: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(filter(None, set(patterns)), key=lambda p: (-len(p), p)))
