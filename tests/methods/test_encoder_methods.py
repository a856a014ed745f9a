"""Encoder-side methods: scores, choices and merges worked by hand; then in every family's model."""

import functools
from dataclasses import replace

import pytest
import torch
from oracle import masked, places
from pairwise import matrix
from twins import (
    BEAMS_SHARE,
    BOTH,
    ELSEWHERE,
    HAVE_CLASS,
    QWEN,
    QWEN3,
    STAR,
    ask,
    built,
    cases,
    language,
)

from qvid_utils.algebra.selection import Kept, by_picture, shares, top_k_by_picture
from qvid_utils.families import FAMILIES, Unavailable
from qvid_utils.methods import METHODS, method
from qvid_utils.methods.class_token import class_attention, received_attention
from qvid_utils.methods.divprune import divprune, max_min
from qvid_utils.methods.hired import Tiles
from qvid_utils.methods.holov import Chunks
from qvid_utils.methods.prumerge import PruMerge, PruMergeInPlace, last_class_attention
from qvid_utils.methods.scope import Coverage
from qvid_utils.methods.svd_prune import svd_prune
from qvid_utils.methods.visionzip import VisionZip, VisionZipInPlace
from qvid_utils.methods.vispruner import Thinned
from qvid_utils.prune import pruned

families = pytest.mark.parametrize("family", sorted(FAMILIES))
DOOR = [
    name
    for name, entry in METHODS.items()
    if getattr(entry.schedule, "depth", None) == 0
    and entry.apart != "floors"
    and name not in ELSEWHERE
]
NEED_CLASS = {
    "fastervlm", "hired", "visionzip", "prumerge", "prumerge_plus", "vispruner", "scope", "holov",
}  # fmt: skip


def before_the_projector(name):
    """Whether a method merges there, which only a projector that joins no patches carries."""
    return METHODS[name].merges and "patches" in METHODS[name].select_sees


# What merges is refused where features of single tokens are still to come (test_merging.py).
CARRIED = [
    (f, n)
    for f in sorted(FAMILIES)
    for n in DOOR
    if f in HAVE_CLASS or n not in NEED_CLASS
    if FAMILIES[f].patchwise or not before_the_projector(n)
    if f not in QWEN3 or not METHODS[n].merges
]
carried = matrix("family, name", CARRIED)
MERGING = [cell for cell in CARRIED if METHODS[cell[1]].merges]
PLAIN = [cell for cell in CARRIED if not METHODS[cell[1]].merges]
EXACT = 1e-5
KEEP = 7


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


def one(n):
    """The tokens of a single picture."""
    return torch.zeros(n, dtype=torch.long)


def close(a, b, near=1e-6):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=near)


def test_the_table_has_them_all():
    assert set(DOOR) >= NEED_CLASS | {"svd_prune", "svd_prune_per_frame", "divprune"}
    assert {f"{n}_received" for n in NEED_CLASS - {"hired"}} <= set(DOOR)
    assert all(METHODS[n].positions == "contiguous_on_one_axis" for n in DOOR)
    assert {n for n in DOOR if METHODS[n].merges} == {
        *("visionzip", "visionzip_received", "prumerge", "prumerge_received"),
        *("prumerge_plus", "prumerge_plus_received", "holov"),
    }


# ---------------------------------------------------------------------------------------- scores


def test_attention_scores():
    row = tensor([0.1, 0.2, 0.0], [0.3, 0.0, 0.1])
    close(class_attention(row), tensor(0.2, 0.1, 0.05))
    assert (
        received_attention(tensor(0.1, 0.2)).tolist()
        == last_class_attention(tensor(0.1, 0.2)).tolist()
    )


def test_svd_prune_by_hand():
    """F = diag(3, 2, 1) with rows 1 and 2 shared out: σ² = 9, 4, 1 of 14, so shares .64, .93, 1."""
    F = tensor([3, 0, 0], [0, 1.2, 0], [0, 1.6, 0], [0, 0, 1])
    # direction 1 is token 0; direction 2 is split .36 : .64 between tokens 1 and 2
    close(svd_prune(F, one(4), tau=0.6), tensor(1, 0, 0, 0))
    close(svd_prune(F, one(4), tau=0.9), tensor(0.5, 0.18, 0.32, 0))
    close(svd_prune(F, one(4), tau=0.95), tensor(1, 0.36, 0.64, 1) / 3)
    assert svd_prune.params == {"tau": 0.9, "center": False, "per_frame": False}


def test_svd_prune_keeps_k_below_n():
    """Two directions of two tokens would give everyone 1/2: one is used."""
    F = tensor([2, 0, 0], [0, 1, 0])
    close(svd_prune(F, one(2), tau=0.99), tensor(1, 0))
    close(svd_prune(tensor([5, 0]), one(1)), tensor(1))


def test_svd_prune_centred():
    """Rows 10 ± 1 along one axis, and one step aside: the mean direction goes, the step stays."""
    F = tensor([10, 1], [10, -1], [10, 1], [10, -1])
    close(svd_prune(F, one(4)), tensor(1, 1, 1, 1) / 4)
    F = tensor([10, 3], [10, -1], [10, -1], [10, -1])
    close(svd_prune(F, one(4), center=True), tensor(9, 1, 1, 1) / 12)
    assert svd_prune(F, one(4)).argmax() == 0


