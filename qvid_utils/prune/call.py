"""One forward call of a model inside a block; with pictures: what is in it and where it is cut."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..families import family_of, query_tokens
from ..families.calls import check_axes, check_prompt
from ..methods.evidence import needing
from .caches import Ledger
from .plan import Step, steps_of
from .scene import Scene
from .stages import Stage

__all__ = ["Call", "Planner"]


@dataclass(eq=False)
class Call:
    """One forward call; tensors are (B, S), the tokens where the layer about to run begins."""

    ledger: Ledger
    real: Tensor | None  # (B, past + S) the caller's tokens that are no padding; None: all
    valid: Tensor | None  # of this call: no padding, not dropped; None: all
    sites: set[int] = field(default_factory=set)  # layers where the sequence is, or was, shortened
    ran: int = 0  # layers that were entered
    short: bool = False  # past the first cut: from here on layers get our mask and rotary pair
    mask: Any = None
    rotary: tuple[Tensor, Tensor] | None = None
    # only where the call has pictures:
    number: int = 0  # among those of the block
    scene: Scene | None = None
    steps: list[list[Step]] = field(default_factory=list)  # per row, in the order of the cuts
    words: list[Tensor | None] = field(default_factory=list)  # per stage: (B, S) its query tokens
    chosen: dict[tuple[int, int], Any] = field(default_factory=dict)  # (row, nth cut) → Kept
    made: Counter = field(default_factory=Counter)  # how often each (row, nth cut) was made
    # a pass that runs first and chooses, for this call; where such a pass ends, and whether its
    # cuts will be made at layer 0 (two_pass)
    scoring: "Call | None" = None
    stop: int | None = None
    early: bool = False


class Planner:
    """Finds the visual tokens and the question of a call, and decides where to cut."""

    def __init__(self, model: nn.Module, stages: Sequence[Stage], processor: Any, depth: int):
        self.model, self.stages, self.processor = model, stages, processor
        self.family, self.depth = family_of(model), depth
        self.two_pass = stages[0].method.reading == "two_pass"
        asked = (s.control for s in stages if s.control.question is not None)
        self.other = next(asked, None)  # the control with another question, if one has it

    def visual(self, ids: Tensor) -> Tensor:
        """(B, S) bool: which ids are placeholders of visual tokens."""
        return torch.isin(ids, ids.new_tensor(self.family.visual_tokens(self.model.config)))

    def look(self, now: Call, ids: Tensor, past: int, drafted: int, positions: Any) -> None:
        """Find what the prompts show. ValueError for prompts that cannot be pruned."""
        given = torch.ones_like(ids, dtype=torch.bool) if now.valid is None else now.valid
        scene = now.scene = Scene(ids, given, self.visual(ids) & given, drafted)
        sees = set().union(*(stage.sees for stage in self.stages))
        whole = sorted(sees & needing("sequence")) or ["two_pass"] * self.two_pass
        whole = whole or ["score_question"] * (self.other is not None)
        check_prompt(given[:, : scene.end], scene.visual[:, : scene.end], past, whole)
        if past and not self.family.one_axis:
            check_axes(positions)
        for stage in self.stages:
            stage.check_rows(ids)

    def plan(self, now: Call, grown: bool) -> list[float]:
        """Decide where each prompt is cut: its mean tokens over the layers. grown: the ids may hold
        answer tokens."""
        scene = now.scene
        rows = [steps_of(self.stages, r, scene.counts, self.depth) for r in range(len(scene.ids))]
        steps, means = ([*part] for part in zip(*rows, strict=True))
        cutting = {s.layer for row in steps for s in row if self.stages[s.stage].drops}
        two_pass = self.two_pass and cutting != {0}
        if two_pass or self.other is not None:
            now.scoring = self._scoring(now, steps, cutting, two_pass)
        if two_pass:
            first = [n * now.scoring.stop / self.depth for n in scene.counts]  # the scoring pass
            left = [sum(step.keep for step in row) for row in steps]
            means = [n + m for n, m in zip(left, first, strict=True)]
            steps, cutting = [[s._replace(layer=0) for s in row] for row in steps], {0}
        now.steps, now.sites = steps, now.sites | cutting
        if self.other is None:
            now.words = self.words(scene, grown)
            if now.scoring is not None:
                now.scoring.words = now.words
        anew = {
            step.layer
            for row in steps
            for step in row
            if self.stages[step.stage].drops and self.family.one_axis
            if self.stages[step.stage].method.positions != "original"
        }
        # one cut that renumbers does so for all cuts at its layer
        now.ledger.renumbered = now.ledger.renumbered - cutting | anew
        if now.scoring is not None:
            now.scoring.ledger.renumbered = anew
        return means

    def _scoring(
        self, now: Call, steps: list[list[Step]], cutting: set[int], two_pass: bool
    ) -> Call:
        if two_pass and len(cutting) > 1:
            raise ValueError(
                "reading='two_pass' scores at one layer, and method "
                f"{self.stages[0].method.name!r} cuts at layers "
                f"{', '.join(map(str, sorted(cutting)))}; use 'in_place'"
            )
        scene = now.scene
        again = Scene(scene.ids, scene.given, scene.visual, scene.drafted)
        return Call(
            Ledger(),
            again.given,
            again.given,
            sites=set(cutting),
            scene=again,
            steps=steps,
            stop=max(cutting),
            early=two_pass,
            number=now.number,
        )

    def words(self, scene: Scene, grown: bool = False) -> list[Tensor | None]:
        """(B, S) bool for each method: its query tokens; None for one that needs none."""
        end, found = scene.end, []
        for stage in self.stages:
            if not needing("query") & stage.sees:
                found.append(None)
                continue
            words = query_tokens(
                self.model,
                stage.method.query,
                scene.ids[:, :end],
                scene.given[:, :end],
                scene.visual[:, :end],
                processor=self.processor,
                may_grow=grown,
            )
            found.append(pad(words, (0, scene.drafted)))
        return found
