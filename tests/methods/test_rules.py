"""Every rule of RULES by identities; the formulas on examples that can be worked on paper."""

import functools
from types import SimpleNamespace

import pytest
import torch

from qvid_utils.algebra.selection import top_k
from qvid_utils.algebra.spectrum import numerical_rank
from qvid_utils.methods import RULES, rule
from qvid_utils.methods.evidence import WORDS

rules = SimpleNamespace(**RULES)
H, N_q, N_v, N_t, D, D_H = 3, 4, 10, 7, 6, 5
SHAPES = {
    "hidden": (N_v, D), "previous": (N_v, D), "features": (N_v, D),
    "queries": (H, N_q, D_H), "keys": (H, N_v, D_H), "interaction": (H, N_q, N_v),
    "attention": (H, N_q, N_v), "last_row": (H, N_v), "last_row_before": (H, N_v),
    "text_rows_before": (H, N_t, N_v), "text_relevance": (N_t,), "rope_bias": (N_t, N_v),
    "received_from_visual": (N_v,), "received_from_text": (N_v,),
    "key_norms_before": (N_v,), "text_key_norms_before": (N_t,),
    "normed": (N_v, D), "text_normed": (N_t, D),
    "patches": (N_v, D), "tower_keys": (H, N_v, D_H), "received": (N_v,), "cls_row": (H, N_v),
    "cls_patch": (N_v, D), "last_cls_row": (N_v,), "last_keys": (N_v, D), "frames": (N_v,),
    "clip_image": (N_v, D), "clip_text": (2, D), "filled": (N_v,),
}  # fmt: skip
TOKEN_AXIS = {"hidden": 0, "previous": 0, "features": 0, "keys": 1, "interaction": 2,
              "attention": 2, "last_row": 1, "last_row_before": 1,
              "text_rows_before": 2, "rope_bias": 1, "received_from_visual": 0,
              "received_from_text": 0, "key_norms_before": 0, "normed": 0,
              "patches": 0, "cls_row": 1, "received": 0, "last_cls_row": 0,
              "frames": 0, "clip_image": 0, "filled": 0}  # fmt: skip
# Their score is a function of the place in the sequence, which a permutation changes.
BY_PLACE = {"random": "drawn per place", "stride": "spread over the places"}
# What the score says does not change with the scale of M.
SCALE_FREE = ("qvid", "per_head_max", "leverage_qr", "qvid_head_weighted")

