"""Pruning is exact: oracles over methods, kernels and prompts; refusals; nothing left behind.

The oracle needs no reference numbers: a token that is dropped at layer l must change the answer as
much as a token that nobody may look at from layer l on.
"""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from oracle import masked, places
from pairwise import PAPERS, matrix
from transformers import CompileConfig, DynamicCache, StaticCache
from twins import (
    BEAMS_SHARE,
    BOTH,
    CASES,
    DOTS,
    ELSEWHERE,
    FILM,
    FILMS,
    HAVE_CLASS,
    MIXED,
    QWEN,
    QWEN3,
    STAR,
    TALK,
    WITH_VIDEO,
    Prompt,
    ask,
    built,
    cases,
    language,
    tokenizer,
    twin,
)

from qvid_utils.algebra.cuts import Cut, Staged
from qvid_utils.algebra.selection import Kept, top_k
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.families.calls import pictures_once
from qvid_utils.methods import METHODS, RULES, Method, method
from qvid_utils.prune import observed, pruned

KERNELS = ("sdpa", "eager")
KEEP = 7
EXACT = 1e-5  # logits of about 1 in float32; in float64 the oracle holds to 1e-13, see below
LAYERS = 8

some = pytest.mark.parametrize("kernel", KERNELS)
families = pytest.mark.parametrize("family", sorted(FAMILIES))

# Where tokens are merged or put in another order, dropping is more than hiding; the methods that
# see a class token are carried by towers that have one. More of both in test_encoder_methods.py.
HIDING = [name for name, m in METHODS.items() if not m.merges and name not in ELSEWHERE]
NEED_CLASS = [name for name, entry in METHODS.items() if "cls_row" in entry.rule.sees]
# Renumbered positions, which a family with several axes does not carry, under an order of its own.
ONE_AXIS = tuple(name for name, m in METHODS.items() if getattr(m.select, "reorders", False))


def cells(names):
    return matrix(
        "family, name, kernel, case",
        [
            cell
            for family in sorted(FAMILIES)
            for cell in itertools.product([family], names, KERNELS, cases(family))
            if family not in QWEN or cell[1] not in ONE_AXIS
            if family in HAVE_CLASS or cell[1] not in NEED_CLASS
        ],
    )


# What merges at the LLM input has its own tests: it has extra tokens even where all are kept.
every = cells([*HIDING, "sparsevlm", "sparsevlm_in_place"])
# What merges is no longer a choice among tokens: test_merging.py has its oracle.
hiding = cells(HIDING)
each_case = matrix(
    "family, kernel, case",
    [
        cell
        for family in sorted(FAMILIES)
        for cell in itertools.product([family], KERNELS, cases(family))
    ],
)
LARGEST: list[float] = []


@pytest.fixture(autouse=True)
def _report(record_property):
    """The largest difference that a test has met goes into its report (--junitxml)."""
    LARGEST.clear()
    yield
    if LARGEST:
        record_property("largest", max(LARGEST))


