"""Train the embedded model from nothing: `python data/tiny/make/train.py`.

The stages are those of real LLaVA:

1. *Tower*: the CLIP pair. Captions against pictures (contrastive, through the class token), and
   what lies under each patch (dense labels, read linearly from the layer that LLaVA reads).
   Then the text tower goes on alone, on captions and questions, while the pictures' side stays.
2. *Alignment*: projector and word embeddings, so that a projected patch points at its words.
3. *Language model*: questions about pictures. One sequence holds a picture and many questions, each
   of which sees the picture and itself only. Besides the answers, the words of a question that name
   a kind or a colour must tell, halfway up, what and where it is: with this grounding loss,
   the circuits that look things up appear within some hundred steps.

Every batch is drawn from (seed, stage, step), so a run killed at any moment resumes from its last
checkpoint and ends with the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import architecture
import folders
import numpy as np
import torch
import world
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import AttentionInterface, CLIPModel, LlavaForConditionalGeneration

from qvid_utils.paths import DATA

NONE = len(world.KINDS)  # the label of a patch that shows ground
COLOUR_NAMES = list(world.COLOURS)
SIDE = world.SIDE // architecture.PATCH
PREFIX = 2 + SIDE * SIDE  # "<s> USER:" and the picture
WORD = {word: i for i, word in enumerate(architecture.vocabulary())}
KIND_WORDS = [WORD[kind] for kind in world.KINDS]
COLOUR_WORDS = [WORD[colour] for colour in COLOUR_NAMES]
FACTS = len(world.KINDS) + len(COLOUR_NAMES) + 2 * world.BOARD  # what grounding asks of a word

GROWN = {  # out of the trained LLaVA, the last out of the one before
    "qwen2_vl": "grow",
    "llava_onevision": "grow_onevision",
    "video_llava": "grow_video_llava",
}


@dataclass(frozen=True)
class Preset:
    """Steps, batches (pictures) and peak rates of the three stages."""

    tower: int = 1200
    tower_batch: int = 64
    text: int = 1000
    text_batch: int = 128
    align: int = 300
    language: int = 2800
    pictures: int = 16
    questions: int = 14
    rate: float = 2e-3
    ground_layer: int = 5
    save: int = 200  # language steps between checkpoints
    easy: int = 600  # language steps on three to five things


PRESETS = {
    "cpu": Preset(),
    "gpu": Preset(tower=4000, tower_batch=256, align=600, language=20000, pictures=64),
}

# How often a type of question is drawn, from which language step on. The one-step types feed the
# circuits of the others; places and counts, learned last, get the larger share once things
# are found. `where` and `side` ask openly what `half` and `relation` ask as yes or no: the yes/no
# forms are an exclusive or of the word and the place, and stay at chance without the open ones.
FINDING = {
    "existence": 1.2,
    "colour": 1.0,
    "shape": 1.0,
    "letter": 1.0,
    "is_colour": 0.8,
    "half": 0.8,
    "relation": 1.3,
    "count": 0.8,
    "is_count": 1.0,
    "same_colour": 1.2,
    "two_step": 1.3,
    "choice": 1.2,
    "two_step_choice": 1.3,
}
PLACES = {
    **FINDING,
    "colour": 0.5,
    "shape": 0.5,
    "letter": 0.6,
    "two_step": 0.7,
    "same_colour": 0.8,
    "half": 1.5,
    "relation": 2.0,
    "count": 1.2,
    "is_count": 1.5,
    "where": 1.5,
}
MIXES = {0: FINDING, 1200: PLACES, 1400: {**PLACES, "where": 0.8, "side": 2.0}}


# ------------------------------------------------------------------------------------ batches
def pictures(
    rng: np.random.Generator,
    number: int,
    fewest: int = 5,
    most: int = 8,
    board: world.Board = (world.BOARD, world.BOARD),
):
    """`number` scenes, on a part of the board, and their pixels, float32 (number, 3, 96, 96) in
    [-1, 1]."""
    scenes = [world.draw_scene(rng, fewest, most, board) for _ in range(number)]
    return scenes, pixels_of(scenes, rng)


def pixels_of(scenes: list[world.Scene], rng: np.random.Generator) -> Tensor:
    """Pictures of these scenes, float32 (B, 3, 96, 96) in [-1, 1]."""
    pixels = np.stack([world.render(scene, rng) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_labels(scenes: list[world.Scene]) -> tuple[Tensor, Tensor]:
    """Kind and colour under every patch, (B, 144) each; the last label is "ground"."""
    kinds = torch.full((len(scenes), SIDE, SIDE), NONE)
    colours = torch.full((len(scenes), SIDE, SIDE), len(COLOUR_NAMES))
    for b, scene in enumerate(scenes):
        for t in scene:
            spot = (b, slice(2 * t.row, 2 * t.row + 2), slice(2 * t.column, 2 * t.column + 2))
            kinds[spot] = world.KINDS.index(t.kind)
            colours[spot] = COLOUR_NAMES.index(t.colour)
    return kinds.flatten(1), colours.flatten(1)


def whole_labels(scenes: list[world.Scene]) -> Tensor:
    """Which (kind, colour) pairs, kinds and colours a picture holds: (B, 16·8 + 16 + 8)."""
    pairs = torch.zeros(len(scenes), NONE, len(COLOUR_NAMES))
    for b, scene in enumerate(scenes):
        for t in scene:
            pairs[b, world.KINDS.index(t.kind), COLOUR_NAMES.index(t.colour)] = 1
    return torch.cat([pairs.flatten(1), pairs.amax(2), pairs.amax(1)], 1)


def caption(scene: world.Scene, rng: np.random.Generator) -> str:
    """Two or three things of the scene in words, with or without their colours."""
    chosen = rng.permutation(len(scene))[: int(rng.integers(2, 4))]
    named = [
        f"a {scene[i].colour} {scene[i].name}" if rng.random() < 0.8 else f"a {scene[i].name}"
        for i in chosen
    ]
    return " and ".join(named)


def facts(scenes: list[world.Scene], ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the naming words of (B, Q, t) stand for in their pictures, many-hot (n, FACTS), and
    which words name something, bool (B, Q, t).

    A kind's facts are its colours, rows and columns (and itself, if it is there); a colour's facts
    are the kinds that have it, and their places.
    """
    table = torch.zeros(len(scenes), len(WORD), FACTS)
    first_colour = len(world.KINDS)
    first_row = first_colour + len(COLOUR_NAMES)
    for b, scene in enumerate(scenes):
        for t in scene:
            kind, colour = world.KINDS.index(t.kind), COLOUR_NAMES.index(t.colour)
            shown = [
                kind,
                first_colour + colour,
                first_row + t.row,
                first_row + world.BOARD + t.column,
            ]
            table[b, KIND_WORDS[kind], shown] = 1
            table[b, COLOUR_WORDS[colour], shown] = 1
    naming = torch.isin(ids, torch.tensor(KIND_WORDS + COLOUR_WORDS))
    return table[naming.nonzero()[:, 0], ids[naming]], naming


