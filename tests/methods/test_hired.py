"""HiRED's budgets among the tiles of a picture: by hand, and in LLaVA-NeXT."""

import pytest
import torch
from twins import BOTH, STAR, ask, built

from qvid_utils.methods.hired import Tiles, pictures_of, weighted_shares
from qvid_utils.prune import observed, pruned

# A picture of 8 patches and four tiles of 8 with a line break each; then a picture of its own.
FRAMES = torch.tensor([0] * 8 + ([1] * 8 + [-1]) * 4 + [2] * 6)
TILES = torch.tensor([0] * 8 + [t for i in (1, 2, 3, 4) for t in [i] * 8 + [-1]] + [5] * 6)


def counts(select, keep, early, scores=None):
    """Tokens kept of the whole picture, of each tile, of the other picture, of line breaks."""
    scores = torch.linspace(1, 0, len(FRAMES)) if scores is None else scores
    kept = select(scores, keep, FRAMES, TILES, early[None].expand(3, -1)).index
    return [int((TILES[kept] == t).sum()) for t in (0, 1, 2, 3, 4, 5, -1)]


def test_pictures_and_their_tiles():
    found = pictures_of(FRAMES, TILES)
    assert [[len(part) for part in picture] for picture in found] == [[8] * 5, [6]]
    assert found[0][2].tolist() == list(range(17, 25))
    frames = torch.tensor([0, 0, 1, 1])
    assert [len(p) for p in pictures_of(frames, frames)] == [1, 1]


def test_the_whole_picture_gets_half_and_the_tiles_what_the_first_layer_looks_at():
    early = torch.zeros(len(FRAMES))
    early[[0, 1, 4, 7]] = torch.tensor([4.0, 3, 2, 1])  # strips of two: two in the first, 0, 1, 1
    # 20 of 40 for the picture: all 8 of the whole (10 would be half), and 12 as 2 : 0 : 1 : 1
    assert counts(Tiles(), 23, early) == [8, 6, 0, 3, 3, 3, 0]
    # 10 of 40, half for the whole; 5 as 2 : 0 : 1 : 1, the first remainder gets what is left
    assert counts(Tiles(), 11, early) == [5, 3, 0, 1, 1, 1, 0]
    early[:8] = torch.tensor([8.0, 7, 6, 5, 0, 0, 0, 0])
    assert counts(Tiles(), 23, early)[1:5] == [6, 6, 0, 0]


def test_what_rounding_leaves_is_shared_out_or_lost():
    early = torch.zeros(len(FRAMES))
    early[[0, 2, 4, 1]] = torch.tensor([4.0, 3, 2, 1])  # 2, 1, 1, 0
    ours, theirs = counts(Tiles(), 17, early), counts(Tiles(official_counts=True), 17, early)
    assert sum(ours) == 17 > sum(theirs)
    assert weighted_shares([2, 1, 1, 0], [8, 8, 8, 8], 7, True) == [3, 2, 2, 0]
    assert weighted_shares([2, 1, 1, 0], [8, 8, 8, 8], 7, False) == [3, 1, 1, 0]
    assert weighted_shares([9, 1], [2, 8], 7, True) == [2, 5]  # a tile that is full
    assert weighted_shares([0, 0], [4, 4], 3, True) == [2, 1]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_budget_is_met(alpha):
    early = torch.rand(len(FRAMES), generator=torch.Generator().manual_seed(0))
    for keep in range(1, len(FRAMES) + 1):
        found = counts(Tiles(alpha=alpha), keep, early)
        assert sum(found) == keep and (found[-1] == 0 or keep > 46)
        whole = keep - found[5] - sum(found[1:5]) - found[-1]
        assert whole == found[0] >= min(8, int((keep - found[5]) * alpha)) - 1


def test_the_early_row_is_the_first_layers_own_and_tiles_are_numbered():
    eager, inputs = built("llava_next", attention="eager"), ask(BOTH, model_type="llava_next")
    with observed(built("llava_next"), "first_cls_row", "tiles", "frames", layer=0) as found:
        built("llava_next")(**inputs)
    (row,) = found
    tower = eager.base_model.vision_tower
    own = tower(inputs["pixel_values"].flatten(0, 1), output_attentions=True).attentions[0]
    torch.testing.assert_close(row["first_cls_row"][:, :16], own[0, :, 0, 1:], atol=2e-6, rtol=1e-5)
    assert row["tiles"][:16].tolist() == [0] * 16
    # 8 x 4 places in large: an upper and a lower tile, a line break after each row
    assert row["tiles"][16:56].tolist() == ([1] * 4 + [-1]) * 4 + ([2] * 4 + [-1]) * 4
    # 4 x 6 of 4 x 8: the outer column of each tile is cut off
    assert row["tiles"][72:].tolist() == ([4] * 3 + [5] * 3 + [-1]) * 4
    assert ((row["tiles"] < 0) == (row["frames"] < 0)).all()


def test_the_same_shares_in_any_batch():
    model = built("llava_next")
    with pruned(model, "hired", 20) as trace:
        model(**ask(BOTH, STAR, model_type="llava_next"))
        model(**ask(STAR, model_type="llava_next"))
    assert trace.cuts[1].kept.tolist() == trace.cuts[2].kept.tolist()
    assert [len(cut.kept) for cut in trace.cuts] == [20, 20, 20]
    base = (trace.cuts[1].kept < 16).sum()
    assert base == 10  # half of the budget
