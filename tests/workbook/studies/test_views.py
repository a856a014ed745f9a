"""What the explorer shows, as data: against the engine, plain arithmetic and brute force."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from twins import embedded

from qvid_utils import pruned
from qvid_utils.algebra import leverage
from qvid_utils.methods import method
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.benchmarks.prompts import pixels, prompts
from qvid_utils.workbook.cost import flops
from qvid_utils.workbook.studies import low_rank as observation
from qvid_utils.workbook.studies.one_look import Look, look
from qvid_utils.workbook.studies.one_question import SHRUNK, WORDS, answered, ask, opened

SAMPLE = suite("tiny_gqa").samples.iloc[[0]]
QUESTION = SAMPLE["question"].item()
PICTURE = pixels(SAMPLE)[SAMPLE["id"].item()]


@pytest.fixture(scope="module")
def tiny():
    return embedded("tiny/llava")


@pytest.fixture(scope="module")
def asked(tiny):
    return ask(*tiny, PICTURE, QUESTION)


@pytest.fixture(scope="module")
def inputs(tiny):
    return prompts(tiny[1], SAMPLE, "cpu")


def test_the_whole_model_answers_as_it_does_without_us(tiny, asked, inputs):
    model, processor = tiny
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1].double()
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    said = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert asked.answer.text == said.strip() == SAMPLE["answer"].item()
    chances = logits.softmax(-1)
    assert np.allclose(asked.answer.first, chances, atol=1e-6)
    assert asked.answer.probability == pytest.approx(chances.max().item(), abs=1e-6)


def test_m_is_the_one_of_the_observation_notebook(tiny, asked):
    mine = suite("tiny_gqa").only(SAMPLE["id"])
    for layer in (None, 4):
        theirs = observation.readings(*tiny, [mine], layer=layer)[0]
        ours = (asked if layer is None else ask(*tiny, PICTURE, QUESTION, layer)).reading
        assert torch.equal(ours.interaction, theirs.interaction)
        assert (ours.words, ours.tail, ours.width) == (theirs.words, theirs.tail, theirs.width)


def test_the_prompt_is_counted(asked, inputs):
    assert (asked.n_visual, asked.board, asked.depth, asked.layer) == (144, (12, 12), 12, 1)
    assert asked.n_text == inputs["input_ids"].shape[1] - 144
    assert np.array_equal(asked.seen, PICTURE)


def test_what_the_processor_crops_is_not_shown(tiny):
    wide = np.zeros((96, 192, 3), np.uint8)
    wide[:, 48:144] = (0, 0, 255)  # the middle square, blue between two black halves
    wide[0, 48] = (255, 0, 0)
    seen = ask(*tiny, wide, QUESTION).seen
    assert seen.shape == (96, 96, 3)
    assert np.array_equal(seen, wide[:, 48:144])


def test_words_that_the_model_does_not_have_are_named(tiny, asked):
    assert asked.unknown == ()
    strange = ask(*tiny, PICTURE, "What color is the zebra Xylophone ?")
    assert strange.unknown == ("zebra", "Xylophone")
    plain = ask(*tiny, PICTURE, "What colour, is the elephant?")
    assert plain.unknown == ("colour", "elephant")
    with pytest.raises(ValueError, match="knows none of these words: “zebra”, “giraffe”"):
        ask(*tiny, PICTURE, "zebra giraffe?")


def test_a_question_has_an_end(tiny):
    with pytest.raises(ValueError, match=f"has {WORDS + 1} words; up to {WORDS} are asked"):
        ask(*tiny, PICTURE, "star " * (WORDS + 1))


def test_large_pictures_are_shrunk_and_turned(tmp_path):
    file = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees
    Image.new("RGB", (4000, 1000), (250, 0, 0)).save(file, exif=exif)
    assert opened(file).size == (SHRUNK // 4, SHRUNK)


def test_a_side_is_what_the_engine_says(tiny, asked, inputs):
    model, processor = tiny
    seen = look(asked, ["qvid", "v2drop"], 20, rank=3, layer=2)
    for side, more in zip(seen.sides, ({"rank": 3, "layer": 2}, {}), strict=True):
        with torch.inference_mode(), pruned(model, side.method, 20, **more) as trace:
            ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        cut = trace.cuts[0]
        assert side.settings == more
        assert side.kept == tuple(cut.kept.tolist())
        assert np.array_equal(side.scores, cut.scores.double().numpy())
        assert side.layers == tuple(c.layer for c in trace.cuts)
        assert side.mean_tokens == trace.mean_tokens[0] == pytest.approx(np.mean(side.tokens))
        said = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert side.answer.text == said.strip()


def test_layer_and_rank_go_to_those_that_let_one_choose(asked):
    names = ["qvid", "qvid_adaptive", "column_norm", "fastervlm", "sigma_weighted"]
    seen = look(asked, names, 16, layer=3, rank=2)
    assert [dict(side.settings) for side in seen.sides] == [
        {"layer": 3, "rank": 2}, {"layer": 3}, {"layer": 3}, {}, {"layer": 3},
    ]  # fmt: skip
    assert [side.layers for side in seen.sides] == [(3,), (3,), (3,), (0,), (3,)]


def test_costs_are_those_of_the_formula(asked):
    seen = look(asked, ["qvid", "fastervlm"], 16)
    config = asked.model.config
    layer = flops.decoder_of(config).layer
    whole, cut = (12 * layer(144 + asked.n_text), layer(144 + asked.n_text))
    expected = [whole, cut + 11 * layer(16 + asked.n_text), 12 * layer(16 + asked.n_text)]
    assert seen.costs["operations"].tolist() == expected
    assert seen.costs["share"].tolist() == [1, expected[1] / whole, expected[2] / whole]
    assert seen.costs["mean_tokens"].tolist() == [144, (144 + 11 * 16) / 12, 16]


@pytest.mark.parametrize("other", ["fastervlm", "v2drop", "pyramiddrop"])
def test_the_same_cost_is_the_largest_keep_within_it(asked, other):
    sides = look(asked, ["qvid", other], 32).sides
    fits = []
    for keep in range(1, 145):
        (cost,) = look_cost(asked, other, keep)
        if cost is not None and cost <= sides[0].operations:
            fits.append(keep)
    assert sides[0].same_cost == 32
    assert sides[1].same_cost == max(fits)


def look_cost(asked, name, keep):
    """Operations by the schedule alone, None where it cannot have that budget."""
    try:
        cuts = method(name).schedule(keep, 144, 12)
    except ValueError:
        return (None,)
    counts = [144] * 12
    for cut in cuts:
        counts[cut.layer :] = [cut.keep] * (12 - cut.layer)
    return (asked.operations(counts),)


def test_what_cannot_be_had_at_that_cost_is_none(asked):
    sides = look(asked, ["fastervlm", "qvid"], 4).sides  # qvid runs one layer on all 144 tokens
    assert sides[1].same_cost is None


def test_a_method_that_is_refused_says_why_and_the_other_goes_on(asked):
    seen = look(asked, ["v2drop", "qvid"], 3)
    assert "can reach a mean of" in seen.sides[0].problem
    assert seen.sides[0].answer is None and seen.sides[1].answer is not None
    assert seen.sides[1].same_cost == 3
    lines = seen.costs.set_index("label")
    assert lines.loc["V²Drop", "problem"] == seen.sides[0].problem
    assert pd.isna(lines.loc["V²Drop", "operations"]) and lines.loc["QViD", "problem"] == ""
    assert "can reach" in seen.numbers.loc[seen.numbers["panel"] == "problem", "name"].item()


@pytest.mark.parametrize(
    ("name", "placed"), [("qvid", True), ("prumerge", False), ("tome", False), ("divprune", True)]
)
def test_a_merged_token_has_no_place(asked, name, placed):
    assert look(asked, [name], 20).sides[0].placed == placed


def made(asked, M, rank):
    """A look at another M."""
    reading = observation.Reading("", "", "", "q", ("a", "b", "c"), (False,) * 3, M, 2)
    return Look(type(asked)(**vars(asked) | {"reading": reading}), (), 1, rank)


def test_spectrum_and_votes_by_hand(asked):
    # two heads with singular values (4, 2, 1) and (3, 3, 0)
    M = torch.zeros(2, 3, 5)
    M[0, range(3), range(3)] = torch.tensor([4.0, 2.0, 1.0])
    M[1, range(2), range(2)] = 3.0
    seen = made(asked, M, 16)
    assert seen.spectrum["mode"].tolist() == [1, 2, 3]
    assert seen.spectrum["mean"].tolist() == pytest.approx([1, 0.75, 0.125])
    assert seen.spectrum["lowest"].tolist() == pytest.approx([1, 0.5, 0])
    assert seen.spectrum["highest"].tolist() == pytest.approx([1, 1, 0.25])
    assert seen.votes == 2.5  # three modes and two
    assert made(asked, M, 2).votes == 2
    # shares of the energy: 16, 4, 1 of 21 and 9, 9 of 18
    assert made(asked, M, 0.7).votes == 1.5
    assert made(asked, M, 0.9).votes == 2


def test_words_have_their_scores_at_the_rank_asked_for(asked):
    M = asked.reading.interaction
    for rank in (2, 0.8):
        words = look(asked, ["random"], 16, rank=rank).words
        assert words["word"].tolist() == list(asked.reading.words)
        dominant = leverage.query_leverage(M, rank).mean(0)
        assert words["dominant"].tolist() == pytest.approx(dominant.tolist())


def test_answers_compare_the_likely_first_words(asked):
    seen = look(asked, ["qvid", "v2drop"], 16)
    table = seen.answers.pivot(index="word", columns="who", values="probability")
    given = {"Full model": asked.answer} | {s.method.label: s.answer for s in seen.sides}
    assert set(table.columns) == set(given)
    for who, answer in given.items():
        assert table[who].idxmax() == answer.text
        assert table[who].max() == pytest.approx(answer.first.max())
    assert seen.answers["who"].iloc[0] == "Full model"
    assert seen.answers["word"].iloc[0] == asked.answer.text


def test_all_that_is_drawn_is_among_the_numbers(asked):
    seen = look(asked, ["qvid", "random"], 16)
    numbers = seen.numbers
    scores = numbers[(numbers["panel"] == "score") & (numbers["who"] == "QViD")]
    assert scores["value"].tolist() == seen.sides[0].scores.tolist()
    assert tuple(scores.loc[scores["name"] == "kept", "place"]) == seen.sides[0].kept
    costs = {"mean_tokens", "operations", "share", "probability"}
    assert set(numbers["panel"]) == costs | {"score", "spectrum", "dominant", "residual", "answer"}
    assert (numbers["panel"] == "spectrum").sum() == 3 * len(seen.spectrum)


def test_pictures_come_as_files_bytes_arrays_and_pictures(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(file)
    for source in (file, str(file), file.read_bytes(), memoryview(file.read_bytes()), PICTURE,
                   Image.fromarray(PICTURE)):  # fmt: skip
        assert np.array_equal(np.asarray(opened(source)), PICTURE)
    grey = io.BytesIO()
    Image.new("L", (3, 2), 7).save(grey, "png")
    assert np.asarray(opened(grey.getvalue())).shape == (2, 3, 3)


@pytest.mark.parametrize("source", ["/no/such/picture.png", b"no picture", 7, np.zeros((2, 2))])
def test_what_is_no_picture_is_named(source):
    with pytest.raises(ValueError, match=r"picture: .* cannot be read as one .* give a PNG"):
        opened(source)


def test_bad_numbers_are_refused_in_a_sentence(tiny, asked):
    with pytest.raises(ValueError, match="the question is empty"):
        ask(*tiny, PICTURE, "  ")
    with pytest.raises(ValueError, match="layer=12: the model has layers 0 to 11"):
        ask(*tiny, PICTURE, QUESTION, 12)
    for keep in (0, 145):
        with pytest.raises(ValueError, match=f"keep={keep}: the picture has 144 visual tokens"):
            look(asked, ["qvid"], keep)
    with pytest.raises(ValueError, match="rank=0"):
        look(asked, ["random"], 16, rank=0)
    with pytest.raises(ValueError, match="unknown method 'nobody'"):
        look(asked, ["nobody"], 16)


def test_an_answer_of_two_words_is_as_likely_as_both_together(tiny):
    tokenizer = tiny[1].tokenizer
    red, star = tokenizer("red star", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    steps = [{red: 0.5, star: 0.5}, {star: 0.25, red: 0.75}, {end: 0.1, red: 0.9}]
    logits = []
    for step in steps:
        row = torch.full((1, len(tokenizer)), -torch.inf)
        row[0, list(step)] = torch.tensor(list(step.values())).log()
        logits.append(row)
    sequences = torch.tensor([[7, 7, red, star, end]])
    given = SimpleNamespace(sequences=sequences, logits=logits)
    model = SimpleNamespace(generate=lambda **options: given)
    answer = answered(model, tiny[1], {"input_ids": torch.tensor([[7, 7]])})
    assert answer.text == "red star"
    assert answer.probability == pytest.approx(0.5 * 0.25)  # the end is not counted
    assert answer.first[red] == pytest.approx(0.5)
