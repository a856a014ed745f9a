"""SparseVLM's recycling and DART's spread: worked by hand, exact counts for every K."""

import itertools

import pytest
import torch

from qvid_utils.methods import METHODS, method
from qvid_utils.methods.dart import Spread
from qvid_utils.methods.sparsevlm import LISTS, Recycle

# --- recycling ---------------------------------------------------------------------------------


def test_recycling_by_hand():
    # 10 tokens, K = 4. Three stay: 7 go, int(2.1) + 1 = 3 are recycled into int(0.3) + 1 = 1.
    scores = torch.tensor([9.0, 1, 8, 2, 3, 4, 5, 6, 7, 0])
    hidden = torch.arange(10.0)[:, None].repeat(1, 2)
    kept = Recycle()(scores, 4, hidden)
    # the best: tokens 0, 2, 8; then tokens 7, 6, 5 merge to their mean, 6, behind them
    assert kept.merged.tolist() == [[0, 0], [2, 2], [8, 8], [6, 6]]
    assert kept.index.tolist() == [0, 2, 5, 8] and kept.stands.tolist() == [0, 2, 8, 5]
    kept = Recycle(in_place=True)(scores, 4, hidden)
    assert kept.merged.tolist() == [[0, 0], [2, 2], [6, 6], [8, 8]]
    assert kept.index.tolist() == [0, 2, 5, 8] and kept.stands is None


@pytest.mark.parametrize("in_place", [False, True])
def test_two_clusters_by_hand(in_place):
    # 40 tokens, K = 10: 8 stay, since 32 go, int(9.6) + 1 = 10 are recycled into 2.
    scores = torch.arange(40.0).flip(0)  # the first are the best
    hidden = torch.zeros(40, 1)
    hidden[:8, 0] = torch.arange(8.0)
    hidden[8:18, 0] = torch.tensor([100.0, 300, 101, 300, 102, 300, 103, 300, 300.5, 104])
    kept = Recycle(in_place=in_place)(scores, 10, hidden)
    merged = [row[0] for row in kept.merged.tolist()]
    assert merged[:8] == list(range(8))
    # near 300: 4 · 300 and 300.5, mean 300.1; near 100: 100 to 104, mean 102
    expected = {300.1, 102.0}
    assert {round(x, 4) for x in merged[8:]} == expected
    # two nearest: the points at 300 have density 1, the first of them the largest δ of all, 200.5
    first = 9 if not in_place else None
    if first is not None:
        assert kept.stands[8].item() == first and merged[8] == pytest.approx(300.1)


def test_the_published_lists_are_what_their_top_k_make():
    """The code's top-k numbers and its merged tokens come out of the totals alone."""
    top = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
    more = {192: (9, 4, 3), 128: (9, 7, 3), 96: (11, 7, 1), 64: (16, 2, 1)}
    for (n, _, label), totals in LISTS.items():
        for before, total, k, merged in zip(
            (n, *totals), totals, top[label], more[label], strict=False
        ):
            assert Recycle().unmerged(total, before) == k and total - k == merged
            assert Recycle().clusters(before - k)[1] == merged


@pytest.mark.parametrize("n", [1, 2, 9, 40, 144])
@pytest.mark.parametrize("in_place", [False, True])
def test_recycling_gives_exactly_k(n, in_place):
    generator = torch.Generator().manual_seed(n)
    scores, hidden = torch.rand(n, generator=generator), torch.randn(n, 4, generator=generator)
    for keep in range(1, n + 1):
        kept = Recycle(in_place=in_place)(scores, keep, hidden)
        assert len(set(kept.index.tolist())) == keep
        assert kept.index.tolist() == sorted(kept.index.tolist())
        if kept.merged is None:
            assert keep == n or keep == 1
            continue
        stands = kept.index if in_place else kept.stands
        assert sorted(stands.tolist()) == kept.index.tolist()
        stay = Recycle().unmerged(keep, n)
        best = set(scores.sort(descending=True).indices[:stay].tolist())
        for row, token in zip(kept.merged, stands.tolist(), strict=True):
            assert token not in best or torch.equal(row, hidden[token])
        if not in_place:
            assert stands[:stay].tolist() == sorted(best)


