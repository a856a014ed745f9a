"""Questions and captions as ChatML turns: what the embedded Qwen2-VL reads in training."""

from __future__ import annotations

import captions
import torch
import train
import world
from graft import SAME, WORD
from torch import Tensor
from torch.nn import functional as F

OPENING = "<|im_start|> system You are a helpful assistant . <|im_end|> <|im_start|> user"
BEFORE = [WORD[w] for w in (*OPENING.split(), "<|vision_start|>")]
CLOSING = [WORD[w] for w in ("<|im_end|>", "<|im_start|>", "assistant")]


def chat(packed: train.Packed) -> tuple[Tensor, Tensor, Tensor]:
    """The LLaVA's questions as Qwen2-VL's: ids and targets (B, Q, t + 2), and for each of these
    words the place of the LLaVA's word that it is, -1 for turn marks and padding.

    "words ASSISTANT: answer" becomes "words <|im_end|> <|im_start|> assistant answer".
    """
    to = torch.zeros(len(train.WORD), dtype=torch.long)
    for word, i in WORD.items():
        if SAME.get(word, word) in train.WORD:
            to[train.WORD[SAME.get(word, word)]] = i
    b, q, t = packed.ids.shape
    old = packed.ids.flatten(0, 1)
    turn = (old == train.WORD["ASSISTANT:"]).int().argmax(1)[:, None]
    place = torch.arange(t + 2)[None]
    source = torch.where(place < turn, place, place - 2)
    mark = (place >= turn) & (place < turn + 2)
    source = torch.where(mark | (place > turn + 3), -1, source)
    ids = torch.where(source >= 0, to[old.gather(1, source.clamp(min=0))], 0)
    for i, word in enumerate(CLOSING[:2]):
        ids.scatter_(1, turn + i, word)
    target = torch.full_like(ids, -100)
    answer = to[old.gather(1, turn + 1)]
    target.scatter_(1, turn + 2, answer)
    target.scatter_(1, turn + 3, WORD["<|im_end|>"])
    return ids.view(b, q, -1), target.view(b, q, -1), source.view(b, q, -1)


def described(scenes: list[world.Scene], tok) -> tuple[Tensor, Tensor]:
    """A request for a caption and the caption, one row a picture: ids and targets (B, 1, t)."""
    rows, starts = [], []
    for scene in scenes:
        asked, told = (
            tok(text)["input_ids"]
            for text in (captions.REQUEST, captions.said(captions.in_order(scene)))
        )
        rows.append([*asked, *CLOSING, *told, WORD["<|im_end|>"]])
        starts.append(len(asked) + len(CLOSING))
    shape = (len(rows), max(map(len, rows)))
    ids, target = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for n, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[n, : len(row)] = torch.tensor(row)
        target[n, start - 1 : len(row) - 1] = ids[n, start : len(row)]
    return ids[:, None], target[:, None]


def stacked(parts: list[Tensor], empty: int) -> Tensor:
    """(B, Q, t) of several lengths t as one, the short ones filled up with `empty`."""
    longest = max(part.shape[2] for part in parts)
    return torch.cat([F.pad(p, (0, longest - p.shape[2]), value=empty) for p in parts], 1)
