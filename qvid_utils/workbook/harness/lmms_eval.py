"""The bridge to lmms-eval (extra `lmms`): its tasks, asked of a pruned model.

    python -m lmms_eval --model qvid --tasks pope --batch_size 8 \\
        --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=qvid,keep=64

lmms-eval finds the model by its entry point. Unlike the harness's own models, this one never
scores an empty answer where generation failed: the run stops with the task and the questions.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from ...algebra.cuts import check_share, count_at
from ...families import Unavailable, family_of
from ...methods import method as find_method
from ...models.load import load
from ...prune import pruned
from ..run.grid import visual_counts

# The harness's own default where a task names no length.
NEW_TOKENS = 1024


def manifest() -> Any:
    """What lmms-eval's entry point asks for: the name `qvid` and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="qvid", chat_class_path="qvid_utils.workbook.harness.lmms_eval.QViD"
    )


class Bridge:
    """A chat model of lmms-eval over a checkpoint, pruned or not; `QViD` is it with their base.

    pretrained: as in `load`; method, keep, layer and further parameters (rank, query, …): as in
    `pruned`, no method for the full model; share: instead of keep, in % of each prompt's own visual
    tokens. A word or value that the method does not know is an error here. Raises ValueError for a
    method without one of these and the reverse, Unavailable under several processes.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "llava-hf/llava-1.5-7b-hf",
        method: str | None = None,
        keep: int | None = None,
        layer: int | None = None,
        dtype: str | None = None,
        attention: str = "sdpa",
        revision: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        share: float | None = None,
        **params: Any,
    ):
        super().__init__()
        if keep is not None and share is not None:
            raise ValueError(f"keep={keep!r} and share={share!r}: give one of them")
        if (method is None) != (keep is None and share is None):
            raise ValueError(
                f"method={method!r} and keep={keep!r}: give both to prune (or share in place of "
                "keep), neither for the full model"
            )
        if method is None and (params or layer is not None):
            raise ValueError(f"no method, but {[*params, 'layer']}: the full model has neither")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise Unavailable(
                "the bridge runs in one process: start lmms-eval without accelerate or torchrun, "
                "and give each process tasks of its own"
            )
        share = None if share is None else check_share(share)
        if method is not None:
            find_method(method, **params)
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r}: a whole number, at least 1")
        self.batch_size = int(batch_size)
        self.model, self.processor = load(
            pretrained, dtype=dtype, device=device, attention=attention, revision=revision
        )
        self.method, self.keep, self.share = method, keep, share
        self.options = {"layer": layer, **params}

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy (or as a task asks) answers to the harness's requests, in their order.

        Raises RuntimeError, with task and questions, where generation fails.
        """
        answers: dict[int, str] = {}
        for batch in self._batches(requests):
            chosen = [requests[i] for i in batch]
            try:
                said = self._answer([self._chat(one) for one in chosen], chosen[0].args[2])
            except Exception as cause:
                asked = ", ".join(f"{one.args[4]} #{one.args[3]}" for one in chosen)
                raise RuntimeError(f"generation failed on {asked}: {cause}") from cause
            for i, one, text in zip(batch, chosen, said, strict=True):
                answers[i] = text
                self.cache_hook.add_partial("generate_until", (one.args[0], one.args[2]), text)
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list:
        """Not offered: ValueError."""
        raise ValueError("the bridge generates answers; tasks scored by likelihood are not offered")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list:
        """Not offered: ValueError."""
        raise ValueError("the bridge answers single questions; tasks of several rounds are not")

    def _batches(self, requests: Sequence[Any]) -> list[list[int]]:
        """Requests with the same generation options together, of like length side by side."""
        groups: dict[str, list[int]] = {}
        for i, one in enumerate(requests):
            groups.setdefault(repr(sorted(one.args[2].items())), []).append(i)
        size, batches = self.batch_size, []
        for group in groups.values():
            group.sort(key=lambda i: len(str(requests[i].args[0])))
            batches += [group[at : at + size] for at in range(0, len(group), size)]
        return batches

    def _chat(self, request: Any) -> list[dict]:
        """A request's messages in the form of transformers' chat templates."""
        _, messages_of, _, number, task, split = request.args
        chat = messages_of(self.task_dict[task][split][number])
        return [
            {"role": turn["role"], "content": [self._part(part) for part in turn["content"]]}
            for turn in chat
        ]

    def _part(self, part: dict) -> dict:
        if part["type"] == "text":
            return {"type": "text", "text": part["text"]}
        if part["type"] == "image":
            return {"type": "image", "image": part["url"]}
        if part["type"] != "video":
            raise ValueError(f"a {part['type']} is neither text, image nor video")
        from ..benchmarks.published.video import frames

        family = family_of(self.model)
        if not family.frames:
            raise ValueError(f"{family.name} takes no video")
        return {"type": "video", "video": frames(part["url"], family.frames)}

    @torch.inference_mode()
    def _answer(self, chats: list[list[dict]], asked: dict) -> list[str]:
        inputs = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(self.model.device)
        options: dict[str, Any] = {"max_new_tokens": asked.get("max_new_tokens") or NEW_TOKENS}
        options["num_beams"] = asked.get("num_beams") or 1
        options["do_sample"] = bool(asked.get("temperature"))
        if options["do_sample"]:
            options |= {k: asked[k] for k in ("temperature", "top_p") if asked.get(k)}
        if self.method is None:
            ids = self.model.generate(**inputs, **options)
        else:
            keep = self.keep
            if self.share is not None:
                keep = [count_at(self.share, n) for n in visual_counts(self.model, inputs)]
            with pruned(self.model, self.method, keep, **self.options):
                ids = self.model.generate(**inputs, **options)
        new = ids[:, inputs["input_ids"].shape[1] :]
        said = self.processor.batch_decode(new, skip_special_tokens=True)
        stops = asked.get("until") or []
        return [_cut(text, [stops] if isinstance(stops, str) else stops) for text in said]


def _cut(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first of a task's stop words."""
    for stop in filter(None, stops):
        text = text.split(stop)[0]
    return text.strip()


def __getattr__(name: str) -> type:
    """`QViD`, made when it is asked for: its base is in a package that need not be there."""
    if name != "QViD":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from lmms_eval.api.model import lmms
    except ImportError as missing:
        raise Unavailable(
            f"the bridge needs lmms-eval, and {missing.name!r} is not installed: "
            "pip install 'qvid-workbook[lmms]'"
        ) from missing
    globals()[name] = type(
        name, (Bridge, lmms), {"__doc__": Bridge.__doc__, "__module__": __name__}
    )
    return globals()[name]
