"""Leverage and its kin: worked on paper, against a float64 SVD, and by identities."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qvid_utils.algebra import fast_leverage
from qvid_utils.algebra.leverage import (
    energy,
    leverage,
    leverage_qr,
    leverage_svd,
    query_leverage,
    residual_query_leverage,
)
from qvid_utils.algebra.selection import top_k
from qvid_utils.algebra.spectrum import check_rank, effective_rank, numerical_rank, singular_values

# Two question tokens, three visual ones. Row 1 weighs tokens 0 and 1 alike: σ² = 8,
# v = (1, 1, 0)/√2. Row 2 sees token 2 alone: σ² = 1, v = (0, 0, 1).
PAPER = torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_svd(M, rank):
    """Leverage from a float64 SVD with the rank cut: the oracle."""
    s, Vh = torch.linalg.svd(M.double(), full_matrices=False)[1:]
    live = (s.square() > 1e-13 * s[..., :1].square()) & (torch.arange(s.shape[-1]) < rank)
    return (Vh.square() * live[..., None]).sum(-2)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tolerance)


def test_leverage_by_hand():
    close(leverage(PAPER, 1), [0.5, 0.5, 0.0])
    close(leverage(PAPER, 2), [0.5, 0.5, 1.0])
    close(leverage(PAPER, 16), [0.5, 0.5, 1.0])


def test_energy_and_spectrum_by_hand():
    close(energy(PAPER), [4.0, 4.0, 1.0])
    close(energy(PAPER, 1), [4.0, 4.0, 0.0])
    close(singular_values(PAPER), [8**0.5, 1.0])


def test_question_side_by_hand():
    close(query_leverage(PAPER, 1), [1.0, 0.0])
    close(residual_query_leverage(PAPER, 1), [0.0, 1.0])
    repeated = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])  # one direction, seen twice
    close(query_leverage(repeated, 1), [0.5, 0.5])
    close(residual_query_leverage(repeated, 1), [0.0, 0.0])


@pytest.mark.parametrize("share, modes", [(0.5, 1), (0.8888, 1), (0.889, 2), (0.999, 2)])
def test_share_of_the_energy_by_hand(share, modes):
    assert int(effective_rank(PAPER, share)) == modes  # 8 of 9 = 0.88889 lie in the first
    close(leverage(PAPER, share), leverage(PAPER, modes))


def test_share_that_is_met_exactly_takes_no_further_mode():
    M = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))  # 4 of 5 in the first mode
    turned = torch.linalg.qr(draw(50, 2, 2)).Q @ M  # rounding must not decide
    assert effective_rank(turned, 0.8).tolist() == [1] * 50
    close(leverage(turned, 0.8), [[1.0, 0.0]] * 50)


def test_share_is_taken_per_matrix():
    M = torch.stack([torch.diag(torch.tensor([2.0, 1.0])), torch.eye(2)])
    assert effective_rank(M, 0.8).tolist() == [1, 2]
    close(leverage(M, 0.8), [[1.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize("rank", [1, 3, 7, 50])
@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (7, 7), (1, 9), (9, 1)])
def test_leverage_is_the_svd_and_sums_to_the_rank(shape, rank):
    M = draw(4, *shape)
    score = leverage(M, rank)
    close(score, by_svd(M, rank))
    close(score.sum(-1), [float(min(rank, *shape))] * 4)
    assert score.min() >= 0 and score.max() <= 1


def decaying(decades):
    U, V = torch.linalg.qr(draw(20, 20))[0], torch.linalg.qr(draw(200, 20, seed=1))[0]
    sigma = 10.0 ** -torch.linspace(0, decades, 20, dtype=torch.float64)
    return U @ torch.diag(sigma) @ V.mT, V


@pytest.mark.parametrize("decades, tolerance", [(1, 1e-13), (3, 1e-10), (5, 1e-6)])
@pytest.mark.parametrize("rank", [4, 16, 20])
def test_leverage_is_exact_for_decaying_spectra(decades, tolerance, rank):
    M, V = decaying(decades)
    close(leverage(M, rank), V[:, :rank].square().sum(-1), tolerance)


@pytest.mark.parametrize("decades", [2, 4, 6])
def test_the_gram_matrix_costs_less_than_the_float32_of_the_interaction(decades):
    M, V = decaying(decades)
    truth = V[:, :16].square().sum(-1)
    from_gram = (leverage(M, 16) - truth).abs().max()
    assert from_gram < 0.1 * (leverage(M.float(), 16) - truth).abs().max()
    assert (leverage_qr(M.float(), 16) - truth).abs().max() > 5 * from_gram


def test_enough_rank_is_the_diagonal_of_the_row_space_projector():
    M = draw(3, 5, 12)
    close(leverage(M, 5), (torch.linalg.pinv(M) @ M).diagonal(dim1=-2, dim2=-1))


def test_enough_rank_does_not_see_the_basis_of_the_question():
    M, mix = draw(5, 12), draw(5, 5, seed=1)
    close(leverage(mix @ M, 5), leverage(M, 5))
    assert (leverage(mix @ M, 2) - leverage(M, 2)).abs().max() > 1e-2  # a truncation does see it


@pytest.mark.parametrize("scale", [1e-12, 1e-3, -7.0, 1e12])
def test_leverage_does_not_see_the_scale(scale):
    M = draw(2, 6, 15)
    close(leverage(scale * M, 3), leverage(M, 3))
    close(leverage(scale * M, 0.9), leverage(M, 0.9))


def test_leading_axes_are_a_batch():
    M = draw(2, 3, 4, 9)
    for function in (leverage, leverage_qr, query_leverage, residual_query_leverage, energy):
        whole = function(M, 2)
        for i in range(2):
            for j in range(3):
                close(whole[i, j], function(M[i, j], 2))
    assert singular_values(M).shape == (2, 3, 4) and effective_rank(M, 0.5).shape == (2, 3)


@pytest.mark.parametrize("shape", [(6, 15), (15, 6)])
def test_energy_over_all_modes_is_the_squared_column_norm(shape):
    M = draw(3, *shape)
    close(energy(M), M.square().sum(-2))
    close(energy(M, 99), energy(M))
    assert (energy(M, 2) < energy(M)).all()


def test_energy_keeps_the_digits_of_small_columns_beside_huge_ones():
    M = draw(30, 12) * torch.tensor([1.0, 1e7, 1.0] * 4, dtype=torch.float64)
    torch.testing.assert_close(energy(M), M.square().sum(-2), rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(50, 4), (4, 50)])
def test_the_eigenproblem_has_the_smaller_side(shape, monkeypatch):
    seen, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda G: seen.append(tuple(G.shape)) or eigh(G))
    leverage(draw(3, *shape), 2)
    assert seen == [(3, 4, 4)]


def test_spectrum_keeps_small_values():
    close(singular_values(torch.diag(torch.tensor([1.0, 1e-6, 1e-12], dtype=torch.float64))),
          [1.0, 1e-6, 1e-12], 1e-15)  # fmt: skip


def test_dominant_and_residual_question_scores_are_one_thing_at_full_row_rank():
    M = draw(3, 6, 20)
    close(query_leverage(M, 4) + residual_query_leverage(M, 4), torch.ones(3, 6))


def test_residual_question_score_stops_at_the_numerical_rank():
    M = draw(6, 3) @ draw(3, 20, seed=1)
    close(residual_query_leverage(M, 2).sum(), 1.0)
    close(residual_query_leverage(M, 3), torch.zeros(6))


# --- where rows repeat or vanish ---------------------------------------------------------------


def repeated_rows(heads=8):
    return draw(heads, 6, 40).float().repeat(1, 2, 1)  # 12 rows, rank 6


def zeroed_rows(heads=8):
    return torch.cat([draw(heads, 6, 40), torch.zeros(heads, 6, 40)], dim=1).float()


def shared_direction(heads=8):
    return (draw(heads, 12, 6) @ draw(heads, 6, 40, seed=1)).float()  # rank 6 up to float32


@pytest.mark.parametrize("make", [repeated_rows, zeroed_rows, shared_direction])
def test_null_directions_get_no_vote(make):
    M = make()
    assert numerical_rank(M).tolist() == [6] * 8
    close(leverage(M, 16), by_svd(M, 16), 1e-6)
    close(leverage(M, 16).sum(-1), [6.0] * 8)


@pytest.mark.parametrize("make", [repeated_rows, zeroed_rows])
def test_the_printed_recipe_lets_null_directions_vote_and_keeps_other_tokens(make):
    M = make()
    close(leverage_qr(M, 16).sum(-1), [12.0] * 8, 1e-4)  # 12 directions, of which 6 are arbitrary
    truth = [top_k(row, 13).index.tolist() for row in by_svd(M, 16)]
    assert [top_k(row, 13).index.tolist() for row in leverage(M, 16)] == truth
    assert [top_k(row, 13).index.tolist() for row in leverage_qr(M, 16)] != truth


@pytest.mark.parametrize("shape", [(7, 20), (20, 7)])
def test_the_printed_recipe_is_leverage_at_full_rank(shape):
    M = draw(4, *shape)
    for rank in (1, 3, 7, 16):
        close(leverage_qr(M, rank), leverage(M, rank))


def test_a_zero_matrix_scores_zero():
    zero = torch.zeros(2, 4, 7)
    for rank in (1, 16, 0.9):
        assert torch.equal(leverage(zero, rank), torch.zeros(2, 7, dtype=torch.float64))
    assert torch.equal(energy(zero), torch.zeros(2, 7, dtype=torch.float64))
    assert effective_rank(zero, 0.9).tolist() == numerical_rank(zero).tolist() == [0, 0]
    one_head = torch.stack([PAPER, torch.zeros_like(PAPER)])  # a dead head beside a live one
    close(leverage(one_head, 2), [[0.5, 0.5, 1.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_dtype_is_computed_in_float64(dtype):
    M = draw(2, 5, 11).to(dtype)
    assert torch.equal(leverage(M, 3), leverage(M.double(), 3))
    assert leverage(M, 3).dtype == torch.float64
    assert leverage_qr(M, 3).dtype == torch.float32


# --- hard cases at the sizes of a 7B model, and what is held meanwhile ---------------------------


def hard(kind, heads=4, n_q=40, n_v=576):
    if kind == "decay":  # twelve decades
        U, V = torch.linalg.qr(draw(heads, n_q, n_q)).Q, torch.linalg.qr(draw(heads, n_v, n_q)).Q
        return U @ torch.diag(10.0 ** -torch.linspace(0, 12, n_q, dtype=torch.float64)) @ V.mT
    if kind == "flat":
        return torch.linalg.qr(draw(heads, n_v, n_q)).Q.mT
    M = draw(heads, n_q, n_v)
    if kind == "rows":
        M[:, 12:] = M[:, :12].repeat(1, 3, 1)[:, : n_q - 12]
        M[:, 30:] = 0
    if kind == "columns":
        M[..., n_v // 2 :] = M[..., : n_v - n_v // 2]
    return M.float()


@pytest.mark.parametrize("group", [1, 2**17, 2**30])
@pytest.mark.parametrize("kind", ["plain", "decay", "rows", "columns", "flat"])
def test_hard_cases_keep_the_tokens_of_a_float64_svd(kind, group, monkeypatch):
    monkeypatch.setattr(fast_leverage, "GROUP", group)  # a matrix at a time, some, all of them
    # a flat spectrum has no leading modes: there only all of them are defined
    M, rank = hard(kind), 40 if kind == "flat" else 16
    truth, found = by_svd(M, rank).mean(0), leverage(M, rank).mean(0)
    close(found, truth, 1e-6 if kind == "decay" else 1e-10)
    kept = top_k(truth.float(), 64).index.tolist()
    assert top_k(found.float(), 64).index.tolist() == kept


def test_what_is_held_does_not_grow_with_the_square_of_the_tokens():
    """Every tensor that a score makes: none is N_v by N_v, and on a CPU none holds all of M."""

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made = [out] if isinstance(out, torch.Tensor) else []
            if made and made[0].untyped_storage().data_ptr() != M.untyped_storage().data_ptr():
                self.largest = max(self.largest, made[0].untyped_storage().nbytes())
            return out

    M = draw(32, 8, 6273).float()
    with Sizes() as sizes:
        leverage(M, 4)
    assert 0 < sizes.largest <= 8 * max(fast_leverage.GROUP, 32 * 6273)


@pytest.mark.parametrize("worth", [0, 2**40])
@pytest.mark.parametrize("heads", [1, 2, 5])
def test_threads_share_out_the_heads_and_change_nothing(heads, worth, monkeypatch):
    monkeypatch.setattr(fast_leverage, "WORTH", worth)  # each a thread, and one for all
    M, before = draw(heads, 40, 60), torch.get_num_threads()
    alone, solvers, eigh = leverage(M, 16), [], torch.linalg.eigh
    monkeypatch.setattr(
        torch.linalg, "eigh", lambda G: solvers.append(torch.get_num_threads()) or eigh(G)
    )
    try:
        torch.set_num_threads(3)
        assert torch.equal(leverage(M, 16), alone) and torch.get_num_threads() == 3
        assert solvers == ([3] if heads == 1 else [1] if worth else [1] * min(3, heads))
        with ThreadPoolExecutor(1) as later:  # what a thread that comes later begins with
            assert later.submit(torch.get_num_threads).result() == 3
        broken = M.clone()
        broken[-1, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="1 of .* NaN or infinite"):
            leverage(broken, 16)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_scores_of_a_matrix_that_is_being_trained():
    M = draw(2, 5, 9).requires_grad_()
    assert not leverage(M, 2).requires_grad and not energy(M, 2).requires_grad
    with torch.inference_mode():
        close(leverage(M * 1, 2), leverage(M, 2))


def test_only_rows_that_vote_are_formed(monkeypatch):
    rows, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b, **k: rows.append(a.shape[1]) or bmm(a, b, **k))
    leverage(draw(2, 9, 30), 3)
    assert rows == [9, 3, 1]  # the Gram matrix, the leading rows, their sum


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, -1, 2.5, 1.5, 1.0, 0.0, 16.0, -0.5, float("nan")])
def test_a_rank_out_of_range_is_named(rank):
    with pytest.raises(ValueError, match=f"rank={rank!r}: give a number of modes .int, 1 or more."):
        leverage(PAPER, rank)


@pytest.mark.parametrize("rank", [True, "16", None])
def test_a_rank_that_is_no_number_is_named(rank):
    with pytest.raises(TypeError, match="rank=.*between 0 and 1"):
        check_rank(rank)


def test_the_recipe_takes_no_share_and_effective_rank_no_count():
    with pytest.raises(ValueError, match="rank=0.9: the paper's QR recipe takes a number of modes"):
        leverage_qr(PAPER, 0.9)
    with pytest.raises(ValueError, match="share=3: give a share of the energy"):
        effective_rank(PAPER, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_entries_are_counted(value):
    broken = PAPER.clone()
    broken[0, 1] = value
    for function in (singular_values, energy, lambda M: leverage(M, 2)):
        with pytest.raises(ValueError, match="1 of 6 entries of the interaction matrix are NaN or"):
            function(broken)


def test_empty_or_integer_matrices_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 0, 7\): it needs at least one question"):
        leverage(torch.zeros(4, 0, 7), 2)
    with pytest.raises(ValueError, match="in its last two axes"):
        leverage(torch.zeros(7), 2)
    with pytest.raises(TypeError, match="torch.int64: give floating-point numbers"):
        leverage(torch.ones(2, 3, dtype=torch.long), 2)


# --- every mode votes: the projector without an eigenvalue problem ------------------------------


def graded(decades, heads=3, rows=8, columns=60, seed=0):
    """Singular values from 1 down by so many decades."""
    noise = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(heads, rows, rows, generator=noise).double()).Q
    right = torch.linalg.qr(torch.randn(heads, columns, rows, generator=noise).double()).Q
    return left @ (torch.logspace(0, -decades, rows).double()[:, None] * right.mT)


@pytest.mark.parametrize("decades", [0, 1, 2, 3, 3.4, 3.6, 4, 5])
def test_all_modes_are_right_on_both_sides_of_the_change(decades):
    M = graded(decades)
    truth = torch.linalg.svd(M, full_matrices=False).Vh.square().sum(1)
    assert (leverage(M, 8) - truth).abs().max() < 1e-6
    assert (leverage(M, 99) - truth).abs().max() < 1e-6
    assert leverage(M, 8).sum(-1).tolist() == pytest.approx([8] * 3, abs=1e-6)


def test_eigenvalues_are_for_what_needs_them(monkeypatch):
    asked, solve = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda G: asked.append(len(G)) or solve(G))
    leverage(graded(3), 8)
    assert not asked
    repeated = graded(1)
    repeated[1, 3] = repeated[1, 5]
    assert leverage(repeated, 8).sum(-1).tolist() == pytest.approx([8, 7, 8])
    leverage(graded(4), 8), leverage(graded(3), 7), leverage(graded(3), 0.9)
    assert asked == [1, 3, 3, 3]  # of the first only the matrix that repeats a row


@pytest.mark.parametrize("rank", [1, 3, 7, 50, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (1, 9)])
def test_the_fast_routes_are_the_definition(shape, rank):
    M = draw(2, 3, *shape)
    M[0, 1] = 0
    M[1, 0, 0] = M[1, 0, -1]
    close(leverage(M, rank), leverage_svd(M, rank), 1e-10)


@pytest.mark.parametrize("energy_left, modes", [(5e-13, 3), (5e-14, 2)])
def test_a_mode_counts_down_to_a_share_of_1e_13_of_the_first(energy_left, modes):
    sigma = torch.tensor([1.0, 0.5, energy_left**0.5, 0.0], dtype=torch.float64)
    M = torch.linalg.qr(draw(4, 4)).Q @ torch.diag(sigma) @ torch.linalg.qr(draw(9, 4)).Q.mT
    assert int(numerical_rank(M)) == modes
    for score in (leverage, leverage_svd):
        assert float(score(M, 4).sum()) == pytest.approx(modes, abs=1e-9)
        assert float(score(M, 3).sum()) == pytest.approx(modes, abs=1e-9)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, 3, float("nan")])
def test_an_energy_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=f"share={share!r}: give a share of the energy between 0"):
        effective_rank(PAPER, share)


@pytest.mark.parametrize("share", [True, "0.9", None])
def test_an_energy_share_that_is_no_number_is_named(share):
    with pytest.raises(TypeError, match="give a share of the energy between 0"):
        effective_rank(PAPER, share)


def test_entries_whose_squares_overflow_are_named():
    with pytest.raises(ValueError, match="up to 2e[+]200, whose squares overflow: divide it by"):
        leverage(PAPER.double() * 1e200, 2)
