"""Grow the embedded video model out of the LLaVA:
`python data/tiny/make/train.py --family llava_onevision`.

1. *Tower*, from nothing: a pooled visual token of a frame is to point where the LLaVA's projected
   patches at the same spot point, and must tell what lies there.
2. *Decoder*: nine of the LLaVA's twelve layers and its words, to begin with. From questions about
   clips it learns what time is. Besides the answers, visual tokens must tell early on which frame
   they stand in and what has happened to what they show, and the words that name a thing must tell
   halfway up what it does, and when: with these grounding losses the circuits appear within some
   hundred steps. Before that, and now and then later, the LLaVA teaches with still pictures
   (`lessons`). Open questions come first, multiple choice takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clips
import folders
import lessons
import numpy as np
import onevision
import torch
import train
import world
from clip_facts import COUNTED, MOST, NOW, PARTS, SIZES, facts, shown, totals
from lessons import EDGE
from onevision_decoder import (
    BEFORE,
    LAYERS,
    SAME,
    WORD,
    decoded,
    packed_kernels,
    tokens_of,
    tower_of,
)
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import (
    LlavaForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

ALIKE = {"up": "above", "down": "below", "first": "one"}  # new words that start from old ones

# How many frames a clip has, how often, from which step on: short clips cost little.
LENGTHS = {0: {4: 1.0}, 350: {4: 0.4, 8: 0.6}, 800: {4: 0.25, 8: 0.45, 16: 0.3}}
# How often a type of question is drawn.
MIX = {
    "direction": 1.2,
    "action": 1.2,
    "colour": 0.8,
    "count": 2.4,
    "order": 1.8,
    "letter": 1.5,
    "flash": 1.0,
    "still_colour": 0.3,
}


@dataclass(frozen=True)
class Preset:
    """Steps, batches, peak rate; `open_until`: the step up to which open questions prevail;
    `bare_until`: the one up to which questions come without their answer-format sentence, which
    would be a third of all words; `lessons`: steps on still pictures alone, at first, after which
    they come with the odds `later_lessons`; `ahead`: how many steps of this course are behind a
    decoder that has been taught before."""

    tower: int = 500
    tower_batch: int = 48
    language: int = 4200
    clips: int = 6
    questions: int = 10
    rate: float = 1.5e-3
    open_until: int = 250
    bare_until: int = 650
    lessons: int = 100
    later_lessons: float = 0.2
    seen_layer: int = 4
    count_layer: int = 5
    ground_layer: int = 6
    save: int = 50
    ahead: int = 0


PRESETS = {"cpu": Preset(), "gpu": Preset(2000, 128, 12000, 32)}


# --------------------------------------------------------------------------------------- graft
def graft(
    llava: LlavaForConditionalGeneration, model: LlavaOnevisionForConditionalGeneration, seed: int
) -> None:
    """Give `model` the LLaVA's decoder and words: the same shapes, and biases of zero."""
    generator = torch.Generator().manual_seed(seed)
    old, new = llava.model.language_model, model.model.language_model
    new.norm.load_state_dict(old.norm.state_dict())
    for layer, source in zip(new.layers, LAYERS, strict=True):
        layer.load_state_dict(old.layers[source].state_dict(), strict=False)  # no biases
    with torch.no_grad():
        for layer in new.layers:
            for name in "qkv":
                getattr(layer.self_attn, f"{name}_proj").bias.zero_()
        for to, source in (
            (new.embed_tokens.weight, old.embed_tokens.weight),
            (model.lm_head.weight, llava.lm_head.weight),
        ):
            to.normal_(0, float(source.std()), generator=generator)
            for word, i in WORD.items():
                told = ALIKE.get(word, SAME.get(word, word))
                if told in train.WORD:
                    to[i] = source[train.WORD[told]]
        model.model.image_newline.zero_()


# -------------------------------------------------------------------------------------- frames
def crowded(rng: np.random.Generator) -> world.Scene:
    """Six to fifteen things in the middle of a picture: much to learn from at once."""
    spots = rng.choice(clips.BOARD**2, size=int(rng.integers(6, 16)), replace=False).tolist()
    return tuple(
        world.Thing(
            str(rng.choice(world.KINDS)),
            str(rng.choice(train.COLOUR_NAMES)),
            spot // clips.BOARD + EDGE,
            spot % clips.BOARD + EDGE,
        )
        for spot in spots
    )


