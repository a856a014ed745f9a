"""Evidence from the vision tower: equal to the tower's own attention, in any call, nothing left."""

import gc

import pytest
import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from twins import (
    BEAMS_SHARE,
    BOTH,
    DOTS,
    FILM,
    FILMS,
    HAVE_CLASS,
    MIXED,
    QWEN,
    STAR,
    TALK,
    WITH_VIDEO,
    ask,
    built,
    cases,
    twin,
)

from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.families.calls import pictures_once
from qvid_utils.families.small import SIGLIP
from qvid_utils.prune import observed, pruned
from qvid_utils.prune import vision_tower as tower

families = pytest.mark.parametrize("family", sorted(FAMILIES))
with_class = pytest.mark.parametrize("family", ["llava", "video_llava"])
kernels = pytest.mark.parametrize("kernel", ["sdpa", "eager"])
ANY = ("patches", "tower_keys", "received", "last_keys", "frames")
CLASS = ("cls_row", "cls_patch", "last_cls_row")
WIDTH = 32  # of the towers; two heads


def seen(model, inputs, *words, layer=0, **generate):
    """One dict of words for each row with pictures."""
    with observed(model, *words, layer=layer) as found:
        if generate:
            model.generate(**inputs, suppress_tokens=[4, 5], do_sample=False, **generate)
        else:
            model(**inputs)
    return found


def close(a, b, near=2e-6):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=near)


def towers(model, family, inputs):
    """(kind, tower, pixels) for a family with CLIP or SigLIP towers, run by hand."""
    base, found = model.base_model, []
    images = inputs.get("pixel_values", inputs.get("pixel_values_images"))
    if images is not None:
        one = base.image_tower if family == "video_llava" else base.vision_tower
        found.append(("image", one, images))
    if "pixel_values_videos" in inputs:
        one = base.video_tower if family == "video_llava" else base.vision_tower
        found.append(("video", one, inputs["pixel_values_videos"].flatten(0, 1)))
    return found


def attended(one, pixels):
    """What an eager tower says itself: attention, hidden states."""
    out = one(pixels, output_attentions=True, output_hidden_states=True)
    return out.attentions, out.hidden_states


# ------------------------------------------------------------------ towers with a class token


@with_class
@kernels
def test_words_are_what_an_eager_tower_says_itself(family, kernel):
    """The picture's rows: layer -2 of three gives the patches, the class token stands first."""
    eager, inputs = built(family, attention="eager"), ask(BOTH, STAR, model_type=family)
    (row, other) = seen(built(family, attention=kernel), inputs, *ANY, *CLASS)
    ((_, one, pixels),) = towers(eager, family, inputs)
    attention, hidden = attended(one, pixels)
    rows = attention[-2]  # (3 pictures, H, 17, 17)
    first = rows[:2, :, 0, 1:].transpose(0, 1).flatten(1)  # (H, 2 x 16)
    close(row["cls_row"], first)
    close(other["cls_row"], rows[2, :, 0, 1:])
    close(row["received"], rows[:2, :, :, 1:].mean((1, 2)).flatten())
    close(row["patches"], hidden[-2][:2, 1:].flatten(0, 1))
    close(row["cls_patch"], hidden[-2][:2, :1].expand(-1, 16, -1).flatten(0, 1))
    assert row["frames"].tolist() == [0] * 16 + [1] * 16 and other["frames"].tolist() == [0] * 16
    layer = one.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(hidden[-3]))[:2, 1:].flatten(0, 1)
    close(row["tower_keys"], keys.unflatten(1, (2, 16)).transpose(0, 1))
    last = one.encoder.layers[-1]
    fed = last.layer_norm1(hidden[-2])[:2]
    q, k = last.self_attn.q_proj(fed), last.self_attn.k_proj(fed)
    close(row["last_keys"], k[:, 1:].flatten(0, 1))
    unsplit = torch.stack([(k[i] @ q[i, 0] / WIDTH**0.5).softmax(0)[1:] for i in (0, 1)])
    close(row["last_cls_row"], unsplit.flatten())
    assert all(w.dtype == torch.float32 for name, w in row.items() if name != "frames")