@dataclass
class Packed:
    """Questions about a batch of pictures, padded at the right to one length t: (B, Q, t)."""

    ids: Tensor  # question words, then the answer
    target: Tensor  # the next word where it is an answer or the end, else -100
    kind: list[str]  # the type of each question, in order


def pack(scenes, rng: np.random.Generator, questions: int, tok, mix: dict[str, float]) -> Packed:
    """Ask `questions` questions of every scene."""
    names, odds = list(mix), np.array(list(mix.values()))
    odds /= odds.sum()
    asked: list[world.Question] = []
    for n, scene in enumerate(scenes, 1):
        while len(asked) < n * questions:
            found = world.ask(str(rng.choice(names, p=odds)), scene, rng)
            if found is not None:
                asked.append(found)
    rows = [encode(question, tok) for question in asked]
    shape = (len(rows), max(map(len, rows)))
    ids, target = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        target[n, len(row) - 2] = row[-1]
        target[n, len(row) - 1] = WORD["</s>"]
    shape = (len(scenes), questions, -1)
    return Packed(ids.view(shape), target.view(shape), [question.kind for question in asked])


def encode(question: world.Question, tok) -> list[int]:
    words = tok(f"{question.text} ASSISTANT: {question.answer}", add_special_tokens=False)
    return words["input_ids"]


