"""What a model family is: addresses of a model's parts, and how its question is found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .answer_format import ANSWER_FORMAT
from .layout import Block, Sources, blocks_of, common_grid, score_maps
from .refused import REFUSED
from .template import SPANS, Template, Unavailable
from .tower import Tower, clip_cost

__all__ = [
    "ANSWER_FORMAT", "SPANS", "Block", "Family", "Template", "Unavailable",
    "family_of", "processor_of", "query_tokens", "remember", "score_maps", "takes_videos",
    "template_of",
]  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Where the parts of one model family are, and what it lacks.

    Addresses are dotted names below `model.base_model`. `tiny(**overrides)` is the configuration
    of a small twin, `full()` one of the checkpoint's proportions; `sources(config, call)` says, for
    each placeholder id, how the tokens of each picture or video lie, where `call` holds the
    arguments of the base model's forward.
    """

    name: str
    model_type: str  # how a model is recognised: model.config.model_type
    checkpoint: str  # the checkpoint the papers use
    template: str  # its published chat template, for folders without one
    tiny: Callable[..., Any]
    full: Callable[[], Any]
    sources: Callable[[Any, Mapping[str, Any]], Sources]
    layers: str = "language_model.layers"
    language: str = "language_model"
    projector: str = "multi_modal_projector"
    vision: str = "vision_tower"
    visual_ids: tuple[str, ...] = ("image_token_id", "video_token_id")
    vision_of_videos: str = ""  # the tower for frames, where that is another one
    has_cls: bool = False  # the vision tower has a class token
    whole_grid: str = ""  # why tokens cannot be merged, or pictures shrunk, inside the tower
    clip: str = ""  # hub id of the CLIP pair that its tower was taken from ...
    no_clip: str = ""  # ... or why there is none
    frames: int = 0  # of a video, as it is evaluated here; 0: it takes no videos
    line_breaks: bool = False  # its pictures hold tokens that show no place: no plain grid
    labels: str = ""  # a pattern of what is written right before a picture, blanks left out
    one_axis: bool = True  # rotary positions are a single number, so they can be renumbered
    tower: Tower | None = None  # for methods that score what the vision tower holds
    patchwise: bool = False  # a visual token is what the projector makes of one tower token
    cost: Callable[[Any], dict[str, Any]] = clip_cost  # numbers of its tower, for `cost.flops`

    def part(self, model: nn.Module, address: str) -> nn.Module:
        """The submodule at one of the family's addresses, e.g. `part(model, "layers")`."""
        return unwrapped(model).base_model.get_submodule(getattr(self, address))

    def visual_tokens(self, config: Any) -> tuple[int, ...]:
        """The placeholder ids that stand for visual tokens in `input_ids`."""
        ids = (getattr(config, name, None) for name in self.visual_ids)
        return tuple(i for i in ids if i is not None)

    def blocks(self, config: Any, call: Mapping[str, Any], row: int = 0) -> tuple[Block, ...]:
        """How one prompt's visual tokens lie; `call`: the processor's output, or what a forward
        was called with. ValueError where pictures and placeholders do not match."""
        known = torch.tensor(self.visual_tokens(config), device=call["input_ids"].device)
        visual = [ids[torch.isin(ids, known)].tolist() for ids in call["input_ids"]]
        return blocks_of(visual, self.sources(config, call), row)

    def grid(
        self, config: Any, n_visual: int, call: Mapping[str, Any], row: int | None = None
    ) -> tuple[int, int, int]:
        """(T, rows, cols) of a prompt's visual tokens, T images or frames; row: default the first
        one with n_visual tokens. ValueError where they form no single grid."""
        image = self.visual_tokens(config)[0]
        if "input_ids" not in call:
            call, row = {**call, "input_ids": torch.full((1, n_visual), image)}, 0
        if row is None:
            known = torch.tensor(self.visual_tokens(config), device=call["input_ids"].device)
            counts = torch.isin(call["input_ids"], known).sum(1).tolist()
            row = counts.index(n_visual) if n_visual in counts else 0
        return common_grid(self.blocks(config, call, row))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, where adapters are wrapped around it (peft); else the model."""
    inside = getattr(model, "get_base_model", None)
    return model if inside is None else inside()


def family_of(model: nn.Module) -> Family:
    """The family of a model, by `model.config.model_type`; ValueError names the supported types,
    Unavailable says why another model is none of them."""
    from . import FAMILIES  # the folder's index imports this module

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in REFUSED:
        raise Unavailable(f"pruning {type(model).__name__}: {kind} {REFUSED[kind]}")
    if kind not in FAMILIES or not isinstance(model, nn.Module):
        came = type(model).__name__ + (f" (model_type {kind!r})" if kind else "")
        raise ValueError(f"pruning supports the model types {', '.join(FAMILIES)}; this is {came}")
    return FAMILIES[kind]


def takes_videos(model: nn.Module) -> None:
    """ValueError, with the families that do, for a model of a family without videos."""
    from . import FAMILIES

    family = family_of(model)
    if not hasattr(model.config, "video_token_id"):
        able = [f.name for f in FAMILIES.values() if hasattr(f.tiny(), "video_token_id")]
        raise ValueError(f"{family.name} takes no videos; those that do: {', '.join(able)}")


# -------------------------------------------------------------------------- where the question is

_PROCESSORS: WeakKeyDictionary = WeakKeyDictionary()  # model -> processor
_TEMPLATES: WeakKeyDictionary = WeakKeyDictionary()  # processor -> Template


def remember(model: nn.Module, processor: Any) -> None:
    """Let `pruned(model, ...)` find the question with this processor's chat template."""
    _PROCESSORS[unwrapped(model)] = processor