@kernels
def test_frames_keep_their_class_token_which_shows_no_place(kernel):
    inputs = ask(MIXED, FILM, model_type="video_llava")
    model = built("video_llava", attention=kernel)
    mixed, film = seen(model, inputs, *ANY, *CLASS)
    eager = built("video_llava", attention="eager")
    (_, image, pixels), (_, video, frames) = towers(eager, "video_llava", inputs)
    attention, hidden = attended(video, frames)  # of four frames, two in each video
    own = attention[-2][2:, :, 0].clone()
    own[:, :, 0] = 0
    close(film["cls_row"], own.transpose(0, 1).flatten(1))
    close(film["patches"], hidden[-2][2:].flatten(0, 1))  # as they are, the class tokens too
    assert film["frames"].tolist() == [-1, *[0] * 16, -1, *[1] * 16]
    assert film["received"][[0, 17]].tolist() == [0, 0] == film["last_cls_row"][[0, 17]].tolist()
    # the picture stands before the video, and each comes from its own tower
    assert mixed["frames"].tolist() == [0] * 16 + [-1, *[1] * 16, -1, *[2] * 16]
    picture = attended(image, pixels)[0][-2][0, :, 0, 1:]
    clip = attention[-2][:2, :, 0].clone()
    clip[:, :, 0] = 0
    close(mixed["cls_row"], torch.cat([picture, clip.transpose(0, 1).flatten(1)], 1))


# ------------------------------------------------------------------ towers without a class token


class Says(nn.Module):
    """Stands in for a projector: hands on what it is fed, or numbers of one's own."""

    def __init__(self, numbers=None, join=1):
        super().__init__()
        self.numbers, self.join = numbers, join

    def forward(self, fed):
        out = fed if self.numbers is None else self.numbers
        return out.reshape(-1, self.join * out.shape[-1]) if self.join > 1 else out


def packed(model, kind, inputs, numbers=None):
    """(N, C): what the model makes of patches, or of the tower's numbers, where its projector and
    its line breaks do nothing."""
    base, family = model.base_model, model.config.model_type
    if family in QWEN:
        part, name, join = base.visual, "merger", 4
    else:
        part, name, join = base, "multi_modal_projector", 1
    before = getattr(part, name)
    setattr(part, name, Says(numbers, join))
    if family == "llava_onevision":
        newline = base.image_newline
        width = WIDTH if numbers is None else numbers.shape[-1]
        base.image_newline = nn.Parameter(torch.zeros(width), requires_grad=False)
    encode = getattr(base, f"get_{kind}_features")
    names = {"image": ("pixel_values", "image_sizes", "batch_num_images", "image_grid_thw")}
    names["video"] = ("pixel_values_videos", "video_grid_thw")
    try:
        pixels, *more = [n for n in names[kind] if n in inputs]  # the first one's name has changed
        out = encode(inputs[pixels], **{n: inputs[n] for n in more}).pooler_output
    finally:
        setattr(part, name, before)
        if family == "llava_onevision":
            base.image_newline = newline
    if (family, kind) == ("llava_onevision", "video") and out.shape[1] % 4 == 0:
        # older versions add the line break further on
        out = torch.nn.functional.pad(out, (0, 0, 0, 1))
    return out.flatten(0, 1) if isinstance(out, torch.Tensor) else torch.cat(list(out))


@pytest.fixture
def spied(monkeypatch):
    """Attention weights that Qwen's tower multiplies itself, one (1, H, n, n) for each call."""
    weights = []

    def eager(module, query, key, value, attention_mask, scaling, **more):
        weights.append((query @ key.mT * scaling).softmax(-1))
        return (weights[-1] @ value).transpose(1, 2).contiguous(), weights[-1]

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "spy", eager)
    return weights


def received_by_hand(model, kind, inputs, spied):
    """(N_tower, 1): mean over heads and queries of the last layer's own attention."""
    if model.config.model_type not in QWEN:
        ((_, one, pixels),) = towers(model, "llava_onevision", inputs)
        if pixels.dim() == 5:  # tiles: three of a picture that is alone, one of others
            counts = [n for n in inputs["batch_num_images"].tolist() for _ in range(n)]
            pixels = torch.cat(
                [p[: 3 if n == 1 else 1] for p, n in zip(pixels, counts, strict=True)]
            )
        return attended(one, pixels)[0][-1].mean((1, 2))[..., None]
    visual = model.base_model.visual
    before, visual.config._attn_implementation = visual.config._attn_implementation, "spy"
    pixels = inputs["pixel_values_videos" if kind == "video" else "pixel_values"]
    try:
        visual(pixels, grid_thw=inputs[f"{kind}_grid_thw"])
    finally:
        visual.config._attn_implementation = before
    own, left = [], len(pixels)
    while left:  # the last layer's calls: one for each picture or frame
        own.insert(0, spied.pop().mean((1, 2))[0])
        left -= len(own[0])
    return torch.cat(own)[:, None]