def test_a_tiny_keep_gets_fewer_clusters():
    recycle = Recycle()
    assert recycle.clusters(575) == (173, 18)  # with 576 tokens at least 1 + 18 come out ...
    assert recycle.unmerged(19, 576) == 1 and recycle.unmerged(20, 576) == 2
    assert [recycle.unmerged(keep, 576) for keep in (1, 2, 18)] == [
        1,
        1,
        1,
    ]  # ... or fewer clusters


def test_recycling_repeats():
    hidden = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    first, second = (Recycle()(hidden[:, 0], 20, hidden) for _ in range(2))
    assert torch.equal(first.merged, second.merged) and torch.equal(first.stands, second.stands)


def test_an_order_of_its_own_needs_contiguous_positions():
    with pytest.raises(ValueError, match="positions='original': its selection puts tokens in an"):
        method("sparsevlm", positions="original")
    assert method("sparsevlm", in_place=True, positions="original").merges
    assert METHODS["sparsevlm"].merges and not METHODS["dart"].merges


# --- DART --------------------------------------------------------------------------------------

UNIT = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0), "south": (0.0, -1.0)}


def at(*names):
    return torch.tensor([UNIT[name] for name in names])


def test_spread_by_hand():
    spread = Spread(visual_pivots=1, text_pivots=1)
    norms = torch.tensor([1.0, 5.0, 2.0, 3.0, 4.0, 0.0])
    normed = at("west", "east", "south", "east", "north", "west") * torch.rand(6, 1).add(0.1)
    text, text_norms = at("east", "north"), torch.tensor([1.0, 2.0])
    # Token 1 is the pivot (east), text token 1 the other one (north).
    # K = 3: two to share, one each: least like east is west, the earlier; like north, south.
    assert spread(norms, 3, normed, text, text_norms).index.tolist() == [0, 1, 2]
    # K = 4: three to share: east takes both wests, north takes south.
    assert spread(norms, 4, normed, text, text_norms).index.tolist() == [0, 1, 2, 5]
    # K = 5: north takes south and then east, before what looks its own way.
    assert spread(norms, 5, normed, text, text_norms).index.tolist() == [0, 1, 2, 3, 5]
    assert spread(norms, 1, normed, text, text_norms).index.tolist() == [1]


def test_pivots_take_turns_by_norm():
    spread = Spread(visual_pivots=2, text_pivots=0)
    norms = torch.tensor([0.0, 0.0, 3.0, 4.0])
    normed = at("west", "south", "north", "east")
    # K = 3: one to share; the largest norm (east) goes first and takes west.
    assert spread(norms, 3, normed, normed[:0], norms[:0]).index.tolist() == [0, 2, 3]
    swapped = norms.flip(0).roll(2)  # the same with north first: it takes south
    assert spread(swapped, 3, normed, normed[:0], norms[:0]).index.tolist() == [1, 2, 3]


@pytest.mark.parametrize("n, words", list(itertools.product((1, 3, 5, 30, 144), (1, 3, 9))))
def test_spread_gives_exactly_k(n, words):
    generator = torch.Generator().manual_seed(n)
    norms, normed = torch.rand(n, generator=generator), torch.randn(n, 6, generator=generator)
    text = torch.randn(words, 6, generator=generator)
    for keep in range(1, n + 1):
        index = Spread()(norms, keep, normed, text, text[:, 0]).index
        assert len(index) == keep and index.tolist() == sorted(set(index.tolist()))
        pivots = norms.sort(descending=True).indices[: min(4, keep)]
        assert set(pivots.tolist()) <= set(index.tolist())


@pytest.mark.parametrize("keep, count", [(192, 196), (128, 132), (64, 68), (71, 68), (576, 576)])
def test_the_published_counts(keep, count):
    generator = torch.Generator().manual_seed(0)
    norms, normed = torch.rand(576, generator=generator), torch.randn(576, 6, generator=generator)
    text = torch.randn(20, 6, generator=generator)
    official = method("dart", official_counts=True).select
    assert len(official(norms, keep, normed, text, text[:, 0]).index) == count
