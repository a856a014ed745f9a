"""The oracles at the width of 7B models: some minutes and 10 GiB, so only where asked for."""

import pytest
from full_width import oracles

from qvid_utils.families import FAMILIES


@pytest.mark.full
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_oracles_hold_at_full_width(family):
    found = oracles(family)
    assert found["keep_all"] == 0
    # the model's own noise between decoding and recomputing is as large
    assert found["hidden"] <= 5e-5 and found["cached"] <= 1e-4
    assert found["effect"] > 0.1 and found["kept"] == 64
