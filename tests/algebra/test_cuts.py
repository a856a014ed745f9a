"""Where the cuts fall and how many stay: published lists, the solver, and its limits."""

import pytest

from qvid_utils.algebra.cuts import (
    Cut,
    Infeasible,
    at,
    mean_tokens,
    staged,
    tokens_per_layer,
)
from qvid_utils.methods.v2drop import LLAVA

V2DROP = staged((3, 17, 22), 32, last=1, published=LLAVA)


def counts(cuts):
    return [cut.keep for cut in cuts]


def layers(cuts):
    return [cut.layer for cut in cuts]


# --- mean --------------------------------------------------------------------------------------


def test_mean_by_hand():
    cuts = (Cut(1, 4), Cut(3, 2))
    assert tokens_per_layer(cuts, 10, 4) == [10, 4, 4, 2]
    assert mean_tokens(cuts, 10, 4) == 5.0
    assert mean_tokens((), 10, 4) == 10.0
    assert mean_tokens((Cut(0, 3),), 10, 4) == 3.0


@pytest.mark.parametrize("keep, mean", [(64, 112.0), (128, 170.0), (192, 228.0)])
def test_mean_of_a_cut_before_layer_3_of_llava(keep, mean):
    assert mean_tokens(at(3)(keep, 576, 32), 576, 32) == mean


@pytest.mark.parametrize(
    "cuts, message",
    [
        ((Cut(3, 5), Cut(3, 4)), "cuts at layers 3, 3: the layers must rise"),
        ((Cut(2, 5), Cut(1, 4)), "cuts at layers 2, 1: the layers must rise"),
        ((Cut(4, 5),), "layer=4: the language model has 4 layers, 0 to 3"),
        ((Cut(1, 5), Cut(2, 6)), "keep=6: the prompt has 5 visual tokens"),
    ],
)
def test_mean_refuses_cuts_that_cannot_be(cuts, message):
    with pytest.raises(ValueError, match=message):
        mean_tokens(cuts, 10, 4)


# --- a single cut ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers, layer", [(32, 3), (28, 3), (40, 4), (12, 1), (4, 1), (2, 1)])
def test_a_single_cut_scales_with_the_model(n_layers, layer):
    assert at(3)(5, 9, n_layers) == (Cut(layer, 5),)


def test_depth_zero_stays_before_the_language_model():
    assert at(0)(5, 9, 32) == (Cut(0, 5),)


def test_an_explicit_layer_moves_a_single_cut():
    assert [at(3)(5, 9, 12, layer=layer) for layer in (0, 11)] == [(Cut(0, 5),), (Cut(11, 5),)]


@pytest.mark.parametrize("layer", [-1, 12, 99])
def test_a_layer_out_of_range_is_named(layer):
    with pytest.raises(
        ValueError, match=f"layer={layer}: the language model has 12 layers, 0 to 11"
    ):
        at(3)(5, 9, 12, layer=layer)


@pytest.mark.parametrize("layer", [1.5, "3", True])
def test_a_layer_that_is_no_number_is_named(layer):
    with pytest.raises(TypeError, match="layer=.* give the number of a decoder layer"):
        at(3)(5, 9, 12, layer=layer)


@pytest.mark.parametrize("schedule", [at(3), V2DROP], ids=str)
@pytest.mark.parametrize("keep", [0, -1, 577])
def test_a_count_out_of_range_is_named(schedule, keep):
    with pytest.raises(ValueError, match=f"keep={keep}: the prompt has 576 visual tokens"):
        schedule(keep, 576, 32)


@pytest.mark.parametrize("keep", [2.5, "16", True, None])
def test_a_count_that_is_no_number_is_named(keep):
    with pytest.raises(TypeError, match="keep=.* give the number of visual tokens"):
        at(3)(keep, 576, 32)


@pytest.mark.parametrize("depth", [2.5, True, "3"])
def test_at_refuses_a_depth_that_is_no_whole_number(depth):
    with pytest.raises(TypeError, match=r"give the layer as an int"):
        at(depth)


def test_at_refuses_a_depth_outside_its_model():
    for depth in (-1, 32):
        with pytest.raises(ValueError, match=r"of=32\): give a layer from 0 to 31"):
            at(depth)