def test_svd_prune_of_frames_and_of_the_whole_clip():
    """Each frame's own main direction against the clip's, which is the louder frame's."""
    F = tensor([3, 0], [3, 0], [0, 1], [0, 0.5], [9, 9])
    frames = torch.tensor([0, 0, 1, 1, -1])
    close(svd_prune(F, frames), tensor(0.5, 0.5, 0, 0, 0))
    close(svd_prune(F, frames, per_frame=True), tensor(0.5, 0.5, 0.8, 0.2, 0))


def test_svd_prune_is_the_svd():
    F = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) + 0.3
    U, s, _ = torch.linalg.svd(F.double(), full_matrices=False)
    share = s.square().cumsum(0) / s.square().sum()
    k = int((share < 0.8).sum()) + 1
    close(svd_prune(F, one(20), tau=0.8), (U[:, :k].square().sum(1) / k).float())


@pytest.mark.parametrize("tau", [0.0, 1.0, 1, 2.5])
def test_svd_prune_refuses_other_shares(tau):
    with pytest.raises(ValueError, match="share of the energy between 0 and 1"):
        svd_prune(torch.eye(3), one(3), tau=tau)


def test_divprune_scores_the_nearest_neighbour():
    features = tensor([1, 0], [2, 0], [0, 1], [-3, 0])
    close(divprune(features), tensor(0, 0, 1, 1))
    assert divprune(tensor([1, 2])).tolist() == [0]


@pytest.mark.parametrize(
    "score",
    [
        lambda x: svd_prune(x, one(12)),
        lambda x: divprune(x),
        lambda x: class_attention(x.T.softmax(-1)),
        lambda x: received_attention(x[:, 0]),
        lambda x: last_class_attention(x[:, 0]),
    ],
    ids=["svd_prune", "divprune", "class_attention", "received", "last_class_attention"],
)
def test_scores_follow_a_permutation(score):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    close(score(x[order]), score(x)[order])


# ------------------------------------------------------------------------------ shares and pictures


def test_shares_by_hand():
    assert shares([16, 16], 5) == [3, 2]  # 2.5 each: a tie goes to the earlier
    assert shares([4, 40, 16], 6) == [0, 4, 2]  # 0.4, 4.0, 1.6
    assert shares([3, 1], 4) == [3, 1] and shares([5], 0) == [0]
    with pytest.raises(ValueError, match="keep=5: there are 4 tokens"):
        shares([3, 1], 5)


@pytest.mark.parametrize("sizes", [[1], [7, 7], [16, 40, 4], [1, 1, 1, 9]])
def test_shares_add_up_and_fit(sizes):
    for keep in range(sum(sizes) + 1):
        parts = shares(sizes, keep)
        assert sum(parts) == keep
        assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))


def test_each_picture_keeps_its_own_best():
    scores = tensor(0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 5.0)
    frames = torch.tensor([0, 0, 0, 1, 1, 1, -1])
    assert top_k_by_picture(scores, 4, frames).index.tolist() == [0, 1, 4, 5]
    assert top_k_by_picture(scores, 3, frames).index.tolist() == [0, 1, 5]
    # what shows no place comes last of all
    assert top_k_by_picture(scores, 6, frames).index.tolist() == [0, 1, 2, 3, 4, 5]
    assert top_k_by_picture(scores, 7, frames).index.tolist() == list(range(7))
    only = torch.tensor([-1, -1])
    assert top_k_by_picture(tensor(1, 2), 1, only).index.tolist() == [0]


def test_contents_stay_with_their_picture():
    frames = torch.tensor([0, 0, -1, 1, 1])
    rows = torch.arange(5.0)[:, None]

    def choose(tokens, k):  # the picture's last token's content in its first slots
        return torch.arange(k), rows[tokens[-1:]].expand(k, 1) + 10, torch.tensor([1, -1])[:k]

    index, content, stands = by_picture(frames, 2, choose, rows)
    assert index.tolist() == [0, 3] and content[:, 0].tolist() == [11, 14]
    assert stands.tolist() == [1, 4]  # among all
    index, content, stands = by_picture(frames, 5, choose, rows)
    assert index.tolist() == [0, 1, 2, 3, 4] and content[:, 0].tolist() == [11, 11, 2, 14, 14]
    assert stands.tolist() == [1, -1, 2, 4, -1]


# ------------------------------------------------------------------------------------- selections


def test_hired_counts():
    scores, words = torch.arange(576.0), (one(576), one(576), torch.ones(2, 576))
    for keep, theirs in ((192, 191), (128, 127), (64, 63), (576, 576), (1, 1)):
        assert len(Tiles()(scores, keep, *words).index) == keep
        assert len(Tiles(official_counts=True)(scores, keep, *words).index) == theirs
    assert Tiles()(scores, 3, *words).index.tolist() == [573, 574, 575]


