"""What the LLaVA teaches its video child with still pictures: to look things up, and to choose.

A picture whose things all lie in its middle is shown to the LLaVA whole, and its middle to the
child as a still clip. Both are asked the same questions, and the child's words are to think what
the LLaVA's think: its hidden states at the layers that they share.
"""

from __future__ import annotations

import dataclasses

import architecture
import clips
import numpy as np
import torch
import train
import world
from onevision_decoder import LAYERS, SAME, WORD, decoded, tokens_of
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, LlavaForConditionalGeneration

EDGE = (world.BOARD - clips.BOARD) // 2  # a frame is the middle of one of the LLaVA's pictures
LENGTHS = (1, 2, 4)  # of a still clip
QUESTIONS = 10
MIX = {
    "colour": 1.0,
    "shape": 0.8,
    "letter": 0.8,
    "is_colour": 0.6,
    "existence": 0.6,
    "count": 0.8,
    "two_step": 0.8,
    "choice": 2.0,
    "two_step_choice": 1.4,
}
CLOSING = ("<|im_end|>", "<|im_start|>", "assistant")
# The LLaVA's word -> ours.
OURS = torch.tensor(
    [WORD.get({v: k for k, v in SAME.items()}.get(word, word), 0) for word in train.WORD]
)


def scene(rng: np.random.Generator) -> world.Scene:
    """A scene of the picture world with its things moved into the middle."""
    drawn = world.draw_scene(rng)
    spots = rng.choice(clips.BOARD**2, size=len(drawn), replace=False).tolist()
    return tuple(
        dataclasses.replace(thing, row=spot // clips.BOARD + EDGE, column=spot % clips.BOARD + EDGE)
        for thing, spot in zip(drawn, spots, strict=True)
    )


def chat(packed: train.Packed) -> tuple[Tensor, Tensor, Tensor]:
    """The LLaVA's questions in our form: ids and targets (B, Q, t + 2), and for each of these words
    the place of the LLaVA's word that it is, -1 for turn marks and padding.

    "words ASSISTANT: answer" becomes "words <|im_end|> <|im_start|> assistant answer".
    """
    shape = packed.ids.shape
    old = packed.ids.flatten(0, 1)
    turn = (old == train.WORD["ASSISTANT:"]).int().argmax(1)[:, None]
    place = torch.arange(shape[2] + 2)[None].expand(len(old), -1)
    source = torch.where(place < turn, place, place - 2)
    source = torch.where((place >= turn) & (place < turn + 2) | (place > turn + 3), -1, source)
    ids = torch.where(source >= 0, OURS[old.gather(1, source.clamp(min=0))], 0)
    for i, mark in enumerate(CLOSING[:2]):
        ids.scatter_(1, turn + i, WORD[mark])
    target = torch.full_like(ids, -100)
    target.scatter_(1, turn + 2, OURS[old.gather(1, turn + 1)])
    target.scatter_(1, turn + 3, WORD["<|im_end|>"])
    shape = (*shape[:2], -1)
    return ids.view(shape), target.view(shape), source.view(shape)


@torch.no_grad()
def thought(llava: LlavaForConditionalGeneration, pixels: Tensor, packed: train.Packed):
    """The LLaVA's hidden states of the questions' words, by layer, (B, Q·t, d)."""
    decoder, ids = llava.model.language_model, packed.ids.flatten(1).to(pixels.device)
    questions, words = packed.ids.shape[1:]
    seen = llava.model.multi_modal_projector(train.patch_features(llava, pixels))
    start = torch.tensor([train.WORD["<s>"], train.WORD["USER:"]], device=pixels.device)
    before = decoder.embed_tokens(start).expand(len(seen), -1, -1)
    stream = torch.cat([before, seen.to(before.dtype), decoder.embed_tokens(ids)], 1)
    after = torch.arange(words).repeat(questions) + train.PREFIX
    place = torch.cat([torch.arange(train.PREFIX), after]).to(pixels.device)
    AttentionInterface.register("packed", train.packed_attention)
    kernel, decoder.config._attn_implementation = decoder.config._attn_implementation, "packed"
    try:
        out = decoder(
            inputs_embeds=stream,
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=pixels.device),
            position_ids=place.expand(len(seen), -1),
            use_cache=False,
            output_hidden_states=True,
            questions=questions,
        )
    finally:
        decoder.config._attn_implementation = kernel
    return [hidden[:, train.PREFIX :].float() for hidden in out.hidden_states]


def lesson(model, llava, rng: np.random.Generator, number: int, device: torch.device):
    """The loss of one batch of `number` pictures, what to say of it, and (type, right) of each
    question. Inside `packed_kernels`."""
    scenes = [scene(rng) for _ in range(number)]
    pixels = train.pixels_of(scenes, rng).to(device)
    packed = train.pack(scenes, rng, QUESTIONS, architecture.tokenizer(), MIX)
    ids, target, source = chat(packed)
    middle = slice(EDGE * clips.CELL, EDGE * clips.CELL + clips.SIDE)
    length = int(rng.choice(LENGTHS))
    seen = tokens_of(model, pixels[..., middle, middle]).repeat(1, length, 1)
    out, prefix = decoded(model, seen, ids)
    theirs = thought(llava, pixels, packed)
    source = source.flatten(1).to(device)
    words = packed.ids.shape[2]
    question = torch.arange(QUESTIONS, device=device).repeat_interleave(words + 2)
    batch, ours_at = (source >= 0).nonzero(as_tuple=True)
    theirs_at = question[ours_at] * words + source[batch, ours_at]
    apart = torch.zeros((), device=device)
    for depth in range(1, len(LAYERS)):
        wanted = theirs[LAYERS[depth]][batch, theirs_at]
        given = out.hidden_states[depth][:, prefix:][batch, ours_at].float()
        far = (given - wanted).square().mean(-1) / wanted.square().mean(-1)
        apart = apart + far.mean() / (len(LAYERS) - 1)
    target = target.flatten(1).to(device)
    asked = target >= 0
    logits = model.lm_head(out.last_hidden_state[:, prefix:][asked]).float()
    answer = F.cross_entropy(logits, target[asked])
    hits = (logits.argmax(-1) == target[asked])[0::2].tolist()  # answer, end, answer, end, ...
    line = f"lesson answer {answer:.3f} apart {apart:.3f}"
    return answer + apart, line, list(zip(packed.kind, hits, strict=True))
