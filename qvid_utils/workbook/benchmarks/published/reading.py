"""What a free answer says: the reading rules of the benchmarks' own scripts, one function each.

Answers come as a model wrote them. Each function names the script that defines its rule; where it
departs from the script, it says so.
"""

import ast
import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache

LETTERS = string.ascii_uppercase


def plain(text: str) -> str:
    """Without outer space, case and punctuation: lmms-eval's exact match (GQA, AI2D)."""
    return text.strip().lower().translate(str.maketrans("", "", string.punctuation))


# ---------------------------------------------------------------- words: TextVQA

_NUMBERS = "none zero one two three four five six seven eight nine ten".split()
_DIGITS = dict(zip(_NUMBERS, ["0", *map(str, range(11))], strict=True))
_ARTICLES = ("a", "an", "the")
# A word that lost one of its apostrophes gets it back.
_SHORT = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at
shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've
'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've""".split()
_RESTORED = {
    word[:i] + word[i + 1 :]: word for word in _SHORT for i, c in enumerate(word) if c == "'"
} | {"somebody'd": "somebodyd"}  # as the official table has it
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=200_000)
def vqa_words(text: str) -> str:
    """An answer as the VQA and TextVQA evaluation compares it: numbers as digits, no articles.

    Source: the EvalAI answer processor of TextVQA (mmf), after VQA's own evaluation script.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    spread = text
    for mark in _MARKS:
        tight = f"{mark} " in text or f" {mark}" in text or _COMMA_IN_NUMBER.search(text)
        spread = spread.replace(mark, "" if tight else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", spread).split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_share(prediction: str, answers: Sequence[str]) -> float:
    """VQA's soft accuracy: over the ten people, min(1, others who say the same / 3), the mean."""
    said, given = vqa_words(prediction), [vqa_words(answer) for answer in answers]
    same = sum(answer == said for answer in given)
    shares = [min(1.0, (same - (answer == said)) / 3) for answer in given]
    return sum(shares) / len(shares)


# ---------------------------------------------------------------- numbers and text


def relaxed(prediction: str, target: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy: a number within 5 % of the target, else the same text.

    Percent signs divide by 100. Source: ChartQA (Masry et al., 2022), section 5.1, in the form of
    Qwen-VL's script. A target of 0 asks for the same text, as there.
    """
    said, true = _number(prediction), _number(target)
    if said is not None and true:
        return abs(said - true) / abs(true) <= tolerance
    return prediction.strip().lower() == target.strip().lower()


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def holds(prediction: str, answers: Sequence[str], formula: bool = False) -> bool:
    """OCRBench: any of the answers stands in the prediction; a formula (HME100k) without spaces."""

    def seen(text: str) -> str:
        if formula:
            return text.strip().replace("\n", " ").replace(" ", "")
        wide = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
        return text.translate(wide).lower().strip().replace("\n", " ")

    said = seen(prediction.strip())
    return any(seen(answer) in said for answer in answers)


# ---------------------------------------------------------------- yes or no


def pope_word(text: str) -> str:
    """POPE's own script: "no" where the first sentence has the word No, no or not; else "yes"."""
    words = text.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def mme_word(text: str) -> str:
    """MME: yes or no by the whole answer, its letter, or its first four characters; else other."""
    text = text.lower().strip().replace(".", "")
    if text in ("yes", "no"):
        return text
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


# ---------------------------------------------------------------- letters


def mmbench_letter(text: str, options: Mapping[str, str]) -> str:
    """MMBench's matching before its judge: a single letter, else a single option's text; or "".

    Options are those that exist: the hub's copy writes an absent one "nan", which some harnesses
    take for a text to look for. Source: MMBench's evaluation tool (VLMEvalKit, lmms-eval).
    """
    words = text.split()
    found = [letter for letter in LETTERS[:5] if letter in words]
    # "A" in a sentence may be the article
    if len(found) == 1 and not ("A" in words and len(words) > 3):
        return found[0]
    for before, after in [
        *[("", mark) for mark in (".", ",", ":", ")", ").")],
        *[("(", ")"), ("(", ").")],
        *[(":", mark) for mark in ("", ",", ".", ")", ").")],
    ]:
        found = [letter for letter in LETTERS[:5] if before + letter + after in words]
        if len(found) == 1:
            return found[0]
    said = text.lower()
    found = [letter for letter, option in options.items() if str(option).lower() in said]
    return found[0] if len(found) == 1 else ""


def spoken_letter(text: str, letters: Sequence[str]) -> str:
    """The letter of a free answer, "" for none (Video-MME; MMBench without a judge).

    Forms in falling order of trust: it opens or closes the answer, follows a phrase such as "the
    answer is", stands in brackets, before a period, a colon, a bracket or a space; else anywhere.
    Of equals the last one counts. Source: lmms-eval's `extract_mcq_answer`.
    """
    if not text.strip():
        return ""
    inner = text.strip()
    for mark in (",", ".", "!", "?", ";", ":", "'", '"'):
        inner = inner.strip(mark)
    inner = f" {inner} "
    bare = inner.strip()
    found: list[tuple[int, int, int]] = []  # (trust, place, the letter listed first wins)
    for order, letter in enumerate(letters):
        alone = [bare[1:2], bare[-2:-1]]
        if bare.startswith(letter) and not alone[0].isalpha():
            found.append((10, 0, -order))
        if bare.endswith(letter) and not (len(bare) > 1 and alone[1].isalpha()):
            found.append((9, len(inner) - 1, -order))
        for phrase in _PHRASES:
            start = inner.lower().find(phrase)
            place = inner.find(letter, start + len(phrase)) if start >= 0 else -1
            if place >= 0:
                found.append((7, place, -order))
        for trust, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            place = inner.rfind(form.format(letter))
            if place >= 0:
                found.append((trust, place, -order))
    if not found:
        found = [(0, inner.rfind(x), -i) for i, x in enumerate(letters) if x in inner]
    return letters[-max(found)[2]] if found else ""


_PHRASES = [
    *[f"{which}answer is" for which in ("", "the ", "correct ", "the correct ", "best ")],
    *["the best answer is", "my answer is", "my choice is", "i choose", "i select", "i pick"],
    *[f"{which} option is" for which in ("correct", "the correct", "best", "the best")],
    *[f"{which}choice is" for which in ("", "the ", "correct ", "the correct ")],
    *["옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"],
]


def mvbench_letter(text: str) -> str:
    """MVBench's answer: a letter A to E that opens with a period or stands alone, else the text.

    Source: lmms-eval's `mcq_acc`.
    """
    opening = re.match(r"^([A-E])\.\s*(.+)$", text.strip(), re.IGNORECASE)
    if opening:
        return opening[1].upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    spread = text
    for mark in _MARKS:
        tight = f"{mark} " in text or f" {mark}" in text or re.search(r"\d,\d", text)
        spread = spread.replace(mark, "" if tight else " ")
    spread = _PERIOD.sub("", spread)
    for outer in "'\")(":
        spread = spread.strip(outer)
    alone = re.search(r"\b([A-E])\b", spread.strip(), re.IGNORECASE)
    return alone[1].upper() if alone else spread.strip().lower()


def mmmu_letter(text: str, options: Sequence[str]) -> str:
    """MMMU's choice: (A), then "A ", then "A.", then, in a longer answer, an option's text; or "".

    Of several the one that stands last counts. The official script guesses where it reads nothing;
    here that is "", and `mmmu_hit` pays the guess's expectation. Source: MMMU's eval_utils.
    """
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = LETTERS[: len(options)]
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > 5:
        said = text.lower()
        named = {x: o.lower() for x, o in zip(letters, options, strict=True) if o.lower() in said}
        if named:
            return max(named, key=lambda letter: said.rfind(named[letter]))
    return ""


def mmmu_open(text: str, answers: Sequence[str]) -> bool:
    """MMMU's open questions: an answer stands in the key part of the prediction, or is its number.

    Source: MMMU's eval_utils (`parse_open_response`, `eval_open`).
    """
    said = [value for part in _key_parts(text) for value in _values([part, *_numbers(part)])]
    true = _values(answers)
    words = [value for value in true if isinstance(value, str)]
    return any(
        any(word in value for word in words) if isinstance(value, str) else value in true
        for value in said
    )


_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


def _key_parts(text: str) -> list[str]:
    """What follows the words that announce an answer, the shortest such end of each line."""
    whole = text.strip().strip(".").lower()
    lines, found = whole.split("\n"), []
    for number, line in enumerate(lines):
        keys = [*_KEYS, "="] if number == len(lines) - 1 else _KEYS
        ends = [line.split(key)[-1].strip() for key in keys if key in line]
        # the script starts over while the shortest end is empty, so an empty one never stays
        shortest = ""
        for end in ends:
            shortest = end if not shortest or len(end) < len(shortest) else shortest
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            found.append(shortest)
    return found or [whole]


def _numbers(text: str) -> list[str]:
    """Every number in a text: with thousands' commas, in scientific form, plain."""
    forms = (
        r"-?\b\d{1,3}(?:,\d{3})+\b",
        r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
        r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
    )
    return [number for form in forms for number in re.findall(form, text)]


def _values(texts: Sequence[str]) -> list[str | float]:
    """Numbers to two decimals, texts in lower case; a single letter only with a space beside it."""
    out: list[str | float] = []
    for text in texts:
        text = text.strip()
        try:
            out.append(round(float(text.replace(",", "")), 2))
        except ValueError:
            word = text.lower()
            out += [f" {word}", f"{word} "] if len(word) == 1 else [word]
    return out


def listed(cell) -> list[str]:
    """A list that a file holds as a list, an array, or as its Python text (MMMU's options)."""
    if isinstance(cell, str):
        text = cell.strip()
        cell = ast.literal_eval(text) if text.startswith(("[", "(")) else [cell]
    return [str(item) for item in cell]