def test_divprune_by_hand():
    """Angles 5, 10, 90, 100, 200 degrees: 200 is alone, 100 degrees from its nearest neighbour."""
    angle = torch.tensor([5.0, 10, 90, 100, 200]).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], 1)
    scores = divprune(x)
    assert scores.argmax() == 4
    # 10 lies 170 away; then 100 (90 from 10) before 90 (80 from it); then 90 (10 from 100)
    order = [4, 1, 3, 2, 0]
    assert max_min(scores, 1, x).index.tolist() == [4]
    assert max_min(scores, 2, x).index.tolist() == sorted(order[:2])
    assert max_min(scores, 3, x).index.tolist() == sorted(order[:3])
    assert max_min(scores, 4, x).index.tolist() == sorted(order[:4])
    assert max_min(scores, 5, x).index.tolist() == [0, 1, 2, 3, 4]


def test_divprune_picks_nobody_twice():
    x = tensor([1, 0], [1, 0], [1, 0], [0, 1])
    for keep in range(1, 5):
        assert len(set(max_min(divprune(x), keep, x).index.tolist())) == keep


def test_scope_by_hand():
    """Tokens 0 and 1 lie alike, 2 aside. Gains at first: 2, 2, 1, times scores 3, 4, 2: token 1.
    Then token 0 has nothing to add, and token 2 covers itself."""
    x = tensor([1, 0], [2, 0], [0, 1])
    scores = tensor(3, 4, 2)
    assert Coverage()(scores, 1, x, one(3)).index.tolist() == [1]
    assert Coverage()(scores, 2, x, one(3)).index.tolist() == [1, 2]
    assert Coverage()(scores, 3, x, one(3)).index.tolist() == [0, 1, 2]
    # opposite tokens cover nothing of each other; alpha = 0 leaves the coverage alone
    x = tensor([1, 0], [-1, 0], [0.6, 0.8])
    assert Coverage()(tensor(1, 4, 1), 1, x, one(3)).index.tolist() == [1]
    assert Coverage(alpha=0.0)(tensor(1, 4, 1), 1, x, one(3)).index.tolist() == [0]


@pytest.mark.parametrize("scores", [tensor(1, 2, 3, 4), tensor(0, 0, 0, 0)])
def test_scope_picks_nobody_twice(scores):
    """All alike: after the first there is no gain, and the earlier ones come first."""
    first = int(scores.argmax())
    for keep in range(1, 5):
        kept = Coverage()(scores, keep, torch.ones(4, 2), one(4)).index.tolist()
        assert kept == sorted([first, *(i for i in range(4) if i != first)][:keep])


def test_vispruner_by_hand():
    """K = 4 of 8: the two best, then six are thinned to two, two at a time."""
    scores = tensor(8, 7, 6, 5, 4, 3, 2, 1)
    angle = torch.tensor([0.0, 0, 0, 40, 90, 85, 200, 50]).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], 1)
    # left, best first: 2 (0°) 3 (40°) 4 (90°) 5 (85°) 6 (200°) 7 (50°)
    # even 2, 4, 6; odd 3, 5, 7: nearest 40, 5, 115 degrees: 4 and 2 go; left 6, 3, 5, 7
    # even 6, 5; odd 3, 7: nearest 150, 35 degrees: both go; left 3, 7
    assert Thinned(step=2)(scores, 4, x, one(8)).index.tolist() == [0, 1, 3, 7]
    # one at a time: 4 goes: left 2, 6, 3, 5, 7 (survivors, the most similar first); even 2, 3, 7,
    # odd 6, 5: 160, 45, 35 degrees: 7 goes: 3, 2, 6, 5; even 3, 6; odd 2, 5: 40 and 115: 3 goes:
    # 6, 2, 5; even 6, 5; odd 2: 160, 85: 5 goes: left 6, 2
    assert Thinned(step=1)(scores, 4, x, one(8)).index.tolist() == [0, 1, 2, 6]
    # all of it important, or nothing
    assert Thinned(important=1.0)(scores, 3, x, one(8)).index.tolist() == [0, 1, 2]
    assert len(Thinned(important=0.0)(scores, 3, x, one(8)).index) == 3


def test_holov_by_hand():
    """Four tokens in two chunks. Chunk 1: scores 1, 3 (mean 2); chunk 2: 5, 1 (mean 3). A chunk's
    variance scaled to its scores adds 9 % to either: weights 2 : 3. Of K = 2: 0.8 and 1.2, down to
    0 and 1; the one left goes to the heavier chunk."""
    scores, x = tensor(1, 3, 5, 1) / 1000, tensor([1, 0], [0.6, 0.8], [1, 0], [0.8, 0.6])
    rows = torch.arange(4.0)[:, None]
    select = Chunks(chunks=2)
    kept = select(scores, 1, x, rows, one(4))
    assert kept.merged[:, 0].tolist() == [2]
    kept = select(scores, 2, x, rows, one(4))
    assert kept.merged[:, 0].tolist() == [2, 3] and kept.index.tolist() == [2, 3]
    kept = select(scores, 3, x, rows, one(4))  # 1.2 and 1.8: 1 and 1, then the heavier
    assert kept.merged[:, 0].tolist() == [1, 2, 3] and kept.index.tolist() == [1, 2, 3]
    # a chunk kept whole stays as it is
    kept = select(tensor(1, 3, 1, 5) / 1000, 4, x, rows, one(4))
    assert kept.merged[:, 0].tolist() == [0, 1, 2, 3] and kept.index.tolist() == [0, 1, 2, 3]