# Head 0: tokens 0 and 1 in one direction of σ² = 8, token 2 in one of σ² = 1.
# Head 1: token 2 alone.
PAPER = torch.tensor([[[2.0, 2.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]])


def evidence(word, dtype=torch.float32):
    if word == "prompt":
        return 20260
    if word == "grid":
        return (1, 2, N_v // 2)
    if word == "frames":
        return torch.arange(N_v) // 6  # two pictures
    if word == "filled":
        return torch.arange(N_v) % 3 == 0
    generator = torch.Generator().manual_seed(sorted(WORDS).index(word))
    value = torch.randn(SHAPES[word], generator=generator)
    return (value.softmax(-1) if "attention" in word or "row" in word else value).to(dtype)


def score(made, dtype=torch.float32, change=lambda word, value: value):
    return made(*(change(word, evidence(word, dtype)) for word in made.sees))


def kept(scores, keep):
    return top_k(scores, keep).index.tolist()


every_rule = pytest.mark.parametrize("name", RULES)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_finite_score_per_token_in_float32(name, dtype):
    scores = score(RULES[name], dtype)
    assert scores.shape == (N_v,) and scores.isfinite().all()
    assert scores.dtype in (torch.float32, torch.float64)


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_the_rounding_of_the_evidence(name, dtype):
    def widened(word, value):
        return value.float() if torch.is_tensor(value) and value.is_floating_point() else value

    assert torch.equal(score(RULES[name], dtype), score(RULES[name], dtype, widened))


@every_rule
def test_scores_follow_a_permutation_of_the_tokens(name):
    if name in BY_PLACE:
        pytest.skip(f"{name}: {BY_PLACE[name]}, so it must not follow the tokens")
    order = torch.randperm(N_v, generator=torch.Generator().manual_seed(1))

    def permuted(word, value):
        return value.index_select(TOKEN_AXIS[word], order) if word in TOKEN_AXIS else value

    torch.testing.assert_close(score(RULES[name], change=permuted), score(RULES[name])[order])


@every_rule
def test_a_rule_leaves_its_evidence_as_it_was(name):
    given = {word: evidence(word) for word in RULES[name].sees}
    RULES[name](*given.values())
    for word, value in given.items():
        assert not torch.is_tensor(value) or torch.equal(value, evidence(word))


@every_rule
def test_a_rule_says_what_it_is(name):
    made = RULES[name]
    assert made.name == name and made.source and "→ (N_v,)" in made.__doc__
    assert set(made.sees) <= set(WORDS)


def test_ridge_lies_between_all_modes_and_the_column_norm_of_each_head():
    M, K = evidence("interaction"), evidence("keys")
    far = 1e6
    modes = min(M.shape[1], K.shape[-1])
    energy = M.double().square()
    own = far * energy.sum((1, 2)) / modes  # λ of each head
    norms = (energy.sum(1) / own[:, None]).mean(0).float()
    torch.testing.assert_close(rules.ridge(M, K, alpha=far), norms, rtol=1e-4, atol=0)
    torch.testing.assert_close(rules.ridge(M, K, alpha=1e-9), rules.qvid(M), rtol=0, atol=1e-6)


def test_the_scale_of_a_head_changes_no_ridge_leverage():
    M, K = evidence("interaction"), evidence("keys")
    louder = M * torch.tensor([1.0, 2.0**20, 2.0**-20])[:, None, None]
    torch.testing.assert_close(rules.ridge(louder, K), rules.ridge(M, K))


def test_the_width_of_a_head_bounds_the_modes_of_ridge():
    M = evidence("interaction")
    one, many = (rules.ridge(M, torch.ones(H, N_v, d)) for d in (1, 9))
    assert (one < many).all()  # the mean over one mode is larger: more is held back
    torch.testing.assert_close(one, rules.ridge(M, torch.ones(H, N_v, 9), alpha=N_q))


def test_powers_go_from_all_modes_to_the_column_norm():
    M = evidence("interaction")
    torch.testing.assert_close(rules.sigma_power(M, power=0), rules.qvid(M))
    torch.testing.assert_close(rules.sigma_power(M, power=2) * H, rules.column_norm(M))
    assert kept(rules.sigma_power(M, power=2), 3) == kept(rules.column_norm(M), 3)


def test_by_place_names_rules_that_exist():
    assert set(BY_PLACE) <= set(RULES) and set(SCALE_FREE) <= set(RULES)


# --- on paper ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, params, expected",
    [
        ("qvid", {"rank": 1}, [0.25, 0.25, 0.5]),
        ("qvid", {"rank": 2}, [0.25, 0.25, 1.0]),
        ("qvid", {"rank": 0.5}, [0.25, 0.25, 0.5]),
        ("qvid", {}, [0.25, 0.25, 1.0]),
        ("per_head_max", {"rank": 1}, [0.5, 0.5, 1.0]),
        ("column_norm", {}, [4.0, 4.0, 26.0]),
        ("sigma_weighted", {}, [4.0, 4.0, 26.0]),
        ("sigma_weighted", {"rank": 1}, [0.0, 0.0, 26.0]),
        # head 0 has p = 8/9, 1/9, so w = 65/81; head 1 has one mode, so w = 1
        ("qvid_head_weighted", {"rank": 1}, [65 / 292, 65 / 292, 162 / 292]),
        ("qvid_head_weighted", {"rank": 2}, [65 / 292, 65 / 292, 1.0]),
    ],
)
def test_rules_of_the_interaction_by_hand(name, params, expected):
    torch.testing.assert_close(RULES[name](PAPER, **params), torch.tensor(expected))


def test_participation_and_energy_disagree_by_hand():
    one_head = PAPER[:1]  # the faint direction of token 2 counts as much as the strong one
    assert kept(rules.qvid(one_head), 1) == [2]
    assert kept(rules.column_norm(one_head), 1) == [0]


def test_attention_and_variation_by_hand():
    rows = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.0, 0.1]])
    expected = torch.tensor([0.2, 0.1, 0.2])
    torch.testing.assert_close(rules.last_attention(rows), expected)
    torch.testing.assert_close(rules.previous_attention(rows), expected)
    now, before = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(rules.variation(now, before), torch.tensor([5.0, 1.0]))


