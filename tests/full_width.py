"""Oracles, peak memory and the price of the hooks at the width of 7B models; a script, no test.

    python tests/full_width.py llava oracles        # exactness at full width, for any family
    python tests/full_width.py qwen2_vl memory      # peak memory of a prefill, pruned and not
    python tests/full_width.py llava overhead       # what the hooks add to a decoded token

Random weights, the first five decoder layers, two layers of the vision tower: what a laptop holds.
Each prints one line of JSON.
"""

import functools
import json
import sys
from time import perf_counter, thread_time

import torch
from oracle import masked
from twins import IDEFICS, NEXT, QWEN, STAR, ask, twin

from qvid_utils.families import FAMILIES
from qvid_utils.families.anyres import count_of_tiles
from qvid_utils.prune import pruned
from qvid_utils.prune.hooks import Engine
from qvid_utils.workbook.cost.rounds import peak_bytes
from qvid_utils.workbook.cost.workloads import config_of, make

LAYERS, TOWER, KEEP = 5, 2, 64


def config_with(model_type: str):
    """At full width, with few layers; of many experts a few are enough."""
    config = config_of(model_type, LAYERS, TOWER)
    if getattr(config.text_config, "num_experts", None):
        config.text_config.num_experts = 16
    return config


def build(model_type: str, dtype: torch.dtype):
    model = make(config_with(model_type), dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def picture_of(model_type: str, config, noise) -> tuple[dict[str, torch.Tensor], int]:
    """One picture as the model takes it, and of how many pieces its tokens are made."""
    vision, random = config.vision_config, functools.partial(torch.randn, generator=noise)
    if model_type in QWEN:  # 16 x 16 cells of 2 x 2 patches
        inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": random(1024, inputs),
            "image_grid_thw": torch.tensor([[1, 32, 32]]),
        }, 1
    side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    if model_type in IDEFICS:
        return {"pixel_values": random(1, 2, 3, side, side)}, 2
    if model_type == "internvl":
        return {"pixel_values": random(2, 3, side, side)}, 2
    if model_type in (*NEXT, "llava_onevision"):
        size = torch.tensor([[side, side + side // 2]])
        tiles = count_of_tiles(config, size[0].tolist())
        made = {"pixel_values": random(1, tiles, 3, side, side), "image_sizes": size}
        alone = {"batch_num_images": torch.tensor([1])} if model_type == "llava_onevision" else {}
        return made | alone, 1
    if model_type == "mistral3":
        size = torch.tensor([[448, 448]])
        return {"pixel_values": random(1, 3, 448, 448), "image_sizes": size}, 1
    name = "pixel_values_images" if model_type == "video_llava" else "pixel_values"
    return {name: random(1, 3, side, side)}, 1


def inputs_of(model_type: str, dtype: torch.dtype):
    """One picture and 60 words; and which of them are the query."""
    config, noise = config_with(model_type), torch.Generator().manual_seed(1)
    pixels, pieces = picture_of(model_type, config, noise)
    token = FAMILIES[model_type].visual_tokens(config)[0]
    sources = iter(FAMILIES[model_type].sources(config, pixels)[token])
    count = sum(block.tokens for _ in range(pieces) for block in next(sources))
    words = torch.randint(10, 1000, (60,), generator=noise).tolist()
    ids = torch.tensor([words[:30] + [token] * count + words[30:]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name, value in pixels.items():
        inputs[name] = value.to(dtype) if value.is_floating_point() else value
    if model_type in QWEN:
        inputs["mm_token_type_ids"] = (ids == token).int()
    query = torch.zeros(ids.shape[1], dtype=torch.bool)
    query[-28:-5] = True
    return inputs, query


def generate(model, inputs, tokens):
    more = {"max_new_tokens": tokens, "do_sample": False, "return_dict_in_generate": True}
    return model.generate(**inputs, **more, output_logits=True)


@torch.no_grad()
def oracles(model_type: str, dtype: torch.dtype = torch.float32, tokens: int = 3) -> dict:
    """keep_all: largest difference when nothing is dropped (0: bit for bit); hidden: dropping
    against hiding, at the prompt's last token; cached: decoding against recomputing without cache;
    effect: how much pruning changes the answer at all."""
    model = build(model_type, dtype)
    inputs, query = inputs_of(model_type, dtype)
    plain = model(**inputs, logits_to_keep=1).logits.float()
    token = FAMILIES[model_type].visual_tokens(model.config)[0]
    visual = int((inputs["input_ids"] == token).sum())
    with pruned(model, "qvid", visual, query=query, layer=3):
        every = model(**inputs, logits_to_keep=1).logits.float()
    with pruned(model, "qvid", KEEP, query=query, layer=3) as trace:
        out = generate(model, inputs, tokens)
    expected, _ = masked(model, inputs, trace.cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    steps = expected[0, start : start + tokens].float()
    got = torch.stack(out.logits, 1)[0].float()
    return {
        "keep_all": float((every - plain).abs().max()),
        "hidden": float((got[0] - steps[0]).abs().max()),
        "cached": float((got[1:] - steps[1:]).abs().max()),
        "effect": float((got[0] - plain[0, 0]).abs().max()),
        "logits_std": float(plain.std()),
        "visual": visual,
        "kept": len(trace.cuts[0].kept),
    }


@torch.no_grad()
def memory(model_type: str, dtype: torch.dtype = torch.bfloat16) -> dict:
    """MiB above the weights at the peak of a prefill (without the language head, which copies its
    weights on some CPUs), and what the cache holds after it."""
    model = build(model_type, dtype)
    inputs, query = inputs_of(model_type, dtype)
    found = {"weights": sum(p.nbytes for p in model.parameters())}

    def prefill(layer: int | None) -> int:
        if layer is None:
            cache = model.base_model(**inputs).past_key_values
        else:
            with pruned(model, "qvid", KEEP, query=query, layer=layer):
                cache = model.base_model(**inputs).past_key_values
        return sum(part.keys.nbytes + part.values.nbytes for part in cache.layers)

    for name, layer in (("full", None), ("layer 3", 3), ("layer 0", 0)):
        found[f"peak, {name}"] = peak_bytes(functools.partial(prefill, layer), "cpu")
        found[f"cache, {name}"] = prefill(layer)
    return {name: round(value / 2**20, 1) for name, value in found.items()}


@torch.no_grad()
def overhead(model_type: str, dtype: torch.dtype = torch.bfloat16, tokens: int = 15) -> dict:
    """What a block adds to a decoded token: time inside the hooks as a share of the token's time at
    7B width; and, with 32 layers of a narrow model where it shows, all that the block adds."""
    spent = [0.0]

    def timed(function):
        def hook(*args, **kwargs):
            start = thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += thread_time() - start

        return hook

    def decode(model, inputs) -> tuple[float, float]:
        """(median seconds of a token, mean seconds inside the hooks)"""
        out = generate(model, inputs, 2)
        cache, ids, took = out.past_key_values, out.sequences[:, -1:], []
        spent[0] = 0.0
        for step in range(tokens):
            place = torch.tensor([[inputs["input_ids"].shape[1] + step]])
            start = thread_time()
            model(input_ids=ids, past_key_values=cache, position_ids=place)
            took.append(thread_time() - start)
        return sorted(took)[tokens // 2], spent[0] / tokens

    (wide, query), narrow = inputs_of(model_type, dtype), ask(STAR, model_type=model_type)
    model, deep = build(model_type, dtype), twin(model_type, layers=32)
    inside, outside = [], []
    for _ in range(5):  # in turn, so that a busy machine slows both
        outside.append(decode(deep, narrow)[0])
        with pruned(deep, "qvid", 7, layer=3):
            inside.append(decode(deep, narrow)[0])
    originals = {n: getattr(Engine, n) for n in ("refuse", "begin", "score_first", "enter")}
    try:
        for name, function in originals.items():
            setattr(Engine, name, timed(function))
        with pruned(model, "qvid", KEEP, query=query, layer=3):
            token, hooks = decode(model, wide)
    finally:
        for name, function in originals.items():
            setattr(Engine, name, function)
    return {
        "token_ms": round(token * 1e3, 1),
        "hooks_us": round(hooks * 1e6, 1),
        "share_percent": round(100 * hooks / token, 3),
        "layers": LAYERS,
        "added_us_32_layers": round((min(inside) - min(outside)) * 1e6, 1),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    family, what, *more = sys.argv[1:]
    assert family in FAMILIES
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    task = {"oracles": oracles, "memory": memory, "overhead": overhead}[what]
    dtype = kinds[more[0] if more else "float32" if task is oracles else "bfloat16"]
    started = perf_counter()
    result = task(family, dtype)
    result |= {
        "family": family,
        "dtype": str(dtype)[6:],
        "seconds": round(perf_counter() - started),
    }
    print(json.dumps({"task": what, **result}))
