"""Evidence: one property for each word, equal to what the model itself computes."""

import functools
import itertools

import pytest
import torch
from oracle import entering
from twins import BOTH, DOTS, FILM, MIXED, STAR, TALK, WITH_VIDEO, ask, built, language, twin

from qvid_utils.algebra.cuts import Cut
from qvid_utils.families import FAMILIES
from qvid_utils.families.projections import project
from qvid_utils.methods import RULES, Method
from qvid_utils.methods.evidence import WORDS, Evidence
from qvid_utils.prune import observed, pruned

ROWS = ("attention", "last_row", "last_row_before")
families = pytest.mark.parametrize("family", sorted(FAMILIES))


def test_every_word_is_a_property_and_no_other():
    lazy = {name for name, v in vars(Evidence).items() if isinstance(v, functools.cached_property)}
    assert lazy - {"query"} == set(WORDS)


def spans(model, inputs):
    """(row, visual columns, question columns) of each row with pictures."""
    with pruned(model, "qvid", 7) as trace:
        model(**inputs)
    visual = (inputs["input_ids"] == 4) | (inputs["input_ids"] == 5)
    for row in visual.any(1).nonzero()[:, 0].tolist():
        yield row, visual[row].nonzero()[:, 0], trace.query[row].nonzero()[:, 0]


@pytest.mark.parametrize(
    ("layer", "heads", "bias"), list(itertools.product((1, 3, 7), (1, 2, 4), (False, True)))
)
def test_attention_rows_are_the_models_own(layer, heads, bias):
    """Rebuilt from projections, rotary pair and mask; GQA and biases included."""
    more = {"kv_heads": heads, "attention_bias": bias}
    eager, inputs = built(attention="eager", **more), ask(DOTS, BOTH, TALK)
    own = eager(**inputs, output_attentions=True).attentions
    with observed(built(**more), *ROWS, layer=layer) as found:
        built(**more)(**inputs)
    for (row, visual, question), rows in zip(spans(eager, inputs), found, strict=True):
        expected = {
            "attention": own[layer][row][:, question][..., visual],
            "last_row": own[layer][row][:, -1, visual],
            "last_row_before": own[layer - 1][row][:, -1, visual],
        }
        for word in ROWS:
            assert rows[word].shape == expected[word].shape
            assert (rows[word] - expected[word]).abs().max() <= 3e-6


@families
@pytest.mark.parametrize("layer", [1, 6])
def test_attention_rows_of_each_family_are_the_models_own(family, layer):
    """Positions along three axes, biases, videos."""
    eager, model = built(family, attention="eager"), built(family)
    shown = [MIXED, FILM] if family in WITH_VIDEO else [BOTH]
    inputs = ask(DOTS, *shown, TALK, model_type=family)
    own = eager(**inputs, output_attentions=True).attentions
    with observed(model, *ROWS, layer=layer) as found:
        model(**inputs)
    for (row, visual, question), rows in zip(spans(eager, inputs), found, strict=True):
        expected = {
            "attention": own[layer][row][:, question][..., visual],
            "last_row": own[layer][row][:, -1, visual],
            "last_row_before": own[layer - 1][row][:, -1, visual],
        }
        for word in ROWS:
            assert rows[word].shape == expected[word].shape
            assert (rows[word] - expected[word]).abs().max() <= 3e-6


@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_attention_rows_after_a_cut_are_those_of_the_shorter_prompt(positions):
    """At a second cut the softmax runs over the tokens that are left, at their positions."""

    def schedule(keep, n_visual, n_layers, layer=None):
        return Cut(2, 7), Cut(6, 7)  # the second drops nobody, so the layer shows what was scored

    model, staged = built(attention="eager"), Method("x", RULES["last_attention"], schedule)
    with pruned(model, staged, 7, positions=positions) as trace:
        own = model(**ask(STAR), output_attentions=True).attentions
    assert [len(layer[0, 0]) for layer in own] == [32, 32] + [23] * 6
    expected = own[6][0, :, -1, 1:8].mean(0)  # between USER: and the words
    assert (trace.cuts[1].scores - expected).abs().max() <= 3e-6


