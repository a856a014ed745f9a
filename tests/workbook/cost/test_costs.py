"""Costs of methods by name: schedules by hand, parts against `flops`."""

import numpy as np
import pandas as pd
import pytest
from twins import twin

from qvid_utils.algebra.cuts import Infeasible
from qvid_utils.workbook.cost import flops
from qvid_utils.workbook.cost.cases import cases_of, operations
from qvid_utils.workbook.cost.of_methods import (
    at_cost,
    at_own_layer,
    cost_of,
    cost_table,
    tokens_run,
)
from qvid_utils.workbook.cost.workloads import prompt_for


def test_tokens_of_each_layer_by_hand():
    assert tokens_run("full", 16, 16, 4) == [16] * 4
    # layer 3 of 32 is layer 1 of 8
    assert tokens_run("qvid", 5, 16, 8) == [16, *[5] * 7]
    assert tokens_run("qvid", 5, 16, 8, layer=3) == [*[16] * 3, *[5] * 5]
    assert tokens_run("qvid", 5, 16, 8, reading="two_pass") == [16, *[5] * 8]
    assert tokens_run("svd_prune", 5, 16, 8, reading="two_pass") == [5] * 8  # no first pass at 0
    assert len(set(tokens_run("v2drop", 9, 16, 8))) == 4
    with pytest.raises(Infeasible):
        tokens_run("v2drop", 1, 16, 8)
    assert sum(tokens_run("v2drop", 55, 576, 32)) / 32 <= 55  # three layers run on all 576
    with pytest.raises(Infeasible, match="54.9"):
        tokens_run("v2drop", 54, 576, 32)


def test_a_cost_is_that_of_its_layers_its_scores_and_its_picture():
    model = twin()
    prompt = prompt_for(model, words=12, questions=6)
    for case in cases_of(["full", "qvid", "v2drop", "fastv", "svd_prune"], [9]):
        found = operations(model.config, prompt, case)
        visual = tokens_run(case.name, case.keep, 16, 8)
        plain = flops.prefill(model.config, visual, 12, blocks=[16])
        assert found.layers == plain.layers and found.vision == plain.vision
        score = {"qvid": "leverage", "fastv": "one row"}.get(case.name)
        if score:
            assert found.scoring == sum(flops.scoring(model.config, score, 16, 6).values())
        assert (found.scoring == 0) == (case.name in ("full", "svd_prune"))


def test_a_table_takes_each_rows_layer():
    model = twin()
    cells = pd.DataFrame({
        "method": ["full", "qvid", "qvid", "v2drop"], "keep": [16, 5, 5, 9],
        "layer": pd.array([None, 1, 4, None], dtype="Int64"),
    })  # fmt: skip
    found = cost_table(cells, model.config, 16, 12, 6)
    assert found["gflops"].is_monotonic_increasing is False and len(found) == 4
    want = [flops.prefill(model.config, [16] * 8, 12).total / 1e9]
    want += [cost_of(model.config, "qvid", 5, 16, 12, 6, layer=n).total / 1e9 for n in (1, 4)]
    want.append(cost_of(model.config, "v2drop", 9, 16, 12, 6).total / 1e9)
    assert np.allclose(found["gflops"], want) and want[1] < want[2] < want[0]


def test_own_layers_and_nothing_beyond_the_cells():
    cells = pd.DataFrame({
        "method": ["full", "qvid", "qvid", "v2drop", "divprune"], "keep": [16, 5, 5, 9, 5],
        "layer": pd.array([None, 1, 4, None, 0], dtype="Int64"),
    })  # fmt: skip
    assert list(at_own_layer(cells, 16, 8).index) == [0, 1, 3, 4]
    cells = pd.DataFrame({
        "method": ["a", "b", "a", "a"], "gflops": [3.0, 2.0, 1.0, 2.0], "all": [90.0, 50, 10, 70],
    })  # fmt: skip
    found = at_cost(cells, [0.5, 1.5, 2, 2.5, 3.5])
    assert found.loc["a"].tolist()[1:4] == [40, 70, 80]
    assert found.loc["a"].isna().tolist() == [True, False, False, False, True]
    assert found.loc["b"].isna().tolist() == [True, True, False, True, True]