def scaled(frames: np.ndarray) -> Tensor:
    """uint8 (..., h, w, 3) to float32 (..., 3, h, w) in [-1, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


def clip_batch(rng: np.random.Generator, number: int, length: int):
    """`number` clips and their frames as they are stored, (B, T, 3, 64, 64)."""
    drawn = [clips.draw_clip(rng, length) for _ in range(number)]
    frames = np.stack([clips.render(clip, rng) for clip in drawn])
    return drawn, scaled(frames // 8 * 8 + 4)


def taught(llava: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The LLaVA's tokens of the middle of pictures (N, 3, 96, 96), four of a cell averaged."""
    with torch.no_grad():
        seen = llava.model.multi_modal_projector(train.patch_features(llava, pixels)).float()
    seen = seen.unflatten(1, (world.BOARD, 2, world.BOARD, 2)).mean((2, 4))
    middle = slice(EDGE, EDGE + clips.BOARD)
    return seen[:, middle, middle].flatten(1, 2)


# -------------------------------------------------------------------------------------- stages
@dataclass(frozen=True)
class Child:
    """What sets apart the video models that grow like this one. name: of checkpoints and logs;
    taught: the tokens that a teacher wants, from whole pictures; turn: between question and
    answer."""

    name: str
    taught: Callable[[nn.Module, Tensor], Tensor]
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    turn: str


ONEVISION = Child("video", taught, onevision.tokenizer, "<|im_end|><|im_start|>assistant\n")


def train_tower(
    model, teacher, preset: Preset, seed: int, folder: Path, device, child: Child = ONEVISION
) -> None:
    """Stage 1. Loss: distance to the teacher's tokens relative to their length; what is there."""
    tower = tower_of(model)
    width = teacher.config.text_config.hidden_size
    dense = nn.Linear(width, SIZES["kind"] + SIZES["colour"]).to(device)
    modules = {
        "tower": tower,
        "projector": model.model.multi_modal_projector,
        "dense": dense,
    }
    optimiser = train.optimisers(modules, 2e-3, muon=False)
    parts = {**modules, "adamw": optimiser[0]}
    checkpoint, third = train.Checkpoint(folder, f"{child.name}_tower"), preset.tower_batch // 3
    tower.train()
    middle = slice(EDGE * clips.CELL, EDGE * clips.CELL + clips.SIDE)
    bar = trange(checkpoint.load(parts), preset.tower, desc="tower", mininterval=10)
    for step in bar:
        rng = train.generator(seed, 7, step)
        scenes = [crowded(rng) for _ in range(preset.tower_batch)]
        whole = train.pixels_of(scenes, rng).to(device)
        kinds, colours = (
            labels.view(-1, world.BOARD, 2, world.BOARD, 2)[:, 1:-1, 0, 1:-1, 0].flatten(1)
            for labels in train.patch_labels(scenes)
        )
        kinds, colours = kinds.to(device), colours.to(device)
        train.set_rate(optimiser, 2e-3, step, preset.tower, 50)
        with train.autocast(device), packed_kernels(model):
            wanted = child.taught(teacher, whole[:third])
            seen = tokens_of(model, whole[..., middle, middle]).float()
        length = wanted.square().mean(-1, keepdim=True).sqrt()
        far = ((seen[:third] - wanted) / length).square().mean()
        cells = seen[:, -onevision.CELLS :] / length.mean()
        read = dense(cells).split([SIZES["kind"], SIZES["colour"]], dim=-1)
        told = F.cross_entropy(read[0].flatten(0, 1), kinds.flatten())
        told = told + F.cross_entropy(read[1].flatten(0, 1), colours.flatten())
        train.step_all(5 * far + told, optimiser, modules)
        if (step + 1) % 20 == 0:
            thing = kinds < train.NONE
            right = (read[0].argmax(-1) == kinds)[thing].float().mean()
            shade = (read[1].argmax(-1) == colours)[thing].float().mean()
            line = f"far {far:.3f} kind {right:.3f} colour {shade:.3f}"
            bar.set_postfix_str(line)
            with open(folder / f"{child.name}_tower.log", "a") as log:
                log.write(f"{step + 1} {line}\n")
        if (step + 1) % preset.save == 0:
            checkpoint.save(step + 1, parts)
    tower.eval()