def packed_attention(
    module, query, key, value, attention_mask, scaling, questions=1, prefix=PREFIX, **_
):
    """Attention of one picture and many questions in a row, without the blocks that see nothing.

    query, key, value (B, H, P + Q·t, d_h), fewer H of key and value where heads share them: a
    prefix of P, which sees itself causally, then Q questions of t words, each of which sees the
    prefix and, causally, itself. Equal to a block mask, at a third of its cost. Padding stands at a
    question's end, where nothing looks at it.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    front = (lambda x: x[:, :, :prefix]), (lambda x: x[:, :, prefix:])
    picture = F.scaled_dot_product_attention(
        *(front[0](x) for x in (query, key, value)), is_causal=True, scale=scaling
    )
    q, k, v = (front[1](x).unflatten(2, (questions, -1)) for x in (query, key, value))
    words = q.shape[3]
    far = (front[1](query) @ front[0](key).mT).unflatten(2, (questions, words))
    near = q @ k.mT
    ahead = torch.ones(words, words, dtype=torch.bool, device=q.device).triu(1)
    near = near.masked_fill(ahead, -torch.inf)
    weights = (torch.cat([far, near], -1) * scaling).softmax(-1).to(value.dtype)
    out = (weights[..., :prefix].flatten(2, 3) @ front[0](value)) + (
        weights[..., prefix:] @ v
    ).flatten(2, 3)
    return torch.cat([picture, out], 2).transpose(1, 2).contiguous(), None


# ------------------------------------------------------------------------------------- helpers
class Grounder(nn.Module):
    """The grounding loss's reader: a norm and a linear map, thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.read = nn.RMSNorm(width), nn.Linear(width, FACTS)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.read(self.norm(hidden))


def optimisers(modules: dict[str, nn.Module], rate: float, muon: bool) -> list:
    """Muon for the decoder's matrices (it needs half the steps here), AdamW for the rest."""
    matrices, rest = [], []
    for name, module in modules.items():
        for key, weight in module.named_parameters():
            is_matrix = weight.ndim == 2 and muon and name == "language" and "layers." in key
            (matrices if is_matrix else rest).append(weight)
    both = [torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)]
    if matrices:
        both.append(
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        )
    return both


def set_rate(optimisers: list, peak: float, step: int, steps: int, warm: int) -> None:
    """Linear warm-up, flat, then linear decay to zero over the last third."""
    share = min((step + 1) / warm, 1.0, 3 * (1 - step / steps))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = peak * share


class Checkpoint:
    """State of one stage on disk: written beside, then renamed, so that it is always whole."""

    def __init__(self, folder: Path, stage: str):
        self.path = folder / f"{stage}.pt"

    def save(self, step: int, parts: dict) -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"step": step, **state}, self.path.with_suffix(".part"))
        os.replace(self.path.with_suffix(".part"), self.path)

    def load(self, parts: dict) -> int:
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return state["step"]


def generator(seed: int, stage: int, step: int) -> np.random.Generator:
    return np.random.default_rng([seed, stage, step])


def autocast(device: torch.device):
    return torch.autocast(device.type, torch.bfloat16)