def test_turning_by_hand():
    now = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])
    before = torch.tensor([[6.0, 8.0], [5.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(rules.turning(now, before), torch.tensor([0.0, 1.0, 2.0]))


# Two heads, three text tokens, two visual ones; the first and the last text token are raters.
ROWS = torch.tensor([[[0.2, 0.4], [0.9, 0.1], [0.6, 0.0]], [[0.1, 0.1], [0.8, 0.2], [0.1, 0.3]]])
RELEVANCE = torch.tensor([0.4, 0.1, 0.5])


def test_sparsevlm_by_hand():
    # column sums over the raters: 0.8, 0.4 in head 0; 0.2, 0.4 in head 1; divided by four rows
    torch.testing.assert_close(rules.sparsevlm(ROWS, RELEVANCE), torch.tensor([0.25, 0.2]))
    all_equal = torch.full((3,), 0.25)  # nobody stands out: all rate
    torch.testing.assert_close(rules.sparsevlm(ROWS, all_equal), torch.tensor([2.7, 1.1]) / 6)


def test_sparsevlm_plus_by_hand():
    bias = torch.tensor([[1.0, 2.0], [7.0, 7.0], [-2.0, 0.5]])
    # head 0: (0.2, 0.2) and (-0.3, 0.0), sum 0.1; head 1: (0.1, 0.05) and (-0.05, 0.6), sum 0.7
    second = torch.tensor([0.05, 0.65]) / 2
    torch.testing.assert_close(rules.sparsevlm_plus(ROWS, RELEVANCE, bias), second)
    four = ROWS.repeat_interleave(2, 0)  # four heads: two count, both copies of the second
    torch.testing.assert_close(rules.sparsevlm_plus(four, RELEVANCE, bias), second)
    both = (second + torch.tensor([-0.1, 0.2]) / 2) / 2
    more = torch.cat([ROWS, torch.zeros(2, 3, 2)])  # of four, the two that are not zero
    torch.testing.assert_close(rules.sparsevlm_plus(more, RELEVANCE, bias), both)


@pytest.mark.parametrize("heads, few", [(1, 1), (4, 2), (12, 6), (27, 13), (28, 14), (32, 14)])
def test_sparsevlm_plus_takes_14_heads_or_half(heads, few):
    loud = torch.zeros(heads, 1, 1)
    loud[:few] = 1  # if one more head counted, the mean would fall; one less would not show ...
    ones = torch.ones(1), torch.ones(1, 1)
    assert rules.sparsevlm_plus(loud, *ones).item() == 1
    loud[few - 1] = 0.5  # ... so the last one that counts is made different
    expected = (few - 0.5) / few
    assert rules.sparsevlm_plus(loud, *ones).item() == pytest.approx(expected)


def test_fitprune_and_key_norm_by_hand():
    scores = rules.fitprune(torch.tensor([2.0, 4.0]), torch.tensor([3.0, 0.5]))
    assert scores.tolist() == [3.0, 1.0]
    assert rules.key_norm(torch.tensor([2.0, 4.0])).tolist() == [2.0, 4.0]


def test_one_loud_head_does_not_outvote_a_concentrated_one():
    spread = (
        torch.eye(4)[None] * 100
    )  # four modes alike: weight 1/4, any rank-1 choice is arbitrary
    narrow = torch.zeros(1, 4, 4)
    narrow[0, 0, 3] = 0.01  # one mode: weight 1
    scores = rules.qvid_head_weighted(torch.cat([spread, narrow]), rank=4)
    torch.testing.assert_close(scores, torch.tensor([0.2, 0.2, 0.2, 1.0]))


def test_variation_subtracts_after_widening():
    # 257 has no bfloat16, 256 and 258 do: both operands are exact, the difference must be, too.
    now = torch.tensor([[258.0, 1.0]], dtype=torch.bfloat16)
    before = torch.tensor([[256.0, -0.00390625]], dtype=torch.bfloat16)
    assert rules.variation(now, before).item() == pytest.approx((4 + 1.00390625**2) ** 0.5, 1e-6)


# --- identities --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 10), (8, 6, 20), (1, 30, 9)])
@pytest.mark.parametrize("outliers", [1.0, 1e4])
def test_column_norm_and_sigma_weighted_keep_the_same_tokens(shape, outliers):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    M[..., 0] *= outliers
    M[..., 5] = M[..., 3]  # a tie on paper must be a tie in the machine, too
    norm, weighted = rules.column_norm(M), rules.sigma_weighted(M)
    torch.testing.assert_close(weighted, norm)
    for keep in range(1, shape[-1] + 1):
        assert kept(norm, keep) == kept(weighted, keep)


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_qvid_sums_to_the_mean_effective_rank_of_the_heads(rank):
    M = evidence("interaction")
    M[1, 1:] = M[1, :1]  # one head of rank one
    r_eff = numerical_rank(M).clamp(max=rank).double().mean()
    assert rules.qvid(M, rank=rank).sum().item() == pytest.approx(r_eff.item(), abs=1e-5)
    assert rules.qvid(M, rank=rank).max() <= 1


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_scale_of_the_interaction_changes_no_leverage(name, scale):
    M = evidence("interaction")
    torch.testing.assert_close(RULES[name](scale * M), RULES[name](M))


def test_scaling_one_head_moves_energy_and_not_participation():
    M, louder = evidence("interaction"), evidence("interaction")
    louder[0] *= 100
    torch.testing.assert_close(rules.qvid(louder), rules.qvid(M))
    assert kept(rules.column_norm(louder), 4) != kept(rules.column_norm(M), 4)


def test_equal_tokens_tie_and_the_earlier_one_stays():
    M = evidence("interaction")
    M[..., 7] = M[..., 2]
    for name in ("qvid", "per_head_max", "column_norm", "sigma_weighted"):
        scores = RULES[name](M)
        assert scores[2] == scores[7]
        keep = 1 + int((scores > scores[2]).sum())
        assert 2 in kept(scores, keep) and 7 not in kept(scores, keep)


def test_random_depends_on_seed_and_prompt_and_nothing_else():
    hidden = torch.zeros(50, 2)
    first = rules.random(hidden, 7)
    assert torch.equal(first, rules.random(hidden + 1, 7, seed=0))
    assert torch.equal(first, rules.random(hidden, torch.tensor(7)))
    assert not torch.equal(first, rules.random(hidden, 8))
    assert not torch.equal(first, rules.random(hidden, 7, seed=1))
    assert not torch.equal(rules.random(hidden, 12, seed=3), rules.random(hidden, 2, seed=31))
    assert sorted(first.tolist()) == list(range(50))


def test_random_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    rules.random(torch.zeros(50, 2), 7)
    assert torch.equal(state, torch.get_rng_state())


def test_random_is_fair_over_prompts():
    counts = torch.zeros(20)
    for prompt in range(400):
        counts[top_k(rules.random(torch.zeros(20, 1), prompt), 5).index] += 1
    assert counts.min() > 60 and counts.max() < 140  # 100 expected, standard deviation 9


def test_stride_by_hand():
    assert kept(rules.stride(torch.zeros(8, 1)), 2) == [0, 4]
    assert kept(rules.stride(torch.zeros(8, 1)), 4) == [0, 2, 4, 6]
    assert kept(rules.stride(torch.zeros(144, 1)), 16) == list(range(0, 144, 9))
    assert kept(rules.stride(torch.zeros(576, 1)), 64) == list(range(0, 576, 9))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 100, 144])
def test_stride_is_spread_for_every_count(n):
    scores = rules.stride(torch.zeros(n, 1))
    assert len(set(scores.tolist())) == n
    for keep in range(1, n + 1):
        index = kept(scores, keep)
        gaps = [b - a for a, b in zip(index, index[1:] + [index[0] + n], strict=True)]
        full = 2 ** (keep.bit_length() - 1)  # the last whole level of halvings
        assert max(gaps) <= -(-n // full) and min(gaps) >= n // (2 * full)


# --- the decorator -----------------------------------------------------------------------------


@pytest.fixture
def listed():
    before = dict(RULES)
    yield RULES
    RULES.clear()
    RULES.update(before)


def test_a_new_rule_is_listed_with_what_it_sees(listed):
    @rule(source="a test")
    def mine(keys, grid, *, power=2):
        return keys.norm(dim=-1).sum(0) ** power

    assert listed["mine"] is mine
    assert (mine.sees, mine.params, mine.query_aware) == (("keys", "grid"), {"power": 2}, False)
    assert mine(torch.ones(1, 3, 4), None, power=1).tolist() == [2.0, 2.0, 2.0]


def test_running_a_cell_again_replaces_its_own_rule(listed):
    for power in (1, 2):

        @rule(source="a test")
        def mine(keys, *, power=power):
            return keys

    assert listed["mine"].params == {"power": 2}


def test_which_rules_read_the_question():
    aware = {name for name, made in RULES.items() if made.query_aware}
    assert {"sparsevlm", "sparsevlm_plus", "fitprune", "qvid_head_weighted"} <= aware
    assert {"qvid", "column_norm", "last_attention", "previous_attention"} <= aware
    assert aware.isdisjoint({"variation", "random", "stride"})


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda atention: 0, "atention is no word of evidence; allowed .* attention"),
        (lambda keys, rank=3: 0, "rank is no word of evidence; .* hyper-parameters after a"),
        (lambda keys=None: 0, "keys is no word of evidence; allowed without a default"),
        (lambda *keys: 0, "hides what the rule reads"),
        (lambda keys, **more: 0, "hides what the rule reads"),
        (lambda keys, *, rank: 0, "hyper-parameter rank needs a default"),
        (lambda keys, *, layer=3: 0, "cannot be called layer"),
        (lambda *, rank=3: 0, "reads nothing"),
    ],
)
def test_a_signature_that_breaks_the_contract_is_refused(listed, function, message):
    function.__name__ = "mine"
    with pytest.raises(ValueError, match=f"rule 'mine'.*{message}"):
        rule(source="a test")(function)
    assert "mine" not in listed