# --- stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keep, expected, mean",
    [(192, [288, 86, 1], 193.75), (128, [161, 40, 1], 131.0), (64, [28, 1, 1], 66.71875)],
)
def test_v2drop_on_llava_is_the_published_list(keep, expected, mean):
    cuts = V2DROP(keep, 576, 32)
    assert layers(cuts) == [3, 17, 22] and counts(cuts) == expected
    assert mean_tokens(cuts, 576, 32) == mean


@pytest.mark.parametrize(
    "n_visual, n_layers", [(144, 12), (100, 12), (576, 32), (720, 28), (60, 24)]
)
def test_the_solver_meets_the_mean_as_nearly_as_whole_tokens_allow(n_visual, n_layers):
    schedule = staged((3, 17, 22), 32, last=1)
    places = schedule.layers(n_layers)
    # Every outcome of one ratio, tried one by one: the solver may not miss a nearer one.
    every = {tuple(schedule._counts(n_visual, step / 4000)) for step in range(4001)}
    means = [mean_tokens([Cut(*c) for c in zip(places, n, strict=True)], n_visual, n_layers)
             for n in every]  # fmt: skip
    for keep in range(1, n_visual):
        if not min(means) <= keep <= max(means):
            continue
        cuts = schedule(keep, n_visual, n_layers)
        assert n_visual >= cuts[0].keep >= cuts[1].keep >= cuts[2].keep == 1
        nearest = min(abs(mean - keep) for mean in means)
        assert abs(mean_tokens(cuts, n_visual, n_layers) - keep) <= nearest + 1e-9


def test_the_solver_keeps_one_ratio_of_the_current_count():
    first, second, last = counts(V2DROP(100, 576, 32))
    assert (first, second, last) == (99, 17, 1)  # 0.172 of 576, and of 99
    assert int(first * (first + 0.5) / 576) == second


@pytest.mark.parametrize("n_visual, n_layers, floor", [(576, 32, 54.9), (144, 12, 12.9)])
def test_below_the_floor_is_infeasible_and_says_so(n_visual, n_layers, floor):
    with pytest.raises(Infeasible, match=f"keep={int(floor)}: cuts .* a mean of {floor} .*first"):
        V2DROP(int(floor), n_visual, n_layers)
    assert counts(V2DROP(int(floor) + 1, n_visual, n_layers))[-1] == 1


def test_above_the_ceiling_is_infeasible_too():
    with pytest.raises(Infeasible, match="keep=400: .* to 396.3 visual tokens per layer"):
        V2DROP(400, 576, 32)  # the last stage leaves one token, whatever the others keep


def test_keeping_all_keeps_all():
    assert counts(V2DROP(576, 576, 32)) == [576, 576, 576]
    assert counts(V2DROP(1, 1, 32)) == [1, 1, 1]


def test_without_a_last_count_the_ratio_holds_to_the_end():
    cuts = staged((8, 16, 24))(270, 576, 32)  # PyramidDrop's default: halved three times
    assert counts(cuts) == [288, 144, 72] and mean_tokens(cuts, 576, 32) == 270


@pytest.mark.parametrize(
    "n_layers, expected", [(32, [3, 17, 22]), (28, [3, 15, 19]), (12, [1, 6, 8])]
)
def test_stages_scale_with_the_model(n_layers, expected):
    assert layers(V2DROP(40, 200, n_layers)) == expected


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_a_model_too_shallow_for_the_stages_is_named(n_layers):
    with pytest.raises(
        ValueError, match=f"3 stages at layers 3, 17, 22 of 32 .* of {n_layers}: the"
    ):
        V2DROP(40, 200, n_layers)


def test_an_explicit_layer_is_refused_by_stages():
    with pytest.raises(ValueError, match="layer=5: this schedule has 3 stages, at layers 1, 6, 8"):
        V2DROP(40, 144, 12, layer=5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(depths=()), "give one or more layers from 1 to 31"),
        (dict(depths=(0, 3)), "give one or more layers from 1 to 31"),
        (dict(depths=(3, 32)), "give one or more layers from 1 to 31"),
        (dict(depths=(9, 5)), "give the layers in rising order"),
        (dict(depths=(3,), last=0), "last=0: at least one visual token must stay"),
        (dict(depths=(3,), published={(9, 9, 9): (1, 2)}), "needs one number for each layer"),
    ],
)
def test_stages_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        staged(**arguments)


def test_schedules_say_what_they_are():
    assert str(at(3)) == "one cut at layer 3 of 32" and at(3).source
    assert str(V2DROP) == "cuts at layers 3, 17, 22 of 32, the last leaves 1" and V2DROP.source
