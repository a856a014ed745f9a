"""Ridge leverage and sigma^p weights: worked on paper, against a float64 SVD, and by identities."""

import pytest
import torch

from qvid_utils.algebra.leverage import energy, leverage
from qvid_utils.algebra.ridge import check_alpha, penalty, ridge, sigma_weighted

# σ² = 8 with v = (1, 1, 0)/√2, and σ² = 1 with v = (0, 0, 1); their mean is 4.5
PAPER = torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
SHAPES = [(7, 20), (20, 7), (7, 7), (1, 9), (9, 1)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tolerance)


def by_svd(M, alpha, modes=None):
    """Ridge leverage from a float64 SVD: the oracle."""
    s, Vh = torch.linalg.svd(M.double(), full_matrices=False)[1:]
    s = s.square()
    added = alpha * s.sum(-1, keepdim=True) / (modes or s.shape[-1])
    return (Vh.square() * (s / (s + added))[..., None]).sum(-2)


def test_by_hand():
    close(penalty(PAPER), 4.5)
    close(penalty(PAPER, 2, mean="energy"), 2 * 65 / 9)
    big, small = 8 / (8 + 4.5), 1 / (1 + 4.5)
    close(ridge(PAPER), [big / 2, big / 2, small], 1e-7)
    close(ridge(PAPER.double()), [big / 2, big / 2, small])
    close(sigma_weighted(PAPER, 1), [8**0.5 / 2, 8**0.5 / 2, 1.0])


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 1, 1e6])
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_the_svd_and_sums_to_the_effective_dimension(shape, alpha):
    M = draw(4, *shape)
    score = ridge(M, alpha)
    close(score, by_svd(M, alpha), 1e-10)
    s = torch.linalg.svdvals(M).square()
    close(score.sum(-1), (s / (s + penalty(M, alpha)[:, None])).sum(-1), 1e-9)
    assert score.min() >= 0 and score.max() <= 1


