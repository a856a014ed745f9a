"""The oracles on another device: `check --device cuda` runs this file there.

    QVID_DEVICE=cuda python -m pytest tests/prune/test_on_device.py

Without QVID_DEVICE it runs on the CPU, on one family and in float32: all else is in the other
files. QVID_DEVICE_LIMIT=N takes so many settings. In 16 bits logits agree to 3 % of the largest.
"""

import importlib.util
import os

import pytest
import torch
from oracle import check_decoded, check_hidden
from twins import DOTS, STAR, TALK, ask, twin

from qvid_utils import pruned
from qvid_utils.families import FAMILIES

DEVICE = torch.device(os.environ.get("QVID_DEVICE", "cpu"))
LIMIT = os.environ.get("QVID_DEVICE_LIMIT")
HALF = (torch.float16, torch.bfloat16)
FLASH = importlib.util.find_spec("flash_attn") is not None
KEEP = 5


def settings():
    """(family, dtype, kernel): all of them where a device is named, else one."""
    if "QVID_DEVICE" not in os.environ:
        return [("llava", torch.float32, "sdpa")]
    every = [(f, t, k) for f in FAMILIES for t in (torch.float32, *HALF) for k in ("sdpa", "eager")]
    if FLASH:
        every += [(family, dtype, "flash_attention_2") for family in FAMILIES for dtype in HALF]
    return every[: int(LIMIT)] if LIMIT else every


@pytest.fixture(
    params=settings(), ids=lambda one: f"{one[0]}-{str(one[1])[6:]}-{one[2]}", scope="module"
)
def setting(request):
    """(model on the device, a maker of inputs there, what logits may differ by, the kernel)."""
    family, dtype, kernel = request.param
    model = twin(family, attention=kernel).to(DEVICE, dtype)

    def inputs(*prompts):
        made = ask(*prompts, model_type=family)
        return {
            name: value.to(DEVICE, dtype) if value.is_floating_point() else value.to(DEVICE)
            for name, value in made.items()
        }

    with torch.inference_mode():
        largest = float(model(**inputs(STAR)).logits.abs().max())
    return model, inputs, (1e-4 if dtype == torch.float32 else 0.03 * largest), kernel


def counts(model, inputs):
    ids = inputs["input_ids"]
    visual = torch.isin(ids, ids.new_tensor(FAMILIES[model.config.model_type].visual_tokens(
        model.config)))  # fmt: skip
    return visual.sum(1).tolist()


@torch.inference_mode()
def test_keeping_everything_changes_no_bit(setting):
    model, inputs, _, _ = setting
    prompts = inputs(STAR)
    whole = model(**prompts).logits
    with pruned(model, "qvid", counts(model, prompts)[0], layer=2):
        assert torch.equal(model(**prompts).logits, whole)


@torch.inference_mode()
def test_dropped_tokens_are_as_hidden_ones(setting):
    model, inputs, exact, kernel = setting
    if kernel == "flash_attention_2":
        pytest.skip("flash attention takes no mask of what is hidden; the other kernels do")
    prompts = inputs(STAR, DOTS)
    with pruned(model, "qvid", KEEP, layer=2) as trace:
        logits = model(**prompts).logits
    assert len(trace.cuts) == 2
    with DEVICE:
        check_hidden(model, prompts, trace.cuts, logits, exact)


@torch.inference_mode()
def test_decoding_with_the_cache_is_recomputing(setting):
    model, inputs, exact, kernel = setting
    if kernel == "flash_attention_2":
        pytest.skip("flash attention takes no mask of what is hidden; the other kernels do")
    with DEVICE:
        check_decoded(model, inputs(STAR), "qvid", KEEP, 2 * exact)


@torch.inference_mode()
def test_a_batch_row_is_the_row_alone(setting):
    model, inputs, exact, _ = setting
    with pruned(model, "qvid", KEEP, layer=2) as trace:
        together = model(**inputs(STAR, DOTS, TALK)).logits[:, -1]
    kept = {cut.row: cut.kept for cut in trace.cuts}
    for row, prompt in enumerate((STAR, DOTS, TALK)):
        with pruned(model, "qvid", KEEP, layer=2) as trace:
            alone = model(**inputs(prompt)).logits[0, -1]
        if trace.cuts:
            same = set(kept[row].tolist()) & set(trace.cuts[0].kept.tolist())
            assert len(same) >= (KEEP if exact < 1e-3 else KEEP - 1)  # rounding may swap a tie
            if len(same) < KEEP:
                continue
        assert (together[row] - alone).abs().max() <= 2 * exact


@torch.inference_mode()
def test_a_static_cache_answers_as_a_growing_one(setting):
    model, inputs, exact, kernel = setting
    if kernel == "flash_attention_2":
        pytest.skip("transformers gives flash attention no static cache")
    prompts, options = inputs(STAR), {"output_logits": True, "return_dict_in_generate": True}
    options |= {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    found = []
    for cache in (None, "static"):
        with pruned(model, "qvid", KEEP, layer=2):
            out = model.generate(**prompts, **options, cache_implementation=cache)
        found.append(out.logits[0])
    assert (found[0] - found[1]).abs().max() <= exact
