"""What the pictures of a call show to a block: how they lie, the vision tower, CLIP."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..algebra.selection import Kept
from ..families import Unavailable, family_of, processor_of
from ..families.attached import Attached
from ..families.calls import watch_sizes
from ..families.layout import frames_of
from ..methods import METHODS
from ..methods.evidence import needing
from ..models.clip import clip_pair
from .scene import Scene
from .stages import Stage
from .vision_tower import Encodings, watch_towers

__all__ = ["Pictures"]


class Pictures:
    """The vision side of a block: watched while it is open, asked where a cut is made.

    Raises Unavailable where the model's vision tower has not what a method needs.
    """

    def __init__(self, model: nn.Module, stages: Sequence[Stage], processor: Any, clip: Any):
        self.model, self.family, self.processor = model, family_of(model), processor
        self.sees = set().union(*(stage.sees for stage in stages))
        self.site = stages[0].site
        self._check(stages)
        self.clip = clip_pair(model, clip) if self.sees & needing("clip") else None
        self.forget()

    def forget(self) -> None:
        """Hold on to nothing of the last call."""
        self.arguments: dict[str, Any] = {}
        self.counts: list[int] = []  # visual tokens of each row
        self.sizes: dict[str, Any] = {}  # what the encoders were told, for how the tokens lie
        self.encodings = Encodings()  # what the tower held
        if self.site is not None:
            self.site.forget()

    def hang(self, hung: Attached) -> None:
        """Watch the encoders, for as long as `hung` does."""
        if self.site is not None:
            self.site.hang(hung)
        self.sizes = watch_sizes(hung, self.model)
        if self.sees & needing("tower"):
            self.encodings = watch_towers(hung, self.model, self.family)

    def begin(self, scene: Scene, arguments: dict[str, Any]) -> None:
        """A call with pictures begins; arguments: of the base model's forward."""
        self.counts, self.arguments = scene.counts, arguments
        if self.site is not None:
            self.site.told(scene.prompt_ids, arguments.get("mm_encoder_outputs"))

    def about(
        self, scene: Scene, row: int, numbers: Tensor, words: Tensor | None
    ) -> dict[str, Any]:
        """What `Evidence` takes from here, for the visual tokens `numbers` of a row."""
        return {
            "grid_of": functools.partial(self._grid, row),
            "frames_of": functools.partial(self._frames, row, numbers),
            "tower": functools.partial(self._tower, row, numbers),
            "text_of": functools.partial(self._text, scene.ids[row], row, words),
            "clip": self.clip,
        }

    def projected(self, i: int, name: str, kept: Kept, like: Tensor) -> Tensor | None:
        """What takes the place of the kept tokens, as the stream `like` has it; None: they stay."""
        if kept.patches is None:
            return None if kept.merged is None else kept.merged.to(like)
        if i:
            raise ValueError(
                f"layer={i}: method {name!r} merges before the projector, at the LLM input "
                "of the language model; use layer=0"
            )
        self._check_patchwise(name)
        projector = self.family.part(self.model, "projector")
        return projector(kept.patches.to(like)).to(like)

    def _text(self, ids: Tensor, row: int, words: Tensor) -> str:
        """The query of a row as text."""
        processor = processor_of(self.model, self.processor)
        tokenizer = getattr(processor, "tokenizer", processor)
        return tokenizer.decode(ids[words[row]], skip_special_tokens=True).strip()

    def _grid(self, row: int) -> tuple[int, int, int]:
        call, prompt = self.encoded(row)
        return self.family.grid(self.model.config, self.counts[row], call, prompt)

    def _frames(self, row: int, numbers: Tensor) -> Tensor:
        """The picture or frame of the tokens `numbers`, see the word."""
        _all_known(numbers, "frames")
        call, prompt = self.encoded(row)
        blocks = self.family.blocks(self.model.config, call, prompt)
        return frames_of(blocks).to(numbers.device)[numbers]

    def _tower(self, row: int, numbers: Tensor, word: str) -> Tensor:
        _all_known(numbers, word)
        if word == "filled":
            every = self.site.filled(row) if self.site else torch.ones(self.counts[row])
            return every.bool().to(numbers.device)[numbers]
        self.encodings.check(self.arguments.get("mm_encoder_outputs"))
        call, prompt = self.encoded(row)
        found = self.encodings.word(word, self.model.config, call["input_ids"], prompt)
        return found.to(numbers.device)[numbers]

    def encoded(self, row: int) -> tuple[dict[str, Any], int]:
        """The arguments of the encoders with the prompts that were encoded together, and which of
        these a row is: beams share one."""
        counts, call, copies = self.counts, self.arguments, 1
        if call.get("mm_encoder_outputs"):  # generate has encoded each prompt once, for all beams
            encoded = [f"get_{kind}_features" for kind in call["mm_encoder_outputs"]]
            copies = sum(counts) // sum(self.sizes["encoded"][name] for name in encoded)
        call = {**self.sizes, **{name: v for name, v in call.items() if v is not None}}
        call["input_ids"] = call["input_ids"][::copies]
        return call, row // copies

    def layout(self) -> tuple[Any, Any, dict[str, Any]] | None:
        """What shows the pictures of the call at hand; None where they were encoded elsewhere."""
        kinds = self.arguments.get("mm_encoder_outputs") or ()
        if any(f"get_{kind}_features" not in self.sizes["encoded"] for kind in kinds):
            return None
        return self.family, self.model.config, self.encoded(0)[0]

    def _check_patchwise(self, name: str) -> None:
        if not self.family.patchwise:
            raise Unavailable(
                f"method {name!r} merges before the projector, and {self.family.name} "
                "pools or joins patches there; merge behind it (Kept.merged)"
            )

    def _check(self, stages: Sequence[Stage]) -> None:
        if self.site is not None and self.sees & needing("tower"):
            words = ", ".join(sorted(self.sees & needing("tower")))
            raise Unavailable(
                f"{self.site.encode} changes the vision tower, and {words} would show it as it was "
                "not: compose it with methods that score inside the language model"
            )
        for stage in stages:
            if stage.sees & needing("tower") and self.family.tower is None:
                raise Unavailable(f"{self.family.name} does not say where its vision tower is")
            words, name = sorted(stage.sees & needing("class token")), stage.method.name
            if words and not self.family.tower.has_class_token(self.model.base_model):
                adapted = [other for other in METHODS if other.endswith("_received")]
                own = f"{name}_received"
                raise Unavailable(
                    f"method {name!r} sees {', '.join(words)}, and the vision tower of this "
                    f"{self.family.name} has no class token; adapted to the attention that tokens "
                    f"receive: {own if own in adapted else ', '.join(adapted)}"
                )
            no_pair = stage.sees & needing("clip") and self.family.no_clip  # said by the pair
            if stage.method.merges and "patches" in stage.method.select_sees and not no_pair:
                self._check_patchwise(name)


def _all_known(numbers: Tensor, word: str) -> None:
    if bool((numbers < 0).any()):
        raise ValueError(
            f"{word!r} is what the vision tower shows of each token, and an earlier method of this "
            "block has put in one that stands for no single token (a class token or a sum); put "
            "the method that looks at the tower first"
        )