# -------------------------------------------------------------------------------------- stages
def train_tower(clip: CLIPModel, preset: Preset, seed: int, folder: Path, device) -> None:
    """Stage 1. Loss: contrastive + what is under each patch + what the whole picture holds."""
    width = clip.config.vision_config.hidden_size
    dense = nn.Linear(width, NONE + 1 + len(COLOUR_NAMES) + 1 + 2 * world.BOARD).to(device)
    whole = nn.Linear(width, NONE * len(COLOUR_NAMES) + NONE + len(COLOUR_NAMES)).to(device)
    modules = {"clip": clip, "dense": dense, "whole": whole}
    optimiser = optimisers(modules, 1e-3, muon=False)
    parts = {**modules, "adamw": optimiser[0]}
    checkpoint, tok = Checkpoint(folder, "tower"), architecture.clip_tokenizer()
    rows = torch.arange(SIDE).repeat_interleave(SIDE).to(device) // 2
    columns = torch.arange(SIDE).repeat(SIDE).to(device) // 2
    sizes = [NONE + 1, len(COLOUR_NAMES) + 1, world.BOARD, world.BOARD]
    bar = trange(checkpoint.load(parts), preset.tower, desc="tower", mininterval=10)
    for step in bar:
        rng = generator(seed, 1, step)
        scenes, pixels = pictures(rng, preset.tower_batch)
        words = tok([caption(s, rng) for s in scenes], padding=True, return_tensors="pt")
        kinds, colours = (labels.to(device) for labels in patch_labels(scenes))
        set_rate(optimiser, 1e-3, step, preset.tower, 100)
        with autocast(device):
            out = clip(
                pixel_values=pixels.to(device),
                **words.to(device),
                return_loss=True,
                output_hidden_states=True,
            )
            hidden = out.vision_model_output.hidden_states[-2].float()
        read = dense(hidden[:, 1:]).split(sizes, dim=-1)
        truth = (kinds, colours, rows.expand_as(kinds), columns.expand_as(kinds))
        patch = sum(
            F.cross_entropy(r.flatten(0, 1), t.flatten()) for r, t in zip(read, truth, strict=True)
        )
        held = F.binary_cross_entropy_with_logits(
            whole(hidden[:, 0]), whole_labels(scenes).to(device)
        )
        loss = out.loss + 3 * patch + 10 * held
        step_all(loss, optimiser, modules)
        if step % 20 == 0:
            thing = kinds < NONE
            right = (read[0].argmax(-1) == kinds)[thing].float().mean()
            right_colour = (read[1].argmax(-1) == colours)[thing].float().mean()
            match = out.logits_per_image.argmax(1) == torch.arange(len(scenes), device=device)
            bar.set_postfix_str(
                f"clip {out.loss:.2f} match {match.float().mean():.2f} patch {patch:.2f} "
                f"held {held:.3f} kind {right:.3f} colour {right_colour:.3f}"
            )
        if (step + 1) % 100 == 0:
            checkpoint.save(step + 1, parts)


def train_text(clip: CLIPModel, preset: Preset, seed: int, folder: Path, device) -> None:
    """Stage 1, second half. Loss: contrastive; the vision tower stays, for LLaVA reads it."""
    clip.vision_model.requires_grad_(False)
    modules = {"clip": clip}
    optimiser = optimisers(modules, 1e-3, muon=False)
    parts = {**modules, "adamw": optimiser[0]}
    checkpoint, tok = Checkpoint(folder, "text"), architecture.clip_tokenizer()
    bar = trange(checkpoint.load(parts), preset.text, desc="text tower", mininterval=10)
    for step in bar:
        rng = generator(seed, 4, step)
        scenes, pixels = pictures(rng, preset.text_batch)
        said = [caption(s, rng) if rng.random() < 0.6 else asked(s, rng) for s in scenes]
        words = tok(said, padding=True, return_tensors="pt").to(device)
        set_rate(optimiser, 1e-3, step, preset.text, 100)
        with autocast(device):
            out = clip(pixel_values=pixels.to(device), **words, return_loss=True)
        step_all(out.loss, optimiser, modules)
        if step % 20 == 0:
            match = out.logits_per_image.argmax(1) == torch.arange(len(scenes), device=device)
            bar.set_postfix_str(f"clip {out.loss:.2f} match {match.float().mean():.2f}")
        if (step + 1) % 100 == 0:
            checkpoint.save(step + 1, parts)
    clip.vision_model.requires_grad_(True)


def asked(scene: world.Scene, rng: np.random.Generator) -> str:
    """A question about the scene without its answer format: what a text tower is asked to match."""
    while True:
        question = world.ask(
            str(rng.choice(["colour", "is_colour", "shape", "letter"])), scene, rng
        )
        if question is not None:
            return question.text.removesuffix(world.SHORT_TAIL).strip()