def processor_of(model: nn.Module, processor: Any = None) -> Any:
    """`processor`, else the one remembered by `load`, else the tokenizer, with its processor's chat
    template, of the folder or cached hub id that the model was read from; ValueError where none of
    them is there."""
    processor = processor if processor is not None else _PROCESSORS.get(unwrapped(model))
    if processor is None:
        from transformers import AutoTokenizer, ProcessorMixin

        name, here = getattr(model.config, "_name_or_path", ""), {"local_files_only": True}
        try:
            if not name:
                raise OSError("a model that was read from no folder")
            processor = AutoTokenizer.from_pretrained(name, **here)
            told = ProcessorMixin.get_processor_dict(name, **here)[0]
        except (OSError, ValueError) as error:
            raise ValueError(
                "the question is found with the model's chat template, which this model does not "
                "bring along: pass processor=, or load the model with qvid_utils.load"
            ) from error
        template = told.get("chat_template") or processor.chat_template
        processor.chat_template = template or family_of(model).template
        remember(model, processor)
    return processor


def template_of(model: nn.Module, processor: Any = None) -> Template:
    """The chat template of the model's processor; errors as in `processor_of`."""
    processor = processor_of(model, processor)
    if processor not in _TEMPLATES:
        family = family_of(model)
        visual = family.visual_tokens(model.config)
        _TEMPLATES[processor] = Template.of(processor, visual, family.labels)
    return _TEMPLATES[processor]


def query_tokens(
    model: nn.Module,
    query: str | Tensor,
    ids: Tensor,
    valid: Tensor,
    visual: Tensor,
    *,
    processor: Any = None,
    may_grow: bool = False,
) -> Tensor:
    """The query tokens of each prompt with pictures, (B, S) bool.

    ids, valid (not padding) and visual are (B, S); query is one of SPANS or a bool mask, (S,) or
    (B, S), also for beams that repeat each prompt; may_grow: columns that a mask lacks on the right
    are answer tokens. Raises ValueError where a prompt with pictures has no query token.
    """
    if isinstance(query, Tensor):
        words = _spread(query.to(ids.device), ids, may_grow) & valid & ~visual
    else:
        words = torch.zeros_like(visual)
        template = template_of(model, processor)
        for row in visual.any(1).nonzero()[:, 0].tolist():
            here = valid[row]
            span = template.span(query, ids[row, here].tolist(), visual[row, here].tolist())
            words[row, here] = here.new_tensor(span)
    empty = (visual.any(1) & ~words.any(1)).nonzero()[:, 0].tolist()
    if empty:
        what = "the mask" if isinstance(query, Tensor) else repr(query)
        raise ValueError(
            f"row {empty[0]}: no query token, query={what} finds none in this prompt; write the "
            "question with the chat template, or pass query= as a mask over the prompt's tokens"
        )
    return words


def _spread(mask: Tensor, ids: Tensor, may_grow: bool) -> Tensor:
    mask = mask[None] if mask.dim() == 1 else mask
    (rows, columns), (prompts, length) = mask.shape, ids.shape
    fits = columns == length or (may_grow and columns < length)
    if mask.dtype != torch.bool or not fits or prompts % rows:
        raise ValueError(
            f"query: the mask is {mask.dtype} of shape {tuple(mask.shape)}, the prompt has shape "
            f"{tuple(ids.shape)}: give one bool per token"
        )
    copies = ids.unflatten(0, (rows, -1))  # beams and several answers repeat each prompt
    if not bool((copies[..., :columns] == copies[:, :1, :columns]).all()):
        raise ValueError(f"query: {rows} masks for {prompts} different prompts, give each its own")
    return pad(mask, (0, length - columns)).repeat_interleave(prompts // rows, 0)
