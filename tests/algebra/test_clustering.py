"""Density peaks and means, on points that can be worked on paper."""

import math

import pytest
import torch

from qvid_utils.algebra.clustering import density_peaks, means

# On a line (C = 1, so distances are plain): a dense group near 0, a looser one near 10.
LINE = torch.tensor([[0.0], [1.0], [0.4], [10.0], [12.0]])


def test_by_hand():
    # Two nearest, itself included: the mean of D² is half the square of the nearest distance:
    # 0.08, 0.18, 0.08, 2, 2. Points 0 and 2 tie, and 0 is the earlier: order 0, 2, 1, 3, 4.
    # Distances to a denser point: 12 (none: the largest of all), 0.6, 0.4, 9, 2.
    # Density times that: 11.08, 0.50, 0.37, 1.22, 0.27.
    centres, member = density_peaks(LINE, 2)
    assert centres.tolist() == [0, 3] and member.tolist() == [0, 0, 0, 1, 1]
    centres, member = density_peaks(LINE, 1)  # the nearest of one is itself: all equally dense
    assert centres.tolist() == [0] and member.tolist() == [0] * 5


def test_three_clusters_by_hand():
    # Three nearest: mean D² (0.16 + 1)/3, (0.36 + 1)/3, (0.16 + 0.36)/3, (4 + 81)/3, (4 + 121)/3.
    # Order 2, 0, 1, 3, 4; to a denser point: 12, 0.4, 0.6, 9, 2.
    # Density: exp of -0.387, -0.453, -0.173, -28.3, -41.7; products: 2 wins, then 1 with 0.381
    # (before 0 with 0.272). Point 0 is nearer to 2 (0.4) than to 1 (1.0).
    centres, member = density_peaks(LINE, 3)
    assert centres.tolist() == [2, 1, 0] and member.tolist() == [2, 1, 0, 1, 1]


def test_the_width_scales_distances():
    # Four equal coordinates double each distance and √4 halves it again: the same clusters.
    wide = LINE.expand(-1, 4)
    for clusters in (1, 2, 3):
        for a, b in zip(density_peaks(LINE, clusters), density_peaks(wide, clusters), strict=True):
            assert torch.equal(a, b)


def test_equal_points_repeat():
    centres, member = density_peaks(torch.zeros(4, 3), 2)
    assert centres.tolist() == [0, 1]  # the earliest is the densest; the others tie at distance 0
    assert member.tolist() == [0, 1, 0, 0]  # a centre is its own, whatever ties


@pytest.mark.parametrize("n", [1, 2, 5, 17])
def test_every_point_joins_and_no_cluster_is_empty(n):
    points = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    for clusters in range(1, n + 1):
        centres, member = density_peaks(points, clusters)
        assert len(set(centres.tolist())) == clusters
        assert member[centres].tolist() == list(range(clusters))
        assert set(member.tolist()) == set(range(clusters))


def test_means_by_hand():
    merged = means(torch.tensor([[1.0, 0.0], [3.0, 2.0], [7.0, 7.0]]), torch.tensor([1, 1, 0]), 2)
    assert merged.tolist() == [[7.0, 7.0], [2.0, 1.0]]


@pytest.mark.parametrize("clusters", [0, 6])
def test_a_number_of_clusters_that_cannot_be_is_refused(clusters):
    with pytest.raises(ValueError, match=f"clusters={clusters}: there are 5 points, form 1 to 5"):
        density_peaks(LINE, clusters)


def by_loops(points, clusters):
    """The definition, one number at a time."""
    n, width = len(points), len(points[0])
    D = [[(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / width) ** 0.5 for y in points]
         for x in points]  # fmt: skip
    density = [math.exp(-sum(d * d for d in sorted(row)[:clusters]) / clusters) for row in D]
    far = max(map(max, D))
    # of two that are each other's nearest, and so equally dense, the earlier counts as denser
    order = sorted(range(n), key=lambda i: -density[i])
    delta = {i: min([D[i][j] for j in order[:place]], default=far) for place, i in enumerate(order)}
    centres = sorted(range(n), key=lambda i: -density[i] * delta[i])[:clusters]
    member = [min(range(clusters), key=lambda c: D[i][centres[c]]) for i in range(n)]
    return centres, member


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_the_definition_on_random_points(spread):
    for seed in range(20):
        dice = torch.Generator().manual_seed(seed)
        points = torch.randn(25, 3, generator=dice, dtype=torch.float64) * spread
        for clusters in (2, 3, 6):
            found = density_peaks(points, clusters)
            assert [t.tolist() for t in found] == list(by_loops(points.tolist(), clusters))


@pytest.mark.parametrize("clusters", [True, 1.5, "2"])
def test_a_number_of_clusters_that_is_no_whole_number_is_named(clusters):
    with pytest.raises(TypeError, match=f"clusters={clusters!r}: give the number of clusters"):
        density_peaks(torch.rand(4, 2), clusters)