def step_all(loss: Tensor, optimiser: list, modules: dict[str, nn.Module]) -> None:
    loss.backward()
    for module in modules.values():
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for one in optimiser:
        one.step()
        one.zero_grad(set_to_none=True)


def patch_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What LLaVA's projector is given: the tower's last layer but one, without the class token."""
    with torch.no_grad():
        out = model.model.vision_tower(pixels, output_hidden_states=True)
    return out.hidden_states[model.config.vision_feature_layer][:, 1:]


def align(model: LlavaForConditionalGeneration, preset: Preset, seed: int, folder: Path, device):
    """Stage 2. A projected patch and the words of its kind and colour get a high dot product."""
    projector = model.model.multi_modal_projector
    words = model.get_input_embeddings()
    modules = {"projector": projector, "words": words}
    optimiser = optimisers(modules, 2e-3, muon=False)
    parts = {**modules, "adamw": optimiser[0]}
    checkpoint = Checkpoint(folder, "align")
    bar = trange(checkpoint.load(parts), preset.align, desc="alignment", mininterval=10)
    for step in bar:
        scenes, pixels = pictures(generator(seed, 2, step), 32)
        kinds, colours = (labels.to(device) for labels in patch_labels(scenes))
        set_rate(optimiser, 2e-3, step, preset.align, 50)
        with autocast(device):
            seen = projector(patch_features(model, pixels.to(device))).float()
        thing = kinds < NONE
        kind = seen[thing] @ words.weight[KIND_WORDS].T
        colour = seen[thing] @ words.weight[COLOUR_WORDS].T
        loss = F.cross_entropy(kind, kinds[thing]) + F.cross_entropy(colour, colours[thing])
        loss = loss + 1e-3 * seen[~thing].square().mean()  # ground points nowhere
        step_all(loss, optimiser, modules)
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {loss:.3f}")
        if step + 1 == preset.align:
            with torch.no_grad():  # to the scale at which the decoder starts
                last = projector.linear_2
                scale = 0.06 / seen.std()
                last.weight *= scale
                last.bias *= scale
                words.weight *= 0.06 / words.weight[KIND_WORDS + COLOUR_WORDS].std()
            checkpoint.save(step + 1, parts)


def train_language(
    model, preset: Preset, seed: int, folder: Path, device, until: int | None = None
):
    """Stage 3. Loss: the answers, and the facts that a question's words must know halfway up."""
    decoder, head = model.model.language_model, model.lm_head
    grounder = Grounder(decoder.config.hidden_size).to(device)
    modules = {
        "language": decoder,
        "head": head,
        "projector": model.model.multi_modal_projector,
        "grounder": grounder,
    }
    optimiser = optimisers(modules, preset.rate, muon=True)
    parts = {**modules, "adamw": optimiser[0], "muon": optimiser[1]}
    checkpoint, tok = Checkpoint(folder, "language"), architecture.tokenizer()
    start = torch.tensor([WORD["<s>"], WORD["USER:"]], device=device)
    marks: dict[str, list[float]] = {kind: [] for kind in world.QUESTIONS}
    AttentionInterface.register("packed", packed_attention)
    kernel, decoder.config._attn_implementation = decoder.config._attn_implementation, "packed"
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)  # the kernel needs none
    bar = trange(checkpoint.load(parts), until or preset.language, desc="language", mininterval=10)
    for step in bar:
        rng = generator(seed, 3, step)
        easy = step < preset.easy
        scenes, pixels = pictures(rng, preset.pictures, *((3, 5) if easy else (5, 8)))
        mix = MIXES[max(start for start in MIXES if start <= step)]
        packed = pack(scenes, rng, preset.questions, tok, mix)
        set_rate(optimiser, preset.rate, step, preset.language, 200)
        truth, naming = facts(scenes, packed.ids)
        ids = packed.ids.to(device).flatten(1)
        with autocast(device):
            seen = modules["projector"](patch_features(model, pixels.to(device)))
            prefix = decoder.embed_tokens(start).expand(len(scenes), -1, -1)
            stream = torch.cat([prefix, seen.to(prefix.dtype), decoder.embed_tokens(ids)], 1)
            words = torch.arange(packed.ids.shape[2]).repeat(preset.questions) + PREFIX
            places = torch.cat([torch.arange(PREFIX), words]).to(device)
            out = decoder(
                inputs_embeds=stream,
                attention_mask=no_mask,
                position_ids=places.expand(len(scenes), -1),
                use_cache=False,
                output_hidden_states=True,
                questions=preset.questions,
            )
        answers = (packed.target >= 0).flatten(1)
        logits = head(out.last_hidden_state[:, PREFIX:][answers.to(device)]).float()
        target = packed.target.flatten(1)[answers].to(device)
        halfway = out.hidden_states[preset.ground_layer][:, PREFIX:]
        halfway = halfway[naming.flatten(1).to(device)].float()
        ground = F.binary_cross_entropy_with_logits(grounder(halfway), truth.to(device))
        answer = F.cross_entropy(logits, target)
        step_all(answer + 10.0 * ground, optimiser, modules)
        with torch.no_grad():
            end = target == WORD["</s>"]
            right = (logits.argmax(-1) == target)[~end].tolist()
        for kind, hit in zip(packed.kind, right, strict=True):
            marks[kind].append(hit)
        if (step + 1) % 50 == 0:
            line = " ".join(f"{k} {np.mean(v or [0]):.2f}" for k, v in marks.items())
            with open(folder / "language.log", "a") as log:
                log.write(f"{step + 1} answer {answer:.3f} ground {ground:.4f} {line}\n")
            marks = {kind: [] for kind in world.QUESTIONS}
            bar.set_postfix_str(f"answer {answer:.3f} ground {ground:.4f}")
        if (step + 1) % preset.save == 0:
            checkpoint.save(step + 1, parts)
    decoder.config._attn_implementation = kernel


