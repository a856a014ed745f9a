"""Average pooling to exactly K cells, and how pictures share a budget."""

import pytest
import torch
from merged import furthest, shorter
from torch.nn.functional import adaptive_avg_pool2d
from twins import BOTH, FILM, QWEN, QWEN3, STAR, ask, built

from qvid_utils.methods.floors import pooled, share_evenly
from qvid_utils.prune import pruned


def cells(values, keep, grid):
    hidden = torch.tensor(values, dtype=torch.float64)[:, None]
    kept = pooled(torch.zeros(len(hidden)), keep, hidden, grid)
    return kept.index.tolist(), kept.merged[:, 0].tolist()


def test_sharing_is_even_and_exact():
    assert share_evenly(7, [16, 16]) == [4, 3]
    assert share_evenly(33, [16, 17]) == [16, 17]  # nobody above its size
    assert share_evenly(32, [16, 17]) == [16, 16]
    assert share_evenly(10, [2, 16, 16]) == [2, 4, 4]
    for keep in range(3, 13):
        shares = share_evenly(keep, [4, 4, 4])
        assert sum(shares) == keep and max(shares) - min(shares) <= 1
    with pytest.raises(ValueError, match=r"keep=1: 2 pictures .* keep 2 to 32 of them"):
        share_evenly(1, [16, 16])
    with pytest.raises(ValueError, match="keep 2 to 32"):
        share_evenly(33, [16, 16])


def test_pooling_on_paper():
    picture = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]  # 4 × 4
    assert cells(picture, 4, (1, 4, 4)) == ([5, 7, 13, 15], [2.5, 4.5, 10.5, 12.5])
    assert cells(picture, 1, (1, 4, 4)) == ([10], [7.5])
    # 8 = 2 × 4 or 4 × 2, both twice from square: fewer rows
    assert cells(picture, 8, (1, 4, 4)) == (
        [4, 5, 6, 7, 12, 13, 14, 15], [2, 3, 4, 5, 10, 11, 12, 13],
    )  # fmt: skip
    # 3 × 1 and 1 × 3 are too far from a square: 16/3 tokens each in reading order. The first
    # third holds 0..4 and a third of 5; the second, two thirds of 5, 6..9, two thirds of 10.
    index, means = cells(picture, 3, (1, 4, 4))
    assert index == [2, 8, 13]
    assert means == pytest.approx([(10 + 5 / 3) * 3 / 16, 7.5, (65 + 10 / 3) * 3 / 16])


def test_a_border_token_counts_in_both_cells_by_its_part():
    """3 columns in 2 cells: the middle one belongs to both by half."""
    index, means = cells([0, 3, 9], 2, (1, 1, 3))
    assert index == [0, 2] and means == pytest.approx([1, 7])


def test_frames_share_the_cells():
    """5 = 3 + 2: no split of 3 fits 2 × 2, so 4/3 tokens each; 2 lie side by side."""
    index, means = cells([0, 1, 2, 3, 10, 11, 12, 13], 5, (2, 2, 2))
    assert index == [0, 2, 3, 6, 7] and means == pytest.approx([0.25, 1.5, 2.75, 11, 12])


@pytest.mark.parametrize("side", [(4, 4), (6, 12), (12, 12)])
def test_whole_cells_are_adaptive_average_pooling(side, generator):
    rows, cols = side
    hidden = torch.randn(rows * cols, 5, generator=generator)
    tried = 0
    for r, c in [(rows // a, cols // a) for a in (1, 2, 4) if rows % a == 0 and cols % a == 0]:
        kept = pooled(torch.zeros(rows * cols), r * c, hidden, (1, rows, cols))
        theirs = adaptive_avg_pool2d(hidden.T.reshape(5, rows, cols), (r, c)).flatten(1).T
        assert (kept.merged - theirs).abs().max() <= 1e-6
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 5, 7), (2, 3, 4)])
def test_every_count_is_exact_and_loses_nothing(grid, generator):
    n = grid[0] * grid[1] * grid[2]
    hidden = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    for keep in range(grid[0], n + 1):
        kept = pooled(torch.zeros(n), keep, hidden, grid)
        assert len(kept.index) == len(set(kept.index.tolist())) == keep
        assert kept.index.tolist() == sorted(kept.index.tolist()) and kept.index.max() < n
        per_frame = torch.bincount(kept.index // (n // grid[0]), minlength=grid[0])
        for frame, count in enumerate(per_frame.tolist()):  # the mean of all is the mean of all
            start = sum(per_frame.tolist()[:frame])
            mean = hidden.unflatten(0, (grid[0], -1))[frame].mean(0)
            assert (kept.merged[start : start + count].mean(0) - mean).abs().max() <= 1e-12
    assert torch.equal(kept.merged, hidden)


def test_pooling_needs_the_whole_grid():
    with pytest.raises(ValueError, match=r"7 visual tokens are left of the 1 × 4 × 4 grid"):
        pooled(torch.zeros(7), 2, torch.zeros(7, 3), (1, 4, 4))


@pytest.mark.parametrize("family", ["llava", "video_llava", *sorted(set(QWEN) - set(QWEN3))])
def test_keeping_all_cells_changes_no_bit(family):
    model, inputs = built(family), ask(STAR, model_type=family)
    plain = model(**inputs).logits
    with pruned(model, "pooling", 16) as trace:
        assert torch.equal(model(**inputs).logits, plain)
    assert trace.cuts[0].kept.tolist() == list(range(16))


def by_thirds(features):
    """16 tokens in three equal parts: each token cut in three, 16 of the pieces averaged."""
    return features.repeat_interleave(3, 0).unflatten(0, (3, 16)).mean(1)


def two_by_three(features):
    """4 × 4 tokens in 2 × 3 cells: each token cut in three columns, 2 rows × 4 pieces averaged."""
    fine = features.unflatten(0, (4, 4)).repeat_interleave(3, 1)
    return fine.unflatten(0, (2, 2)).unflatten(2, (3, 4)).mean((1, 3)).flatten(0, 1)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_pooling_is_a_shorter_prompt(kernel):
    """With positions renumbered: the language model on embeddings pooled by hand."""
    model, inputs = built(attention=kernel), ask(BOTH, STAR)
    one, two, three = model.get_image_features(inputs["pixel_values"]).pooler_output
    expected = [torch.cat([by_thirds(one), by_thirds(two)]), two_by_three(three)]
    with pruned(model, "pooling", 6, positions="contiguous") as trace:
        logits = model(**inputs).logits
    assert furthest(logits, shorter(model, inputs, expected)) <= 1e-5
    assert trace.cuts[0].kept.tolist() == [2, 8, 13, 18, 24, 29]
    assert trace.cuts[1].kept.tolist() == [4, 6, 7, 12, 14, 15]
    assert trace.mean_tokens == [6, 6]


def test_a_batch_row_is_the_row_alone_and_the_cache_is_exact():
    model, inputs = built(), ask(BOTH, STAR)
    with pruned(model, "pooling", 6):
        both, single = model(**inputs).logits, model(**ask(STAR)).logits
        assert (both[1, -single.shape[1] :] - single[0]).abs().max() <= 1e-5
        more = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [4, 5]}
        cached = model.generate(**inputs, **more)
        assert torch.equal(model.generate(**inputs, **more, use_cache=False), cached)


def test_a_prompt_without_a_single_grid_is_refused():
    film, model = ask(FILM, model_type="video_llava"), built("video_llava")
    with pytest.raises(ValueError, match="form no single grid"), pruned(model, "pooling", 4):
        model(**film)