def stages(keep, n_visual, n_layers, layer=None):
    """V2Drop's three stages for any number of tokens, down to the last one."""
    return Cut(1, max(1, n_visual * 6 // 10)), Cut(4, max(1, n_visual * 3 // 10)), Cut(6, 1)


def stages_later(keep, n_visual, n_layers, layer=None):
    """The same behind the first two layers, after which features of single tokens are added."""
    first, *rest = stages(keep, n_visual, n_layers)
    return Cut(2, first.keep), *rest


def small(name: str, family: str = "llava") -> Method:
    """The method, with a rank that fits 16 tokens: at rank 16 they would all tie."""
    chosen = method(name, rank=4) if METHODS[name].params.get("rank") else METHODS[name]
    if isinstance(chosen.schedule, Staged) and family != "llava":
        chosen = replace(chosen, schedule=stages_later if family in QWEN3 else stages)
    if chosen.positions == "contiguous" and family in QWEN:
        chosen = replace(chosen, positions="original")
    return chosen


def where_it_stood(name: str, family: str) -> Method:
    """The method with the positions that the masking oracle has."""
    return replace(small(name, family), positions="original")


def keeping_all(name: str, family: str = "llava") -> Method:
    """The method with its own layers, but every token of each row kept there."""
    chosen = small(name, family)

    def schedule(keep, n_visual, n_layers, layer=None):
        cuts = chosen.schedule(KEEP, n_visual, n_layers, layer)
        return tuple(Cut(cut.layer, n_visual) for cut in cuts)

    return replace(chosen, schedule=schedule)


def generate(model, inputs, tokens=4, **more):
    more = {"max_new_tokens": tokens, "do_sample": False, "suppress_tokens": [4, 5], **more}
    return model.generate(**inputs, **more, return_dict_in_generate=True, output_logits=True)


def difference(a, b) -> float:
    LARGEST.append(float((a - b).abs().max()))
    return LARGEST[-1]


def hook_count(model) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


# ------------------------------------------------------------------------------------- the oracles


@every
def test_keeping_everything_changes_no_bit(family, name, kernel, case):
    model = built(family, attention=kernel)
    inputs = ask(*cases(family)[case], model_type=family)
    chosen, plain, counted = keeping_all(name, family), generate(model, inputs, 3).sequences, {}
    if (
        chosen.positions != "original" and family not in QWEN
    ):  # a bare forward counts padding, generate does not
        counted = {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}
    logits = model(**inputs, **counted).logits
    with pruned(model, chosen, KEEP) as trace:
        assert difference(model(**inputs, **counted).logits, logits) == 0
        assert torch.equal(generate(model, inputs, 3).sequences, plain)
    assert trace.cuts and all(len(cut.kept) == cut.n_visual for cut in trace.cuts)


@hiding
def test_dropping_a_token_is_hiding_it(family, name, kernel, case):
    model = built(family, attention=kernel)
    inputs = ask(*cases(family)[case], model_type=family)
    with pruned(model, where_it_stood(name, family), KEEP) as trace:
        logits = model(**inputs).logits
    expected, alive = masked(model, inputs, trace.cuts)
    for row, here in enumerate(alive):
        # all tokens of the prompt: some thousand numbers, the largest of them about 5
        assert difference(logits[row, -int(here.sum()) :], expected[row, here]) <= 2 * EXACT
    with pytest.raises(AssertionError):  # and it does change the answer
        torch.testing.assert_close(logits[0, -1], model(**inputs).logits[0, -1])


@hiding
def test_decoding_with_the_cache_is_recomputing_without(family, name, kernel, case):
    model = built(family, attention=kernel)
    inputs = ask(*cases(family)[case], model_type=family)
    with pruned(model, where_it_stood(name, family), KEEP) as trace:
        out = generate(model, inputs)
    expected, _ = masked(model, inputs, trace.cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    steps = expected[:, start : start + len(out.logits)]
    assert difference(torch.stack(out.logits, 1), steps) <= EXACT


@every
def test_a_row_of_a_batch_is_the_row_alone(family, name, kernel, case):
    model, prompts = built(family, attention=kernel), cases(family)[case]
    with pruned(model, small(name, family), KEEP) as trace:
        together = generate(model, ask(*prompts, model_type=family))
    mean = trace.mean_tokens
    for row, prompt in enumerate(prompts):
        with pruned(model, small(name, family), KEEP) as alone:
            out = generate(model, ask(prompt, model_type=family))
        kept = [cut.kept.tolist() for cut in trace.cuts if cut.row == row]
        assert kept == [cut.kept.tolist() for cut in alone.cuts]
        a, b = torch.stack(out.logits, 1)[0], torch.stack(together.logits, 1)[row]
        assert difference(a, b) <= EXACT
        assert out.sequences[0, -4:].tolist() == together.sequences[row, -4:].tolist()
        assert mean[row] == pytest.approx(alone.mean_tokens[0] if alone.mean_tokens else 0)


@matrix("family, kernel, layer", itertools.product(sorted(FAMILIES), KERNELS, range(LAYERS)))
def test_every_layer_can_be_cut(family, kernel, layer):
    model = built(family, attention=kernel)
    inputs = ask(BOTH, STAR, TALK, model_type=family)
    with pruned(model, "qvid", KEEP, layer=layer) as trace:
        logits, out = model(**inputs).logits, generate(model, inputs)
    cuts = [cut for cut in trace.cuts if cut.call == 0]
    assert {cut.layer for cut in cuts} == {layer}
    expected, alive = masked(model, inputs, cuts)
    near = EXACT if family in PAPERS else 2 * EXACT  # InternVL's rounding is 1.1e-5
    for row, here in enumerate(alive):
        assert difference(logits[row, -int(here.sum()) :], expected[row, here]) <= near
    again, _ = masked(model, inputs, cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    assert difference(torch.stack(out.logits, 1), again[:, start : start + 4]) <= EXACT


@families
@pytest.mark.parametrize("seed", range(8))
def test_random_prompts_cuts_and_batches(family, seed):
    """Rows of any make, several cuts of any size: the oracle holds."""
    dice = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=dice))

    heads = (1, 2, 4)[draw(0, 3)]
    bias = {"attention_bias": bool(draw(0, 2))} if family in ("llava", "video_llava") else {}
    model = built(family, attention=KERNELS[draw(0, 2)], kv_heads=heads, **bias)
    choice = (STAR, DOTS, BOTH, TALK) + (FILM, FILMS, MIXED) * (family in WITH_VIDEO)
    prompts = [replace((STAR, DOTS, BOTH)[draw(0, 3)], pictures=draw(1, 3))]
    prompts += [choice[draw(0, len(choice))] for _ in range(draw(0, 4))]
    layers = sorted({draw(0, LAYERS) for _ in range(draw(1, 4))})
    shares = sorted((draw(5, 90) / 100 for _ in layers), reverse=True)

    def schedule(keep, n_visual, n_layers, layer=None):
        return tuple(
            Cut(at, max(1, int(n_visual * share))) for at, share in zip(layers, shares, strict=True)
        )

    rule = [r for r in ("qvid", "last_attention", "column_norm", "random")][draw(0, 4)]
    inputs = ask(*prompts, seed=seed, model_type=family)
    with pruned(model, Method("mine", RULES[rule], schedule), KEEP) as trace:
        out = generate(model, inputs, 3)
    expected, _ = masked(model, inputs, trace.cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    assert difference(torch.stack(out.logits, 1), expected[:, start : start + 3]) <= EXACT
    visual = places(model, inputs).sum(1).tolist()
    assert [m > 0 for m in trace.mean_tokens] == [n > 0 for n in visual]


@some
def test_losers_that_fill_a_short_row_are_no_candidates_later(kernel):
    """A row that keeps less than its neighbour carries losers along, masked, as fillers."""
    model, inputs = built(attention=kernel), ask(DOTS, STAR)

    def schedule(keep, n_visual, n_layers, layer=None):
        return Cut(2, n_visual - 1 if n_visual > 16 else 4), Cut(5, 3)

    inputs = ask(BOTH, STAR)
    with pruned(model, Method("mine", RULES["variation"], schedule), KEEP) as trace:
        model(**inputs)
    first = {cut.row: set(cut.kept.tolist()) for cut in trace.cuts if cut.layer == 2}
    for cut in trace.cuts[2:]:
        assert cut.n_visual == len(first[cut.row]) == len(cut.scores)
        assert set(cut.kept.tolist()) <= first[cut.row] == set(cut.scored.tolist())


# ----------------------------------------------------------------------- readings and positions


@each_case
def test_two_pass_scores_in_place_and_drops_at_the_door(family, kernel, case):
    model = built(family, attention=kernel)
    inputs = ask(*cases(family)[case], model_type=family)
    with pruned(model, "qvid", KEEP, layer=3) as once:
        model(**inputs)
    with pruned(model, "qvid", KEEP, layer=3, reading="two_pass") as twice:
        logits, out = model(**inputs).logits, generate(model, inputs)
    cuts = twice.cuts[: len(once.cuts)]
    assert [c.kept.tolist() for c in cuts] == [c.kept.tolist() for c in once.cuts]
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(cuts, once.cuts, strict=True))
    at_entry = [replace(cut, layer=0) for cut in cuts]
    expected, alive = masked(model, inputs, at_entry, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    assert difference(logits[:, -1], expected[:, start]) <= EXACT
    assert difference(torch.stack(out.logits, 1), expected[:, start : start + 4]) <= EXACT
    visual = places(model, inputs).sum(1).tolist()
    assert twice.mean_tokens == [KEEP * (n > 0) + n * 3 / LAYERS for n in visual]


@each_case
def test_contiguous_positions_at_the_door_are_a_shorter_prompt(family, kernel, case):
    """Renumbered at layer 0, the language model must see nothing but the shorter embeddings."""
    model = built(family, attention=kernel)
    inputs = ask(*cases(family)[case], model_type=family)
    if family in QWEN:
        with refused("counts positions along several axes.*use 'original'", Unavailable):
            run(model, inputs, "qvid", KEEP, layer=0, positions="contiguous")
        return
    with pruned(model, "qvid", KEEP, layer=0, positions="contiguous") as trace:
        out = generate(model, inputs)
    embedded = {}
    spy = language(model).register_forward_pre_hook(
        lambda m, a, k: embedded.update(k), with_kwargs=True
    )
    model(**inputs)
    spy.remove()
    ids, visual = inputs["input_ids"], places(model, inputs)
    for row in range(len(ids)):
        stays = inputs["attention_mask"][row].bool()
        for cut in (c for c in trace.cuts if c.row == row):
            columns = visual[row].nonzero()[:, 0]
            stays = stays & ~visual[row]
            stays[columns[cut.kept]] = True
        short = embedded["inputs_embeds"][row, stays]
        tokens = out.sequences[row, ids.shape[1] : -1]
        short = torch.cat([short, model.get_input_embeddings()(tokens)])
        logits = model.lm_head(language(model)(inputs_embeds=short[None])[0])
        assert difference(logits[0, -4:], torch.stack(out.logits, 1)[row]) <= EXACT


def test_contiguous_positions_inside_renumber_the_rotary_pair():
    """From the cut on, layers see 0, 1, 2, ...; before it, the caller's positions."""
    model, inputs, seen = built(), ask(STAR, DOTS), {}

    def spy(i):
        return lambda m, a, k: seen.update({i: k["position_embeddings"]})

    with pruned(model, "qvid", KEEP, layer=3, positions="contiguous"):
        layers = language(model).layers
        spies = [layers[i].register_forward_pre_hook(spy(i), with_kwargs=True) for i in (2, 3)]
        model(**inputs)
        for s in spies:
            s.remove()
    rotary, dummy = language(model).rotary_emb, torch.zeros(1)
    length = seen[3][0].shape[1]
    assert torch.equal(seen[3][0][1], rotary(dummy, torch.arange(length)[None])[0][0])
    words = [int(inputs["attention_mask"][row].sum()) - 9 for row in (0, 1)]
    pads = words[1] - words[0]
    assert torch.equal(seen[3][0][0, pads:], rotary(dummy, torch.arange(length - pads)[None])[0][0])
    assert seen[2][0].shape[1] == inputs["input_ids"].shape[1]


# ----------------------------------------------------------------------- precision


@families
@some
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, EXACT), (torch.float16, 0.02), (torch.bfloat16, 0.2)]
)
@torch.no_grad()
def test_each_precision_against_its_own_oracle(family, kernel, dtype, near):
    """Keeping all changes no bit, dropping is hiding up to rounding, scores are float32."""
    model = twin(family, attention=kernel).to(dtype)
    inputs = ask(*cases(family).get("pictures and videos", CASES["ragged"]), model_type=family)
    plain, answer = model(**inputs).logits, generate(model, inputs, 3).sequences
    assert plain.dtype == dtype
    with pruned(model, keeping_all("qvid", family), KEEP):
        assert torch.equal(model(**inputs).logits, plain)
        assert torch.equal(generate(model, inputs, 3).sequences, answer)
    for name in ("qvid", "fastv", "v2drop"):
        with pruned(model, small(name, family), KEEP) as trace:
            logits = model(**inputs).logits
        assert {cut.scores.dtype for cut in trace.cuts} == {torch.float32}
        expected, alive = masked(model, inputs, trace.cuts)
        for row, here in enumerate(alive):
            got, wanted = logits[row, -int(here.sum()) :], expected[row, here]
            assert difference(got.double(), wanted.double()) <= near


