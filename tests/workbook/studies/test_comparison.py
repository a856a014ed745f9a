"""Equal label and equal mean: what each method is asked for, worked out by hand for 12 layers."""

from types import SimpleNamespace

import pandas as pd
import pytest

from qvid_utils.algebra.cuts import Cut
from qvid_utils.methods import METHODS
from qvid_utils.workbook.run.cell import using
from qvid_utils.workbook.studies.equal_budgets import (
    COMPARED,
    LEFT_OUT,
    Entry,
    at_budget,
    entries,
    keep_after,
)


def config(tokens=144, layers=12):
    text = SimpleNamespace(
        num_hidden_layers=layers, hidden_size=8, intermediate_size=16, num_attention_heads=2,
        num_key_value_heads=2, head_dim=4, vocab_size=10, model_type="llama",
    )  # fmt: skip
    return SimpleNamespace(
        image_seq_length=tokens, get_text_config=lambda: text, model_type="llava", text_config=text
    )


def asked(reading, method, budget):
    (found,) = [e for e in entries(config(), [budget], [method], [reading])]
    return found


def test_every_method_is_compared_or_left_out_with_a_reason():
    assert {*COMPARED, *LEFT_OUT} == set(METHODS) and not set(COMPARED) & set(LEFT_OUT)
    assert all(LEFT_OUT.values())


@pytest.mark.parametrize("budget, keep", [(48, 39), (32, 21), (16, 4)])
def test_one_cut_at_equal_mean_keeps_fewer(budget, keep):
    """144 tokens in layer 0 and k in eleven: (144 + 11 k) / 12 <= budget."""
    assert (144 + 11 * keep) / 12 <= budget < (144 + 11 * (keep + 1)) / 12
    assert asked("mean", "qvid", budget) == Entry("mean", budget, "qvid", keep, "", 1)
    assert asked("label", "qvid", budget).keep == budget


def test_at_the_door_both_readings_are_one():
    label, mean = asked("label", "divprune", 16), asked("mean", "divprune", 16)
    assert (label.keep, label.layer) == (mean.keep, mean.layer) == (16, 0)


def test_a_mean_below_the_first_layers_is_named():
    found = asked("mean", "qvid", 12)  # 144 / 12 and not a token more
    assert found.keep is None and "12" in found.floor
    staged = asked("mean", "v2drop", 8)
    assert staged.keep is None and "can reach a mean" in staged.floor


def test_staged_methods_use_their_lists_at_equal_label_only():
    """SparseVLM's list for 64 of 576 is 82, 32, 18: a quarter of each, at layers 1, 3, 6 of 12."""
    label = asked("label", "sparsevlm", 16)
    cuts = using(METHODS["sparsevlm"], label.lists).schedule(label.keep, 144, 12)
    assert cuts == (Cut(1, 20), Cut(3, 8), Cut(6, 4))
    mean = asked("mean", "sparsevlm", 32)
    assert mean.lists == "" and mean.keep == 32  # what the method does by itself: no list fits


def test_a_cut_before_pays_for_the_last_one():
    """72 in layer 0, then eleven layers of k: (72 + 11 k) / 12 <= 16 gives 10."""
    assert keep_after([Cut(0, 72)], 16, config(), 1) == 10
    with pytest.raises(ValueError, match="6"):
        keep_after([Cut(0, 72)], 6, config(), 1)


def record(method, keep, layer=1, variant="", rank=None, sample="a"):
    return {"method": method, "variant": variant, "keep": keep, "layer": layer, "rank": rank,
            "sample": sample, "score": 1.0, "mean_tokens": 1.0}  # fmt: skip


def test_at_budget_takes_what_was_asked_and_renames_it():
    frame = pd.DataFrame([
        record("full", None, None), record("qvid", 4, rank=16.0), record("qvid", 4, rank=8.0),
        record("qvid", 4, 5, rank=16.0), record("qvid", 4, variant="query=prompt", rank=16.0),
        record("v2drop", 16, None, "lists=scaled"), record("v2drop", 16, None),
    ]).astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})  # fmt: skip
    wanted = [Entry("mean", 16, "qvid", 4, "", 1), Entry("label", 16, "v2drop", 16, "scaled")]
    found = at_budget(frame, wanted)
    assert found["method"].tolist() == ["full", "qvid", "v2drop"]
    assert found["keep"].tolist() == [pd.NA, 16, 16] and found["asked_keep"][1] == 4
    assert found["rank"][1] == 16 and set(found["variant"]) == {""}
    with pytest.raises(ValueError, match="not measured.*divprune"):
        at_budget(frame, [Entry("mean", 16, "divprune", 16, "", 0)])