@pytest.mark.parametrize("shape", [(40, 576), (200, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 1e-4])
def test_error_against_a_float64_svd(shape, dtype, alpha):
    M = draw(8, *shape).to(dtype)
    few = shape[0] < shape[1]  # where columns are few each score is large, and so is its rounding
    close(ridge(M, alpha), by_svd(M, alpha), 2e-8 if few else 4e-7)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_error_where_one_mode_or_one_column_has_nearly_all(alpha):
    one_mode = 0.01 * draw(4, 40, 576) + 20 * draw(4, 40, 1, seed=1) * draw(4, 1, 576, seed=2)
    close(ridge(one_mode.float(), alpha), by_svd(one_mode.float(), alpha), 2e-8)
    one_column = draw(4, 40, 576)
    one_column[..., 7] *= 100
    close(ridge(one_column.float(), alpha), by_svd(one_column.float(), alpha), 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_small_alpha_is_the_leverage_of_all_modes(shape):
    M = draw(4, *shape)
    close(ridge(M, 1e-9), leverage(M, 99), 1e-6)
    close(sigma_weighted(M, 0), leverage(M, 99))


@pytest.mark.parametrize("mean", ["modes", "energy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_alpha_times_lambda_is_the_column_norm_of_each_matrix(shape, mean):
    M = draw(4, *shape)
    close(ridge(M, 1e8, mean=mean) * penalty(M, 1e8, mean=mean)[:, None], energy(M), 1e-5)
    close(sigma_weighted(M, 2), M.square().sum(-2))
    close(sigma_weighted(M, 1.9999999), M.square().sum(-2), 1e-4)


@pytest.mark.parametrize("score", [ridge, lambda M: sigma_weighted(M, 1)])
def test_scores_follow_a_permutation_of_the_tokens_and_forget_that_of_the_words(score):
    M, tokens = draw(3, 7, 20), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    close(score(M[..., tokens]), score(M)[..., tokens])
    close(score(M.flip(-2)), score(M))


@pytest.mark.parametrize("factor", [1e-22, 1e-3, -7.0, 1e12, 1e25])
@pytest.mark.parametrize("mean", ["modes", "energy"])
def test_scaling_changes_nothing(factor, mean):
    M = draw(3, 7, 20).float()
    scaled = (M.double() * factor).float()  # 1e25 and 1e-22: their squares are no float32
    close(ridge(scaled, 0.5, mean=mean), ridge(M, 0.5, mean=mean), 3e-7)


def test_each_matrix_has_its_own_penalty():
    M = draw(2, 3, 5, 12)
    M[0, 1] *= 1e6
    assert penalty(M).shape == (2, 3)
    for i in range(2):
        for j in range(3):
            close(ridge(M)[i, j], ridge(M[i, j]))


def test_the_mean_is_over_no_more_modes_than_a_head_is_wide():
    M = draw(3, 12, 4) @ draw(3, 4, 30, seed=1)  # width 4: twelve words, four directions
    close(penalty(M, width=4), penalty(M) * 3)
    close(ridge(M, width=4), by_svd(M, 1, 4))
    close(penalty(M, width=50), penalty(M))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 20), (20, 7)])
def test_a_zero_head_scores_zero_beside_others(dtype, shape):
    M = draw(3, *shape).to(dtype)
    M[1] = 0
    for mean in ("modes", "energy"):
        score = ridge(M, mean=mean)
        assert torch.equal(score[1], torch.zeros(shape[1], dtype=torch.float64))
        close(score[[0, 2]], ridge(M[[0, 2]], mean=mean), 3e-7)
    assert penalty(M)[1] == 0 and not sigma_weighted(M, 1)[1].any()


def test_half_precision_is_computed_in_float64():
    for dtype in (torch.float16, torch.bfloat16):
        M = (draw(2, 5, 11) * 200).to(dtype)  # squares beyond float16
        assert torch.equal(ridge(M), ridge(M.double()))
        assert ridge(M).dtype == torch.float64


def test_repeated_rows_have_no_more_directions():
    M = draw(3, 6, 40).repeat(1, 2, 1)
    close(ridge(M, 1e-6), leverage(M, 99), 1e-5)


def test_no_gradient_and_no_change_of_what_came():
    M = draw(2, 5, 9).float().requires_grad_()
    before = M.detach().clone()
    assert not ridge(M).requires_grad
    assert torch.equal(M.detach(), before)
    square = draw(2, 5, 5)
    copy = square.clone()
    ridge(square), penalty(square), sigma_weighted(square, 1)
    assert torch.equal(square, copy)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_named(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha!r}: give a finite number above 0"):
        ridge(PAPER, alpha)


@pytest.mark.parametrize("alpha", [True, "1", None])
def test_an_alpha_that_is_no_number_is_named(alpha):
    with pytest.raises(TypeError, match="give a finite number above 0"):
        check_alpha(alpha)


def test_other_bad_options_are_named():
    with pytest.raises(ValueError, match="mean='trace': give 'modes'"):
        ridge(PAPER, mean="trace")
    with pytest.raises(ValueError, match="width=0: give the width of a head"):
        ridge(PAPER, width=0)
    for width in (True, 2.5):
        with pytest.raises(TypeError, match=f"width={width}: give the width of a head"):
            ridge(PAPER, width=width)
    with pytest.raises(ValueError, match="power=-1: give a number from 0"):
        sigma_weighted(PAPER, -1)
    with pytest.raises(TypeError, match="power=True: give a number from 0"):
        sigma_weighted(PAPER, True)
    broken = PAPER.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 6 entries"):
        ridge(broken)


@pytest.mark.parametrize("alpha, dtype", [(0.3, torch.float32), (1e-4, torch.float64)])
def test_products_are_float32_where_the_penalty_makes_them_exact_enough(alpha, dtype, monkeypatch):
    asked, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: asked.append(b.dtype) or bmm(a, b))
    ridge(draw(2, 12, 60).float(), alpha)
    assert asked == [dtype] * 2
