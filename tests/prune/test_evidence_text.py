"""What methods in the language model read of the text after the picture, and one layer back."""

import pytest
import torch
from oracle import entering
from twins import BOTH, DOTS, FILM, MIXED, STAR, TALK, WITH_VIDEO, ask, built, language

from qvid_utils.algebra.cuts import at
from qvid_utils.families import FAMILIES, projections
from qvid_utils.methods import METHODS, evidence, method
from qvid_utils.prune import observed, pruned

families = pytest.mark.parametrize("family", sorted(FAMILIES))
WORDS = (
    "text_rows_before", "text_relevance", "rope_bias", "received_from_visual", "received_from_text",
    "key_norms_before", "text_key_norms_before", "normed", "text_normed",
)  # fmt: skip


def prompts(family):
    return [DOTS, *([MIXED, FILM] if family in WITH_VIDEO else [BOTH]), TALK]


def spans(inputs):
    """(row, visual columns, columns of the text after the last of them) of rows with pictures."""
    visual = (inputs["input_ids"] == 4) | (inputs["input_ids"] == 5)
    for row in visual.any(1).nonzero()[:, 0].tolist():
        columns = visual[row].nonzero()[:, 0]
        yield row, columns, torch.arange(int(columns[-1]) + 1, visual.shape[1])


@families
@pytest.mark.parametrize("layer", [1, 6])
@torch.no_grad()
def test_the_words_are_what_the_model_computes(family, layer):
    """Against the model's own attention maps, cache and states; in small blocks, too."""
    eager, model = built(family, attention="eager"), built(family)
    inputs = ask(*prompts(family), model_type=family)
    out, streams = (
        eager(**inputs, output_attentions=True, use_cache=True),
        entering(eager, inputs),
    )
    with observed(model, *WORDS, layer=layer) as found:
        model(**inputs)
    assert len(found) == len(list(spans(inputs)))
    norm = language(eager).norm
    for (row, visual, text), one in zip(spans(inputs), found, strict=True):
        own = out.attentions[layer - 1][row]
        expected = {"text_rows_before": own[:, text][..., visual]}
        largest = own.amax(0)
        expected["received_from_visual"] = largest[visual][:, visual].sum(0)
        expected["received_from_text"] = largest[text][:, visual].sum(0)
        keys = out.past_key_values.layers[layer - 1].keys[row]  # rotated
        norms = keys.abs().sum((0, 2))
        expected |= {"key_norms_before": norms[visual], "text_key_norms_before": norms[text]}
        states = norm(streams[layer][row])
        expected |= {"normed": states[visual], "text_normed": states[text]}
        door = streams[0][row]
        share = (door[visual] @ door[text].T).softmax(1)
        expected["text_relevance"] = share.mean(0)
        for word, wanted in expected.items():
            torch.testing.assert_close(one[word], wanted, atol=3e-5, rtol=3e-5, msg=word)


@torch.no_grad()
def test_the_bias_of_rope_by_hand():
    """2 Σ_i cos((m - n) θ_i) / √d_h, with the angles of the model's configuration."""
    model, inputs = built(), ask(STAR)
    with observed(model, "rope_bias", layer=3) as found:
        model(**inputs)
    (_, visual, text), width = next(spans(inputs)), 16
    theta = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    gap = (text[:, None] - visual).double()
    expected = 2 * (gap[..., None] * theta).cos().sum(-1) / width**0.5
    torch.testing.assert_close(found[0]["rope_bias"].double(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 500])
def test_maps_are_read_in_blocks(monkeypatch, block):
    model, inputs, sizes = built(), ask(BOTH, DOTS), []
    words = ("received_from_visual", "received_from_text", "text_rows_before", "attention")
    with observed(model, *words, layer=3) as whole:
        model(**inputs)
    monkeypatch.setattr(projections, "BLOCK", block)
    original = evidence.Evidence._blocks

    def blocks(self, *given):
        for part in original(self, *given):
            sizes.append(part.shape[1] * part.shape[0] * len(self.stream))
            yield part

    monkeypatch.setattr(evidence.Evidence, "_blocks", blocks)
    with observed(model, *words, layer=3) as found:
        model(**inputs)
    one_row = 4 * inputs["input_ids"].shape[1]
    assert len(sizes) > 20 and max(sizes) <= max(block, one_row)
    for a, b in zip(whole, found, strict=True):
        for word in words:
            torch.testing.assert_close(a[word], b[word], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_text_between_pictures_is_not_the_text_after_them():
    """Also where a cut has taken all of the second picture."""
    model, inputs = built(), ask(BOTH)
    middle = inputs["input_ids"].clone()  # a word between the two pictures
    seen = inputs["input_ids"][0].eq(4).nonzero()[:, 0]
    ids = torch.cat([middle[:, : seen[16]], torch.tensor([[20, 21]]), middle[:, seen[16] :]], 1)
    inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    after = ids.shape[1] - 1 - int(ids[0].eq(4).nonzero()[-1])
    sizes = []

    def select(scores, keep, text_rows_before):
        sizes.append(text_rows_before.shape)
        from qvid_utils.algebra.selection import Kept

        return Kept(torch.arange(keep))

    first = method("column_norm", select=select)
    with pruned(model, [(first, 9, {"layer": 2}), (first, 4, {"layer": 4})]):
        model(**inputs)
    assert sizes == [(4, after, 32), (4, after, 9)]


def test_the_raters_are_chosen_once_from_what_enters_the_model():
    """At every stage the relevance is that of layer 0, over all visual tokens, cut or not."""
    model, inputs, seen = built(), ask(STAR, DOTS), []
    chosen = METHODS["sparsevlm"]

    def select(scores, keep, hidden, text_relevance):
        seen.append(text_relevance)
        return chosen.select(scores, keep, hidden)

    with pruned(model, method(chosen, select=select), 7) as trace:
        model(**inputs)
    assert [cut.layer for cut in trace.cuts] == [1, 1, 2, 2, 4, 4]
    for row in (0, 1):
        for later in seen[row + 2 :: 2]:
            assert torch.equal(later, seen[row])


@pytest.mark.parametrize("word", WORDS)
def test_layer_0_has_no_layer_before(word):
    model = built()
    if word in ("text_relevance", "rope_bias", "normed", "text_normed"):
        with observed(model, word, layer=0) as found:
            model(**ask(STAR))
        assert found[0][word].isfinite().all()
        return
    with observed(model, word, layer=0), pytest.raises(ValueError, match=f"{word}.* there is none"):
        model(**ask(STAR))


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm_plus", "fitprune"])
def test_rows_of_a_whole_map_need_the_whole_conversation(name):
    model, star = built(), ask(STAR)
    with pruned(model, method(name, schedule=at(3)), 7):
        cache = model(**ask(TALK)).past_key_values
        with pytest.raises(ValueError, match="needs the whole conversation in one call"):
            model(**{**star, "attention_mask": None}, past_key_values=cache)