@pytest.mark.parametrize("family", ["llava_onevision", *QWEN])
@pytest.mark.parametrize("kind", ["image", "video"])
@kernels
def test_words_are_pooled_as_the_model_pools_its_features(family, kind, kernel, spied):
    prompts = (BOTH, STAR) if kind == "image" else (FILMS, FILM)
    inputs = ask(*prompts, model_type=family)
    rows = seen(built(family, attention=kernel), inputs, *ANY)
    eager = built(family, attention="eager")
    for word, near in (("patches", 1e-5), ("received", 1e-6)):
        found = torch.cat([row[word] for row in rows])
        if word == "patches":
            expected = packed(eager, kind, inputs)
        else:
            numbers = received_by_hand(eager, kind, inputs, spied)
            expected = packed(eager, kind, inputs, numbers).mean(1)
        assert found.shape == expected.shape
        close(found, expected, near)
    frames = torch.cat([row["frames"] for row in rows])
    assert ((torch.cat([row["received"] for row in rows]) == 0) == (frames < 0)).all()
    assert rows[0]["tower_keys"].shape == (2, len(rows[0]["frames"]), WIDTH // 2)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("internvl", "multi_modal_projector"),
        ("idefics3", "connector.modality_projection"),
        ("smolvlm", "connector.modality_projection"),
    ],
)
def test_joined_patches_are_what_the_projector_is_fed(family, part):
    """And what they receive is their tower's own attention, in the same order."""
    model, inputs, fed = built(family, attention="eager"), ask(BOTH, STAR, model_type=family), []
    spy = model.base_model.get_submodule(part).register_forward_pre_hook(
        lambda m, args: fed.append(args[0])
    )
    rows = seen(model, inputs, "patches", "received", "tiles")
    spy.remove()
    close(torch.cat([row["patches"] for row in rows]), fed[0].flatten(0, -2), 1e-5)
    assert rows[0]["tiles"].tolist() == [0] * 16 + [1] * 16 + [2] * 16
    one = FAMILIES[family].part(model, "vision")
    pixels = inputs["pixel_values"].flatten(0, -4)
    attention = attended(one, pixels[pixels.flatten(1).any(1)])[0][-1].mean((1, 2))  # (tiles, n)
    attention = attention[:, attention.shape[1] - 64 :]  # without a class token
    cells = attention.reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten()
    close(torch.cat([row["received"] for row in rows]), cells)


@pytest.mark.parametrize(
    ("family", "prompt", "frames"),
    [
        # 16 places of the whole picture, then in large: 30 x 20 pixels in 8 x 4 places are 6 x 4
        ("llava_onevision", STAR, [0] * 16 + ([1] * 4 + [-1]) * 6),
        ("llava_onevision", BOTH, [0] * 16 + [-1] + [1] * 16 + [-1]),
        ("llava_onevision", FILM, [0] * 4 + [1] * 4 + [2] * 4 + [-1]),
        ("qwen2_vl", BOTH, [0] * 16 + [1] * 12),
        ("qwen2_5_vl", MIXED, [0] * 16 + [1] * 8 + [2] * 8),
        ("llava", BOTH, [0] * 16 + [1] * 16),
        ("video_llava", FILMS, sum(([-1, *[n] * 16] for n in range(4)), [])),
        ("qwen2_vl", FILMS, [n for n in range(4) for _ in range(8)]),
    ],
)
def test_frames(family, prompt, frames):
    (row,) = seen(built(family), ask(prompt, model_type=family), "frames")
    assert row["frames"].tolist() == frames


