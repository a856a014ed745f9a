"""TRIM and CDPruner: formulas on paper, CLIP's own numbers, and the model on what they keep."""

import functools
import itertools
import shutil

import pytest
import torch
from merged import furthest, shorter
from transformers import AutoTokenizer, CLIPModel
from twins import twin

from qvid_utils import load
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.families.calls import pictures_once
from qvid_utils.methods import RULES, method
from qvid_utils.methods.cdpruner import greedy_dpp
from qvid_utils.methods.trim import WithMean
from qvid_utils.models.clip import ClipPair, clip_pair
from qvid_utils.paths import DATA
from qvid_utils.prune import observed, pruned
from qvid_utils.workbook.benchmarks.embedded import suite
from qvid_utils.workbook.benchmarks.prompts import prompts

EXACT = 1e-5
both = pytest.mark.parametrize("name", ["trim", "cdpruner"])
tiny = functools.cache(lambda: load("tiny/llava"))
MORE = {"max_new_tokens": 3, "do_sample": False}


@functools.cache
def clip():
    folder = DATA / "tiny/clip"
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


@functools.cache
def asked(count=3):
    model, processor = tiny()
    return dict(prompts(processor, suite("tiny_gqa").samples.iloc[:count], model.device))


def refused(match, error=ValueError):
    return pytest.raises(error, match=match)


# ------------------------------------------------------------------------------------- on paper

V = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [4.0, 3.0]])
T = torch.tensor([[2.0, 1.0], [0.0, -1.0]])


def test_trims_score_on_paper():
    assert RULES["trim"](V, T).tolist() == [-6, -2, 1, -11]  # the first segment, nothing normalised
    assert RULES["trim"](V, T, sign=1).tolist() == [6, 2, -1, 11]


def test_cdpruners_relevance_on_paper():
    """-cos with (1, 0) is -1, 0, √½, -0.8; stretched by 1 / (1 + √½)."""
    r = RULES["relevance"](V, torch.tensor([[5.0, 0.0]]))
    span = 1 + 0.5**0.5
    assert r.tolist() == pytest.approx(
        [1e-6 / span, 1 / span, 1 + 1e-6 / span, 0.2 / span], abs=1e-6
    )
    assert r[0] > 0  # the least relevant can still be chosen
    two = RULES["relevance"](V, torch.tensor([[5.0, 0.0], [0.0, 3.0]]))  # mean over two segments
    means = [-(1 + 0) / 2, -(0 + 1) / 2, 0, -(0.8 + 0.6) / 2]
    assert two.tolist() == pytest.approx([(m + 0.7) / 0.7 for m in means], abs=1e-5)
    assert RULES["relevance"](V[:1].expand(3, 2), T).tolist() == [1, 1, 1]
    flipped = RULES["relevance"](V, T, sign=1)
    assert (flipped + RULES["relevance"](V, T)).tolist() == pytest.approx([1] * 4, abs=1e-5)


def test_trims_mean_token_on_paper():
    patches = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
    scores = torch.tensor([0.0, 5.0, 1.0, 4.0, 3.0])
    kept = WithMean()(
        scores, 3, patches
    )  # 1 and 3 stay; the mean of 1, 4 and 16 stands behind them
    assert kept.index.tolist() == [1, 3, 4] and kept.patches.flatten().tolist() == [2, 8, 7]
    assert WithMean()(scores, 1, patches).patches.item() == pytest.approx(31 / 5)
    whole = WithMean()(scores, 5, patches)
    assert sorted(whole.patches.flatten().tolist()) == patches.flatten().tolist()
    for keep in (0, 6):
        with refused(f"keep={keep}"):
            WithMean()(scores, keep, patches)


def test_greedy_dpp_on_paper():
    """Relevance 1, 0.9, 0.5; the second is the first's double, the third orthogonal."""
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 7.0]])
    scores = torch.tensor([1.0, 0.9, 0.5])
    assert greedy_dpp(scores, 1, features).index.tolist() == [0]
    assert greedy_dpp(scores, 2, features).index.tolist() == [0, 2]
    assert greedy_dpp(scores, 3, features).index.tolist() == [0, 1, 2]  # rank 2 is used up
    assert greedy_dpp(torch.tensor([0.2, 0.9, 0.5]), 1, features).index.tolist() == [1]


@pytest.mark.parametrize("seed", range(6))
def test_greedy_dpp_takes_what_raises_the_determinant_most(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 6, generator=generator)
    scores = torch.rand(9, generator=generator) + 0.05
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    kernel = scores.double()[:, None] * (unit @ unit.T) * scores.double()
    chosen = []
    for keep in range(1, 7):  # the rank
        sets = [[*chosen, i] for i in range(9) if i not in chosen]
        chosen = max(sets, key=lambda s: float(torch.linalg.det(kernel[s][:, s])))
        assert greedy_dpp(scores, keep, features).index.tolist() == sorted(chosen)
    left = sorted((i for i in range(9) if i not in chosen), key=lambda i: -float(scores[i]))
    for keep in (7, 8, 9):
        expected = sorted(chosen + left[: keep - 6])
        assert greedy_dpp(scores, keep, features).index.tolist() == expected