def train(preset: Preset, seed: int, folder: Path, out: Path, device: torch.device) -> None:
    """All stages in turn; writes `out`/llava and `out`/clip in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    clip = CLIPModel(architecture.clip_config()).to(device)
    model = LlavaForConditionalGeneration(architecture.llava_config()).to(device)
    train_tower(clip, preset, seed, folder, device)
    train_text(clip, preset, seed, folder, device)
    model.model.vision_tower.load_state_dict(vision_state(clip, model))
    model.model.vision_tower.requires_grad_(False)
    align(model, preset, seed, folder, device)
    train_language(model, preset, seed, folder, device)
    save(model, clip, out)


def vision_state(clip: CLIPModel, model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The trained tower's weights under the names that LLaVA's tower uses."""
    wanted = model.model.vision_tower.state_dict().keys()
    state = clip.vision_model.state_dict()
    if set(wanted) == set(state):
        return state
    return {f"vision_model.{name}": weight for name, weight in state.items()}


def save(model: LlavaForConditionalGeneration, clip: CLIPModel, out: Path) -> None:
    """Model, processor and CLIP pair as stock folders, bfloat16 safetensors."""
    folders.save(model, architecture.processor(), out / "llava")
    folders.save(clip, architecture.clip_processor(), out / "clip")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument(
        "--preset", choices=PRESETS, help="default: gpu where there is one, else cpu"
    )
    words.add_argument("--family", choices=("llava", *GROWN), default="llava")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--checkpoints", type=Path, default=Path("runs/tiny"), help="for resuming")
    words.add_argument("--out", type=Path, default=DATA / "tiny")
    chosen = words.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = chosen.preset or ("gpu" if device.type == "cuda" else "cpu")
    started = time.perf_counter()
    if chosen.family == "llava":
        train(PRESETS[size], chosen.seed, chosen.checkpoints, chosen.out, device)
    else:
        grow = import_module(f".{GROWN[chosen.family]}", __package__)  # uses this module's parts
        grow.train_all(grow.PRESETS[size], chosen.seed, chosen.checkpoints, chosen.out, device)
    print(f"trained in {(time.perf_counter() - started) / 60:.0f} minutes; written to {chosen.out}")


if __name__ == "__main__":
    main()
