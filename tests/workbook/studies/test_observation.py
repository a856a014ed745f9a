"""Looking at single questions: what is measured on M, and what a cut is said to have kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from qvid_utils.algebra import leverage, spectrum
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import same_share
from qvid_utils.workbook.studies import low_rank as ob
from qvid_utils.workbook.studies import one_picture, query_words

WORDS = ("What", "color", "is", "the", "star", "?", "Answer", "the")
TAIL = (False,) * 6 + (True, True)


def reading(M, words=WORDS, tail=TAIL, sample="tiny_gqa/0"):
    return ob.Reading("tiny_gqa", "GQA", sample, "What …", words, tail, M, 5)


@pytest.fixture
def one(generator):
    return reading(torch.randn(3, 8, 20, generator=generator))


# ------------------------------------------------------------------------------- M before any cut
def test_spectra_are_the_singular_values(one):
    frame = ob.spectra([one])
    assert tuple(frame["curve"].unique()) == ob.CURVES
    sigma = torch.linalg.svdvals(one.interaction.double())
    for head in range(3):
        mine = frame[(frame["curve"] == "interaction") & (frame["head"] == head)]
        assert mine["mode"].tolist() == list(range(1, 9))
        assert mine["relative"].tolist() == pytest.approx((sigma[head] / sigma[head, 0]).tolist())


def test_shuffling_keeps_each_heads_entries_and_nothing_else(one):
    made = ob.without_structure(one, "shuffled", seed=1).interaction
    assert torch.equal(made.flatten(1).sort().values, one.interaction.flatten(1).sort().values)
    assert (made != one.interaction).double().mean() > 0.9
    again = ob.without_structure(one, "shuffled", seed=1).interaction
    assert torch.equal(made, again)


def test_random_factors_have_the_rank_of_their_width(one):
    made = ob.without_structure(one, "random factors").interaction
    assert made.shape == one.interaction.shape
    assert spectrum.numerical_rank(made).tolist() == [5, 5, 5]  # width 5, fewer than 8 words


def test_another_kind_of_nothing(one):
    with pytest.raises(ValueError, match="how='white'"):
        ob.without_structure(one, "white")


def test_effective_ranks_by_hand():
    """Singular values 3, 1 (energy 9 of 10) in one head, 1, 1 in the other; no common part."""
    M = torch.zeros(2, 2, 6)
    M[:, 0, :2] = torch.tensor([1.0, -1.0]) / 2**0.5
    M[:, 1, 2:4] = torch.tensor([1.0, -1.0]) / 2**0.5
    M[0, 0] *= 3.1
    line = ob.effective_ranks([reading(M, WORDS[:2], TAIL[:2])]).iloc[0]
    assert (line["questions"], line["N_q"], line["rank"]) == (1, "2", "2")
    assert (line["modes 90 %"], line["range 90 %"]) == (1.5, "1–2")
    assert line["90 % centred"] == 1.5
    assert line["modes 99 %"] == 2


def test_centring_takes_out_what_all_patches_share():
    M = torch.ones(1, 2, 6) * torch.tensor([[5.0], [3.0]])
    M[0, :, 0] += torch.tensor([0.2, -0.3])
    M[0, :, 1] += torch.tensor([-0.4, -0.1])
    line = ob.effective_ranks([reading(M, WORDS[:2], TAIL[:2])]).iloc[0]
    assert (line["modes 90 %"], line["90 % centred"]) == (1, 2)


def test_word_scores_are_rows_of_u(one):
    scores = query_words.word_scores([one], rank=3)
    U = torch.linalg.svd(one.interaction.double(), full_matrices=False).U
    assert scores["dominant"].tolist() == pytest.approx(
        U[..., :3].square().sum(-1).mean(0).tolist()
    )
    assert (scores["dominant"] + scores["residual"]).tolist() == pytest.approx([1] * 8)
    assert scores["relative"].mean() == pytest.approx(1)
    assert scores["loudness"].sum() == pytest.approx(1)
    assert scores["word"].tolist() == list(WORDS)
    assert scores["times"].tolist() == [1, 1, 1, 2, 1, 1, 1, 2]
    assert scores["word_class"].tolist() == (
        ["other word", "name", "other word", "other word", "name", "other word"]
        + ["answer format"] * 2
    )


def test_explained_is_the_words_own_energy_in_the_leading_modes(one):
    U, S, _ = torch.linalg.svd(one.interaction.double(), full_matrices=False)
    energy = (U * S[:, None]).square()
    wanted = (energy[..., :3].sum(-1) / energy.sum(-1)).mean(0)
    assert query_words.word_scores([one], rank=3)["explained"].tolist() == pytest.approx(
        wanted.tolist()
    )


def test_word_ranks_grow_to_one(one):
    table = query_words.word_ranks(one, (1, 4, 8)).pivot(
        index="rank", columns="place", values="dominant"
    )
    assert (table.diff().dropna() >= 0).all(axis=None)
    assert table.loc[8].tolist() == pytest.approx([1] * 8)


def test_classes_average_over_questions_and_not_over_words():
    frame = pd.DataFrame(
        {
            "suite": "s", "stands_for": "S", "sample": ["a", "a", "a", "b"],
            "word_class": "name", "relative": [1.0, 1.0, 1.0, 3.0],
            "loudness": 0.1, "explained": 0.5,
        }
    )  # fmt: skip
    (line,) = query_words.word_classes(frame).to_dict("records")
    assert line["dominant, 1 = equal share"] == 2 and line["n"] == 2
    assert line["stderr"] == pytest.approx(np.std([1, 3], ddof=1) / 2**0.5)


# ------------------------------------------------------------------------------------ the profile
class Fake:
    class config:
        model_type = "other"


def test_a_budget_keeps_its_share():
    big, unknown = Fake(), Fake()
    big.config = type("config", (), {"image_seq_length": 576})
    assert [same_share(keep, big) for keep in (48, 32, 16)] == [192, 128, 64]
    with pytest.raises(ValueError, match="no fixed number of visual tokens"):
        same_share(16, unknown)


def test_an_unknown_profile():
    with pytest.raises(ValueError, match="profile='large'"):
        ob.load_profile("large")


# ---------------------------------------------------------------------- with the embedded model
@pytest.fixture(scope="module")
def tiny():
    return ob.load_profile("tiny")


@pytest.fixture(scope="module")
def two():
    return suite("tiny_gqa").samples.iloc[:2]


def test_watch_says_what_was_kept(tiny, two):
    watched = one_picture.watch(*tiny, two, ["full", "qvid", "variation"], 16)
    assert watched["label"].tolist()[:3] == ["Full model", "QViD", "Variation, single cut"]
    assert watched["sample"].tolist() == [name for name in two["id"] for _ in range(3)]
    assert watched["kept"].map(len).tolist() == [144, 16, 16] * 2
    assert set(watched["board"]) == {(12, 12)}
    one = watched.iloc[1]
    best = torch.tensor(one["scores"]).topk(16).indices.sort().values
    assert one["kept"] == best.tolist()
    shared = one_picture.kept_by_both(watched).set_index("label")
    assert shared.loc["Variation, single cut"].tolist() == [16, 16]  # the picture comes first
    assert (one_picture.kept_table(watched)["board"] == "12x12").all()


def test_readings_are_what_the_cut_scores(tiny, two):
    """M as read beforehand gives the scores that the cut reports, for each row of a batch."""
    from dataclasses import replace

    found = ob.readings(*tiny, [replace(suite("tiny_gqa"), samples=two)])
    watched = one_picture.watch(*tiny, two, ["qvid"], 16)
    for mine, (_, row) in zip(found, watched.iterrows(), strict=True):
        scores = leverage.leverage(mine.interaction, 16).mean(0)
        assert scores.tolist() == pytest.approx(row["scores"], abs=1e-4)
        assert " ".join(mine.words).startswith(row["question"].split()[0])
        assert len(mine.words) == len(mine.tail) == mine.interaction.shape[1]
        assert sum(mine.tail) == 8  # "Answer the question using a single word."


def test_steps_hold_the_run(tiny, two):
    from dataclasses import replace

    found = ob.readings(*tiny, [replace(suite("tiny_gqa"), samples=two)])[0]
    row = one_picture.watch(*tiny, two.head(1), ["qvid"], 16).iloc[0]
    steps = ob.steps(found, row, head=1, modes=2)
    of = {name: part["value"].to_numpy() for name, part in steps.groupby("step")}
    assert np.allclose(of["interaction"], found.interaction[1].flatten())
    assert np.allclose(of["participation"].reshape(2, -1).sum(1), 1)
    assert of["score"].tolist() == row["scores"]


def test_the_first_pair_is_answered_rightly(tiny):
    pair = one_picture.first_pair(*tiny, suite("tiny_gqa"), "colour")
    assert pair["picture"].nunique() == 1 and pair["answer"].nunique() == 2
    assert one_picture.watch(*tiny, pair, ["full"], 16)["right"].all()


def test_no_pair_is_an_error(tiny):
    with pytest.raises(ValueError, match="answers no picture's first two 'dance' questions"):
        one_picture.first_pair(*tiny, suite("tiny_gqa"), "dance")