@families
@pytest.mark.parametrize("name", ["qvid", "fastv", "v2drop", "column_norm"])
@torch.no_grad()
def test_in_float64_dropping_is_hiding_to_the_last_digits(family, name):
    """What the other oracles leave over is rounding and nothing else."""
    model = twin(family).double()
    if "moe" in family:  # the kernel of experts has no float64
        model.set_experts_implementation("eager")
    for prompt in (BOTH, *((MIXED, FILMS) if family in WITH_VIDEO else ())):
        inputs = ask(prompt, model_type=family)
        inputs = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
        with pruned(model, small(name, family), KEEP) as trace:
            logits = model(**inputs).logits
        expected, (*_, here) = masked(model, inputs, trace.cuts)
        assert logits.dtype == torch.float64
        assert difference(logits[0], expected[0, here]) <= 1e-13


@families
def test_a_question_that_repeats_itself_scores_as_its_svd_with_a_rank_cut(family):
    """At layer 0 a word's query row is the same wherever it stands: twelve words, four directions.
    The printed recipe lets eight arbitrary ones vote, and keeps other tokens."""
    words = "star star star red red red dots dots dots lines lines lines"
    model = built(family)
    inputs = ask(Prompt(words), model_type=family)
    start = int(places(model, inputs)[0].nonzero()[-1]) + 1
    found = (inputs["input_ids"][0, start:, None] == torch.tensor(
        tokenizer(family).convert_tokens_to_ids(sorted(set(words.split())))
    )).any(1)  # fmt: skip
    mask = torch.nn.functional.pad(found, (start, 0))
    assert mask.sum() == 12
    with observed(model, "interaction", layer=0, query=mask) as seen:
        model(**inputs)
    matrix = seen[0]["interaction"].double()
    _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
    live = values > values[:, :1] * 1e-6
    assert live.sum(1).tolist() == [4] * 4
    exact = (rows.square() * live[..., None]).sum(1).mean(0)
    with pruned(model, "qvid", 5, layer=0, query=mask) as trace:
        model(**inputs)
    assert difference(trace.cuts[0].scores, exact) <= 1e-6
    assert trace.cuts[0].kept.tolist() == top_k(exact, 5).index.tolist()
    with pruned(model, "leverage_qr", 5, layer=0, query=mask) as printed:
        model(**inputs)
    assert (printed.cuts[0].scores - exact).abs().max() > 0.1
    assert printed.cuts[0].kept.tolist() != trace.cuts[0].kept.tolist()


