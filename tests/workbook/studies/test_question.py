"""The question control: oracles by hand, sets that were chosen before, tables by hand."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from qvid_utils import load, pruned
from qvid_utils.algebra.selection import top_k
from qvid_utils.families.calls import pictures_once
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.run.grid import Grid
from qvid_utils.workbook.run.shared_layers import layers_once
from qvid_utils.workbook.studies import question, question_run, question_tables

SHOWN = np.array([-1, 0, 0, 1, 1, 1, 2, -1])


def taken(rule, named=(1,), seed=0):
    return question.order(rule, SHOWN, named, np.random.default_rng(seed)).tolist()


def test_named_takes_its_things_first_then_other_things_then_ground():
    for seed in range(20):
        order = taken("named", seed=seed)
        assert sorted(order) == list(range(8))
        assert set(order[:3]) == {3, 4, 5} and set(order[3:6]) == {1, 2, 6}
    both = taken("named", (0, 1))
    assert {SHOWN[both[0]], SHOWN[both[1]]} == {0, 1}  # two things are named: one of each first


def test_spread_takes_one_of_every_thing_and_things_whichever():
    for seed in range(20):
        order = taken("spread", seed=seed)
        assert {SHOWN[i] for i in order[:3]} == {0, 1, 2} and set(order[6:]) == {0, 7}
        assert set(taken("things", seed=seed)[6:]) == {0, 7}
    assert any(len({SHOWN[i] for i in taken("things", seed=s)[:3]}) < 3 for s in range(20))
    assert {i for seed in range(20) for i in taken("random", seed=seed)[:1]} - {1, 2, 3, 4, 5, 6}


def test_noise_is_as_long_as_the_question_and_looks_at_the_same_keys():
    rng = np.random.default_rng(0)
    queries, keys = (torch.randn(2, n, 64, dtype=torch.float64) for n in (5, 9))
    seen = {"queries": queries, "keys": keys, "interaction": queries @ keys.mT}
    noisy = question.with_noise(seen, rng)
    solved = torch.linalg.lstsq(keys.double(), noisy["interaction"].mT).solution.mT
    back = solved @ keys.mT  # what of the noise the keys can see is the interaction itself
    assert torch.allclose(back, noisy["interaction"], atol=1e-8)
    assert noisy["keys"] is keys and not torch.allclose(noisy["interaction"], seen["interaction"])
    alike = question.with_noise({**seen, "keys": torch.eye(64).expand(2, 64, 64)}, rng)
    assert torch.allclose(alike["interaction"].norm(dim=-1), queries.norm(dim=-1))


@cache
def llava():
    model, processor = load("tiny/llava")
    rows = question_run.questions("tiny/llava", "crowded", "deciding").iloc[[0, 9, 40]]
    return model, processor, rows.reset_index(drop=True)


def test_every_question_has_another_pictures_and_its_format_sentence():
    for name in ("tiny/llava", "tiny/video_llava"):
        found = question_run.questions(name, "crowded", "deciding")
        assert found["format"].str.startswith("Answer ").all()
        assert (found["other"] != "").all()
        by = found.set_index("id")
        pictures = {(q, p) for q, p in zip(found["question"], found["picture"], strict=True)}
        away = [(row.other, row.picture) not in pictures for row in by.itertuples()]
        assert np.mean(away) > 0.8  # the words may be asked of this picture, too


@pytest.mark.parametrize("rule, name, more", [("qvid 4", "qvid", {"rank": 4}),
                                              ("column norm", "column_norm", {})])  # fmt: skip
def test_the_run_keeps_and_answers_as_pruned_does(rule, name, more):
    model, processor, rows = llava()
    seen = question_run.look(model, processor, rows, "question")
    sets = [top_k(question.scores(rule, one), 8).index for one in seen]
    inputs = prompts(processor, rows, model.device)
    with torch.inference_mode(), pruned(model, name, keep=8, layer=1, **more) as trace:
        plain = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert [cut.kept.tolist() for cut in trace.cuts] == [one.tolist() for one in sets]
    with pictures_once(model), layers_once(model):
        grid = Grid(model, inputs, max_new_tokens=1)
        ((_, found),) = grid.given(1, [sets])
    assert torch.equal(found.ids, plain[:, -1:])


def test_swap_and_keys_are_what_pruned_calls_so():
    model, processor, rows = llava()
    inputs = prompts(processor, rows, model.device)
    own, swap = (question_run.look(model, processor, rows, name) for name in ("question", "swap"))
    asked = {"swap": {"score_question": rows["swap"].tolist()}, "keys": {"control": "keys"}}
    for name, seen, rule in (("swap", swap, "qvid 16"), ("keys", own, "keys")):
        with torch.inference_mode(), pruned(model, "qvid", 8, layer=1, **asked[name]) as trace:
            model(**inputs)
        mine = [top_k(question.scores(rule, one), 8).index.tolist() for one in seen]
        assert [cut.kept.tolist() for cut in trace.cuts] == mine
    assert any(a["interaction"].shape != b["interaction"].shape
               or not torch.equal(a["interaction"], b["interaction"])
               for a, b in zip(own, swap, strict=True))  # fmt: skip


def test_a_line_an_answer_and_the_sources_differ(tmp_path):
    model, processor, rows = llava()
    cell = question.Cell
    plan = {
        8: [cell("named", ""), cell("qvid 16"), cell("qvid 16", "swap"), cell("ridge 1", "noise")]
    }
    lines = list(question_run.answers(model, processor, rows, plan, 0))
    frame = pd.DataFrame(lines, columns=question_run.COLUMNS)
    assert len(frame) == 3 * 5 and frame.groupby("sample").size().eq(5).all()
    frame["recall"] = pd.to_numeric(frame["recall"])
    named = frame[frame["rule"] == "named"].set_index("sample")["recall"]
    other = frame[frame["source"] == "swap"].set_index("sample")["recall"]
    assert (named.dropna() >= other.dropna()).all() and named.mean() > other.mean()
    full = frame[frame["rule"] == "full"]
    assert (full["right"] == 1).all() and (full["n_query"] >= full["modes"]).all()


def test_rows_of_the_films_tokens_show_what_the_record_says():
    frames = torch.tensor([-1, 0, 0, -1, 1, 1])
    row = type("row", (), {"shown": [3, -1, 2, 2]})
    assert question_run.shown_by_token(row, frames).tolist() == [-1, 3, -1, -1, 2, 2]
    assert question_run.recall(torch.tensor([1, 4]), np.array([-1, 3, -1, -1, 2, 2]), [2]) == 0.5


def records(**right):
    """Answers to 40 questions about 20 pictures under cells named rule__source."""
    rows = []
    for name, scores in right.items():
        rule, _, source = name.replace("_x_", " ").partition("__")
        for i, score in enumerate(scores):
            rows.append({"model": "m", "setting": "crowded", "part": "deciding", "suite": "s",
                         "kind": "k", "picture": str(i // 2), "sample": str(i), "rule": rule,
                         "source": source, "keep": np.nan if rule == "full" else 8,
                         "right": score, "recall": 100.0 * score})  # fmt: skip
    return pd.DataFrame(rows)


BLIND = {"things__": [0, 1] * 20, "spread__": [0, 0, 0, 1] * 10, "keys__": [0] * 40,
         "divprune__": [0] * 40, "random__": [0] * 40}  # fmt: skip


@pytest.mark.parametrize("share, tells", [(40, True), (8, False)])
def test_a_suite_tells_where_the_named_thing_is_clearly_ahead(share, tells):
    named = [1] * share + [0, 1] * ((40 - share) // 2)
    found = question_tables.can_tell(records(full__=[1] * 40, named__=named, **BLIND))
    row, together = found.itertuples()
    assert (row.suite, together.suite) == ("s", "crowded") and row[3:] == together[3:]
    assert row.blind == "things" and row.its == 50 and row.full == 100 and row.n == 40
    assert row.difference == pytest.approx(100 * np.mean(named) - 50) and row.tells == tells
    assert row.low <= row.difference <= row.high


def test_differences_are_paired_and_corrected_together():
    own, swap = [1] * 40, [1, 0] * 20
    made = records(qvid_x_16__own=own, qvid_x_16__swap=swap, ridge_x_1__own=own,
                   ridge_x_1__swap=own)  # fmt: skip
    pairs = [((rule, "own"), (rule, "swap")) for rule in ("qvid 16", "ridge 1")]
    found = question_tables.differences(made, pairs).set_index("scored by")
    assert found.loc["qvid 16, own", "difference"] == 50
    assert found.loc["ridge 1, own", "difference"] == 0
    assert (found["holm"] >= found["p"]).all() and found["holm"].max() <= 1
    with pytest.raises(ValueError, match="not asked the same"):
        question_tables.differences(made[made["sample"] != "3"].drop(index=1), pairs[:1])


def test_each_family_is_tuned_over_four_values_and_the_best_is_chosen():
    assert {len(rules) for rules in question.TUNED.values()} == {4}
    rows = []
    for rules in question.TUNED.values():
        for n, rule in enumerate(rules):
            row = {"part": "deciding", "setting": "crowded", "keep": 8, "model": "m"}
            rows += [{**row, "rule": rule, "right": one} for one in [1] * (n % 3) + [0] * 3]
    found = question_tables.chosen(pd.DataFrame(rows)).set_index("family")["rule"]
    assert found.tolist() == [rules[2] for rules in question.TUNED.values()]