def test_keys_of_a_turning_tower_are_turned():
    """Qwen2-VL: a key at row 0, column 0 is as projected, others are rotated by their place."""
    model, inputs = built("qwen2_vl"), ask(STAR, model_type="qwen2_vl")
    (row,) = seen(model, inputs, "tower_keys")
    fed = {}
    block = model.base_model.visual.blocks[-1]
    spy = block.attn.register_forward_pre_hook(
        lambda m, a, k: fed.update(k, hidden=a[0]), with_kwargs=True
    )
    model(**inputs)
    spy.remove()
    k = block.attn.qkv(fed["hidden"]).reshape(64, 3, 2, 16)[:, 1]
    cos, sin = (t[:, None] for t in fed["position_embeddings"])
    turned = k * cos + torch.cat([-k[..., 8:], k[..., :8]], -1) * sin
    close(row["tower_keys"], turned.reshape(16, 4, 2, 16).mean(1).transpose(0, 1))
    assert (cos[0] == 1).all() and not (cos[1] == 1).all()


# ------------------------------------------------------------------------------- calls of all kinds


@families
@pytest.mark.parametrize("case", ["padded", "ragged", "text beside", "pictures and videos"])
def test_a_row_of_a_batch_beams_and_rows_alone_see_the_same(family, case):
    if case not in cases(family):
        case = "two pictures"
    model, prompts = built(family), cases(family)[case]
    words = ANY + CLASS * (family in HAVE_CLASS)
    alone = [seen(model, ask(p, model_type=family), *words) for p in prompts]
    alone = [row for rows in alone for row in rows]
    inputs = ask(*prompts, model_type=family)
    for copies, found in (
        (1, seen(model, inputs, *words)),
        (1, seen(model, inputs, *words, max_new_tokens=2)),
        *([(3, seen(model, inputs, *words, max_new_tokens=2, num_beams=3))] if BEAMS_SHARE else []),
    ):
        assert len(found) == copies * len(alone)
        for i, row in enumerate(found):
            for word in words:
                close(row[word], alone[i // copies][word], 1e-5)


def runs(module):
    """A list that grows with each run of a module, and the hook's handle."""
    count = []
    return count, module.register_forward_pre_hook(lambda m, a: count.append(1))


@families
@torch.no_grad()  # as generate: the memory keeps apart what is differentiable
def test_evidence_survives_a_memory_of_pictures(family):
    model, method = twin(family), "svd_prune"
    inputs = ask(BOTH, model_type=family)
    with pruned(model, method, 5) as plain:
        logits = model(**inputs).logits
    module = FAMILIES[family].tower.module(model.base_model, "image")
    count, handle = runs(module)
    with pictures_once(model):
        model(**inputs)
        assert len(count) == 1
        with pruned(model, "qvid", 5):
            model(**inputs)
        assert len(count) == 1  # nobody has asked for the tower yet
        for expected in (2, 2, 2):  # once for the evidence, then never
            with pruned(model, method, 5) as trace:
                assert torch.equal(model(**inputs).logits, logits)
            with pruned(model, "scope_received", 5):
                beams = 2 if BEAMS_SHARE else 1
                model.generate(**inputs, max_new_tokens=2, num_beams=beams, suppress_tokens=[4, 5])
            assert len(count) == expected
            assert torch.equal(trace.cuts[0].scores, plain.cuts[0].scores)
    handle.remove()


def test_evidence_ends_with_its_features():
    model = twin()
    gc.collect()
    before = len(tower._REMEMBERED)
    with pictures_once(model):
        inputs = ask(STAR)
        with pruned(model, "fastervlm", 5):
            model(**inputs)
        assert len(tower._REMEMBERED) == before + 1
        del inputs
        gc.collect()
        assert len(tower._REMEMBERED) == before
    inputs = ask(STAR)
    with pruned(model, "fastervlm", 5):
        model(**inputs)
    gc.collect()
    assert len(tower._REMEMBERED) == before


def hook_count(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@families
def test_nothing_is_left_behind(family):
    model, inputs = twin(family), ask(STAR, model_type=family)
    logits, before = model(**inputs).logits, hook_count(model)

    def clean():
        left = {"get_image_features", "get_video_features"} & set(vars(model.base_model))
        return hook_count(model) == before and not left

    with pruned(model, "svd_prune", 5):
        model(**inputs)
        inside = hook_count(model)
    assert inside > before and clean()
    one = FAMILIES[family].tower.module(model.base_model, "image")
    broken = one.register_forward_hook(lambda *_: 1 / 0)  # the tower fails while it is watched
    before = hook_count(model)
    with pytest.raises(ZeroDivisionError), pruned(model, "svd_prune", 5):
        model(**inputs)
    assert clean()
    broken.remove()
    before -= 1
    with pytest.raises(ValueError, match="keep=99999"), pruned(model, "svd_prune", 99999):
        model(**inputs)
    assert clean() and torch.equal(model(**inputs).logits, logits)


def test_features_from_outside_the_block_are_refused():
    model, inputs = built(), ask(STAR)
    outside = model.base_model.get_image_features(inputs["pixel_values"], return_dict=True)
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pruned(model, "fastervlm", 5):
        with pytest.raises(ValueError, match="encoded outside the pruned block.*give the pixels"):
            model(**ids, mm_encoder_outputs={"image": outside})
        model(**ask(STAR, seed=1))  # another picture has been seen now
        with pytest.raises(ValueError, match="encoded outside the pruned block"):
            model(**ids, mm_encoder_outputs={"image": outside})


def test_a_text_between_and_a_cut_inside():
    """Rows without pictures have no evidence; at a later layer the words number the same tokens."""
    model, inputs = built(), ask(TALK, STAR, DOTS)
    door = seen(model, inputs, "cls_row", "patches")
    inside = seen(model, inputs, "cls_row", "patches", layer=3)
    assert len(door) == len(inside) == 2
    assert all(torch.equal(a[w], b[w]) for a, b in zip(door, inside, strict=True) for w in a)


def test_words_after_an_earlier_cut_number_the_tokens_that_are_left():
    from dataclasses import replace

    from qvid_utils.algebra.cuts import Cut
    from qvid_utils.methods import RULES, method

    model, inputs = built(), ask(STAR)
    every = seen(model, inputs, "cls_row")[0]["cls_row"].mean(0)
    twice = replace(method(RULES["class_attention"]), schedule=lambda *a: (Cut(0, 9), Cut(2, 4)))
    with pruned(model, twice, 9) as trace:
        model(**inputs)
    late = trace.cuts[1]
    assert torch.equal(late.scores, every[late.scored])
    assert late.kept.tolist() == every.topk(4).indices.sort().values.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_half_precision_models_are_float32(dtype):
    model, inputs = twin(), ask(STAR)
    (exact,) = seen(model, inputs, *ANY, *CLASS)
    model.to(dtype)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    (row,) = seen(model, inputs, *ANY, *CLASS)
    for word in {*ANY, *CLASS} - {"frames"}:
        assert row[word].dtype == torch.float32
        near = 0.25 if "patch" in word or "keys" in word else 0.02
        torch.testing.assert_close(row[word], exact[word], rtol=0, atol=near)


# --------------------------------------------------------------------------------------- refusals


def siglip_llava(**more):
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**SIGLIP, vision_use_head=False),
        text_config=FAMILIES["llava"].tiny().text_config,
        image_token_index=4,
        vision_feature_select_strategy="full",
        image_seq_length=16,
        **{"vision_feature_layer": -2, **more},
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def test_a_llava_with_another_tower_is_read_by_what_it_has():
    model, inputs = siglip_llava(), ask(STAR)
    with (
        pytest.raises(Unavailable, match="no class token; adapted .*: fastervlm_received"),
        pruned(model, "fastervlm", 5),
    ):
        pass
    (row,) = seen(model, inputs, "patches", "frames")
    out = model.base_model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    close(row["patches"], out.hidden_states[-2][0])
    assert row["frames"].tolist() == [0] * 16


@pytest.mark.parametrize(
    ("layers", "reason"), [([-2, -3], "reads 2 layers"), (0, "embeddings, before any layer")]
)
def test_a_feature_layer_that_no_attention_gives_is_refused(layers, reason):
    model = siglip_llava(vision_feature_layer=layers)
    with pytest.raises(Unavailable, match=reason), pruned(model, "svd_prune", 5):
        model(**ask(STAR))


@pytest.mark.parametrize("family", ["llava_onevision", *QWEN])
@pytest.mark.parametrize("name", ["fastervlm", "visionzip", "prumerge", "scope", "holov"])
def test_class_token_methods_name_their_adaptation(family, name):
    with (
        pytest.raises(Unavailable, match=f"no class token; adapted .*: {name}_received"),
        pruned(built(family), name, 5),
    ):
        pass
    assert FAMILIES[family].tower.address.keys() == {"image", "video"} and family in WITH_VIDEO