# ----------------------------------------------------------------------- ways to generate


@families
def test_sampling_beams_static_cache_and_assisted_decoding(family):
    if family == "internvl" and not BEAMS_SHARE:
        return  # older versions repeat its tiles one by one, so that beams see others' tiles
    model, inputs = built(family), ask(STAR, DOTS, model_type=family)
    with pruned(model, "qvid", KEEP, layer=2) as trace:
        greedy = generate(model, inputs, 6).sequences
        static = generate(model, inputs, 6, cache_implementation="static", disable_compile=True)
        beams = generate(model, inputs, 6, num_beams=3, num_return_sequences=2)
        torch.manual_seed(1)
        sampled = generate(model, inputs, 6, do_sample=True, num_return_sequences=2)
        torch.manual_seed(1)
        afresh = generate(model, inputs, 6, do_sample=True, num_return_sequences=2, use_cache=False)
    assert torch.equal(sampled.sequences, afresh.sequences)
    assert torch.equal(greedy, static.sequences)
    kept = {cut.row: cut.kept.tolist() for cut in trace.cuts if cut.call == 0}
    for cut in trace.cuts:  # beams and samples repeat a prompt, and keep what it keeps
        copies = (1, 1, 3, *7 * [2])[cut.call]
        assert cut.kept.tolist() == kept[cut.row // copies]
    assert len(beams.sequences) == len(sampled.sequences) == 4
    one = ask(DOTS, model_type=family)
    with pruned(model, "qvid", KEEP, layer=2):
        expected = generate(model, one, 8).sequences
        assert torch.equal(generate(model, one, 8, prompt_lookup_num_tokens=3).sequences, expected)
    with pruned(model, "qvid", KEEP, layer=0):
        expected = generate(model, one, 8).sequences
        assert torch.equal(generate(model, one, 8, prompt_lookup_num_tokens=3).sequences, expected)
        assert torch.equal(generate(model, one, 8, use_cache=False).sequences, expected)


@families
@pytest.mark.parametrize("layer", [0, 3])
def test_a_static_cache_with_padding(family, layer):
    model, inputs = built(family), ask(BOTH, STAR, TALK, model_type=family)
    with pruned(model, "qvid", KEEP, layer=layer):
        dynamic = generate(model, inputs, 5)
        static = generate(model, inputs, 5, cache_implementation="static", disable_compile=True)
    assert difference(torch.stack(dynamic.logits, 1), torch.stack(static.logits, 1)) <= EXACT


def second_turn(inputs, out, family="llava", words="what letter is red ?"):
    """The conversation so far and another question, in the family's template."""
    chat = tokenizer(family)
    text = Prompt(words, pictures=0).text(family).replace("You are a helpful assistant.", "")
    more = chat([text] * len(out.sequences), add_special_tokens=False, return_tensors="pt")
    ids = torch.cat([out.sequences, more["input_ids"]], 1)
    mask = torch.nn.functional.pad(
        inputs["attention_mask"], (0, ids.shape[1] - inputs["input_ids"].shape[1]), value=1
    )
    return {"input_ids": ids, "attention_mask": mask}


@families
@some
@pytest.mark.parametrize("case", ["single", "ragged", "pictures and videos"])
def test_a_second_turn_on_the_cache(family, kernel, case):
    model, prompts = built(family, attention=kernel), cases(family).get(case, CASES["ragged"])
    inputs = ask(*prompts, model_type=family)
    with pruned(model, "qvid", KEEP, layer=3) as trace:
        out = generate(model, inputs)
        turn = second_turn(inputs, out, family)
        again = generate(model, turn, past_key_values=out.past_key_values)
    expected, _ = masked(model, inputs, trace.cuts, again.sequences)
    start = turn["input_ids"].shape[1] - 1
    assert difference(torch.stack(again.logits, 1), expected[:, start : start + 4]) <= EXACT


@families
@pytest.mark.parametrize("more", [{}, {"layer": 3, "reading": "two_pass"}])
@pytest.mark.parametrize("case", ["single", "ragged"])
def test_a_second_turn_after_a_cut_at_layer_0_is_refused(family, case, more):
    model, inputs = built(family), ask(*CASES[case], model_type=family)
    with pruned(model, "qvid", KEEP, **{"layer": 0, **more}):
        out = generate(model, inputs)
        with pytest.raises(ValueError, match="another turn"):
            generate(model, second_turn(inputs, out, family), past_key_values=out.past_key_values)
        with pytest.raises(ValueError, match="position_ids"):
            model(input_ids=out.sequences[:, -1:], past_key_values=out.past_key_values)


@families
def test_a_picture_in_the_second_turn(family):
    """The second turn's picture is cut by itself; the first one's losers stay gone."""
    model = built(family)
    talk, star = ask(TALK, model_type=family), ask(STAR, model_type=family)
    with pruned(model, "qvid", KEEP, layer=3) as trace:
        out = generate(model, talk)
        ids = torch.cat([out.sequences, star["input_ids"]], 1)
        turn = {**star, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in turn:
            turn["mm_token_type_ids"] = (ids == 4).int()
        if family in QWEN and not numbers_later_pictures(model, talk, turn):
            with refused("numbered as text, not by row and column; give the whole conversation"):
                generate(model, turn, past_key_values=out.past_key_values)
            return
        again = generate(model, turn, past_key_values=out.past_key_values)
    expected, _ = masked(model, turn, trace.cuts, again.sequences)
    assert difference(torch.stack(again.logits, 1), expected[:, ids.shape[1] - 1 : -1]) <= EXACT


def numbers_later_pictures(model, first, turn) -> bool:
    """Whether this version of the library gives the picture of a later turn its own positions: the
    second axis leaves the first one."""
    cache = DynamicCache(config=model.config.get_text_config())
    model(input_ids=first["input_ids"], past_key_values=cache)
    model.base_model.rope_deltas = torch.zeros(1, 1, dtype=torch.long)
    positions = model._prepare_position_ids_for_generation(
        turn["input_ids"], {**turn, "past_key_values": cache}
    )
    return len(positions) > 1 and not torch.equal(positions[-1], positions[-2])


@pytest.mark.parametrize("family", QWEN)
def test_a_later_picture_without_positions_is_refused(family):
    model, star = built(family), ask(STAR, model_type=family)
    with pruned(model, "qvid", KEEP, layer=3):
        first = model(**ask(TALK, model_type=family))
        with refused("numbered as text, not by row and column"):
            more = {**star, "attention_mask": None}
            model(**more, past_key_values=first.past_key_values)


def test_a_placeholder_id_that_the_model_generates_is_text():
    model, inputs = built(), ask(STAR)
    with pruned(model, "qvid", KEEP) as trace:
        out = generate(model, inputs, 1)
        ids = torch.tensor([[model.config.image_token_id]])
        step = model(input_ids=ids, past_key_values=out.past_key_values)
    assert step.logits.shape[1] == 1 and len(trace.cuts) == 1


def test_text_alone_is_left_alone():
    model, inputs = built(), ask(TALK)
    plain = model(**inputs).logits
    with pruned(model, "qvid", KEEP) as trace:
        model(**ask(STAR))
        assert torch.equal(model(**inputs).logits, plain)
    assert len(trace.cuts) == 1


# ------------------------------------------------------------------- the trace, and what is read


def test_the_trace_says_what_happened():
    model, inputs = built(), ask(DOTS, BOTH, TALK)
    with pruned(model, "qvid", KEEP, layer=3, rank=2) as trace:
        model(**inputs)
        model(**ask(STAR))
    first, second, third = trace.cuts
    assert [(c.call, c.row, c.layer, c.n_visual) for c in trace.cuts] == [
        (0, 0, 3, 16), (0, 1, 3, 32), (1, 0, 3, 16)
    ]  # fmt: skip
    assert first.n_query == 22 and third.n_query == 14
    assert second.scores.shape == second.scored.shape == (32,) and second.kept.shape == (KEEP,)
    best = second.scores.sort(descending=True, stable=True).indices[:KEEP].sort().values
    assert torch.equal(second.kept, best)
    assert trace.mean_tokens == [(3 * 16 + 5 * KEEP) / 8]
    assert trace.query.sum() == third.n_query and third.seconds > 0


def test_staged_methods_report_what_each_stage_saw():
    model = built()
    with pruned(model, "v2drop", KEEP) as trace:
        model(**ask(STAR))
    assert [c.layer for c in trace.cuts] == [1, 4, 6] and len(trace.cuts[-1].kept) == 1
    for before, after in itertools.pairwise(trace.cuts):
        assert torch.equal(before.kept, after.scored)
        assert set(after.kept.tolist()) <= set(before.kept.tolist())


def test_the_variation_is_the_difference_of_hidden_states():
    model, inputs = built(), ask(STAR, DOTS)
    states = model(**inputs, output_hidden_states=True).hidden_states
    with pruned(model, "variation", KEEP, layer=4) as trace:
        model(**inputs)
    visual = places(model, inputs)
    for row, cut in enumerate(trace.cuts):
        moved = (states[4] - states[3])[row, visual[row]].norm(dim=-1)
        assert torch.equal(cut.scores, moved)


def test_a_mask_is_the_query():
    model, inputs = built(), ask(STAR, DOTS)
    with pruned(model, "qvid", KEEP) as trace:
        model(**inputs)
    mask = trace.query
    with pruned(model, "qvid", KEEP, query=mask) as same:
        model(**inputs)
        generate(model, inputs, num_beams=2)
    assert [c.kept.tolist() for c in same.cuts[:2]] == [c.kept.tolist() for c in trace.cuts]
    assert len(same.cuts) == 6  # two rows, then two beams of each
    fewer = mask & (mask.cumsum(1) <= 3)
    with pruned(model, "qvid", KEEP, query=fewer) as other:
        model(**inputs)
    assert [c.n_query for c in other.cuts] == [3, 3]
    with pruned(model, "qvid", KEEP, query="content") as content:
        model(**inputs)
    assert [c.n_query for c in content.cuts] == [c.n_query - 8 for c in trace.cuts]
    single = ask(STAR)
    with pruned(model, "qvid", KEEP, query=mask[0][-single["input_ids"].shape[1] :]) as one:
        model(**single)
        cached = generate(model, single, 3).sequences
        assert torch.equal(generate(model, single, 3, use_cache=False).sequences, cached)
    assert all(c.kept.tolist() == trace.cuts[0].kept.tolist() for c in one.cuts)


def test_a_selection_may_ask_for_evidence_and_merge():
    model, inputs = built(), ask(STAR, DOTS)

    def select(scores, keep, hidden, grid):
        assert grid == (1, 4, 4)
        kept = top_k(scores, keep)
        return Kept(kept.index, hidden.mean(0).expand(keep, -1))

    merging = replace(METHODS["qvid"], select=select)
    states = {}
    with pruned(model, merging, KEEP, layer=3):
        spy = (
            language(model)
            .layers[3]
            .register_forward_pre_hook(lambda m, args: states.update(after=args[0]))
        )
        hidden = model(**inputs, output_hidden_states=True).hidden_states[3]
        spy.remove()
    row = hidden[1] if hidden.shape[1] == inputs["input_ids"].shape[1] else None
    after = states["after"][1]
    same = [t for t in range(len(after)) if torch.equal(after[t], after[2])]
    assert len(same) == KEEP
    if row is not None:
        mean = row[places(model, inputs)[1]].mean(0)
        assert difference(after[same[0]], mean) <= EXACT
    with pruned(model, merging, KEEP, reading="two_pass"), pytest.raises(ValueError, match="merge"):
        model(**inputs)


@some
def test_observing_changes_nothing(kernel):
    model, inputs = built(attention=kernel), ask(BOTH, STAR, TALK)
    plain = model(**inputs).logits
    with observed(model, "interaction", "features", "grid", layer=3) as found:
        assert torch.equal(model(**inputs).logits, plain)
    assert [sorted(one) for one in found] == [["features", "grid", "interaction"]] * 2
    assert found[0]["interaction"].shape == (4, 15, 32) and found[0]["grid"] == (2, 4, 4)
    pictures = torch.cat(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
    assert torch.equal(torch.cat([one["features"] for one in found]), pictures)
    with observed(model, "interaction", layer=3, rope=True) as turned:
        model(**inputs)
    assert difference(turned[0]["interaction"], found[0]["interaction"]) > 0.1


# ------------------------------------------------------------------------------------- refusals


def refused(match, error=ValueError):
    return pytest.raises(error, match=match)


def run(model, inputs, *args, **more):
    with pruned(model, *args, **more):
        model(**inputs)


def bare(**changes):
    return {**ask(STAR), **changes}


@pytest.mark.parametrize(
    ("args", "more", "error", "match"),
    [
        (("qvid", 0), {}, ValueError, "keep=0: keep at least 1"),
        (("qvid", -3), {}, ValueError, "keep=-3"),
        (("qvid", 17), {}, ValueError, "keep=17: the prompt has 16 visual tokens"),
        (("qvid", 3.5), {}, TypeError, "keep=3.5: give a whole number"),
        (("qvid", None), {}, TypeError, "keep=None: give a whole number"),
        (("qvid", True), {}, TypeError, "keep=True"),
        (("qvid", [4, 2]), {}, ValueError, "2 numbers for a batch of 1 prompts"),
        (("qvid", 7), {"layer": 8}, ValueError, "layer=8: the model has layers 0 to 7"),
        (("qvid", 7), {"layer": -1}, ValueError, "layer=-1"),
        (("qvid", 7), {"layer": 1.0}, TypeError, "layer=1.0"),
        (("v2drop", 7), {"layer": 3}, ValueError, "3 stages"),
        (("v2drop", 1), {}, ValueError, "keep=1: cuts at layers 1, 4, 6"),
        (("qvit", 7), {}, ValueError, "unknown method 'qvit'.*qvid"),
        (("qvid", 7), {"ranc": 3}, ValueError, "ranc"),
        (("qvid", 7), {"query": "answer"}, ValueError, "query='answer'"),
        (("qvid", 7), {"positions": "new"}, ValueError, "positions='new'"),
        (("qvid", 7), {"reading": "thrice"}, ValueError, "reading='thrice'"),
        (("v2drop", 7), {"reading": "two_pass"}, ValueError, "at layers 1, 4, 6; use 'in_place'"),
        (("variation", 7), {"layer": 0}, ValueError, "layer=0: 'previous' compares"),
        (("fastv", 7), {"layer": 0}, ValueError, "layer=0: 'last_row_before' compares"),
        (("qvid", 7), {"query": torch.ones(5, dtype=torch.bool)}, ValueError, "one bool per token"),
        (("qvid", 7), {"query": torch.zeros(32, dtype=torch.bool)}, ValueError, "no query token"),
    ],
)
def test_a_bad_argument_is_one_clear_sentence(args, more, error, match):
    model = built()
    model(**ask(STAR))  # the library hangs its own hooks on the tower, once
    count = hook_count(model)
    with refused(match, error) as caught:
        run(model, ask(STAR), *args, **more)
    assert "\n" not in str(caught.value) and hook_count(model) == count


def padded_right():
    inputs = ask(STAR, DOTS)
    return {name: value.flip(1) if value.dim() == 2 else value for name, value in inputs.items()}


def without_placeholders():
    inputs = ask(TALK)
    return {**inputs, "pixel_values": ask(STAR)["pixel_values"]}


def without_words():
    return ask(replace(STAR, words=""), seed=0)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (without_placeholders, "no visual token"),
        (padded_right, "pad the prompts on the left"),
        (lambda: bare(labels=ask(STAR)["input_ids"]), "labels=: "),
        (lambda: bare(logits_to_keep=torch.tensor([1])), "logits_to_keep"),
        (lambda: {"inputs_embeds": torch.zeros(1, 3, 64)}, "not with inputs_embeds"),
        (
            lambda: bare(pixel_values=torch.full((1, 3, 24, 24), torch.nan)),
            "row 0: NaN or inf",
        ),
        (
            lambda: {n: v[:, :15] if v.dim() == 2 else v for n, v in bare().items()},
            "prompt ends in a picture",
        ),
    ],
)
@pytest.mark.parametrize("more", [{}, {"layer": 0}, {"reading": "two_pass"}], ids=str)
def test_a_bad_prompt_is_one_clear_sentence(inputs, match, more):
    model = built()
    count = hook_count(model)
    with refused(match) as caught:
        run(model, inputs(), "qvid", KEEP, **more)
    assert "\n" not in str(caught.value) and hook_count(model) == count
    assert model(**ask(STAR)).logits.shape[1] == 32


def test_a_mask_of_the_callers_own_is_refused_and_a_causal_one_is_not():
    model, inputs = built("llava"), ask(STAR)
    length = inputs["input_ids"].shape[1]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    logits = []
    for mask in (inputs["attention_mask"], causal):
        with pruned(model, "qvid", KEEP):
            logits.append(model(**{**inputs, "attention_mask": mask}).logits)
    assert torch.equal(*logits)
    window = causal & ~causal.tril(-9)  # nobody looks back further than nine places
    with refused("4-D mask that is more than causal"):
        run(model, {**inputs, "attention_mask": window}, "qvid", KEEP)


def test_a_mask_with_a_hole_is_refused():
    inputs = ask(STAR)
    inputs["attention_mask"][0, 2] = 0
    with refused("attention_mask has a hole"):
        run(built(), inputs, "qvid", KEEP)


def test_an_unknown_word_of_evidence_is_named():
    with (
        refused("no evidence is called interactoin; known: hidden"),
        observed(built(), "interactoin", layer=3),
    ):
        pass


def test_no_query_token_names_the_row():
    class Empty(Prompt):
        def text(self, model_type):
            return "USER: <image>\n ASSISTANT:"

    with refused("row 1: no query token, query='question'"):
        run(built(), ask(STAR, Empty("")), "qvid", KEEP)


def test_one_bad_row_is_found_among_good_ones():
    model, inputs = built(), ask(STAR, DOTS)
    inputs["pixel_values"][1] = torch.inf
    with refused("row 1: NaN or infinite hidden states enter layer 3"):
        run(model, inputs, "random", KEEP, layer=3)
    with refused("keep=20: the prompt has 16"):
        run(model, ask(BOTH, STAR), "qvid", 20)


def test_rules_that_misbehave_are_named():
    bad = replace(METHODS["stride"], rule=replace(RULES["stride"], function=lambda h: h[:3, 0]))
    with refused(r"rule 'stride' gave scores of shape \(3,\) for 16"):
        run(built(), ask(STAR), bad, KEEP)


@pytest.mark.parametrize("name", ["qvid", "fastv", "random"])
def test_a_prompt_in_chunks_is_refused(name):
    model = built()
    for size in (5, 19, 25):  # inside the pictures, after them, inside the question
        with pruned(model, name, KEEP), refused("prefill_chunk_size: a prompt with"):
            generate(model, ask(STAR), prefill_chunk_size=size)


def test_attention_rows_need_the_whole_conversation():
    model, star = built(), ask(STAR)
    for more in ({"method": "last_attention"}, {"method": "qvid", "reading": "two_pass"}):
        with pruned(model, keep=KEEP, layer=3, **more):
            out = generate(model, ask(TALK))
            ids = torch.cat([out.sequences, star["input_ids"]], 1)
            turn = {"input_ids": ids, "pixel_values": star["pixel_values"]}
            with refused("whole conversation"):
                generate(model, turn, past_key_values=out.past_key_values)


def test_a_cache_belongs_to_its_block():
    model, inputs = built(), ask(STAR, DOTS)
    with pruned(model, "qvid", KEEP, layer=3):
        out = model(**inputs)
        other = copy.deepcopy(out.past_key_values)
        with refused("pruned in another block"):
            model(input_ids=torch.tensor([[7], [8]]), past_key_values=other)
    with pruned(model, "qvid", KEEP), refused("pruned in another block"):
        model(input_ids=torch.tensor([[7], [8]]), past_key_values=out.past_key_values)


def test_a_cache_cut_at_layer_0_is_known_in_another_block():
    """All its layers are equally short: its lengths do not give it away."""
    model, inputs = built(), ask(STAR, DOTS)
    with pruned(model, "qvid", KEEP, layer=0):
        cache = model(**inputs).past_key_values
    with pruned(model, "qvid", KEEP, layer=0), refused("pruned in another block"):
        model(input_ids=torch.tensor([[7], [8]]), past_key_values=cache)


def test_rows_that_changed_places_in_a_padded_cache_are_refused():
    """Who is padding is remembered by row: another row's answer would be silently wrong."""
    model, inputs, new = built(), ask(STAR, DOTS), torch.tensor([[7], [8]])
    for change in (
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
    ):
        with pruned(model, "qvid", KEEP, layer=3):
            cache = model(**inputs).past_key_values
            model(input_ids=new, past_key_values=cache)  # as they were
            change(cache)
            with refused("rows of this cache have been exchanged or taken out"):
                model(input_ids=new[: len(cache.layers[0].keys)], past_key_values=cache)
    with pruned(model, "qvid", KEEP, layer=3):  # without padding all rows are alike
        cache = model(**ask(STAR, STAR)).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        model(input_ids=new, past_key_values=cache)


@pytest.mark.parametrize("how", ["generate", "torch.compile", "model.compile"])
def test_a_compiled_forward_is_refused(how):
    model, inputs = twin(), ask(STAR)
    plain = generate(model, inputs).sequences
    with pruned(model, "qvid", KEEP, layer=3), refused("disable_compile=True"):
        if how == "generate":  # what a GPU does by itself where the cache is static
            compiling = CompileConfig(backend="eager", mode=None)
            compiling._compile_all_devices = True
            generate(model, inputs, cache_implementation="static", compile_config=compiling)
        elif how == "torch.compile":
            torch.compile(model, backend="eager")(**inputs)
        else:
            model.compile(backend="eager")
            model(**inputs)
    model._compiled_call_impl = None
    assert torch.equal(generate(model, inputs).sequences, plain)


def test_a_static_cache_can_be_used_again():
    model = built()
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=60)
    plain = generate(model, ask(TALK), 5).sequences
    with pruned(model, "qvid", KEEP, layer=0):
        model(**ask(STAR), past_key_values=cache)
        cache.reset()
        more = {"past_key_values": cache, "disable_compile": True}
        assert torch.equal(generate(model, ask(TALK), 5, **more).sequences, plain)


