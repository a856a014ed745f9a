"""Grow the embedded Qwen2-VL out of the LLaVA: `python data/tiny/make/train.py --family qwen2_vl`.

1. *Tower*, from nothing: a token after 2 x 2 merging is to point where the LLaVA's projected patch
   at the same spot points, and must tell what lies there. Pictures have several sizes.
2. *Decoder*: nine of the LLaVA's twelve layers, its words, and its width doubled with a stream of
   zeros; the keys and values of two heads become those of one group. What this breaks (grouped
   keys, positions along three axes, no place in a visual token) is learned again from questions
   about pictures and from the LLaVA's hidden states. Captions, which it cannot tell, come new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import folders
import numpy as np
import qwen
import torch
import train
import world
from graft import LAYERS, WORD, graft
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import (
    AttentionInterface,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)
from turns import BEFORE, chat, described, stacked

TOKEN = qwen.PATCH * qwen.MERGE  # pixels of a visual token's side
SIZES = ((96, 96), (80, 96), (96, 80), (64, 96), (96, 64))  # height and width in pixels
ODDS = (0.6, *[0.1] * 4)


@dataclass(frozen=True)
class Preset:
    """Steps, pictures a step, questions a picture and peak rates."""

    tower: int = 2000
    tower_batch: int = 16
    language: int = 500
    pictures: int = 3
    questions: int = 14
    rate: float = 1.5e-3
    save: int = 50


PRESETS = {"cpu": Preset(), "gpu": Preset(1200, 64, 4000, 32)}


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    return SIZES[rng.choice(len(SIZES), p=ODDS)]


def board_of(size: tuple[int, int]) -> world.Board:
    """Rows and columns of cells in a picture of this size."""
    return size[0] // world.CELL, size[1] // world.CELL


def corner(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, 96, 96) to (B, 3, *size): the corner in which the things stand. The LLaVA, which
    takes square pictures, is shown the rest of the ground, too."""
    return pixels[..., : size[0], : size[1]]


