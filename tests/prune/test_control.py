"""Scored with another question than the prompt's own, or with none."""

from dataclasses import replace

import pytest
import torch
from oracle import check_hidden, masked
from twins import BOTH, DOTS, STAR, TAIL, TALK, ask, built, cases

from qvid_utils.algebra.cuts import Cut, Staged
from qvid_utils.algebra.leverage import leverage
from qvid_utils.algebra.selection import top_k
from qvid_utils.families import FAMILIES
from qvid_utils.methods import METHODS, RULES, method
from qvid_utils.methods.evidence import needing
from qvid_utils.prune import observed, pruned

KEEP, EXACT = 5, 1e-5
OTHER = replace(STAR, words="which of these letter are blue , or red and two ?")


def scored(model, inputs, name, **more):
    with pruned(model, name, KEEP, **more) as trace:
        logits = model(**inputs).logits
    return trace.cuts, logits


def generate(model, inputs, tokens=4, **more):
    more = {"max_new_tokens": tokens, "do_sample": False, "suppress_tokens": [4, 5], **more}
    return model.generate(**inputs, **more, return_dict_in_generate=True, output_logits=True)


def instead(prompts, family="llava"):
    """The prompts with the other question and the same pictures."""
    others = [replace(p, words=OTHER.words) if p != TALK else p for p in prompts]
    inputs = ask(*others, model_type=family)
    mine = ask(*prompts, model_type=family)
    return {n: mine[n] if n.startswith("pixel") else value for n, value in inputs.items()}


READERS = [
    name for name, m in METHODS.items()
    if m.sees & needing("query", "text") and m.encode is None and "clip_text" not in m.sees
]  # fmt: skip
FAMILY_CASES = [(family, case) for family in sorted(FAMILIES) for case in cases(family)]


@pytest.mark.parametrize(("family", "case"), FAMILY_CASES)
def test_the_cut_is_that_of_the_prompt_with_the_other_question(family, case):
    """For every family and any batch; and the answer is to the prompt as it is."""
    model, prompts = built(family), cases(family)[case]
    inputs, text = ask(*prompts, model_type=family), OTHER.words + TAIL
    theirs = instead(prompts, family)
    for name in (method("qvid", rank=4), "fastv"):
        wanted, _ = scored(model, theirs, name)
        own, _ = scored(model, inputs, name)
        cuts, logits = scored(model, inputs, name, score_question=text)
        assert [c.kept.tolist() for c in cuts] == [c.kept.tolist() for c in wanted]
        assert [c.n_query for c in cuts] == [c.n_query for c in wanted]
        for a, b, c in zip(cuts, wanted, own, strict=True):
            assert (a.scores - b.scores).abs().max() <= EXACT
            assert (a.scores - c.scores).abs().max() > 100 * EXACT
        check_hidden(model, inputs, cuts, logits, 2 * EXACT)


@pytest.mark.parametrize("name", READERS)
def test_every_method_that_reads_the_question_or_the_text(name):
    model, inputs = built(), ask(BOTH)
    chosen = method(name, rank=4) if METHODS[name].params.get("rank") else METHODS[name]
    if isinstance(chosen.schedule, Staged):
        chosen = replace(chosen, schedule=staged_anywhere)
    wanted, _ = scored(model, instead([BOTH]), chosen)
    cuts, _ = scored(model, inputs, chosen, score_question=OTHER.words + TAIL)
    assert [(c.layer, c.kept.tolist()) for c in cuts] == [
        (c.layer, c.kept.tolist()) for c in wanted
    ]