def test_a_model_without_full_attention_is_refused():
    windows = {"layer_types": ["sliding_attention"] * LAYERS, "sliding_window": 8}
    model = twin()
    vars(language(model).config).update(windows)
    with refused("full attention", Unavailable):
        run(model, ask(STAR), "qvid", KEEP)


# ------------------------------------------------------------------------- nothing is left behind


@families
@some
@pytest.mark.parametrize("how", ["normally", "in the block", "in a rule", "in the model"])
def test_nothing_is_left_behind(family, kernel, how):
    model, inputs = built(family, attention=kernel), ask(STAR, DOTS, model_type=family)
    plain = generate(model, inputs).sequences
    before, attributes = hook_count(model), [set(vars(m)) for m in model.modules()]
    if how == "normally":
        run(model, inputs, "qvid", KEEP)
    else:
        broken = (ZeroDivisionError, ValueError, RuntimeError, IndexError)
        with pytest.raises(broken), pruned(model, "qvid", KEEP):
            model(**inputs)
            if how == "in the block":
                1 / 0  # noqa: B018
            name = next(name for name in inputs if name.startswith("pixel_values"))
            broken = torch.full_like(inputs[name], torch.nan)
            model(**{**inputs, name: broken if how == "in a rule" else broken[:1]})
    assert hook_count(model) == before
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert torch.equal(generate(model, inputs).sequences, plain)
    run(model, inputs, "qvid", KEEP)


