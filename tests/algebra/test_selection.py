"""Top-k: exact counts, order of the sequence, ties, and a sentence for each bad input."""

import pytest
import torch

from qvid_utils.algebra.selection import Kept, top_k, top_k_in_pictures


def test_by_hand():
    kept = top_k(torch.tensor([0.1, 0.9, 0.4, 0.8]), 2)
    assert kept.index.tolist() == [1, 3] and kept.index.dtype == torch.long
    assert kept.merged is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_exactly_keep_of_the_best_for_every_count(dtype):
    scores = torch.randn(33, generator=torch.Generator().manual_seed(0)).to(dtype)
    for keep in range(1, 34):
        index = top_k(scores, keep).index
        assert index.tolist() == sorted(set(index.tolist())) and len(index) == keep
        left = torch.ones(33, dtype=torch.bool).index_fill(0, index, False)
        assert keep == 33 or scores[index].min() >= scores[left].max()


def test_keeping_all_is_the_whole_sequence():
    assert top_k(torch.tensor([3.0, 1.0, 2.0]), 3).index.tolist() == [0, 1, 2]


def test_ties_go_to_the_earlier_token():
    assert top_k(torch.zeros(1000), 10).index.tolist() == list(range(10))
    assert top_k(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 3).index.tolist() == [0, 1, 3]


def test_a_larger_keep_contains_a_smaller_one():
    scores = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0)).float()
    for keep in range(1, 40):
        smaller = set(top_k(scores, keep).index.tolist())
        assert smaller < set(top_k(scores, keep + 1).index.tolist())


@pytest.mark.parametrize("keep", [0, -3, 700])
def test_a_count_out_of_range_raises_with_both_numbers(keep):
    with pytest.raises(ValueError, match=f"keep={keep}: there are 576 scores, keep 1 to 576"):
        top_k(torch.zeros(576), keep)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_scores_are_counted(value):
    scores = torch.zeros(9)
    scores[[2, 5]] = value
    with pytest.raises(ValueError, match="2 of 9 scores are NaN or infinite"):
        top_k(scores, 3)


def test_scores_must_be_one_row():
    with pytest.raises(ValueError, match=r"one number per visual token, got shape \(2, 5\)"):
        top_k(torch.zeros(2, 5), 3)


def test_kept_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"one row of int64 numbers, got torch.float32"):
        Kept(torch.zeros(3))
    with pytest.raises(ValueError, match="2 rows for 3 kept tokens"):
        Kept(torch.arange(3), torch.zeros(2, 8))


def test_top_k_in_pictures_keeps_what_shows_no_place_last():
    scores = torch.tensor([9.0, 1.0, 3.0, 8.0, 2.0])
    frames = torch.tensor([-1, 0, 0, -1, 1])
    assert top_k_in_pictures(scores, 2, frames).index.tolist() == [2, 4]
    assert top_k_in_pictures(scores, 4, frames).index.tolist() == [0, 1, 2, 4]
    assert top_k_in_pictures(scores, 5, frames).index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keep", [True, 2.5, "2", None])
def test_a_count_that_is_no_whole_number_is_named(keep):
    for select in (top_k, lambda scores, keep: top_k_in_pictures(scores, keep, torch.zeros(3))):
        with pytest.raises(TypeError, match=f"keep={keep!r}: give the number of visual tokens"):
            select(torch.rand(3), keep)