def test_greedy_dpp_of_orthogonal_tokens_is_the_best_of_all_sets():
    """The determinant is then the product of r²."""
    features, scores = torch.eye(5), torch.tensor([0.1, 0.5, 0.3, 0.9, 0.2])
    for keep in range(1, 6):
        best = max(
            itertools.combinations(range(5), keep), key=lambda s: float(scores[list(s)].prod())
        )
        assert greedy_dpp(scores, keep, features).index.tolist() == list(best)


# ---------------------------------------------------------------------------------- CLIP's numbers


def test_the_embedded_pair_has_the_embedded_models_tower():
    ours = tiny()[0].base_model.vision_tower.state_dict()
    theirs = clip()[0].vision_model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].float(), theirs[name]) for name in ours)


def test_words_and_patches_are_clips_own():
    model, inputs = tiny()[0], asked()
    own, tokenizer = clip()
    vision = own.vision_model(inputs["pixel_values"], output_hidden_states=True)
    states = own.visual_projection(own.vision_model.post_layernorm(vision.hidden_states[-2][:, 1:]))
    with observed(model, "clip_image", "clip_text", "patches", layer=0) as found:
        model(**inputs)
    with observed(model, "clip_text", layer=0, query="content") as short:
        model(**inputs)
    questions = suite("tiny_gqa").samples["question"]
    for row, (one, less) in enumerate(zip(found, short, strict=True)):
        assert one["clip_image"].shape == (144, 64) and one["clip_text"].shape == (1, 64)
        assert torch.equal(one["patches"], vision.hidden_states[-2][row, 1:])
        assert (one["clip_image"] - states[row]).abs().max() <= EXACT
        whole = questions[row].replace("\n", " ")
        for text, seen in ((whole, one), (whole.split("Answer")[0], less)):
            pooled = own.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output
            assert (seen["clip_text"] - pooled).abs().max() <= EXACT


def test_a_long_text_is_read_in_segments_with_marks_of_their_own():
    pair, (own, tokenizer) = clip_pair(tiny()[0]), clip()
    words = ("red", "star", "blue", "circle", "left") * 30  # 150 words, 62 to a segment
    assert len(tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]) == 150
    found = pair.words(" ".join(words))
    assert found.shape == (3, 64)
    for i, one in enumerate(found):
        part = tokenizer(" ".join(words[62 * i : 62 * i + 62]), return_tensors="pt")
        assert part["input_ids"].shape[1] <= 64
        assert (one - own.get_text_features(**part).pooler_output[0]).abs().max() <= EXACT
    with refused("empty for CLIP's tokenizer"):
        pair.words("")


# -------------------------------------------------------------------------------- what they keep


@torch.no_grad()
def test_trim_keeps_the_least_alike_and_the_mean_of_the_rest():
    model, inputs = tiny()[0], asked()
    with observed(model, "clip_image", "clip_text", "patches", layer=0) as found:
        model(**inputs)
    for keep, more in ((16, {}), (1, {}), (144, {}), (15, {"official_counts": True})):
        total, expected = keep + bool(more), []
        for one in found:
            likeness = one["clip_image"] @ one["clip_text"][0]
            stay = likeness.sort(stable=True).indices[: total - 1].sort().values.tolist()
            mean = one["patches"][[i for i in range(144) if i not in stay]].mean(0, keepdim=True)
            patches = torch.cat([one["patches"][stay], mean])
            expected.append(model.base_model.multi_modal_projector(patches))
        with pruned(model, "trim", keep, **more) as trace:
            logits = model(**inputs).logits
        assert furthest(logits, shorter(model, inputs, expected)) <= 3 * EXACT
        assert trace.mean_tokens == [total] * 3
        assert all(len(cut.kept) == total for cut in trace.cuts)


@torch.no_grad()
def test_cdpruner_is_the_model_on_the_chosen_tokens():
    model, inputs = tiny()[0], dict(asked())
    with observed(model, "clip_image", "clip_text", "features", layer=0, query="content") as found:
        model(**inputs)
    for keep, sign in ((48, -1), (16, -1), (16, 1), (1, -1)):
        expected = []
        for one in found:
            r = RULES["relevance"](one["clip_image"], one["clip_text"], sign=sign)
            expected.append(one["features"][greedy_dpp(r, keep, one["features"]).index])
        with pruned(model, "cdpruner", keep, sign=sign) as trace:
            logits = model(**inputs).logits
        assert furthest(logits, shorter(model, inputs, expected)) <= 3 * EXACT
        assert trace.mean_tokens == [keep] * 3 and trace.cuts[0].n_query > 0
    mask = inputs["attention_mask"]
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)  # as generate counts them
    with pruned(model, "cdpruner", 144):
        all_of_them = model(**inputs).logits
    assert torch.equal(all_of_them[mask.bool()], model(**inputs).logits[mask.bool()])


