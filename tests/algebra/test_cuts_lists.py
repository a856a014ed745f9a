"""Lists of the sources: the per-layer counts that official code and authors' replies give."""

import pytest

from qvid_utils.algebra import cuts as algebra_cuts
from qvid_utils.algebra.cuts import Infeasible, mean_tokens, staged, tokens_per_layer
from qvid_utils.methods import METHODS, pyramiddrop


def counts(name, keep, n_visual=576, n_layers=32):
    cuts = METHODS[name].schedule(keep, n_visual, n_layers)
    return [(cut.layer, cut.keep) for cut in cuts], mean_tokens(cuts, n_visual, n_layers)


# What running the official code counted, layer by layer, and the means over layer inputs.
@pytest.mark.parametrize(
    "name, keep, expected, mean",
    [
        ("sparsevlm", 192, [309, 204, 113], 206.50),
        ("sparsevlm", 128, [312, 117, 39], 145.41),
        ("sparsevlm", 96, [249, 55, 27], 114.09),
        ("sparsevlm", 64, [82, 32, 18], 82.25),
        ("sparsevlm_in_place", 192, [309, 204, 113], 206.50),
        ("sparsevlm_plus", 192, [300, 200, 118], 206.75),
        ("sparsevlm_plus", 128, [238, 108, 60], 144.12),
        ("sparsevlm_plus", 96, [246, 54, 28], 113.94),
        ("sparsevlm_plus", 64, [66, 34, 20], 81.81),
        ("pyramiddrop", 64, [109, 20, 3], 62.94),
        ("pyramiddrop", 128, [241, 101, 42], 127.44),
        ("pyramiddrop", 192, [322, 180, 101], 191.88),
        ("v2drop", 192, [288, 86, 1], 193.75),
        ("v2drop_cosine", 64, [28, 1, 1], 66.72),
    ],
)
def test_llava_gets_the_published_counts(name, keep, expected, mean):
    layers = {"sparsevlm": [3, 7, 16], "pyramiddrop": [2, 8, 16], "v2drop": [3, 17, 22]}
    found, average = counts(name, keep)
    assert found == list(zip(layers[name.split("_")[0]], expected, strict=True))
    assert average == pytest.approx(mean, abs=0.006)


def test_the_official_code_of_sparsevlm_layer_by_layer():
    cuts = METHODS["sparsevlm"].schedule(192, 576, 32)
    assert tokens_per_layer(cuts, 576, 32) == [576] * 3 + [309] * 4 + [204] * 9 + [113] * 16


def test_the_list_of_qwen2_vl_holds_for_any_number_of_tokens():
    for n in (1000, 1200, 720, 77):
        found, mean = counts("v2drop_qwen2_vl", round(0.222 * n), n, 28)
        first = n // 4
        assert found == [(3, first), (16, max(1, first // 20)), (22, 1)]
        assert mean / n == pytest.approx(0.226, abs=0.004)


@pytest.mark.parametrize("percent", [33.3, 11.1])
def test_where_qwen2_vl_has_no_list_the_solver_is_used(percent):
    keep = round(1000 * percent / 100)
    found, mean = counts("v2drop_qwen2_vl", keep, 1000, 28)
    assert abs(mean - keep) < 0.5 and found[-1] == (22, 1)


def test_pyramiddrop_solves_for_its_ratio():
    found, mean = counts("pyramiddrop", 100)
    (_, a), (_, b), (_, c) = found
    assert abs(mean - 100) < 0.5
    # one λ explains all three: a = ⌊576 λ⌋, b = ⌊576 λ²⌋, c = ⌊576 λ³⌋
    low, high = max((x / 576) ** (1 / s) for s, x in enumerate((a, b, c), 1)), min(
        ((x + 1) / 576) ** (1 / s) for s, x in enumerate((a, b, c), 1)
    )  # fmt: skip
    assert low < high


def test_shares_of_the_original_and_of_the_current_count_differ():
    # λ = 0.5 of 9: of the original ⌊4.5⌋, ⌊2.25⌋, ⌊1.125⌋; of the current 4, 2, 1. λ = 0.7 of 9:
    # ⌊6.3⌋, ⌊4.41⌋, ⌊3.087⌋ = 6, 4, 3; of the current 6, ⌊4.2⌋, ⌊2.8⌋ = 6, 4, 2.
    original, current = (staged((1, 2, 3), 4, share=share) for share in ("original", "current"))
    assert original._counts(9, 0.7) == [6, 4, 3] and current._counts(9, 0.7) == [6, 4, 2]


def test_the_repositorys_own_setting_of_pyramiddrop():
    cuts = pyramiddrop.DEFAULT(270, 576, 32)
    assert [(c.layer, c.keep) for c in cuts] == [(8, 288), (16, 144), (24, 72)]
    assert mean_tokens(cuts, 576, 32) == 270
    with pytest.raises(Infeasible, match="keep=64: .* can reach a mean of 144.8"):
        pyramiddrop.DEFAULT(64, 576, 32)


NAMES = ("sparsevlm", "sparsevlm_plus", "pyramiddrop", "v2drop")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_visual, n_layers", [(144, 12), (576, 40), (729, 28)])
def test_other_depths_solve_for_the_mean_as_nearly_as_one_ratio_can(name, n_visual, n_layers):
    schedule = METHODS[name].schedule
    layers = schedule.layers(n_layers)
    every = {tuple(schedule._counts(n_visual, step / 4000)) for step in range(4001)}
    means = [mean_tokens(algebra_cuts._cuts(layers, found), n_visual, n_layers) for found in every]
    for keep in range(1, n_visual, 7):
        if min(means) <= keep <= max(means):
            found = mean_tokens(schedule(keep, n_visual, n_layers), n_visual, n_layers)
            assert abs(found - keep) <= min(abs(mean - keep) for mean in means) + 1e-9


def test_lists_scale_where_asked():
    """A third of 144 tokens is what 192 of 576 are: counts are quartered, layers 3, 7, 16 of 32
    fall on 1, 3 and 6 of 12."""
    scaled = METHODS["sparsevlm"].schedule.using("scaled")
    cuts = scaled(48, 144, 12)
    assert [(c.layer, c.keep) for c in cuts] == [(1, 77), (3, 51), (6, 28)]
    assert mean_tokens(cuts, 144, 12) == pytest.approx((144 + 2 * 77 + 3 * 51 + 6 * 28) / 12)
    # at the same depth nothing has to be asked for; per cent lists need no rounding
    assert [c.keep for c in METHODS["sparsevlm"].schedule(96, 288, 32)] == [154, 102, 56]
    assert [c.keep for c in METHODS["v2drop"].schedule(240, 720, 32)] == [360, 108, 1]
    assert [c.keep for c in METHODS["v2drop"].schedule.using("scaled")(16, 144, 12)] == [7, 1, 1]


def test_the_mean_can_be_solved_for_in_spite_of_a_list():
    solved = METHODS["sparsevlm"].schedule.using("none")
    assert mean_tokens(solved(192, 576, 32), 576, 32) == pytest.approx(192, abs=0.5)
    assert METHODS["sparsevlm"].schedule.lists == "same depth"
    with pytest.raises(ValueError, match="lists='some': allowed are same depth, scaled, none"):
        METHODS["sparsevlm"].schedule.using("some")


def test_a_share_of_nothing_known_is_refused():
    with pytest.raises(ValueError, match="share='last': allowed are current, original"):
        staged((3,), share="last")
    with pytest.raises(ValueError, match="needs one number for each layer"):
        staged((3, 5), counts={(9, 9, 9): (1,)})
