"""A budget for each prompt: sizes from the spectrum, counts with an exact mean."""

import pytest
import torch
from twins import BOTH, DOTS, STAR, TALK, ask, built

from qvid_utils.algebra.spectrum import concentration, singular_values
from qvid_utils.methods.qvid_variants import modes, share_out
from qvid_utils.prune import observed, pruned

KEEP = 7


def test_concentration_by_hand():
    M = torch.diag(torch.tensor([2.0, 1.0, 0.0]))[:, [2, 0, 1]]  # σ² = 4, 1: p = 0.8, 0.2
    assert concentration(M).item() == pytest.approx(0.68)
    assert concentration(torch.eye(5)[:, :3]).item() == pytest.approx(1 / 3)
    assert concentration(torch.ones(4, 9)).item() == pytest.approx(1.0)
    assert concentration(torch.zeros(2, 3)).item() == 0


@pytest.mark.parametrize("shape", [(3, 4, 10), (2, 30, 9), (1, 1, 7)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_concentration_is_that_of_the_spectrum(shape, scale):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double() * scale
    p = singular_values(M).square()
    p = p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(concentration(M), p.square().sum(-1))


def test_modes_by_hand():
    two = torch.stack([torch.eye(4), torch.ones(4, 4)])  # four modes and one
    assert modes(two) == pytest.approx(2.5)
    assert modes(torch.cat([two, torch.zeros(1, 4, 4)])) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "sizes, keep, limits, expected",
    [
        ([1, 1, 1], 5, 9, [5, 5, 5]),
        ([1, 2, 3], 4, 9, [2, 4, 6]),
        ([1, 2, 3], 4, [9, 9, 5], [2, 5, 5]),  # 7 left for 1 : 2 are 2.33 and 4.67
        ([1, 1, 100], 4, [9, 9, 10], [1, 1, 10]),
        ([1, 1, 1000], 4, 20, [1, 1, 10]),  # nobody gets nothing
        ([3, 3, 3, 1], 1, 9, [1, 1, 1, 1]),
        ([1, 1], 3, [2, 4], [2, 4]),
        ([2.5, 2.5, 1], 2, 9, [3, 2, 1]),  # 2.5, 2.5, 1: a tie goes to the earlier
    ],
)
def test_shares_by_hand(sizes, keep, limits, expected):
    assert share_out(sizes, keep, limits) == expected


def test_shares_have_the_wanted_mean_for_every_keep():
    dice = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 50):
        sizes = (torch.rand(n, generator=dice) * 9 + 0.1).tolist()
        limits = torch.randint(20, 60, (n,), generator=dice).tolist()
        for keep in range(1, sum(limits) // n + 1):
            shares = share_out(sizes, keep, limits)
            assert sum(shares) == keep * n
            assert all(1 <= c <= top for c, top in zip(shares, limits, strict=True))
            inside = [
                (s, c) for s, c, top in zip(sizes, shares, limits, strict=True) if 1 < c < top
            ]
            for (a, more), (b, less) in zip(inside, inside[1:], strict=False):
                assert more + 1 >= less if a >= b else less + 1 >= more


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 3, 9), "0 sizes"),
        (([1, 2], 3, [9]), "2 sizes and 1 limits"),
        (([1, 0], 3, 9), "give one positive number"),
        (([1, float("nan")], 3, 9), "give one positive number"),
        (([1, 2], 10, 9), "keep=10: the mean of counts from 1 to 9..9 visual tokens lies betw"),
        (([1, 2], 0, 9), "keep=0"),
    ],
)
def test_shares_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        share_out(*arguments)


# --- from prompts to counts to pruning -----------------------------------------------------------


def test_two_phases_give_each_prompt_its_own_count_and_the_wanted_mean():
    model, inputs, sizes = built(), ask(STAR, BOTH, DOTS), []
    with observed(model, "interaction", layer=3) as found:
        model(**inputs)
        sizes += [modes(one["interaction"]) for one in found]
    keeps = share_out(sizes, KEEP, [16, 32, 16])
    assert sum(keeps) == 3 * KEEP and len(set(keeps)) > 1
    with pruned(model, "qvid", keeps, layer=3, rank=4) as trace:
        model(**inputs)
    assert [len(cut.kept) for cut in trace.cuts] == keeps
    expected = [(3 * n + 5 * k) / 8 for n, k in zip((16, 32, 16), keeps, strict=True)]
    assert trace.mean_tokens == expected
    for row, prompt in enumerate((STAR, BOTH, DOTS)):
        with pruned(model, "qvid", keeps[row], layer=3, rank=4) as alone:
            model(**ask(prompt))
        assert alone.cuts[0].kept.tolist() == trace.cuts[row].kept.tolist()


def test_counts_for_each_row_go_with_beams_and_rows_without_pictures():
    model, inputs = built(), ask(STAR, TALK, DOTS)
    more = {"max_new_tokens": 3, "do_sample": False, "num_beams": 2}
    with pruned(model, "qvid", [3, 99, 5], layer=3, rank=4) as trace:
        model(**inputs)
        model.generate(**inputs, **more)
    assert [(c.row, len(c.kept)) for c in trace.cuts if c.call == 0] == [(0, 3), (2, 5)]
    beams = [(c.row, len(c.kept)) for c in trace.cuts if c.call == 1]
    assert beams == [(0, 3), (1, 3), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    "keep, error, message",
    [
        ([4, 2], ValueError, r"keep=\[4, 2\]: 2 numbers for a batch of 1 prompts, give one for"),
        ([0], ValueError, "keep=0: keep at least 1"),
        ([4.0], TypeError, "keep=4.0: give a whole number"),
        ([], TypeError, r"keep=\[\]: give a whole number"),
    ],
)
def test_counts_for_each_row_that_cannot_be_are_refused(keep, error, message):
    with pytest.raises(error, match=message), pruned(built(), "qvid", keep):
        built()(**ask(STAR))