def test_two_blocks_in_turn_do_not_see_each_other():
    model, inputs = built(), ask(STAR, DOTS)

    def once(name, keep):
        with pruned(model, name, keep) as trace:
            return generate(model, inputs).logits, trace

    alone, _ = once("fastv", 3)
    once("qvid", KEEP)
    once("random", 5)
    logits, trace = once("fastv", 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, logits, strict=True))
    assert len(trace.cuts) == 2 and trace.cuts[0].call == 0


def test_blocks_do_not_nest():
    model, other = built(), built(seed=1)
    with pruned(model, "qvid", KEEP) as trace:
        with refused("do not nest", RuntimeError):
            run(model, ask(STAR), "fastv", KEEP)
        with refused("do not nest", RuntimeError):
            run(model.base_model, ask(STAR), "fastv", KEEP)
        run(other, ask(STAR), "fastv", KEEP)
        model(**ask(STAR))
    assert len(trace.cuts) == 1


def test_an_abandoned_prompt_leaves_the_next_one_alone():
    """An error inside a call, caught inside the block, is forgotten at the next call."""
    model, inputs = built(), ask(STAR)
    with pruned(model, "qvid", KEEP) as trace:
        expected = model(**inputs).logits
        with refused("NaN"):
            model(**bare(pixel_values=torch.full((1, 3, 24, 24), torch.nan)))
        assert torch.equal(model(**inputs).logits, expected)
    assert len(trace.cuts) == 2


