"""The CLIP pair that a vision tower was taken from: for methods that ask what the words look like.

A LLaVA checkpoint holds CLIP's vision tower alone. What is read here besides: the norm and the
projection behind that tower, and the text tower with its tokenizer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..families import Unavailable, family_of
from ..paths import DATA

__all__ = ["ClipPair", "clip_pair"]

_PAIRS: WeakKeyDictionary = WeakKeyDictionary()  # model -> {source: ClipPair}


@dataclass(eq=False)
class ClipPair:
    """Patches and words in CLIP's common space of D_p numbers, float32, not normalised.

    norm, project: behind the vision tower; text, project_text: the text tower; limit: tokens that
    it reads at once, the two marks around them included.
    """

    norm: nn.Module
    project: nn.Module
    text: nn.Module
    project_text: nn.Module
    tokenizer: Any
    limit: int

    @torch.no_grad()
    def image(self, patches: Tensor) -> Tensor:
        """(N, D) features of the tower, before the projector → (N, D_p)."""
        return self.project(self.norm(patches.float()))

    @torch.no_grad()
    def words(self, text: str) -> Tensor:
        """(segments, D_p): a text in parts that fit into the text tower, each with its own marks.

        ValueError for a text without a single token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError("the question is empty for CLIP's tokenizer: ask with words")
        start, end, room = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.limit - 2
        parts = [[start, *ids[i : i + room], end] for i in range(0, len(ids), room)]
        device = self.project_text.weight.device
        pooled = [self.text(torch.tensor([part], device=device)).pooler_output for part in parts]
        return self.project_text(torch.cat(pooled))


def clip_pair(model: nn.Module, source: "str | Path | ClipPair | None" = None) -> ClipPair:
    """The pair of a model: `source`, else the folder `clip` beside the model's own, else the hub id
    that its family names. It is read once for each model and source.

    source: a local folder, a hub id, or "tiny/clip". Raises Unavailable, with what to do, where
    there is none; ValueError where the pair has another vision tower than the model.
    """
    if isinstance(source, ClipPair):
        return source
    family = family_of(model)
    if family.no_clip:
        raise Unavailable(f"no CLIP text tower goes with {family.name}: {family.no_clip}")
    known = _PAIRS.setdefault(model, {})
    name = str(source) if source is not None else _beside(model) or family.clip
    if name not in known:
        known[name] = _read(model, name)
    return known[name]


def _beside(model: nn.Module) -> str | None:
    folder = Path(getattr(model.config, "_name_or_path", "") or "nowhere")
    there = folder.is_dir() and (folder.parent / "clip" / "config.json").is_file()
    return str(folder.parent / "clip") if there else None


def _read(model: nn.Module, name: str) -> ClipPair:
    from transformers import AutoTokenizer, CLIPModel

    folder = DATA / name if name.startswith("tiny/") else Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    options = {"local_files_only": True} if folder.is_dir() else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        pair = CLIPModel.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, **options
        )
    except (OSError, ValueError, RuntimeError) as cause:
        raise Unavailable(
            f"the CLIP pair {name}, whose text tower this method needs, cannot be read: go online "
            "once, or give a local folder with its safetensors and tokenizer as clip="
        ) from cause
    _check(model, pair.vision_model, name)
    # what is not needed goes: the vision tower's layers are the model's own
    parts = (pair.vision_model.post_layernorm, pair.visual_projection)
    texts = (pair.text_model, pair.text_projection)
    for part in (*parts, *texts):
        part.to(model.device).eval().requires_grad_(False)
    limit = pair.config.text_config.max_position_embeddings
    return ClipPair(*parts, *texts, tokenizer, limit)


def _check(model: nn.Module, theirs: nn.Module, name: str) -> None:
    """ValueError unless the pair's vision tower is the model's: then words and patches meet."""
    ours = family_of(model).part(model, "vision")
    for part in ("class_embedding", "position_embedding.weight"):
        both = (getattr(tower, "vision_model", tower) for tower in (ours, theirs))
        a, b = (dict(tower.embeddings.named_parameters()).get(part) for tower in both)
        same = a is not None and b is not None and a.shape == b.shape
        # half precision of one and the same number may differ in its last bits
        if not same or not torch.allclose(a.float().cpu(), b.float().cpu(), rtol=0.02, atol=1e-3):
            raise ValueError(
                f"clip={name!r}: its vision tower is another one than this model's, so its words "
                "say nothing about these patches; give the pair that the tower was taken from"
            )