@both
@torch.no_grad()
def test_a_row_of_a_batch_is_the_row_alone_also_with_pictures_once_and_beams(name):
    model, processor = tiny()
    inputs, samples = asked(), suite("tiny_gqa").samples
    with pruned(model, name, 16) as trace:
        together = model.generate(**inputs, **MORE)
        kept = [cut.kept.tolist() for cut in trace.cuts]
        del trace.cuts[:]
        for row in range(3):
            single = dict(prompts(processor, samples.iloc[row : row + 1], model.device))
            answer = model.generate(**single, **MORE)
            said = answer[0, single["input_ids"].shape[1] :]
            start = inputs["input_ids"].shape[1]
            assert torch.equal(said, together[row, start : start + len(said)])
        assert [cut.kept.tolist() for cut in trace.cuts] == kept
        beams = model.generate(**inputs, **MORE, num_beams=2)
        assert [c.kept.tolist() for c in trace.cuts[3:]] == [k for k in kept for _ in range(2)]
    with pictures_once(model):
        model(**inputs)
        for _ in range(2):
            with pruned(model, name, 16) as trace:
                assert torch.equal(model.generate(**inputs, **MORE), together)
            assert [cut.kept.tolist() for cut in trace.cuts] == kept
    assert beams.shape[0] == 3


@both
def test_nothing_is_left_behind(name):
    model, inputs = tiny()[0], asked()
    before = [set(vars(m)) for m in model.modules()]
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    with pytest.raises(ZeroDivisionError), pruned(model, name, 16):
        model(**inputs)
        1 / 0  # noqa: B018
    assert [set(vars(m)) for m in model.modules()] == before
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


# ----------------------------------------------------------------------------- where the pair is


def test_the_pair_is_given_or_beside_the_model_and_read_once(tmp_path):
    model, inputs = tiny()[0], asked()
    assert clip_pair(model) is clip_pair(model)
    own = clip_pair(model, "tiny/clip")
    assert isinstance(own, ClipPair) and clip_pair(model, own) is own
    shutil.copytree(DATA / "tiny/clip", tmp_path / "pair")
    with pruned(model, "trim", 16, clip=tmp_path / "pair") as trace:
        model(**inputs)
    with pruned(model, "trim", 16) as same:
        model(**inputs)
    assert torch.equal(trace.cuts[0].scores, same.cuts[0].scores)
    assert own.limit == 64 and not any(p.requires_grad for p in own.text.parameters())


def test_another_pair_is_refused(tmp_path):
    model = tiny()[0]
    wrong = CLIPModel.from_pretrained(DATA / "tiny/clip")
    with torch.no_grad():
        wrong.vision_model.embeddings.class_embedding.mul_(2)
    wrong.save_pretrained(tmp_path)
    clip()[1].save_pretrained(tmp_path)
    with refused("its vision tower is another one"), pruned(model, "trim", 16, clip=tmp_path):
        pass
    with refused("its vision tower is another one"), pruned(twin(), "trim", 7, clip="tiny/clip"):
        pass


@both
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llava"}))
def test_families_without_a_pair_say_why(name, family):
    with refused(FAMILIES[family].no_clip, Unavailable), pruned(twin(family), name, 7):
        pass


@both
def test_where_the_pair_is_absent_the_error_says_what_to_do(name, tmp_path):
    with (
        refused("openai/clip-vit-large-patch14-336, whose text tower .* clip=", Unavailable),
        pruned(twin(), name, 7),
    ):
        pass
    with (
        refused("cannot be read: go online once, or give a local folder", Unavailable),
        pruned(tiny()[0], name, 16, clip=tmp_path),
    ):
        pass


def test_features_from_elsewhere_are_refused():
    model, inputs = tiny()[0], asked()
    features = model.get_image_features(inputs["pixel_values"])
    features.hidden_states = None
    text = {k: v for k, v in inputs.items() if k != "pixel_values"}
    with (
        refused("encoded outside the pruned block, which has not seen"),
        pruned(model, "trim", 16),
    ):
        model(**text, mm_encoder_outputs={"image": features})


def test_the_official_count_has_the_mean_beyond_it():
    model, _ = load("tiny/llava")
    sample = suite("tiny_gqa").samples.head(1)
    inputs = prompts(load("tiny/llava")[1], sample, model.device)
    for official, count in ((False, 16), (True, 17)):
        with pruned(model, "trim", 16, official_counts=official) as trace:
            model(**inputs)
        assert len(trace.cuts[0].kept) == count and trace.mean_tokens == [count]
    with refused("method 'qvid' takes no official_counts"):
        method("qvid", official_counts=True)