@families
def test_streams_and_interaction_of_each_family(family):
    model = built(family)
    shown = [MIXED, FILM] if family in WITH_VIDEO else [BOTH]
    inputs = ask(DOTS, *shown, TALK, model_type=family)
    states = entering(model, inputs)
    words = ("hidden", "previous", "features", "queries", "keys", "interaction")
    with observed(model, *words, layer=3) as found:
        model(**inputs)
    for (row, visual, question), one in zip(spans(model, inputs), found, strict=True):
        assert torch.equal(one["hidden"], states[3][row, visual])
        assert torch.equal(one["previous"], states[2][row, visual])
        assert torch.equal(one["features"], states[0][row, visual])
        q = by_hand(model, inputs, 3, "q_proj", row, question)
        k = by_hand(model, inputs, 3, "k_proj", row, visual)
        k = k.repeat_interleave(len(q) // len(k), 0)
        assert (one["queries"] - q).abs().max() <= 1e-5
        assert (one["keys"] - k).abs().max() <= 1e-5
        assert (one["interaction"] - q @ k.mT).abs().max() <= 1e-4


@pytest.mark.parametrize("layer", [0, 3])
def test_streams_and_features(layer):
    model, inputs = built(), ask(DOTS, BOTH, TALK)
    states = model(**inputs, output_hidden_states=True).hidden_states
    words = ["hidden", "features", "grid", "prompt"] + ["previous"] * (layer > 0)
    with observed(model, *words, layer=layer) as found:
        model(**inputs)
    pictures = torch.cat(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
    assert torch.equal(torch.cat([one["features"] for one in found]), pictures)
    for (row, visual, _), one in zip(spans(model, inputs), found, strict=True):
        assert torch.equal(one["hidden"], states[layer][row, visual])
        if layer:
            assert torch.equal(one["previous"], states[layer - 1][row, visual])
        assert one["grid"] == (len(visual) // 16, 4, 4)
    assert found[0]["prompt"] != found[1]["prompt"]
    with observed(model, "prompt", layer=layer) as alone:
        model(**ask(DOTS))
    assert alone[0]["prompt"] == found[0]["prompt"]


def by_hand(model, inputs, layer, name, row, columns):
    """A projection of the normed stream, head by head, as the layer's own attention makes it."""
    block = language(model).layers[layer]
    stream = entering(model, inputs)[layer][row, columns]
    out = getattr(block.self_attn, name)(block.input_layernorm(stream))
    out = out.view(len(columns), -1, block.self_attn.head_dim)
    norm = getattr(block.self_attn, name[0] + "_norm", None)
    return (out if norm is None else norm(out)).transpose(0, 1)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_interaction_is_queries_times_keys(heads):
    model, inputs = built(kv_heads=heads), ask(STAR, DOTS)
    with observed(model, "queries", "keys", "interaction", layer=3) as found:
        model(**inputs)
    for (row, visual, question), one in zip(spans(model, inputs), found, strict=True):
        q = by_hand(model, inputs, 3, "q_proj", row, question)
        k = by_hand(model, inputs, 3, "k_proj", row, visual)
        assert q.shape == one["queries"].shape == (4, len(question), 16)
        for head in range(4):
            shared = k[head * heads // 4]  # several query heads share a key head
            assert (one["keys"][head] - shared).abs().max() <= 1e-5
            assert (one["interaction"][head] - q[head] @ shared.T).abs().max() <= 1e-4


@families
def test_rope_turns_the_interaction_into_attention_logits(family):
    model, inputs = built(family), ask(DOTS, BOTH, model_type=family)
    with observed(model, "interaction", "attention", layer=3, rope=True) as found:
        model(**inputs)
    for one in found:  # equal up to each row's softmax constant
        logits = one["interaction"] * language(model).layers[3].self_attn.scaling
        ratio = logits - one["attention"].log()
        assert (ratio - ratio[..., :1]).abs().max() <= 1e-4


def test_a_word_is_computed_once_and_only_if_named(monkeypatch):
    model, inputs, calls = built(), ask(STAR), []
    from qvid_utils.methods import evidence

    original = evidence.project
    monkeypatch.setattr(evidence, "project", lambda *a: calls.append(a[1]) or original(*a))
    with observed(model, "hidden", "grid", layer=3):
        model(**inputs)
    assert calls == []
    with observed(model, "interaction", "queries", "keys", "interaction", layer=3):
        model(**inputs)
    assert calls == ["q_proj", "k_proj"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_evidence_is_float32_and_a_large_bias_is_added_there(dtype):
    """A key bias of 400 times the content would leave nothing of it in half precision."""
    model = twin(attention_bias=True)
    block = language(model).layers[0]
    block.self_attn.k_proj.bias.mul_(400)
    rows = torch.randn(9, 64)
    exact = project(block, "k_proj", rows)
    bias = exact.mean(1, keepdim=True)
    half = block.to(dtype)
    rough = project(half, "k_proj", rows.to(dtype))
    assert rough.dtype == torch.float32
    content, found = exact - bias, rough - rough.mean(1, keepdim=True)
    error = (content - found).norm() / content.norm()
    assert error < 0.02
    plain = half.self_attn.k_proj(half.input_layernorm(rows.to(dtype))).float()
    plain = plain.unflatten(-1, (-1, 16)).transpose(0, 1).repeat_interleave(2, 0)
    assert (content - (plain - plain.mean(1, keepdim=True))).norm() / content.norm() > 3 * error


def test_layer_0_has_no_layer_before():
    model = built()
    for word in ("previous", "last_row_before"):
        with observed(model, word, layer=0), pytest.raises(ValueError, match="there is none"):
            model(**ask(STAR))