def pack(
    drawn,
    rng: np.random.Generator,
    questions: int,
    tok,
    options: bool,
    bare: bool = False,
    turn: str = ONEVISION.turn,
) -> train.Packed:
    """Ask `questions` questions of every clip, all with options or all without; bare: without the
    sentence that asks for a form of answer; turn: what comes before the answer."""
    names, odds = list(MIX), np.array(list(MIX.values()))
    odds /= odds.sum()
    asked: list[world.Question] = []
    for n, clip in enumerate(drawn, 1):
        while len(asked) < n * questions:
            kind = str(rng.choice(names, p=odds))
            found = clips.ask(kind, clip, rng, options)
            if found is not None:
                asked.append(found)
    texts = [q.text.partition(" Answer ")[0] if bare else q.text for q in asked]
    texts = [f"{text}{turn}{q.answer}" for text, q in zip(texts, asked, strict=True)]
    rows = tok(texts, add_special_tokens=False)["input_ids"]
    shape = (len(rows), max(map(len, rows)))
    ids, target = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        target[n, len(row) - 2] = row[-1]
        target[n, len(row) - 1] = WORD["<|im_end|>"]
    shape = (len(drawn), questions, -1)
    kinds = [q.kind if options else f"{q.kind}?" for q in asked]
    return train.Packed(ids.view(shape), target.view(shape), kinds)