def patches(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of one size as the tower takes them: (B·N, 96), a merged token's patches in a row,
    the frame twice; and their grids (B, 3)."""
    b, c, height, width = pixels.shape
    rows, columns = height // TOKEN, width // TOKEN
    p, m = qwen.PATCH, qwen.MERGE
    cut = pixels.reshape(b, c, rows, m, p, columns, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    flat = cut.unsqueeze(6).expand(*cut.shape[:6], 2, p, p).reshape(b * rows * columns * m * m, -1)
    return flat, torch.tensor([[1, rows * m, columns * m]] * b, device=pixels.device)


def spots(size: tuple[int, int]) -> Tensor:
    """For each visual token of a picture of `size`, in reading order, the LLaVA's patch at the
    same spot of the square picture, (rows · columns,)."""
    rows, columns = size[0] // TOKEN, size[1] // TOKEN
    return (torch.arange(rows)[:, None] * train.SIDE + torch.arange(columns)).flatten()


def taught(llava: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The LLaVA's visual tokens of square pictures, (B, 144, 128)."""
    with torch.no_grad():
        return llava.model.multi_modal_projector(train.patch_features(llava, pixels)).float()


def crowded(rng: np.random.Generator, board: world.Board) -> world.Scene:
    """A picture of twelve to twenty things of any kind and colour: much to learn from at once."""
    rows, columns = board
    cells = rng.choice(rows * columns, size=int(rng.integers(12, 21)), replace=False)
    kinds, colours = (
        rng.choice(names, size=len(cells)) for names in (world.KINDS, train.COLOUR_NAMES)
    )
    return tuple(
        world.Thing(str(kind), str(colour), int(cell) // columns, int(cell) % columns)
        for kind, colour, cell in zip(kinds, colours, cells, strict=True)
    )


def plain_attention(module, query, key, value, attention_mask, scaling, **_):
    """Attention in three steps: on a CPU its way back is twice as fast as the fused one."""
    weights = (query @ key.mT * scaling).softmax(-1).to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


@contextmanager
def packed_kernels(model: Qwen2VLForConditionalGeneration, *more: nn.Module) -> Iterator[None]:
    """Inside: the tower attends plainly, the decoder (and `more` decoders) packed."""
    AttentionInterface.register("plain", plain_attention)
    AttentionInterface.register("packed", train.packed_attention)
    parts = [model.model.visual, model.model.language_model, *more]
    before = [part.config._attn_implementation for part in parts]
    for part in parts:
        part.config._attn_implementation = "plain" if part is parts[0] else "packed"
    try:
        yield
    finally:
        for part, kernel in zip(parts, before, strict=True):
            part.config._attn_implementation = kernel


def train_tower(
    model, llava, preset: Preset, seed: int, folder: Path, device, until: int | None = None
) -> None:
    """Stage 1. Loss: distance to the LLaVA's tokens relative to their length; what is there."""
    visual = model.model.visual
    width = llava.config.text_config.hidden_size
    dense = nn.Linear(width, train.NONE + 1 + len(train.COLOUR_NAMES) + 1).to(device)
    modules = {"visual": visual, "dense": dense}
    optimiser = train.optimisers(modules, 2e-3, muon=False)
    parts = {**modules, "adamw": optimiser[0]}
    checkpoint = train.Checkpoint(folder, "qwen_tower")
    steps = preset.tower
    bar = trange(checkpoint.load(parts), until or steps, desc="tower", mininterval=10)
    for step in bar:
        rng = train.generator(seed, 5, step)
        size, crowds = draw_size(rng), preset.tower_batch * (step < 0.7 * steps) * 3 // 4
        board = board_of(size)
        scenes, square = train.pictures(rng, preset.tower_batch - crowds, board=board)
        if crowds:
            more = [crowded(rng, board) for _ in range(crowds)]
            scenes, square = scenes + more, torch.cat([square, train.pixels_of(more, rng)])
        spot = spots(size)
        kinds, colours = (labels[:, spot].to(device) for labels in train.patch_labels(scenes))
        train.set_rate(optimiser, 2e-3, step, steps, 50)
        with train.autocast(device):
            wanted = taught(llava, square.to(device))[:, spot]
            flat, grids = patches(corner(square, size).to(device))
            with packed_kernels(model):
                seen = visual(flat, grid_thw=grids).pooler_output
        seen = seen[:, :width].float().view(wanted.shape)
        length = wanted.square().mean(-1, keepdim=True).sqrt()
        far = ((seen - wanted) / length).square().mean()
        read = dense(seen / length).split([train.NONE + 1, len(train.COLOUR_NAMES) + 1], dim=-1)
        told = F.cross_entropy(read[0].flatten(0, 1), kinds.flatten())
        told = told + F.cross_entropy(read[1].flatten(0, 1), colours.flatten())
        train.step_all(5 * far + told, optimiser, modules)
        if (step + 1) % 20 == 0:
            thing = kinds < train.NONE
            right = (read[0].argmax(-1) == kinds)[thing].float().mean()
            shade = (read[1].argmax(-1) == colours)[thing].float().mean()
            line = f"far {far:.3f} told {told:.3f} kind {right:.3f} colour {shade:.3f}"
            bar.set_postfix_str(line)
            with open(folder / "qwen_tower.log", "a") as log:
                log.write(f"{step + 1} {size} {line}\n")
        if (step + 1) % preset.save == 0:
            checkpoint.save(step + 1, parts)


# ------------------------------------------------------------------------------------ questions
GROUND = 4  # the layer that grounding asks: what has passed the LLaVA's layers 0 to 4
MIX = {**train.PLACES, "where": 0.5, "side": 0.8}
# The LLaVA sees a square, whose halves are not those of the part that is cut out of it.
MIX_OF_PARTS = {kind: odds for kind, odds in MIX.items() if kind not in ("half", "where")}


def positions(size: tuple[int, int], words: int, questions: int) -> Tensor:
    """Rotary positions of a picture and its questions along (t, h, w): (3, P + Q·t). A picture's
    rows and columns count from one start, and what follows goes on after the longer side."""
    rows, columns = size[0] // TOKEN, size[1] // TOKEN
    start = len(BEFORE)
    after = start + max(rows, columns)
    row = torch.arange(rows).repeat_interleave(columns)
    axes = torch.stack([torch.zeros_like(row), row, torch.arange(columns).repeat(rows)])
    rest = torch.cat([torch.tensor([after]), torch.arange(words).repeat(questions) + after + 1])
    before = torch.arange(start)
    return torch.cat([before.expand(3, -1), axes + start, rest.expand(3, -1)], 1)


class Teacher:
    """The LLaVA: hidden states and answers for pictures with packed questions."""

    def __init__(self, llava: LlavaForConditionalGeneration):
        self.decoder, self.head = llava.model.language_model, llava.lm_head
        self.before = torch.tensor([train.WORD["<s>"], train.WORD["USER:"]])

    @torch.no_grad()
    def __call__(self, seen: Tensor, packed: train.Packed) -> tuple[list[Tensor], Tensor]:
        """seen: (B, 144, d). Hidden states (B, P + Q·t, d) by layer, logits of all words."""
        ids, device = packed.ids.flatten(1).to(seen.device), seen.device
        words = torch.arange(packed.ids.shape[2]).repeat(packed.ids.shape[1]) + train.PREFIX
        place = torch.cat([torch.arange(train.PREFIX), words]).to(device)
        before = self.decoder.embed_tokens(self.before.to(device)).expand(len(seen), -1, -1)
        stream = torch.cat([before, seen.to(before.dtype), self.decoder.embed_tokens(ids)], 1)
        out = self.decoder(
            inputs_embeds=stream,
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            position_ids=place.expand(len(seen), -1),
            use_cache=False,
            output_hidden_states=True,
            questions=packed.ids.shape[1],
        )
        return out.hidden_states, self.head(out.last_hidden_state[:, train.PREFIX :])


def student(model, features: Tensor, ids: Tensor, size: tuple[int, int]):
    """The Qwen2-VL's decoder on merged pictures (B, N, d) with packed questions (B, Q, t)."""
    decoder = model.model.language_model
    b, questions, words = ids.shape
    embed, device = decoder.embed_tokens, features.device
    before = embed(torch.tensor(BEFORE, device=device)).expand(b, -1, -1)
    after = embed(torch.tensor([WORD["<|vision_end|>"]], device=device)).expand(b, -1, -1)
    asked = embed(ids.to(device).flatten(1))
    stream = torch.cat([before, features.to(before.dtype), after, asked], 1)
    prefix = stream.shape[1] - questions * words
    place = positions(size, words, questions).to(device)
    out = decoder(
        inputs_embeds=stream,
        attention_mask={"full_attention": None},
        position_ids=place[:, None].expand(-1, b, -1),
        use_cache=False,
        output_hidden_states=True,
        questions=questions,
        prefix=prefix,
    )
    return out, prefix


def apart(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared distance relative to the LLaVA's length; our stream's new half is free."""
    theirs = theirs.float()
    ours = ours[..., : theirs.shape[-1]].float()
    length = theirs.square().mean(-1, keepdim=True)
    return ((ours - theirs).square() / length).mean()


def train_language(
    model, llava, preset: Preset, seed: int, folder: Path, device, until: int | None = None
) -> None:
    """Stage 2. Loss: answers, captions, the LLaVA's hidden states, and grounding."""
    decoder, visual = model.model.language_model, model.model.visual
    grounder = train.Grounder(decoder.config.hidden_size).to(device)
    modules = {
        "language": decoder,
        "head": model.lm_head,
        "merger": visual.merger,
        "grounder": grounder,
    }
    optimiser = train.optimisers(modules, preset.rate, muon=True)
    parts = {**modules, "adamw": optimiser[0], "muon": optimiser[1]}
    checkpoint, tok = train.Checkpoint(folder, "qwen_language"), train.architecture.tokenizer()
    teacher, ours = Teacher(llava), qwen.tokenizer()
    marks: dict[str, list[float]] = {kind: [] for kind in world.QUESTIONS}
    steps = preset.language
    bar = trange(checkpoint.load(parts), until or steps, desc="language", mininterval=10)
    for step in bar:
        rng = train.generator(seed, 6, step)
        size = draw_size(rng)
        scenes, square = train.pictures(rng, preset.pictures, board=board_of(size))
        mix = MIX if size == SIZES[0] else MIX_OF_PARTS
        packed = train.pack(scenes, rng, preset.questions, tok, mix)
        ids, target, source = chat(packed)
        words = described(scenes, ours)
        ids, target = stacked([ids, words[0]], 0), stacked([target, words[1]], -100)
        source = stacked([source, torch.full_like(words[0], -1)], -1)
        train.set_rate(optimiser, preset.rate, step, steps, 50)
        square = square.to(device)
        with train.autocast(device), packed_kernels(model, teacher.decoder):
            told, said = teacher(taught(llava, square), packed)
            flat, grids = patches(corner(square, size))
            with torch.no_grad():
                raw = visual(flat, grid_thw=grids).last_hidden_state
            features = visual.merger(raw).unflatten(0, (len(scenes), -1))
            out, prefix = student(model, features, ids, size)
        loss, parts_of_it, right = losses(
            model, grounder, out, prefix, (told, said), (ids, target, source), scenes, packed, size
        )
        train.step_all(loss, optimiser, modules)
        for kind, hit in zip(packed.kind, right, strict=True):
            marks[kind].append(hit)
        if (step + 1) % 25 == 0:
            line = " ".join(f"{k} {np.mean(v or [0]):.2f}" for k, v in marks.items())
            with open(folder / "qwen_language.log", "a") as log:
                log.write(f"{step + 1} {size} {parts_of_it} {line}\n")
            marks = {kind: [] for kind in world.QUESTIONS}
            bar.set_postfix_str(parts_of_it)
        if (step + 1) % preset.save == 0:
            checkpoint.save(step + 1, parts)


def losses(model, grounder, out, prefix, taught, words, scenes, packed, size):
    """The loss, its parts in words, and which answers were right (for the log)."""
    (told, said), (_, target, source) = taught, words
    device = said.device
    length, asked, room = packed.ids.shape[2], packed.ids.shape[1], source.shape[2]
    question = torch.arange(asked + 1, device=device).repeat_interleave(room)  # the last: a caption
    source = source.flatten(1).to(device)  # (B, Q·t): place within the LLaVA's question
    batch, ours_at = (source >= 0).nonzero(as_tuple=True)
    theirs_at = question[ours_at] * length + source[batch, ours_at]
    spot = spots(size).to(device) + 2  # after the LLaVA's "<s> USER:"
    pictures = torch.zeros((), device=device)
    sentences = torch.zeros((), device=device)
    for depth in range(1, len(LAYERS)):
        theirs, ours = told[LAYERS[depth]], out.hidden_states[depth]
        if depth <= GROUND:
            pictures = pictures + apart(ours[:, len(BEFORE) : prefix - 1], theirs[:, spot]) / GROUND
        theirs = theirs[:, train.PREFIX :][batch, theirs_at]
        ours = ours[:, prefix:][batch, ours_at]
        sentences = sentences + apart(ours, theirs) / (len(LAYERS) - 1)
    target = target.flatten(1).to(device)
    answers = target >= 0
    logits = model.lm_head(out.last_hidden_state[:, prefix:][answers]).float()
    telling = question.expand_as(target)[answers] == asked
    answer = F.cross_entropy(logits[~telling], target[answers][~telling])
    caption = F.cross_entropy(logits[telling], target[answers][telling])
    truth, naming = train.facts(scenes, packed.ids)
    naming = naming.flatten(1).to(device)[batch, theirs_at]
    halfway = out.hidden_states[GROUND][:, prefix:][batch, ours_at][naming].float()
    ground = F.binary_cross_entropy_with_logits(grounder(halfway), truth.to(device))
    loss = answer + caption + 5 * ground + sentences + pictures
    right = logits.argmax(-1) == target[answers]
    hits = right[~telling][0::2].tolist()  # answer, end, answer, end, ...
    named = f"answer {answer:.3f} ground {ground:.4f} words {sentences:.3f} picture {pictures:.3f} "
    named += f"caption {caption:.3f} {right[telling].float().mean():.2f}"
    return loss, named, hits


def train_all(preset: Preset, seed: int, folder: Path, out: Path, device: torch.device) -> None:
    """Both stages, from the committed LLaVA; writes `out`/qwen2_vl in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    llava = folders.teacher(LlavaForConditionalGeneration, "llava", device)
    model = Qwen2VLForConditionalGeneration(qwen.config(len(LAYERS)))
    graft(llava, model, seed)
    model.to(device)
    train_tower(model, llava, preset, seed, folder, device)
    train_language(model, llava, preset, seed, folder, device)
    save(model, out)


def save(model: Qwen2VLForConditionalGeneration, out: Path) -> None:
    """Model and processor as a stock folder, bfloat16 safetensors."""
    folders.save(model, qwen.processor(), out / "qwen2_vl")
