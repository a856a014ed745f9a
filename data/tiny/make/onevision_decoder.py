"""The embedded video models' forward as training runs it: tokens of frames, packed questions."""

from __future__ import annotations

from contextlib import contextmanager

import onevision
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

WORD = {word: i for i, word in enumerate(onevision.vocabulary())}
SAME = {"<|im_start|>": "<s>", "<|im_end|>": "</s>", "user": "USER:", "assistant": "ASSISTANT:"}
LAYERS = (0, 1, 2, 4, 6, 7, 9, 10, 11)  # the LLaVA's that stay: the others can be missed most
BEFORE = [WORD["<|im_start|>"], WORD["user"]]
LINE = WORD["system"]  # where Video-LLaVA, whose videos end in a word, has its line break


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
def packed_kernels(model: nn.Module):
    """Inside: the tower attends plainly, the decoder packed."""
    AttentionInterface.register("plain", plain_attention)
    AttentionInterface.register("packed clips", packed_attention)
    parts = {"plain": tower_of(model), "packed clips": model.model.language_model}
    before = {kernel: part.config._attn_implementation for kernel, part in parts.items()}
    for kernel, part in parts.items():
        part.config._attn_implementation = kernel
    try:
        yield
    finally:
        for kernel, part in parts.items():
            part.config._attn_implementation = before[kernel]


def tower_of(model: nn.Module) -> nn.Module:
    """The tower that sees frames: Video-LLaVA has one for them alone."""
    return getattr(model.model, "video_tower", None) or model.model.vision_tower


def tokens_of(model, frames: Tensor) -> Tensor:
    """Visual tokens of frames (N, 3, 64, 64): LLaVA-OneVision's pooled (N, 16, d), without the
    newline; Video-LLaVA's (N, 17, d), the class token first."""
    tower = tower_of(model)
    with torch.set_grad_enabled(tower.training and torch.is_grad_enabled()):
        raw = tower(frames, output_hidden_states=True).hidden_states
    seen = model.model.multi_modal_projector(raw[model.config.vision_feature_layer])
    return model.model.apply_pooling(seen) if hasattr(model.model, "apply_pooling") else seen


def decoded(model, seen: Tensor, ids: Tensor):
    """The decoder on visual tokens (B, N, d) with packed questions (B, Q, t), and where the
    questions begin."""
    decoder, (b, questions, words) = model.model.language_model, ids.shape
    embed, device = decoder.embed_tokens, seen.device
    before = embed(torch.tensor(BEFORE, device=device)).expand(b, -1, -1)
    newline = getattr(model.model, "image_newline", embed.weight[LINE]).expand(b, 1, -1)
    asked = embed(ids.to(device).flatten(1))
    stream = torch.cat([before, seen.to(before.dtype), newline, asked], 1)
    prefix = stream.shape[1] - questions * words
    place = torch.cat([torch.arange(prefix), torch.arange(words).repeat(questions) + prefix])
    out = decoder(
        inputs_embeds=stream,
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # needs none
        position_ids=place.to(device).expand(b, -1),
        use_cache=False,
        output_hidden_states=True,
        questions=questions,
        prefix=prefix,
    )
    return out, prefix