class Reader(nn.Module):
    """A grounding loss's reader: a norm and a linear map, thrown away after training."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.norm, self.read = nn.RMSNorm(width), nn.Linear(width, size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.read(self.norm(hidden))


def told_by_tokens(reader: Reader, hidden: Tensor, there: dict[str, Tensor]):
    """Loss of what visual tokens (B, T·16, d) tell of themselves, things and ground alike in sum,
    and the share of things whose `now` is right."""
    read = reader(hidden.float()).split(list(SIZES.values()), dim=-1)
    event = (there["kind"] < train.NONE) | (there["now"] > 0)
    event = event.flatten(1).to(hidden.device)
    loss = torch.zeros((), device=hidden.device)
    for guess, (name, size) in zip(read, SIZES.items(), strict=True):
        truth = there[name].flatten(1).to(hidden.device)
        each = F.cross_entropy(guess.flatten(0, 1), truth.flatten(), reduction="none")
        loss = loss + (each[event.flatten()].mean() + 0.3 * each.mean()) / np.log(size)
        if name in ("now", "origin"):  # what has changed is rare
            changed = there["now"].flatten() > NOW.index("as before")
            changed = changed.to(hidden.device)
            loss = loss + 2 * (each * changed).sum() / changed.sum().clamp(min=1) / np.log(size)
    now = there["now"].flatten(1).to(hidden.device)
    guess = read[list(SIZES).index("now")]
    right = (guess.argmax(-1) == now)[event].float().mean()
    return loss, right


def train_language(
    model,
    llava,
    preset: Preset,
    seed: int,
    folder: Path,
    device,
    until: int | None = None,
    child: Child = ONEVISION,
) -> None:
    """Stage 2. Loss on clips: answers, what visual tokens and what naming words must know; on still
    pictures (`lessons`): answers, and the LLaVA's hidden states."""
    decoder, width = model.model.language_model, model.config.text_config.hidden_size
    newline = getattr(model.model, "image_newline", None)
    modules = {
        "language": decoder,
        "head": model.lm_head,
        "projector": model.model.multi_modal_projector,
        **({} if newline is None else {"newline": nn.ParameterList([newline])}),
        "reader": Reader(width, sum(SIZES.values())).to(device),
        "grounder": Reader(width, sum(PARTS)).to(device),
        "counter": Reader(width, len(COUNTED) * (MOST + 1)).to(device),
    }
    optimiser = train.optimisers(modules, preset.rate, muon=True)
    parts = {**modules, "adamw": optimiser[0], "muon": optimiser[1]}
    checkpoint, tok = train.Checkpoint(folder, f"{child.name}_language"), child.tokenizer()
    marks: dict[str, list[float]] = {}
    bar = trange(checkpoint.load(parts), until or preset.language, desc="language", mininterval=10)
    for step in bar:
        rng, course = train.generator(seed, 8, step), step + preset.ahead
        train.set_rate(optimiser, preset.rate, step, preset.language, 50)
        if course < preset.lessons or rng.random() < preset.later_lessons:
            with train.autocast(device), packed_kernels(model):
                loss, line, hits = lessons.lesson(
                    model, llava, rng, max(2, preset.clips * 2 // 3), device
                )
            train.step_all(loss, optimiser, modules)
            for kind, hit in hits:
                marks.setdefault(f"({kind})", []).append(hit)
            bar.set_postfix_str(line)
            _note(folder, child.name, step, line, marks)
            if (step + 1) % preset.save == 0:
                checkpoint.save(step + 1, parts)
            continue
        odds = LENGTHS[max(start for start in LENGTHS if start <= course)]
        length = int(rng.choice(list(odds), p=list(odds.values())))
        number = preset.clips * 8 // max(length, 5)
        drawn, frames = clip_batch(rng, number, length)
        options = rng.random() < (0.4 if course < preset.open_until else 0.8)
        bare = course < preset.bare_until
        packed = pack(drawn, rng, preset.questions, tok, bool(options), bare, child.turn)
        there = shown(drawn)
        truth, naming = facts(drawn, packed.ids)
        with train.autocast(device), packed_kernels(model):
            seen = tokens_of(model, frames.flatten(0, 1).to(device)).unflatten(0, (number, length))
            out, prefix = decoded(model, seen.flatten(1, 2), packed.ids)
        early = out.hidden_states[preset.seen_layer][:, len(BEFORE) : prefix - 1]
        early = early.unflatten(1, (length, -1))[:, :, -onevision.CELLS :]  # what shows a cell
        sight, right_now = told_by_tokens(modules["reader"], early.flatten(1, 2), there)
        halfway = out.hidden_states[preset.ground_layer][:, prefix:]
        halfway = halfway[naming.flatten(1).to(device)].float()
        ground = F.binary_cross_entropy_with_logits(modules["grounder"](halfway), truth.to(device))
        told = modules["counter"](out.hidden_states[preset.count_layer][:, prefix - 1].float())
        told, numbers = told.unflatten(1, (-1, MOST + 1)).flatten(0, 1), totals(drawn).flatten()
        counted = F.cross_entropy(told, numbers.to(device), reduction="sum")
        counted = counted / (numbers >= 0).sum().clamp(min=1).to(device)
        answers = (packed.target >= 0).flatten(1)
        logits = model.lm_head(out.last_hidden_state[:, prefix:][answers.to(device)]).float()
        target = packed.target.flatten(1)[answers].to(device)
        answer = F.cross_entropy(logits, target)
        train.step_all(answer + sight + counted + sum(PARTS) / 6 * ground, optimiser, modules)
        hits = (logits.argmax(-1) == target)[0::2].tolist()  # answer, end, answer, end, ...
        for kind, hit in zip(packed.kind, hits, strict=True):
            marks.setdefault(kind, []).append(hit)
        line = f"answer {answer:.3f} sight {sight:.3f} now {right_now:.2f} ground {ground:.4f} "
        line += f"counted {counted:.2f}"
        bar.set_postfix_str(line)
        _note(folder, child.name, step, f"T{length} {line}", marks)
        if (step + 1) % preset.save == 0:
            checkpoint.save(step + 1, parts)


def _note(folder: Path, name: str, step: int, line: str, marks: dict[str, list[float]]) -> None:
    """Every 25th step a line into the log: what it says, and shares of right answers by type since
    the last one."""
    if (step + 1) % 25 == 0:
        shares = " ".join(f"{kind} {np.mean(hits):.2f}" for kind, hits in sorted(marks.items()))
        with open(folder / f"{name}_language.log", "a") as log:
            log.write(f"{step + 1} {line} {shares}\n")
        marks.clear()


def train_all(preset: Preset, seed: int, folder: Path, out: Path, device: torch.device) -> None:
    """Both stages, from the committed LLaVA; writes `out`/llava_onevision in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    llava = folders.teacher(LlavaForConditionalGeneration, "llava", device)
    model = LlavaOnevisionForConditionalGeneration(onevision.config())
    graft(llava, model, seed)
    model.to(device).eval()
    train_tower(model, llava, preset, seed, folder, device)
    model.model.vision_tower.requires_grad_(False)
    train_language(model, llava, preset, seed, folder, device)
    save(model, out)


def save(model: LlavaOnevisionForConditionalGeneration, out: Path) -> None:
    """Model and processor as a stock folder, bfloat16 safetensors."""
    folders.save(model, onevision.processor(), out / "llava_onevision")
