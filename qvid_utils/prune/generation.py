"""What `generate` is asked while it runs: read off its arguments by a wrapper, inside a block."""

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..families.attached import Attached, Hook
from ..families.calls import has_pixels
from .entry import COMPILED

__all__ = ["Generation"]


@dataclass(frozen=True)
class _Asked:
    """One running `generate`: columns of its prompts, and whether it drafts tokens."""

    columns: int
    assisted: bool


class Generation:
    """The runs of `generate` inside a block, by thread."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.running: dict[int, list[_Asked]] = {}
        self.left = False

    def hang(self, hung: Attached) -> None:
        """Wrap the model's `generate`, and let it compile nothing."""
        if hasattr(self.model, "generate"):
            hung.instead(self.model, "generate", self._wrapped(self.model.generate))
        if hasattr(self.model, "get_compiled_call"):
            hung.instead(self.model, "get_compiled_call", _refuse_to_compile)

    def drafted(self, columns: int, past: int) -> int:
        """How many columns at the end of a call are guesses that `generate` wants to try: of a call
        of so many columns behind `past` cached ones."""
        runs = self.running.get(threading.get_ident())
        if not runs or not runs[-1].assisted:
            return 0
        return max(0, past + columns - runs[-1].columns)

    def leave(self) -> None:
        """The block ends. RuntimeError where a `generate` is still running."""
        self.left = True
        if any(self.running.values()):
            raise RuntimeError(
                "a pruned block was left while generate was running in another thread: join the "
                "thread before the block ends"
            )

    def _wrapped(self, generate: Callable) -> Callable:
        @functools.wraps(generate)
        def asked(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(generate).bind_partial(*args, **kwargs).arguments
            runs = self.running.setdefault(threading.get_ident(), [])
            runs.append(self._asked({**given, **given.pop("kwargs", {})}))
            try:
                with Attached() as hung:  # it outlives the block where a thread does
                    hung.hook(self.model.base_model, Hook(self._check_open))
                    return generate(*args, **kwargs)
            finally:
                runs.pop()

        return asked

    def _asked(self, given: dict[str, Any]) -> _Asked:
        ids = given.get("input_ids", given.get("inputs"))
        columns = ids.shape[1] if isinstance(ids, Tensor) else 0
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2:  # it has the cached tokens, too
            columns = max(columns, mask.shape[1])
        configs = given.get("generation_config"), self.model.generation_config
        places = [given, *(vars(config) for config in configs if config is not None)]

        def option(name: str) -> Any:
            return next((p[name] for p in places if p.get(name) is not None), None)

        chunk = option("prefill_chunk_size")
        if chunk is not None and chunk < columns and has_pixels(given):
            raise ValueError(
                "prefill_chunk_size: a prompt with pictures can only be pruned whole; generate "
                "without it"
            )
        assistant = given.get("assistant_model")
        itself = getattr(assistant, "base_model", None) is self.model.base_model
        if itself or option("assistant_early_exit") is not None:
            raise ValueError(
                "assistant_early_exit, or the model as its own assistant: the drafts would be "
                "pruned, too; give another assistant_model, or prompt_lookup_num_tokens"
            )
        return _Asked(columns, assistant is not None or bool(option("prompt_lookup_num_tokens")))

    def _check_open(self, *_: Any) -> None:
        if self.left and self.running.get(threading.get_ident()):
            raise RuntimeError(
                "the pruned block was left while generate was running in this thread: join the "
                "thread before the block ends"
            )


def _refuse_to_compile(*_: Any, **__: Any) -> None:
    raise ValueError(COMPILED)
