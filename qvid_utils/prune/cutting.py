"""A cut: tokens are scored, taken out of the stream, and the masks follow."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_causal_mask

from ..algebra.selection import Kept
from ..families.deepstack import check_merging
from .caches import Ledgers
from .call import Call
from .stages import Stage
from .trace import CutRecord, Trace
from .vision import Pictures

__all__ = ["Cutter"]


class Cutter:
    """Makes the cuts of a block's stages in the calls that it is given, and writes the trace.

    text: the language model, with its decoder layers.
    """

    def __init__(
        self,
        text: nn.Module,
        layers: nn.ModuleList,
        stages: Sequence[Stage],
        pictures: Pictures,
        ledgers: Ledgers,
    ):
        self.text, self.layers, self.stages = text, layers, stages
        self.pictures, self.ledgers, self.trace = pictures, ledgers, Trace()

    def cut(self, now: Call, i: int, k: int) -> None:
        """Stage k in every prompt where it has a cut at layer i."""
        scene, stage = now.scene, self.stages[k]
        here = [
            (row, n)
            for row, steps in enumerate(now.steps)
            for n, step in enumerate(steps)
            if (step.layer, step.stage) == (i, k)
        ]
        if not now.chosen.keys() >= {*here}:
            self.check_finite(now, i)
        survivors, gone = scene.valid.clone(), 0
        for row, n in here:
            places = scene.places(row)
            kept = self.choice(now, i, row, n, places)
            now.made[row, n] += 1
            survivors[row, places] = False
            survivors[row, places[kept.index]] = True
            merged = self.pictures.projected(i, stage.method.name, kept, scene.hidden)
            if merged is not None:
                if now.early:
                    raise ValueError("reading='two_pass' cannot merge tokens; use 'in_place'")
                stands = kept.index if kept.stands is None else kept.stands.clamp(min=0)
                check_merging(
                    self.pictures.model.config, i, merged, scene.hidden[row, places[stands]]
                )
                scene.hidden = scene.hidden.clone()  # others may hold on to the stream as it was
                scene.hidden[row, places[kept.index]] = merged
            if kept.stands is not None:
                known, sources = kept.stands >= 0, places[kept.stands.clamp(min=0)]
                scene.relabel(row, places[kept.index], sources, known)
            gone += len(places) - len(kept.index)
            scene.lengths[row] -= len(places) - len(kept.index)
        if stage.drops and i != now.stop:
            self.drop(now, i, survivors, gone > 0)

    def check_finite(self, now: Call, i: int) -> None:
        """ValueError where NaN or infinity enters layer i."""
        scene = now.scene
        broken = (scene.valid & ~torch.isfinite(scene.hidden).all(-1)).any(1)
        if bool(broken.any()):
            raise ValueError(
                f"row {int(broken.nonzero()[0])}: NaN or infinite hidden states enter layer {i}; "
                "look for broken pictures or weights, or an overflow of float16"
            )

    def choice(self, now: Call, i: int, row: int, n: int, places: Tensor) -> Kept:
        """What the nth cut of a row keeps of the tokens at `places`: chosen now, or before."""
        scene, step = now.scene, now.steps[row][n]
        if (row, n) in now.chosen:
            return now.chosen[row, n]
        started, numbers = perf_counter(), scene.number[row, places]
        stage, words = self.stages[step.stage], now.words[step.stage]
        about = {"rope": stage.method.rope, "last_norm": self.text.norm}
        about |= self.pictures.about(scene, row, numbers, words)
        evidence = scene.evidence(
            i, row, places, self.layers, words, stage.control.evidence, **about
        )
        scores, kept = stage.choose(evidence, step.keep)
        now.chosen[row, n] = kept
        depth, first = len(self.layers), 0 if now.early else i
        until = next((s.layer for s in now.steps[row][n + 1 :]), depth)
        more = len(kept.index) - step.keep  # a selection may have counts of its own
        self.trace.mean_tokens[row] += more * (until - first) / depth
        self.trace.cuts.append(
            CutRecord(
                call=now.number,
                row=row,
                layer=i,
                method=stage.method.name,
                scores=scores.detach(),
                scored=numbers,
                kept=numbers[kept.index],
                n_visual=len(places),
                n_query=0 if words is None else len(evidence.query),
                seconds=perf_counter() - started,
            )
        )
        return kept

    def drop(self, now: Call, i: int, survivors: Tensor, some: bool) -> None:
        """Go on with the survivors (B, S'), which `some` are less than before."""
        scene = now.scene
        # where nobody goes even padding stays, so that keeping everything changes no bit
        length = max(scene.lengths) if some else survivors.shape[1]
        if i == 0:
            now.ledger.lost += survivors.shape[1] - length
            now.ledger.pads = 0 if now.real is None else (~now.real).sum(1)
        scene.visual = scene.visual & survivors  # a loser may stay as filler: nobody's candidate
        scene.valid = survivors
        # survivors in order at the right edge; shorter rows are filled up on the left
        scene.take(survivors.long().argsort(dim=1, stable=True)[:, -length:])
        now.valid, now.rotary = scene.valid, scene.rotary
        if i == 0:
            scene.close_entry()

    def remask(self, now: Call, i: int, hidden: Tensor, cache: Any) -> None:
        """The mask, and the rotary pair if renumbered, of layer i and the ones that follow."""
        ledger, (rows, new) = now.ledger, hidden.shape[:2]
        past = 0 if cache is None else int(cache.get_seq_length(i))
        above = max((site for site in ledger.seen if site <= i), default=None)
        seen = now.real if above is None else ledger.seen[above]
        if seen is not None or now.valid is not None:
            every = hidden.new_ones(rows, past + new, dtype=torch.bool)
            old = every[:, :past] if seen is None else seen[:, :past]  # it may have been cropped
            seen = torch.cat([old, every[:, past:] if now.valid is None else now.valid], 1)
            if now.scene is not None and bool(seen.all()):
                seen = None
        ledger.seen[i] = seen
        self.ledgers.was_cut(cache, ledger)
        now.mask = create_causal_mask(self.text.config, hidden, seen, cache, layer_idx=i)
        now.short = True
        if i in ledger.renumbered:
            places = torch.arange(past + new, device=hidden.device)[None]
            places = places if seen is None else (seen.cumsum(1) - 1).clamp(min=0)
            now.rotary = self.text.rotary_emb(hidden, position_ids=places[:, past:])
            if now.scene is not None:
                now.scene.rotary = now.rotary