def test_holov_puts_the_best_of_a_chunk_first():
    """At right angles nothing varies: weights 2 and 10/3, of K = 3 that is 1 and 2."""
    scores, rows = tensor(1, 3, 2, 1, 4, 5) / 1000, torch.arange(6.0)[:, None]
    kept = Chunks(chunks=2)(scores, 3, torch.eye(6), rows, one(6))
    assert kept.index.tolist() == [1, 4, 5] and kept.merged[:, 0].tolist() == [1, 5, 4]
    assert kept.stands.tolist() == [1, 5, 4]
    kept = Chunks(chunks=2, in_place=True)(scores, 3, torch.eye(6), rows, one(6))
    assert kept.index.tolist() == [1, 4, 5] and kept.merged is kept.stands is None


def test_holov_weights_a_chunk_by_score_and_scaled_variance():
    """Cosines .6, .8, 0 (with the 0 on the diagonal): means .7, .3, .4 over two others; squares
    summed: (.49+.01+.01, .09+.09+.09, .16+.16+.16)/2, mean .21; scores 1, 2, 3 of mean 2."""
    x = tensor([1, 0, 0], [0.6, 0.8, 0], [0.8, -0.6, 0])
    weight = Chunks()._weight(tensor(1, 2, 3) / 1000, x)
    variance = tensor(0.51, 0.27, 0.48) / 2
    expected = (tensor(1, 2, 3) + 0.09 * 2 / (0.21 + 1e-6) * variance).mean()
    close(weight.float(), expected, 1e-5)
    assert float(Chunks()._weight(tensor(0.004), x[:1])) == pytest.approx(4)
    # two at right angles: their cosines to others do not vary at all, and nothing is added
    assert float(Chunks()._weight(tensor(1, 3) / 1000, torch.eye(2))) == pytest.approx(2)


def test_holov_surplus():
    """A chunk that is full hands its surplus on; officially zero vectors come instead."""
    scores = tensor(0, 0, 0, 9, 9, 0) / 1000
    x, rows = torch.eye(6), torch.arange(1.0, 7)[:, None]
    kept = Chunks(chunks=3)(scores, 4, x, rows, one(6))
    # all weight on the middle chunk? token 3 is in it, token 4 in the last: 1 : 1, two each
    assert kept.merged[:, 0].tolist() == [3, 4, 5, 6]
    peaky = tensor(0, 0, 9, 9, 0, 0) / 1000
    kept = Chunks(chunks=3)(peaky, 4, x, rows, one(6))
    assert kept.merged[:, 0].tolist() == [1, 3, 4, 5] and kept.index.tolist() == [0, 2, 3, 4]
    kept = Chunks(chunks=3, official_counts=True)(peaky, 4, x, rows, one(6))
    # floor gives 3, the one left makes 4: two are lost
    assert kept.merged[:, 0].tolist() == [3, 4, 0, 0] and len(kept.index) == 4


# ----------------------------------------------------------------------------------------- merging


def test_visionzip_by_hand():
    """K = 4, half of it contextual: class token, one dominant, two contextual of five left."""
    scores = tensor(1, 2, 9, 3, 4, 5)
    rows = torch.tensor([[1.0], [2], [4], [8], [16], [32]])
    # keys, mean over two heads; token 1 is like 0, token 4 like 3, token 5 like 0
    keys = tensor([1, 0], [1, 0.1], [0, 0], [0, 1], [0.1, 1], [1, 0.2])
    keys = torch.stack([2 * keys, torch.zeros_like(keys)])
    cls = torch.full((6, 1), 100.0)
    kept = VisionZip(part=0.5)(scores, 4, keys, rows, cls, one(6))
    # dominant: token 2. Left 0, 1, 3, 4, 5 in steps of 5 // 2: targets 0 and 3
    # 1 and 5 join 0, 4 joins 3: 1 + (2 + 32)/2 = 18 and 8 + 16 = 24
    assert kept.patches[:, 0].tolist() == [100, 4, 18, 24] and kept.merged is None
    assert kept.index.tolist() == [0, 1, 2, 3]  # slots of 2, 0 and 3, and the first that is free
    assert kept.stands.tolist() == [-1, 2, 0, 3]
    kept = VisionZipInPlace(part=0.5)(scores, 4, keys, rows, one(6))
    # dominant 2 and 5; left 0, 1, 3, 4: targets 0 and 3; 1 joins 0, 4 joins 3
    assert kept.index.tolist() == [0, 2, 3, 5]
    assert kept.merged[:, 0].tolist() == [1 + 2, 4, 8 + 16, 32]
    assert VisionZip(part=0.0)(scores, 2, keys, rows, cls, one(6)).patches[:, 0].tolist() == [
        100,
        4,
    ]


@pytest.mark.parametrize(("keep", "contextual"), [(64, 10), (128, 20), (192, 30), (1, 0), (7, 1)])
def test_visionzip_counts(keep, contextual):
    """54+10, 108+20 and 162+30, the class token among the first."""
    n = 576
    scores, rows = torch.arange(n, 0, -1.0), torch.arange(n, dtype=torch.float)[:, None]
    keys = torch.randn(2, n, 4, generator=torch.Generator().manual_seed(0))
    kept = VisionZip()(scores, keep, keys, rows, torch.full((n, 1), -1.0), one(n))
    dominant = keep - contextual - 1
    assert kept.patches[: dominant + 1, 0].tolist() == [-1, *range(dominant)]
    assert len(kept.index) == keep


