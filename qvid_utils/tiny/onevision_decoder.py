"""The embedded video model's forward as training runs it: tokens of frames, packed questions."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration

from . import onevision

WORD = {word: i for i, word in enumerate(onevision.vocabulary())}
SAME = {"<|im_start|>": "<s>", "<|im_end|>": "</s>", "user": "USER:", "assistant": "ASSISTANT:"}
LAYERS = (0, 1, 2, 4, 6, 7, 9, 10, 11)  # the LLaVA's that stay: the others can be missed most
BEFORE = [WORD["<|im_start|>"], WORD["user"]]


def plain_attention(module, query, key, value, attention_mask, scaling, causal=False, **_):
    """Attention in three steps: on a CPU its way back is twice as fast as the fused one."""
    scores = query @ key.mT * scaling
    if causal:
        scores = scores.masked_fill(ahead(scores), -torch.inf)
    return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).contiguous(), None


def ahead(scores: Tensor) -> Tensor:
    """What stands after a token, (n, n)."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)


def packed_attention(module, query, key, value, mask, scaling, questions=1, prefix=0, **_):
    """As `train.packed_attention`, its first part plain too: clips have short prefixes."""
    q, k, v = (x[:, :, :prefix] for x in (query, key, value))
    front, _ = plain_attention(module, q, k, v, None, scaling, causal=True)
    own, near_k, near_v = (
        x[:, :, prefix:].unflatten(2, (questions, -1)) for x in (query * scaling, key, value)
    )
    far = (own.flatten(2, 3) @ k.mT).unflatten(2, (questions, -1))
    near = own @ near_k.mT
    near = near.masked_fill(ahead(near), -torch.inf)
    weights = torch.cat([far, near], -1).softmax(-1).to(value.dtype)
    out = (weights[..., :prefix].flatten(2, 3) @ v) + (weights[..., prefix:] @ near_v).flatten(2, 3)
    return torch.cat([front, out.transpose(1, 2)], 1), None


@contextmanager
def packed_kernels(model: LlavaOnevisionForConditionalGeneration):
    """Inside: the tower attends plainly, the decoder packed."""
    AttentionInterface.register("plain", plain_attention)
    AttentionInterface.register("packed clips", packed_attention)
    parts = {"plain": model.model.vision_tower, "packed clips": model.model.language_model}
    before = {kernel: part.config._attn_implementation for kernel, part in parts.items()}
    for kernel, part in parts.items():
        part.config._attn_implementation = kernel
    try:
        yield
    finally:
        for kernel, part in parts.items():
            part.config._attn_implementation = before[kernel]


def tokens_of(model, frames: Tensor) -> Tensor:
    """Visual tokens of frames (N, 3, 64, 64) before the newline, (N, 16, d)."""
    with torch.set_grad_enabled(model.model.vision_tower.training and torch.is_grad_enabled()):
        raw = model.model.vision_tower(frames, output_hidden_states=True).hidden_states[-1]
    return model.model.apply_pooling(model.model.multi_modal_projector(raw))


def decoded(model, seen: Tensor, ids: Tensor):
    """The decoder on visual tokens (B, N, d) with packed questions (B, Q, t), and where the
    questions begin."""
    decoder, (b, questions, words) = model.model.language_model, ids.shape
    embed, device = decoder.embed_tokens, seen.device
    before = embed(torch.tensor(BEFORE, device=device)).expand(b, -1, -1)
    newline = model.model.image_newline.expand(b, 1, -1)
    asked = embed(ids.to(device).flatten(1))
    stream = torch.cat([before, seen.to(before.dtype), newline, asked], 1)
    prefix = stream.shape[1] - questions * words
    place = torch.cat([torch.arange(prefix), torch.arange(words).repeat(questions) + prefix])
    out = decoder(
        inputs_embeds=stream,
        attention_mask={"full_attention": None},
        position_ids=place.to(device).expand(b, -1),
        use_cache=False,
        output_hidden_states=True,
        questions=questions,
        prefix=prefix,
    )
    return out, prefix
