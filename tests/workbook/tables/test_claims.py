"""A claim that does not hold stops the notebook and is named."""

import numpy as np
import pytest

from qvid_utils.workbook.tables.claims import Claims


def test_what_holds_is_a_table():
    claims = Claims()
    claims("one", np.bool_(True), 0.25)
    claims("two", 1 + 1 == 2)
    table = claims.table()
    assert table.index.tolist() == ["one", "two"]
    assert table["holds"].tolist() == ["yes", "yes"] and table["number"].tolist() == ["0.2", ""]


def test_what_does_not_hold_is_named():
    claims = Claims()
    claims("one", True)
    claims("two", np.bool_(False), 7)
    with pytest.raises(AssertionError, match=r"does not hold: two \(7\)"):
        claims.table()
