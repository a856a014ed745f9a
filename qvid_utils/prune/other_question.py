"""The same prompts with another question in place of their own, as the language model is fed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..families import family_of, processor_of, query_tokens
from .control import Control
from .scene import Scene

__all__ = ["asked_instead"]


def asked_instead(
    model: nn.Module, processor: Any, control: Control, scene: Scene, arguments: dict[str, Any]
) -> tuple[Scene, dict[str, Any]]:
    """The prompts of a scene with the words of `control`'s question in place of the user's own:
    what is in them, (B, S'), and what the language model is fed: inputs_embeds (B, S', d) and
    position_ids.

    arguments: of the language model's forward, inputs_embeds (B, S, d) among them. The words are
    tokenised as the chat template has them, behind the picture or before it as the prompt's own
    stand; positions of what follows move by the difference. ValueError where a prompt's own
    question is not found.
    """
    ids, given, visual = scene.ids, scene.given, scene.pictures
    own = query_tokens(model, "question", ids, given, visual, processor=processor)
    embed, rows = model.get_input_embeddings(), []
    for row in range(len(ids)):
        columns = given[row].nonzero()[:, 0]
        mine = own[row, columns]
        new = ids.new_empty(0)
        if bool(mine.any()):
            behind = bool(visual[row, columns[: int(mine.nonzero()[0])]].any())
            shown = ids[row, visual[row]].unique()
            new = _tokens(model, processor, control.question_of(row, len(ids)), shown, behind)
        rows.append(_Row(columns, mine, new.to(ids.device)))
    length = max(row.length for row in rows)

    def joined(values: Tensor, fresh: Any) -> Tensor:
        """(B, S, …) → (B, S', …), with what `fresh` gives for the new tokens of a row."""
        out = values.new_zeros(len(rows), length, *values.shape[2:])
        for n, row in enumerate(rows):
            out[n, length - row.length :] = row.joined(values[n], fresh(row, values[n]))
        return out

    changed = Scene(
        joined(ids, lambda row, _: row.new),
        joined(given, lambda row, _: torch.ones_like(row.new, dtype=torch.bool)),
        joined(visual, lambda row, _: torch.zeros_like(row.new, dtype=torch.bool)),
    )
    places = arguments.get("position_ids")
    if places is None or places.dim() < 3:
        places = (changed.given.long().cumsum(1) - 1).clamp(min=0)
    else:  # along several axes, which pictures count in their own way
        moved = places.movedim(0, -1)
        places = joined(moved, lambda row, old: row.counted(old))
        for n, row in enumerate(rows):
            places[n, length - row.length :] += row.shift(len(row.new))[:, None]
        places = places.movedim(-1, 0)
    fed = joined(arguments["inputs_embeds"], lambda row, like: embed(row.new).to(like))
    return changed, {"inputs_embeds": fed, "position_ids": places}


@dataclass(frozen=True, eq=False)
class _Row:
    """One prompt: its columns (n,), which of them are its own question, and the new tokens (m,),
    which stand where the own question began."""

    columns: Tensor
    mine: Tensor
    new: Tensor

    @property
    def start(self) -> int:
        return int(self.mine.nonzero()[0]) if len(self.new) else 0

    @property
    def length(self) -> int:
        return int((~self.mine).sum()) + len(self.new)

    def joined(self, values: Tensor, fresh: Tensor) -> Tensor:
        first, rest = self.columns[: self.start], self.columns[self.start :]
        rest = rest[~self.mine[self.start :]]
        return torch.cat([values[first], fresh, values[rest]])

    def counted(self, positions: Tensor) -> Tensor:
        """(m, axes): text goes on by one on all axes, from where the own question began."""
        first = positions[self.columns[self.start]]
        return first + torch.arange(len(self.new), device=first.device)[:, None]

    def shift(self, count: int) -> Tensor:
        """(length,): how far the positions of what follows the question move."""
        after = (count - self.mine.long().cumsum(0))[self.start :][~self.mine[self.start :]]
        return torch.cat([after.new_zeros(self.start + count), after])


def _tokens(model: nn.Module, processor: Any, question: str, shown: Tensor, behind: bool) -> Tensor:
    """(m,): the ids of a question's words, beside a picture of the kind `shown`, as the model's
    chat template joins them."""
    processor = processor_of(model, processor)
    visual = family_of(model).visual_tokens(model.config)
    kinds = [kind for kind, i in zip(("image", "video"), visual, strict=False) if i in shown]
    content = [{"type": kind} for kind in kinds[:1]]
    content.insert(1 if behind else 0, {"type": "text", "text": question.strip()})
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    seen = torch.isin(ids, torch.tensor(visual))
    words = query_tokens(model, "question", ids, ~seen | seen, seen, processor=processor)
    return ids[words]