def staged_anywhere(keep, n_visual, n_layers, layer=None):
    return Cut(1, n_visual // 2), Cut(4, n_visual // 4), Cut(6, 2)


@pytest.mark.parametrize("reading", ["in_place", "two_pass"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_decoding_goes_on_from_the_prompt_as_it_is(family, reading):
    model, inputs = built(family), ask(DOTS, STAR, model_type=family)
    more = {"score_question": [OTHER.words + TAIL, DOTS.words + TAIL], "reading": reading}
    with pruned(model, "qvid", KEEP, layer=3, **more) as trace:
        out = generate(model, inputs)
        beams = generate(model, inputs, num_beams=2)
    cuts = [replace(c, layer=0) if reading == "two_pass" else c for c in trace.cuts[:2]]
    expected, _ = masked(model, inputs, cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    assert (torch.stack(out.logits, 1) - expected[:, start : start + 4]).abs().max() <= EXACT
    kept = [c.kept.tolist() for c in trace.cuts]
    assert kept[2:] == [kept[0], kept[0], kept[1], kept[1]] and len(beams.sequences) == 2
    wanted, _ = scored(model, instead([DOTS], family), "qvid", layer=3)
    assert kept[0] == wanted[0].kept.tolist()
    if reading == "in_place":
        assert trace.mean_tokens == [(3 * 16 + 5 * KEEP) / 8] * 4


def test_content_and_a_composition_are_scored_with_it_too():
    model, inputs, text = built(), ask(STAR), OTHER.words + TAIL
    theirs = instead([STAR])
    for more in ({"query": "content"}, {"query": "prompt"}):
        wanted, _ = scored(model, theirs, "qvid", **more)
        cuts, _ = scored(model, inputs, "qvid", score_question=text, **more)
        assert cuts[0].kept.tolist() == wanted[0].kept.tolist()
        assert cuts[0].n_query == wanted[0].n_query
    pair = [("stride", 12, {"layer": 0}), ("qvid", 4, {"rank": 2})]
    with pruned(model, pair) as wanted:
        model(**theirs)
    pair[1][2]["score_question"] = text
    with pruned(model, pair) as trace:
        model(**inputs)
    assert [c.kept.tolist() for c in trace.cuts] == [c.kept.tolist() for c in wanted.cuts]
    assert trace.query is None


# ----------------------------------------------------------------------------- no question at all


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_keys_alone_are_the_leverage_of_the_keys(family):
    model, inputs = built(family), ask(DOTS, model_type=family)
    with observed(model, "keys", layer=3) as seen:
        model(**inputs)
    for rank in (2, 4):
        expected = leverage(seen[0]["keys"].mT, rank).mean(0)
        cuts, logits = scored(model, inputs, "qvid", layer=3, rank=rank, control="keys")
        assert (cuts[0].scores - expected).abs().max() <= EXACT
        assert cuts[0].kept.tolist() == top_k(expected, KEEP).index.tolist()
        check_hidden(model, inputs, cuts, logits, 2 * EXACT)


@pytest.mark.parametrize("name", ["qvid", "column_norm", "fastv", "sparsevlm_in_place"])
def test_noise_is_the_same_in_any_batch_and_another_with_another_seed(name):
    model = built()
    chosen = method(name, rank=4) if METHODS[name].params.get("rank") else METHODS[name]
    if isinstance(chosen.schedule, Staged):
        chosen = replace(chosen, schedule=staged_anywhere)
    own, _ = scored(model, ask(STAR), chosen)
    once, _ = scored(model, ask(STAR), chosen, control="noise")
    again, _ = scored(model, ask(DOTS, STAR), chosen, control="noise")
    other, _ = scored(model, ask(STAR), chosen, control="noise", control_seed=1)
    scores = [cuts[0].scores for cuts in (own, once, other)]
    mine = [c for c in again if c.row == 1]
    assert [c.kept.tolist() for c in mine] == [c.kept.tolist() for c in once]
    assert not torch.allclose(scores[0], scores[1]) and not torch.allclose(scores[1], scores[2])


def test_noise_has_the_norms_of_the_queries_and_no_direction_of_theirs():
    model, inputs, seen = built(), ask(BOTH), []
    with observed(model, "queries", "keys", layer=3) as own:
        model(**inputs)
    queries, back = own[0]["queries"], torch.linalg.pinv(own[0]["keys"].mT)

    def function(interaction):
        seen.append(interaction @ back)
        return interaction.square().sum((0, 1))

    spying = replace(METHODS["column_norm"], rule=replace(RULES["column_norm"], function=function))
    scored(model, inputs, spying, layer=3)
    scored(model, inputs, spying, layer=3, control="noise")
    assert torch.allclose(seen[0], queries, atol=1e-3)
    assert torch.allclose(seen[1].norm(dim=-1), queries.norm(dim=-1), rtol=1e-3)
    cosine = torch.nn.functional.cosine_similarity(seen[1], queries, dim=-1)
    assert cosine.mean().abs() < 0.1 and cosine.abs().max() < 0.95


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "more", "error", "match"),
    [
        ("divprune", {"score_question": "x ?"}, ValueError, "divprune.*reads no question"),
        ("random", {"control": "noise"}, ValueError, "control='noise' does not apply to.*random"),
        ("fastv", {"control": "keys"}, ValueError, "control='keys' does not apply to.*fastv"),
        ("qvid", {"control": "nothing"}, ValueError, "choose one of noise, keys"),
        ("qvid", {"control": "keys", "score_question": "x"}, ValueError, "not both"),
        ("qvid", {"score_question": " "}, TypeError, "give a question as text"),
        ("qvid", {"score_question": 3}, TypeError, "give a question as text"),
        ("qvid", {"control": "noise", "control_seed": 1.5}, TypeError, "control_seed=1.5"),
        ("qvid", {"score_question": ["what ?", "where ?"]}, ValueError, "2 questions for a batch"),
        (
            "qvid",
            {"score_question": "x ?", "query": torch.ones(32, dtype=torch.bool)},
            ValueError,
            "name a span",
        ),
    ],
)
def test_what_a_control_cannot_say_is_refused(name, more, error, match):
    with pytest.raises(error, match=match) as caught:
        scored(built(), ask(STAR), name, **more)
    assert "\n" not in str(caught.value)


def test_another_question_needs_the_whole_conversation():
    model, star = built(), ask(STAR)
    with pruned(model, "qvid", KEEP, layer=3, score_question="what ?"):
        out = generate(model, ask(TALK))
        ids = torch.cat([out.sequences, star["input_ids"]], 1)
        turn = {"input_ids": ids, "pixel_values": star["pixel_values"]}
        with pytest.raises(ValueError, match="score_question needs the whole conversation"):
            generate(model, turn, past_key_values=out.past_key_values)
