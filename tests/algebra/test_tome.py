"""ToMe's and downsampling's formulas: on paper, against loops, and for every count."""

import itertools

import pytest
import torch

from qvid_utils.algebra.tome import (
    Downsampling,
    ToMe,
    fewest,
    match,
    merge,
    merge_counts,
    rows_and_columns,
)

TOWERS = ((17, 2), (145, 6), (257, 23), (577, 23))  # tokens with the class token, layers
towers = pytest.mark.parametrize(("tokens", "layers"), TOWERS)


# ------------------------------------------------------------------------ how many merge where


@towers
def test_every_count_down_to_the_floor_is_met(tokens, layers):
    for left in range(fewest(tokens, layers), tokens + 1):
        counts, t = merge_counts(tokens, left, layers), tokens
        assert len(counts) == layers
        for r in counts:
            assert 0 <= r <= (t - 1) // 2
            t -= r
        assert t == left


@towers
def test_the_list_is_even_with_the_remainder_first_where_no_cap_binds(tokens, layers):
    bound = 0
    for left in range(fewest(tokens, layers), tokens + 1):
        each, more = divmod(tokens - left, layers)
        even = [each + (layer < more) for layer in range(layers)]
        room = [(tokens - done - 1) // 2 for done in itertools.accumulate([0, *even[:-1]])]
        if all(r <= most for r, most in zip(even, room, strict=True)):
            assert list(merge_counts(tokens, left, layers)) == even
        else:
            bound += 1
    assert bound > 0  # the other branch is tried by the test above


def test_the_lists_of_llava():
    """577 tokens, 23 layers: Σ r = 384, 448, 512, as 16, 19 and 22 a layer with a remainder."""
    for keep, each, more in ((192, 16, 16), (128, 19, 11), (64, 22, 6)):
        assert merge_counts(577, keep + 1, 23) == (each + 1,) * more + (each,) * (23 - more)


def test_the_floor_on_paper():
    assert fewest(17, 2) == 5  # 17 - 8 = 9, 9 - 4 = 5
    assert fewest(145, 6) == 4  # 73, 37, 19, 10, 6, 4
    assert merge_counts(17, 5, 2) == (8, 4)
    for left in (4, 18):
        with pytest.raises(ValueError, match=r"after 2 layers: merging leaves 5 to 17"):
            merge_counts(17, left, 2)


# --------------------------------------------------------------------------- who merges into whom

# Even places: 0 (the class token, equal to 5), 2 and 4; odd places: 1, 3, 5.
# 2 is nearest to 1 (cosine 10/√101), 4 to 3 (cosine 4/5).
KEYS = [[-1, 0], [10, 1], [2, 0], [3, 4], [0, 1], [-3, 0]]


def paired(keys, r):
    return [part[0].tolist() for part in match(torch.tensor([keys], dtype=torch.float32), r)]


def test_matching_on_paper():
    assert paired(KEYS, 0) == [[0, 1, 2], [], []]
    assert paired(KEYS, 1) == [[0, 2], [1], [0]]
    assert paired(KEYS, 2) == [[0], [1, 2], [0, 1]]
    both = [[-1, 0], [1, 0], [2, 0], [-9, 0], [3, 1], [-3, 0]]
    assert paired(both, 2) == [[0], [1, 2], [0, 0]]  # both into one
    assert paired([[1, 0]] * 6, 1) == [[0, 2], [1], [0]]  # ties: the earlier one
    assert paired([[1, 0]] * 601, 99)[1:] == [list(range(1, 100)), [0] * 99]


def test_the_class_token_stays_whatever_it_is_like():
    assert all(paired([[1, 0]] * n, (n - 1) // 2)[0][0] == 0 for n in range(3, 12))
    with pytest.raises(ValueError, match=r"r=3: of 6 tokens a layer can merge 0 to 2"):
        paired(KEYS, 3)


def test_merging_on_paper():
    x = torch.tensor([[[9.0], [1.0], [2.0], [3.0], [4.0], [5.0]]])
    size = torch.tensor([[1.0, 1.0, 2.0, 1.0, 3.0, 1.0]])
    two = (torch.tensor([[0]]), torch.tensor([[1, 2]]), torch.tensor([[0, 0]]))
    out, sizes = merge(x, size, two)  # 1·1 + 2·2 + 4·3 = 17, of 1 + 2 + 3 = 6 patches
    assert out.flatten().tolist() == pytest.approx([9, 17 / 6, 3, 5]) and out.shape == (1, 4, 1)
    assert sizes.tolist() == [[1, 6, 1, 1]]
    one = (torch.tensor([[0, 2]]), torch.tensor([[1]]), torch.tensor([[1]]))
    out, sizes = merge(x, size, one)  # 3·1 + 2·2 = 7, of 3; the unmerged come first
    assert out.flatten().tolist() == pytest.approx([9, 4, 1, 7 / 3, 5])
    assert sizes.tolist() == [[1, 3, 1, 3, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "r"), [(9, 3), (10, 4), (17, 8), (17, 1)])
def test_matching_and_merging_are_the_loops(tokens, r, dtype, generator):
    keys = torch.randn(2, tokens, 5, generator=generator).to(dtype)
    x = torch.randn(2, tokens, 4, generator=generator).to(dtype)
    size = torch.randint(1, 5, (2, tokens), generator=generator).float()
    out, sizes = merge(x, size, match(keys, r))
    assert out.dtype == dtype and out.shape == (2, tokens - r, 4)
    for b in range(2):
        unit = keys[b].double() / keys[b].double().norm(dim=-1, keepdim=True)
        best = {
            i: max((float(unit[i] @ unit[j]), -j) for j in range(1, tokens, 2))
            for i in range(2, tokens, 2)
        }
        gone = sorted(best, key=lambda i: -best[i][0])[:r]
        groups = [[i] for i in range(0, tokens, 2) if i not in gone]
        groups += [[j] + [i for i in gone if -best[i][1] == j] for j in range(1, tokens, 2)]
        for place, group in enumerate(groups):
            weight = size[b, group].double()
            mean = (x[b, group].double() * weight[:, None]).sum(0) / weight.sum()
            near = 2e-2 if dtype == torch.bfloat16 else 1e-6
            assert sizes[b, place] == weight.sum()
            assert (out[b, place].double() - mean).abs().max() <= near
    assert sizes.sum(1).tolist() == size.sum(1).tolist()


# ------------------------------------------------------------------------------------ smaller grids


@pytest.mark.parametrize("side", [4, 12, 16, 24])
def test_every_count_has_the_nearest_grid_or_names_its_neighbours(side):
    grids = [(r, c) for r in range(1, side + 1) for c in range(r, side + 1) if c <= 2 * r]
    counts = {r * c for r, c in grids}
    for patches in range(1, side**2 + 1):
        if patches in counts:
            same = [grid for grid in grids if grid[0] * grid[1] == patches]
            assert rows_and_columns(patches, side) == min(same, key=lambda g: g[1] / g[0])
        else:
            with pytest.raises(ValueError, match="cannot be shown") as said:
                rows_and_columns(patches, side)
            below = max(n for n in counts if n < patches)
            above = min(n for n in counts if n > patches)
            assert f"{below} (" in str(said.value) and f"{above} (" in str(said.value)


def test_the_papers_budgets_have_grids():
    assert [rows_and_columns(k, 24) for k in (192, 128, 64)] == [(12, 16), (8, 16), (8, 8)]
    assert [rows_and_columns(k, 12) for k in (48, 32, 16)] == [(6, 8), (4, 8), (4, 4)]
    with pytest.raises(ValueError, match=r"possible are 45 \(5 × 9\) and 48 \(6 × 8\)"):
        rows_and_columns(47, 12)
    with pytest.raises(ValueError, match=r"in 0: .* possible are 1 \(1 × 1\)$"):
        rows_and_columns(0, 12)


def test_they_have_names_for_tables():
    assert [str(x) for x in (ToMe(), ToMe(proportional=False), Downsampling())] == [
        "ToMe", "ToMe without proportional attention", "downsampling",
    ]  # fmt: skip