def test_a_rule_needs_a_source_and_a_name_of_its_own(listed):
    with pytest.raises(ValueError, match="say which paper"):
        rule(source=" ")(later)

    def qvid(keys):
        return keys

    with pytest.raises(ValueError, match="rule 'qvid' exists already in qvid_utils.methods.qvid"):
        rule(source="a test")(qvid)


def test_a_rule_without_its_source_says_how_to_write_it(listed):
    with pytest.raises(TypeError, match="write @rule.source='paper and equation'. above"):
        rule(lambda keys: keys)
    with pytest.raises(TypeError, match="source=5: say in words where the rule comes from"):
        rule(source=5)(later)
    with pytest.raises(ValueError, match="say which paper"):
        rule()(later)


async def later(keys):
    return keys


def one_by_one(keys):
    yield keys


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda keys: keys, "a lambda has no name to be asked for by"),
        (later, "rule 'later' is async or yields: write a plain function"),
        (one_by_one, "rule 'one_by_one' is async or yields"),
        (torch.nn.Linear, "is no function; write the rule with def"),
        (functools.partial(later), "is no function; write the rule with def"),
        (3, "3 is no function"),
    ],
)
def test_what_is_no_plain_function_is_no_rule(listed, function, message):
    before = dict(listed)
    with pytest.raises(TypeError, match=message):
        rule(source="a test")(function)
    assert listed == before