# ------------------------------------------------------------------------------- pictures_once


@families
@torch.no_grad()
def test_the_same_picture_or_video_is_encoded_once(family):
    prompts = (MIXED, BOTH) if family in WITH_VIDEO else (BOTH, STAR)
    model, inputs, runs = built(family), ask(*prompts, model_type=family), []
    parts = ["vision", *["vision_of_videos"] * bool(FAMILIES[family].vision_of_videos)]
    vision = [FAMILIES[family].part(model, name) for name in parts]
    logits = model(**inputs).logits
    with pruned(model, "qvid", KEEP):
        answer = generate(model, inputs).sequences
    spies = [m.register_forward_hook(lambda *_: runs.append(1)) for m in vision]
    try:
        with pictures_once(model):
            for _ in range(2):
                assert torch.equal(model(**inputs).logits, logits)
                with pruned(model, "qvid", KEEP):
                    assert torch.equal(generate(model, inputs).sequences, answer)
        assert len(runs) == (2 if family in WITH_VIDEO else 1)  # pictures, then videos
    finally:
        for spy in spies:
            spy.remove()


@torch.no_grad()
def test_pictures_are_encoded_once():
    model, inputs, runs = built(), ask(BOTH, STAR), []
    plain, logits = generate(model, inputs).sequences, model(**inputs).logits
    spy = model.base_model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    try:
        with pictures_once(model):
            for _ in range(2):
                assert torch.equal(generate(model, inputs).sequences, plain)
                assert torch.equal(model(**inputs).logits, logits)
                with pruned(model, "qvid", KEEP):
                    answer = generate(model, inputs).sequences
            assert len(runs) == 1
            beams = generate(model, inputs, num_beams=3).sequences
            assert torch.equal(generate(model, inputs).sequences, plain)
            del runs[1:]  # some versions repeat the pictures for the beams, which makes new ones
            model(**ask(BOTH, STAR))  # equal numbers, another tensor
            assert len(runs) == 2
            inputs["pixel_values"].mul_(0.5)
            assert not torch.equal(model(**inputs).logits, logits)
            assert len(runs) == 3
            with refused("do not nest", RuntimeError), pictures_once(model):
                pass
            assert torch.equal(model(**inputs).logits, model(**inputs).logits)
        assert "get_image_features" not in vars(model.base_model)
        with torch.inference_mode(), pictures_once(model):
            fresh = ask(STAR)
            assert torch.equal(model(**fresh).logits, model(**fresh).logits)
            assert len(runs) == 4
        inputs["pixel_values"].div_(0.5)
        with pruned(model, "qvid", KEEP):
            assert torch.equal(generate(model, inputs).sequences, answer)
        assert len(runs) == 5
        assert torch.equal(generate(model, inputs, num_beams=3).sequences, beams)
    finally:
        spy.remove()