def test_prumerge_by_hand():
    """K = 3: two kept, each with its one nearest other added, and the sum of the dropped."""
    scores = tensor(0.1, 0.4, 0.2, 0.3)
    keys = tensor([1, 0], [1, 0.1], [0, 1], [0.1, 1])
    rows = torch.tensor([[1.0], [10], [100], [1000]])
    kept = PruMerge(neighbours=1)(scores, 3, keys, rows, one(4))
    # token 1 (0.4) with token 0: 10 + 0.1 * 1; token 3 (0.3) with token 2: 1000 + 0.2 * 100
    # dropped 0 and 2: 0.1 * 1 + 0.2 * 100
    close(kept.patches[:, 0], tensor(10.1, 1020, 20.1))
    assert kept.index.tolist() == [0, 1, 3] and kept.merged is None
    assert kept.stands.tolist() == [1, 3, -1]
    # a kept token may be a neighbour too; more neighbours than there are take all
    kept = PruMerge()(scores, 2, keys, rows, one(4))
    close(kept.patches[:, 0], tensor(10 + 0.1 + 20 + 300, 0.1 + 20 + 300))
    theirs = PruMerge(neighbours=1, official_counts=True)(scores, 2, keys, rows, one(4))
    close(theirs.patches[:, 0], tensor(10.1, 1020, 20.1))
    kept = PruMerge()(scores, 1, keys, rows, one(4))
    close(kept.patches[:, 0], tensor(0.1 + 4 + 20 + 300))
    placed = PruMergeInPlace(neighbours=1)(scores, 2, keys[None], rows, one(4))
    assert placed.index.tolist() == [1, 3]
    close(placed.merged[:, 0], tensor(10.1, 1020))


def test_prumerge_neighbours_are_32():
    n = 40
    keys = torch.stack([torch.linspace(0, 1, n).cos(), torch.linspace(0, 1, n).sin()], 1)
    scores = torch.ones(n)
    scores[0] = 2
    kept = PruMerge()(scores, 2, keys, torch.ones(n, 1), one(n))
    assert kept.patches[:, 0].tolist() == [1 + 32, 39]


def test_prumerge_plus_by_hand():
    """Of 7 kept the best 4, and 3 in the middle of thirds of the picture; taken ones move on."""
    scores = torch.zeros(12)
    scores[[2, 3, 6, 11]] = tensor(4, 3, 2, 1)
    keys, rows = torch.eye(12), torch.arange(12.0)[:, None]
    kept = PruMerge(plus=True, neighbours=0)(scores, 8, keys, rows, one(12))
    # thirds of 12: middles 2, 6, 10; 2 and 6 are taken, and 3: so 4, 7, 10
    assert kept.patches[:-1, 0].tolist() == [2, 3, 6, 11, 4, 7, 10]
    # 145 of 576, as in the code: 72 best, 72 from 4 in steps of 8, and one
    scores = torch.zeros(576)
    best = torch.arange(72) * 8 + 1
    scores[best] = torch.arange(72, 0, -1.0)
    rows = torch.arange(576.0)[:, None]
    kept = PruMerge(plus=True, neighbours=0)(scores, 145, torch.ones(576, 1), rows, one(576))
    assert kept.patches[:144, 0].tolist() == [*best.tolist(), *range(4, 576, 8)]


def test_prumerge_adaptive_by_hand():
    """Ten tokens 0..9 in tenths and two far out: quartiles 2.75 and 8.25, so above 16.5."""
    scores = torch.tensor([20.0, *range(10), 30])
    keys, rows = torch.eye(12), torch.arange(12.0)[:, None]
    low, high = scores.quantile(0.25), scores.quantile(0.75)
    assert (float(low), float(high)) == (2.75, 8.25)
    kept = PruMerge(adaptive=True, neighbours=0)(scores, 1, keys, rows, one(12))
    assert kept.patches[:2, 0].tolist() == [11, 0] and len(kept.index) == 3
    # ratio 2/12: every int(6/3) = second place below 11 that is not kept already
    kept = PruMerge(adaptive=True, plus=True, neighbours=0)(scores, 1, keys, rows, one(12))
    assert kept.patches[:-1, 0].tolist() == [11, 0, 2, 4, 6, 8, 10]
    # no outlier: the best one
    flat = PruMerge(adaptive=True)(torch.arange(12.0), 5, keys, rows, one(12))
    assert len(flat.index) == 2


def test_prumerge_adaptive_step_of_the_paper():
    """Ratio 0.055: step 18, stride 6, 96 places."""
    scores = torch.zeros(576)
    scores[:32] = 1  # 32/576 = 0.0556
    keys = torch.ones(576, 1)
    rows = torch.arange(576.0)[:, None]
    kept = PruMerge(adaptive=True, plus=True, neighbours=0)(scores, 9, keys, rows, one(576))
    spread = kept.patches[32:-1, 0].tolist()
    assert spread == [p for p in range(0, 575, 6) if p >= 32]


# ---------------------------------------------------------------------------------- any selection