def test_a_rule_of_a_methods_name_is_refused(listed):
    def fastv(keys):
        return keys

    with pytest.raises(ValueError, match="rule 'fastv': a method has that name already"):
        rule(source="a test")(fastv)


@pytest.mark.parametrize(
    "value, message",
    [
        (None, "rule 'mine' returned nothing: return a torch tensor with one real number"),
        ([1.0, 2.0], "rule 'mine' returned a list: return a torch tensor"),
        (torch.ones(2).numpy(), "rule 'mine' returned a numpy array"),
        (torch.ones(2, dtype=torch.complex64), "rule 'mine' returned complex numbers"),
        (0.5, "rule 'mine' returned a float"),
    ],
)
def test_a_rule_that_gives_no_scores_is_named(listed, value, message):
    def mine(keys):
        return value

    with pytest.raises(TypeError, match=message):
        rule(source="a test")(mine)(torch.ones(2))


def test_a_broken_interaction_is_named():
    broken = PAPER.clone()
    broken[0, 0, 0] = float("nan")
    for name in ("qvid", "per_head_max", "column_norm", "sigma_weighted"):
        with pytest.raises(ValueError, match="1 of 12 entries of the interaction matrix are NaN"):
            RULES[name](broken)


def test_words_are_complete():
    of_tiles = {"tiles", "first_cls_row"}  # methods/test_hired.py
    assert set(WORDS) == set(SHAPES) | {"grid", "prompt"} | of_tiles
    assert all(w.name == name and w.shape and w.sentence.endswith(".") for name, w in WORDS.items())
