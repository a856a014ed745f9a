"""Methods inside the vision tower: ToMe and downsampling against towers written out by hand."""

import copy
import functools
import itertools
import re
from dataclasses import replace

import pytest
import torch
from merged import furthest, shorter
from torch.nn import functional
from twins import (
    BEAMS_SHARE,
    BOTH,
    DOTS,
    FILM,
    FILMS,
    MIXED,
    STAR,
    TALK,
    Prompt,
    ask,
    built,
    cases,
    twin,
)

from qvid_utils.algebra.cuts import Infeasible
from qvid_utils.algebra.tome import Downsampling, ToMe, merge_counts
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.families.calls import pictures_once
from qvid_utils.methods import METHODS, method
from qvid_utils.prune import pruned

EXACT = 1e-5
KEEP = 6  # of 16: 2 × 3 patches; merging in two layers leaves at least 4
PAIR = Prompt("are the two blue ?", pictures=2)
KERNELS = ("sdpa", "eager")
kernels = pytest.mark.parametrize("kernel", KERNELS)
both = pytest.mark.parametrize("name", ["tome", "downsampling"])
clip_families = pytest.mark.parametrize("family", ["llava", "video_llava"])
MORE = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [4, 5]}


def hook_count(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def refused(match, error=ValueError):
    return pytest.raises(error, match=match)


# ---------------------------------------------------------------------------- the towers by hand


def grouped(x, keys, sizes, r):
    unit = functional.normalize(keys, dim=-1)
    best = {
        i: max((float(unit[i] @ unit[j]), -j) for j in range(1, len(x), 2))
        for i in range(2, len(x), 2)
    }
    gone = sorted(best, key=lambda i: -best[i][0])[:r]
    groups = [[i] for i in range(0, len(x), 2) if i not in gone]
    groups += [[j] + [i for i in gone if -best[i][1] == j] for j in range(1, len(x), 2)]
    x = torch.stack([sum(x[i] * sizes[i] for i in group) for group in groups])
    sizes = [sum(sizes[i] for i in group) for group in groups]
    return x / torch.tensor(sizes)[:, None], sizes


def merged_tower(tower, pixels, left, proportional=True):
    """What two layers of the twin's tower give for one picture, (left, D), token by token."""
    x = tower.pre_layrnorm(tower.embeddings(pixels[None]))[0]
    sizes = [1] * len(x)
    for layer, r in zip(tower.encoder.layers, merge_counts(len(x), left, 2), strict=False):
        attention, normed = layer.self_attn, layer.layer_norm1(x)
        q, k, v = (
            part(normed).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        logits = q @ k.mT / attention.head_dim**0.5
        if proportional:
            logits = logits + torch.tensor(sizes).log()
        mixed = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + attention.out_proj(mixed)
        if r:
            x, sizes = grouped(x, k.mean(0), sizes, r)
        x = x + layer.mlp(layer.layer_norm2(x))
    return x


def small_tower(tower, pixels, rows, cols):
    """Two layers on the picture in rows × cols patches, positions interpolated: (1 + n, D)."""
    small = functional.interpolate(
        pixels[None], size=(6 * rows, 6 * cols), mode="bicubic", antialias=True
    )
    table = tower.embeddings.position_embedding.weight
    places = table[1:].T.reshape(1, -1, 4, 4)
    places = functional.interpolate(places, size=(rows, cols), mode="bicubic")
    patches = tower.embeddings.patch_embedding(small).flatten(2)[0].T
    x = torch.cat([tower.embeddings.class_embedding[None], patches])
    x = tower.pre_layrnorm(x + torch.cat([table[:1], places.flatten(2)[0].T]))[None]
    for layer in tower.encoder.layers[:2]:
        x = layer(x, None)
    return x[0]


GRIDS = {3: None, 4: (2, 2), 5: None, 6: (2, 3), 8: (2, 4), 9: (3, 3), 12: (3, 4), 16: (4, 4)}


def by_hand(model, name, tower, pixels, share, frame=False, **more):
    """The K tokens of one picture (of a frame, the class token among them), projected."""
    if name == "tome":
        x = merged_tower(tower, pixels, share + (not frame), **more)
    else:
        x = small_tower(tower, pixels, *GRIDS[share - frame])
    return model.base_model.multi_modal_projector(x if frame else x[1:])


# --------------------------------------------------------------------------------- what comes out


@kernels
@both
@torch.no_grad()
def test_the_model_sees_what_the_tower_by_hand_gives(name, kernel):
    """Pictures that get equal and unequal shares; the language model on the merged sequence."""
    model = built(attention=kernel)
    tower = model.base_model.vision_tower
    keep = 9 if name == "tome" else 12  # 5 + 4, and 6 + 6: seven is no grid
    inputs = ask(BOTH, TALK, STAR, PAIR)
    shares = {"tome": (5, 4, 9, 5, 4), "downsampling": (6, 6, 12, 6, 6)}[name]
    parts = [
        by_hand(model, name, tower, pixels, share)
        for pixels, share in zip(inputs["pixel_values"], shares, strict=True)
    ]
    visual = [torch.cat(parts[:2]), None, parts[2], torch.cat(parts[3:])]
    expected = shorter(model, inputs, visual)
    with pruned(model, name, keep) as trace:
        logits = model(**inputs).logits
    assert furthest(logits, expected) <= EXACT
    assert trace.mean_tokens == [keep, 0, keep, keep]
    slots = [*range(shares[0]), *range(16, 16 + shares[1])]
    assert [cut.kept.tolist() for cut in trace.cuts] == [slots, list(range(keep)), slots]
    assert {cut.layer for cut in trace.cuts} == {0}


@kernels
@both
@torch.no_grad()
def test_frames_of_a_video_share_the_budget(name, kernel):
    """Two frames of 17 tokens, the class token among them: each by its own tower pass.

    In float64: in float32 the order of the sums alone is worth 1.2e-5 on some processors."""
    model = copy.deepcopy(built("video_llava", attention=kernel)).double()
    inputs = ask(FILM, model_type="video_llava")
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].double()
    tower, frames = model.base_model.video_tower, inputs["pixel_values_videos"][0]
    keep, shares = {"tome": (13, (7, 6)), "downsampling": (14, (7, 7))}[name]
    parts = [
        by_hand(model, name, tower, pixels, share, frame=True)
        for pixels, share in zip(frames, shares, strict=True)
    ]
    with pruned(model, name, keep):
        logits = model(**inputs).logits
    assert furthest(logits, shorter(model, inputs, [torch.cat(parts)])) <= EXACT


@torch.no_grad()
def test_each_kind_goes_through_its_own_tower():
    model, inputs = built("video_llava"), ask(MIXED, model_type="video_llava")
    image, video = model.base_model.image_tower, model.base_model.video_tower
    frames = inputs["pixel_values_videos"][0]
    parts = [by_hand(model, "tome", image, inputs["pixel_values_images"][0], 6)]
    parts += [by_hand(model, "tome", video, pixels, 6, frame=True) for pixels in frames]
    with pruned(model, "tome", 18):
        logits = model(**inputs).logits
    assert furthest(logits, shorter(model, inputs, [torch.cat(parts)])) <= EXACT


@kernels
@torch.no_grad()
def test_every_count_of_merging_is_exact(kernel):
    model, inputs = built(attention=kernel), ask(STAR)
    tower, pixels = model.base_model.vision_tower, inputs["pixel_values"][0]
    for keep, proportional in itertools.product(range(4, 17), (True, False)):
        features = by_hand(model, "tome", tower, pixels, keep, proportional=proportional)
        assert len(features) == keep
        with pruned(model, "tome", keep, encode=ToMe(proportional)) as trace:
            logits = model(**inputs).logits
        assert furthest(logits, shorter(model, inputs, [features])) <= EXACT
        assert len(trace.cuts[0].kept) == keep
    with pruned(model, "tome", 6) as trace:
        weighted = model(**inputs).logits
    with pruned(model, "tome", 6, encode=ToMe(proportional=False)):
        assert not torch.allclose(model(**inputs).logits, weighted, atol=1e-3)


@torch.no_grad()
def test_every_count_of_a_smaller_picture_is_exact_or_refused():
    model, inputs = built(), ask(STAR)
    tower, pixels = model.base_model.vision_tower, inputs["pixel_values"][0]
    for keep, grid in GRIDS.items():
        if grid is None:
            with refused(f"keep={keep}: .* possible are", Infeasible):
                pruned_logits(model, inputs, "downsampling", keep)
        else:
            features = by_hand(model, "downsampling", tower, pixels, keep)
            logits = pruned_logits(model, inputs, "downsampling", keep)
            assert furthest(logits, shorter(model, inputs, [features])) <= EXACT


def pruned_logits(model, inputs, *args, **more):
    with pruned(model, *args, **more):
        return model(**inputs).logits


# ------------------------------------------------------------------------------------ the oracles


@clip_families
@kernels
@both
def test_keeping_everything_changes_no_bit(family, kernel, name):
    model = built(family, attention=kernel)
    for case in cases(family).values():
        inputs = ask(*case, model_type=family)
        for inputs in (ask(prompt, model_type=family) for prompt in case):
            plain, answer = model(**inputs).logits, model.generate(**inputs, **MORE)
            visual = int(torch.isin(inputs["input_ids"], torch.tensor([4, 5])).sum())
            with pruned(model, name, max(1, visual)):
                assert torch.equal(model(**inputs).logits, plain)
                assert torch.equal(model.generate(**inputs, **MORE), answer)


@clip_families
@kernels
@both
@torch.no_grad()
def test_a_row_of_a_batch_is_the_row_alone(family, kernel, name):
    """Rows with one and two pictures, with a video, and with none."""
    model = built(family, attention=kernel)
    prompts = (BOTH, STAR, TALK, DOTS) if family == "llava" else (FILM, STAR, TALK, FILM)
    keep = 12 if family == "llava" else 14 if name == "tome" else 8
    prompts = prompts if family == "llava" or name == "tome" else (STAR, TALK, DOTS)
    with pruned(model, name, keep) as trace:
        together = model(**ask(*prompts, model_type=family)).logits
        kept = [[c.kept.tolist() for c in trace.cuts if c.row == r] for r in range(len(prompts))]
        for row, prompt in enumerate(prompts):
            del trace.cuts[:]
            alone = model(**ask(prompt, model_type=family)).logits[0]
            assert (together[row, -len(alone) :] - alone).abs().max() <= EXACT
            assert [cut.kept.tolist() for cut in trace.cuts] == kept[row]


@clip_families
@both
@torch.no_grad()
def test_generating_is_recomputing_also_with_beams_and_guesses(family, name):
    model = built(family)
    inputs = ask(BOTH, STAR, model_type=family)
    with pruned(model, name, 12):
        plain = model.generate(**inputs, **MORE)
        assert torch.equal(model.generate(**inputs, **MORE, use_cache=False), plain)
        grown = {
            **inputs,
            "attention_mask": functional.pad(inputs["attention_mask"], (0, 3), value=1),
        }
        again = model(**{**grown, "input_ids": plain[:, :-1]}).logits
        again[..., [4, 5]] = -torch.inf
        assert torch.equal(again[:, -1].argmax(-1), plain[:, -1])
        if BEAMS_SHARE:
            beams = model.generate(**inputs, **MORE, num_beams=3)
            twice = model.generate(**inputs, **MORE, num_beams=3, num_return_sequences=2)
            assert torch.equal(twice[::2], beams)
        single = ask(STAR, model_type=family)
        answer = model.generate(**single, **MORE)
        assert torch.equal(model.generate(**single, **MORE, prompt_lookup_num_tokens=2), answer)
        positional = {k: v for k, v in inputs.items() if k != "input_ids"}
        assert torch.equal(model.generate(inputs["input_ids"], **positional, **MORE), plain)
        assert torch.equal(model.generate(inputs=inputs["input_ids"], **positional, **MORE), plain)
    assert not torch.equal(model.generate(**inputs, **MORE), plain)


@both
@torch.no_grad()
def test_pictures_once_neither_gives_nor_takes_a_shortened_picture(name):
    model, inputs = built(), ask(BOTH, STAR)
    plain, answer = model(**inputs).logits, model.generate(**inputs, **MORE)
    short = pruned_logits(model, inputs, name, 12)
    with pictures_once(model):
        assert torch.equal(pruned_logits(model, inputs, name, 12), short)
        assert torch.equal(model(**inputs).logits, plain)
        assert torch.equal(pruned_logits(model, inputs, name, 12), short)
        assert not torch.equal(pruned_logits(model, inputs, name, 8), short)
        assert torch.equal(model.generate(**inputs, **MORE), answer)
        with pruned(model, "qvid", 7):
            model(**inputs)
    with pruned(model, name, 12), refused("pruned block is open", RuntimeError):
        pictures_once(model).__enter__()


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_its_own_rounding(name, dtype):
    model, inputs = twin(), ask(STAR)
    expected = pruned_logits(model, inputs, name, KEEP)
    model.to(dtype)
    logits = pruned_logits(
        model, {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}, name, KEEP
    )
    assert logits.dtype == dtype and (logits.float() - expected).abs().mean() <= 0.15


# ---------------------------------------------------------------------- nothing left, and refusals


@clip_families
@both
@pytest.mark.parametrize("how", ["normally", "in the block", "in the tower", "in a layer"])
def test_nothing_is_left_behind(family, name, how):
    model, inputs = built(family), ask(STAR, model_type=family)
    plain = model.generate(**inputs, **MORE)
    before, attributes = hook_count(model), [set(vars(m)) for m in model.modules()]
    if how == "normally":
        with pruned(model, name, KEEP):
            model.generate(**inputs, **MORE)
    else:
        pixels = next(k for k in inputs if k.startswith("pixel_values"))
        with (
            pytest.raises((ZeroDivisionError, ValueError, RuntimeError)),
            pruned(model, name, KEEP),
        ):
            model(**inputs)
            if how == "in the block":
                1 / 0  # noqa: B018
            value = inputs[pixels]
            broken = value[:, :, :6] if how == "in the tower" else torch.full_like(value, torch.nan)
            model(**{**inputs, pixels: broken})
    assert hook_count(model) == before
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert torch.equal(model.generate(**inputs, **MORE), plain)


def test_an_error_in_one_call_does_not_reach_the_next():
    model, inputs = built(), ask(STAR)
    expected = pruned_logits(model, inputs, "tome", KEEP)
    with pruned(model, "tome", KEEP):
        with refused("1 pictures .* came for the 2"):
            model(**{**ask(BOTH), "pixel_values": inputs["pixel_values"]})
        with refused("at least 4 of its 16 tokens stay, and here it would be 3", Infeasible):
            model.generate(**ask(BOTH, Prompt("red ?", pictures=2)), **MORE)
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llava", "video_llava"}))
@both
def test_other_towers_are_refused_with_the_reason(family, name):
    assert re.search("full grid of patches|groups of 2 × 2", FAMILIES[family].whole_grid)
    with (
        refused(re.escape(FAMILIES[family].whole_grid), Unavailable),
        pruned(built(family), name, KEEP, positions="original"),
    ):
        pass


@both
def test_pictures_encoded_elsewhere_are_refused(name):
    model, inputs = built(), ask(STAR)
    features = model.get_image_features(inputs["pixel_values"])
    text = {k: v for k, v in inputs.items() if k != "pixel_values"}
    with pruned(model, name, KEEP):
        with refused("these pictures were encoded outside it: hand the pictures to generate"):
            model(**text, mm_encoder_outputs={"image": features})
        with refused("does not know the prompt of these pictures"):
            model.get_image_features(inputs["pixel_values"])
        with refused("does not know the prompt of these pictures"):
            model.base_model.vision_tower(inputs["pixel_values"])
        for call in (model, functools.partial(model.generate, **MORE)):
            call(**inputs)
            with refused("does not know the prompt of these pictures"):
                model.get_image_features(inputs["pixel_values"])
        model.generate(**text, **MORE)  # placeholders without pictures: text, and nothing waits
        with refused("does not know the prompt of these pictures"):
            model.get_image_features(inputs["pixel_values"])


def test_what_cannot_be_is_one_clear_sentence():
    model, inputs = built(), ask(BOTH)
    with refused("layer=3: method 'tome' works inside the vision tower"):
        pruned_logits(model, inputs, "tome", KEEP, layer=3)
    assert len(pruned_logits(model, inputs, "tome", 8, layer=0))
    with refused("keep=33: the prompt has 32 visual tokens, keep 1 to 32"):
        pruned_logits(model, inputs, "tome", 33)
    with refused("keep=1: 2 pictures .* keep 2 to 32 of them"):
        pruned_logits(model, inputs, "downsampling", 1)
    with refused("keep=7: ToMe merges at most half .* at least 4 of its 16 .* it would be 3"):
        pruned_logits(model, inputs, "tome", 7)
    with refused("3 visual tokens in a row are no whole number of pictures of 16"):
        odd = torch.tensor([[10, 4, 4, 4, 12]])
        pruned_logits(model, {"input_ids": odd, "pixel_values": inputs["pixel_values"]}, "tome", 2)
    with refused("encode='tome': give ToMe", TypeError):
        method("tome", encode="tome")
    flash = twin()
    flash.base_model.vision_tower.config._attn_implementation = "flash_attention_2"
    with refused("takes no weight for each key", Unavailable), pruned(flash, "tome", KEEP):
        pass
    several = twin()
    several.config.vision_feature_layer = [-2, -1]
    with refused("joins several layers", Unavailable), pruned(several, "tome", KEEP):
        pass
    other = twin()
    del other.base_model.vision_tower.embeddings.class_embedding
    with refused("works on CLIP towers, and LLaVA-1.5 has a CLIPVisionModel", Unavailable):
        pruned_logits(other, inputs, "downsampling", KEEP)


def test_a_tower_with_its_class_token_in_the_prompt():
    """vision_feature_select_strategy="full": 17 tokens a picture, the class token is one of K."""
    model = twin()
    model.config.vision_feature_select_strategy = "full"
    ids = torch.tensor([[10] + [4] * 17 + [12, 13, 14]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = ask(STAR)["pixel_values"]
    pixels, tower = inputs["pixel_values"][0], model.base_model.vision_tower
    for name in ("tome", "downsampling"):
        features = by_hand(model, name, tower, pixels, 7, frame=True)
        logits = pruned_logits(model, inputs, name, 7)
        assert furthest(logits, shorter(model, inputs, [features])) <= EXACT


def test_they_say_what_they_are():
    assert METHODS["tome"].encode == ToMe() and METHODS["downsampling"].encode == Downsampling()
    assert "ToMe in the vision tower" in METHODS["tome"].describe()
    assert replace(METHODS["tome"], encode=None).encode is None
    assert method("tome", encode=ToMe(False)).encode.proportional is False
    assert FILMS.videos == 2