LAYOUTS = {
    "one": [0] * 12,
    "two": [0] * 5 + [1] * 9,
    "line breaks": ([0] * 3 + [-1]) * 3,
    "frames": ([-1] + [0] * 4) + ([-1] + [1] * 4) + [-1],
    "single": [0],
}


def asked(select, frames, seed=0):
    """Random evidence for a selection."""
    dice = torch.Generator().manual_seed(seed)
    n = len(frames)
    frames = torch.tensor(frames)
    draw = functools.partial(torch.randn, generator=dice)
    scores = draw(n).abs() * (frames >= 0)
    words = {
        "tower_keys": draw(2, n, 4), "last_keys": draw(n, 8), "patches": draw(n, 6),
        "cls_patch": draw(n, 6), "hidden": draw(n, 7), "features": draw(n, 7), "frames": frames,
        "tiles": frames, "first_cls_row": draw(2, n).abs(),
    }  # fmt: skip
    import inspect

    names = tuple(inspect.signature(select).parameters)[2:]
    return scores, {name: words[name] for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DOOR)
def test_every_budget_is_met_exactly(name, layout):
    select = METHODS[name].select
    frames = LAYOUTS[layout]
    scores, words = asked(select, frames)
    for keep in range(1, len(frames) + 1):
        kept = select(scores, keep, **words)
        assert len(kept.index) == keep
        assert (kept.index.diff() > 0).all()
        assert kept.index[0] >= 0 and kept.index[-1] < len(frames)
        contents = kept.merged if kept.patches is None else kept.patches
        assert METHODS[name].merges == (contents is not None)
        assert contents is None or (len(contents) == keep and contents.isfinite().all())
    for wrong in (0, len(frames) + 1):
        with pytest.raises(ValueError, match=f"keep={wrong}"):
            select(scores, wrong, **words)
    with pytest.raises(ValueError, match="NaN or infinite"):
        select(scores * torch.nan, 1, **words)


@pytest.mark.parametrize("select", [Coverage(), max_min, Tiles(), Thinned(important=1.0)])
def test_choices_without_an_order_follow_a_permutation(select):
    scores, words = asked(select, [0] * 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    turned = {n: w[order] if len(w) == 12 else w[:, order] for n, w in words.items()}
    for keep in range(1, 13):
        kept = select(scores, keep, **words).index
        again = select(scores[order], keep, **turned).index
        assert sorted(order[again].tolist()) == kept.tolist()


def test_merges_without_an_order_follow_a_permutation():
    scores, words = asked(PruMerge(), [0] * 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    turned = {name: word[order] for name, word in words.items()}
    for keep in range(1, 13):
        a, b = PruMerge()(scores, keep, **words), PruMerge()(scores[order], keep, **turned)
        close(a.patches, b.patches, 1e-5)


def test_kept_has_contents_in_one_space():
    index, rows = torch.tensor([0, 1]), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one space"):
        Kept(index, merged=rows, patches=rows)
    with pytest.raises(ValueError, match="Kept.patches has 3 rows for 2"):
        Kept(index, patches=torch.zeros(3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Thinned(important=1.5), lambda: Thinned(step=0), lambda: VisionZip(part=1.0),
        lambda: VisionZipInPlace(part=-0.1), lambda: Chunks(chunks=0),
        lambda: PruMerge(neighbours=-1), lambda: PruMergeInPlace(neighbours=-1),
    ],
)  # fmt: skip
def test_constants_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="give "):
        make()


def test_fields_of_a_selection_are_options_of_the_method():
    made = method("prumerge", official_counts=True, neighbours=8)
    assert made.select == PruMerge(official_counts=True, neighbours=8)
    assert METHODS["prumerge"].select == PruMerge() and made.name == "prumerge"
    assert method("svd_prune", tau=0.8).params["tau"] == 0.8
    assert method("visionzip", select=PruMerge(), plus=True).select == PruMerge(plus=True)
    with pytest.raises(ValueError, match="no window=3; .*of its selection: adaptive, neighbours"):
        method("prumerge", window=3)


# ----------------------------------------------------------------------------- in a model's prompts


def generate(model, inputs, tokens=3, **more):
    more = {"max_new_tokens": tokens, "do_sample": False, "suppress_tokens": [4, 5], **more}
    return model.generate(**inputs, **more, return_dict_in_generate=True, output_logits=True)


@carried
def test_a_row_of_a_batch_is_the_row_alone_and_beams_agree(family, name):
    model = built(family)
    for case in ("ragged", "pictures and videos"):
        prompts = cases(family).get(case)
        if prompts is None:
            continue
        inputs = ask(*prompts, model_type=family)
        with pruned(model, name, KEEP) as trace:
            together = generate(model, inputs)
        with pruned(model, name, KEEP) as beams:
            if BEAMS_SHARE:
                generate(model, inputs, 2, num_beams=2)
        for row, prompt in enumerate(prompts):
            with pruned(model, name, KEEP) as alone:
                out = generate(model, ask(prompt, model_type=family))
            kept = alone.cuts[0].kept.tolist()
            assert len(kept) == KEEP and alone.cuts[0].layer == 0 == alone.cuts[0].n_query
            assert [c.kept.tolist() for c in trace.cuts if c.row == row] == [kept]
            found = [c.kept.tolist() for c in beams.cuts if c.row // 2 == row]
            assert found == [kept, kept] or not BEAMS_SHARE
            a, b = torch.stack(out.logits, 1)[0], torch.stack(together.logits, 1)[row]
            torch.testing.assert_close(a, b, rtol=0, atol=EXACT)
            assert trace.mean_tokens[row] == KEEP


@matrix("family, name, kernel", [(*cell, kernel) for kernel in ("sdpa", "eager") for cell in PLAIN])
def test_dropping_is_hiding_where_nothing_merges(family, name, kernel):
    model = built(family, attention=kernel)
    inputs = ask(BOTH, STAR, model_type=family)
    with pruned(model, name, KEEP, positions="original") as trace:
        out = generate(model, inputs)
    expected, _ = masked(model, inputs, trace.cuts, out.sequences)
    start = inputs["input_ids"].shape[1] - 1
    found = torch.stack(out.logits, 1)
    torch.testing.assert_close(found, expected[:, start : start + 3], rtol=0, atol=EXACT)
    plain = model(**inputs).logits[:, -1]
    assert (found[:, 0] - plain).abs().max() > 1e-3  # and it does change the answer


@matrix("family, name", PLAIN)
def test_keeping_everything_changes_no_bit(family, name):
    model, inputs = built(family), ask(STAR, model_type=family)
    n, logits = int(places(model, inputs).sum()), model(**inputs).logits
    with pruned(model, name, n) as trace:
        assert torch.equal(model(**inputs).logits, logits)
    assert trace.cuts[0].kept.tolist() == list(range(n))


def fed(model, inputs):
    """What the language model is fed for the whole prompts: embeddings and positions."""
    seen = {}
    spy = language(model).register_forward_pre_hook(
        lambda m, a, k: seen.update(k), with_kwargs=True
    )
    model(**inputs)
    spy.remove()
    added = []
    for features in seen.get("deepstack_visual_embeds") or ():
        zeros = torch.zeros_like(seen["inputs_embeds"])
        zeros[seen["visual_pos_masks"]] = features
        added.append(zeros)
    return seen["inputs_embeds"], seen["position_ids"], added


@matrix("family, name", sorted({*MERGING, *PLAIN}))
def test_it_is_the_language_model_on_the_shorter_sequence(family, name):
    """Contents in the slots, renumbered where positions are one number, with the cache."""
    model, made = built(family), []
    inputs = ask(BOTH, STAR, model_type=family)
    chosen = METHODS[name]

    def spying(scores, keep, **words):
        made.append(chosen.select(scores, keep, **words))
        return made[-1]

    import inspect

    spying.__signature__ = inspect.signature(chosen.select)
    with pruned(model, replace(chosen, select=spying), KEEP):
        out = generate(model, inputs)
    embeds, positions, added = fed(model, inputs)
    visual, ids = places(model, inputs), inputs["input_ids"]
    for row in range(2):
        columns = visual[row].nonzero()[:, 0][made[row].index]
        stream = embeds[row].clone()
        if made[row].patches is not None:
            stream[columns] = model.base_model.multi_modal_projector(made[row].patches)
        elif made[row].merged is not None:
            stream[columns] = made[row].merged
        stays = inputs["attention_mask"][row].bool() & ~visual[row]
        stays[columns] = True
        tokens = out.sequences[row, ids.shape[1] : -1]
        short = torch.cat([stream[stays], model.get_input_embeddings()(tokens)])[None]
        more = {}
        if family in QWEN:  # three axes: kept tokens stay where they were
            own = positions[-3:, row, stays]
            new = positions[-3:, row].amax() + 1 + torch.arange(len(tokens))
            more["position_ids"] = torch.cat([own, new.expand(3, -1)], 1)[:, None]
        if added:
            here = torch.nn.functional.pad(visual[row, stays], (0, len(tokens)))[None]
            layers = [one[row, stays & visual[row]] for one in added]
            more |= {"visual_pos_masks": here, "deepstack_visual_embeds": layers}
        logits = model.lm_head(language(model)(inputs_embeds=short, **more)[0])
        torch.testing.assert_close(
            logits[0, -3:], torch.stack(out.logits, 1)[row], rtol=0, atol=EXACT
        )


def entering(model, inputs, name, keep, **options):
    """(K, d): what stands in the visual places behind the cut of one prompt, and the trace."""
    seen, layer = {}, language(model).layers[1]
    first = language(model).layers[0]
    spy = first.register_forward_hook(lambda m, a, o: seen.update(stream=a[0]))
    with pruned(model, name, keep, **options) as trace:
        model(**inputs)
    spy.remove()
    assert layer is not first
    start = int(places(model, inputs)[0].nonzero()[0, 0])
    return seen["stream"][0, start : start + len(trace.cuts[0].kept)], trace


def eager_tower(model, inputs):
    one = model.base_model.vision_tower
    out = one(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    return one, out.attentions, out.hidden_states


def test_visionzip_from_the_tower_to_the_language_model():
    """All of it again with plain loops, from what an eager tower says itself: K = 13 of 16."""
    model, inputs = built(attention="eager"), ask(STAR)
    one, attention, hidden = eager_tower(model, inputs)
    row, x = attention[-2][0, :, 0, 1:].sum(0), hidden[-2][0]
    layer = one.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(hidden[-3][0]))[1:].reshape(16, 2, 16).mean(1)
    dominant = sorted(row.argsort(descending=True)[:10].tolist())
    left = [i for i in range(16) if i not in dominant]
    targets = [left[0], left[3]]  # six left, two contextual (13 · 10/64 = 2.03): every third
    groups = {t: [] for t in targets}
    for i in left:
        if i not in targets:
            alike = [torch.cosine_similarity(keys[i], keys[t], dim=0) for t in targets]
            groups[targets[int(alike[1] > alike[0])]].append(i)
    contextual = []
    for t in targets:
        mean = x[1:][groups[t]].mean(0) if groups[t] else torch.zeros(32)
        contextual.append(x[1 + t] + mean)
    contents = torch.stack([x[0], *(x[1 + i] for i in dominant), *contextual])
    found, _ = entering(model, inputs, "visionzip", 13)
    close(found, model.base_model.multi_modal_projector(contents), 1e-5)


def test_prumerge_from_the_tower_to_the_language_model():
    model, inputs = built(attention="eager"), ask(STAR)
    one, _, hidden = eager_tower(model, inputs)
    last, x = one.encoder.layers[-1], hidden[-2][0, 1:]
    into = last.layer_norm1(hidden[-2][0])
    q, k = last.self_attn.q_proj(into), last.self_attn.k_proj(into)
    a = (q[0] @ k.T / 32**0.5).softmax(0)[1:]
    order = a.argsort(descending=True).tolist()
    contents = []
    for i in order[:4]:
        others = [j for j in range(16) if j != i]
        contents.append(x[i] + sum(a[j] * x[j] for j in others))  # fewer than 32: all
    contents.append(sum(a[j] * x[j] for j in order[4:]))
    expected = model.base_model.multi_modal_projector(torch.stack(contents))
    found, trace = entering(model, inputs, "prumerge", 5)
    close(found, expected, 1e-5)
    more, theirs = entering(model, inputs, "prumerge", 4, official_counts=True)
    close(more, expected, 1e-5)
    assert (trace.mean_tokens, theirs.mean_tokens) == ([5], [5])


def test_counts_of_their_own_are_in_the_mean():
    model, inputs = built(), ask(STAR)
    with pruned(model, "prumerge", 7, adaptive=True) as trace:
        generate(model, inputs)
    assert trace.mean_tokens == [len(trace.cuts[0].kept)] and trace.mean_tokens != [7]
    with pruned(model, "hired", 7, official_counts=True) as trace:
        model(**inputs)
    assert trace.mean_tokens == [6]  # int(16 · 0.437)


def test_merging_before_the_projector_has_its_door():
    model, inputs = built(), ask(STAR)
    with (
        pytest.raises(ValueError, match="layer=3: .*merges before the projector.*use layer=0"),
        pruned(model, "visionzip", 5, layer=3),
    ):
        model(**inputs)
    family, inputs = "llava_onevision", ask(STAR, model_type="llava_onevision")
    select = lambda scores, keep, patches: Kept(torch.arange(keep), patches=patches[:keep])  # noqa: E731
    with (
        pytest.raises(Unavailable, match="pools or joins patches there"),
        pruned(built(family), method("svd_prune", select=select), 5),
    ):
        built(family)(**inputs)


@pytest.mark.parametrize("family", QWEN)
def test_positions_along_several_axes_stay(family):
    """ "contiguous" is refused there, "contiguous_on_one_axis" keeps them."""
    model, inputs = built(family), ask(STAR, model_type=family)
    with pruned(model, "divprune", 5):
        ours = model(**inputs).logits
    with pruned(model, "divprune", 5, positions="original"):
        assert torch.equal(model(**inputs).logits, ours)
    with (
        pytest.raises(Unavailable, match="counts positions along several axes"),
        pruned(model, "divprune", 5, positions="contiguous"),
    ):
        pass


@pytest.mark.parametrize("family", HAVE_CLASS)
def test_positions_along_one_axis_are_renumbered(family):
    model, inputs = built(family), ask(STAR, model_type=family)
    logits = {}
    for positions in ("contiguous", "original", "contiguous_on_one_axis"):
        with pruned(model, "fastervlm", 5, positions=positions):
            logits[positions] = model(**inputs).logits
    assert torch.equal(logits["contiguous"], logits["contiguous_on_one_axis"])
    assert not torch.equal(logits["contiguous"], logits["original"])


def test_one_row_of_attention_ranks_for_three_methods():
    """HiRED, FasterVLM and VisionZip's dominant part: the same tokens on LLaVA-1.5."""
    model, inputs = built(), ask(STAR)
    kept = {}
    for name in ("hired", "fastervlm"):
        with pruned(model, name, KEEP) as trace:
            model(**inputs)
        kept[name] = trace.cuts[0].kept.tolist()
    assert kept["hired"] == kept["fastervlm"]
    scores = trace.cuts[0].scores
    dominant = scores.topk(KEEP - 2).indices.sort().values  # less class token and one contextual
    embeds, *_ = fed(model, inputs)
    found, _ = entering(model, inputs, "visionzip", KEEP)
    close(found[1:-1], embeds[0][places(model, inputs)[0]][dominant], 1e-5)
