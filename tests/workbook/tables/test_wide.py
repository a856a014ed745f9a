"""Tables to be read: wide, text, raw beside raw."""

import pandas as pd
import pytest

from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.beside_paper import beside_paper
from qvid_utils.workbook.tables.wide import wide_table


def rows(values, **more):
    """full at 144 and qvid at 16 of 144 on two suites."""
    return pd.DataFrame([
        {"table": "table07", "model": "tiny/llava", "method": method, "keep": keep,
         "benchmark": suite, "metric": "accuracy", "value": value, "unit": "%", "n": 500,
         "stderr": 2.0, "source": "measured", **more}
        for (method, keep), pair in zip((("full", 144), ("qvid", 16)), values, strict=True)
        for suite, value in zip(("tiny_gqa", "tiny_pope"), pair, strict=True)
    ])  # fmt: skip


JOINED = beside_paper(rows(((80.0, 60.0), (60.0, 45.0))), 7)


def test_raw_stands_beside_raw_and_percent_apart():
    shown = wide_table(JOINED)
    assert shown.index.names == ["kept, %", "method"]
    line = shown.loc[("11.1", "QViD")]
    assert (line["GQA", "paper"], line["GQA", "ours"]) == ("52.2", "60.0")
    assert (line["SQA", "paper"], line["SQA", "ours"]) == ("68.3", "–")
    parts = wide_table(JOINED, percent=True).loc[("11.1", "QViD")]
    assert (parts["GQA", "paper"], parts["GQA", "ours"]) == (f"{100 * 52.2 / 61.9:.1f}", "75.0")
    assert ("100", "full model") in shown.index and "PyramidDrop" not in str(shown)


def test_the_average_comes_first_with_its_half_width():
    joined = JOINED.assign(stderr=JOINED["stderr"].fillna(1.0))
    heads = list(dict.fromkeys(wide_table(joined).columns.get_level_values(0)))
    assert heads[:2] == ["Avg", "Avg over common"] and ("Avg", "±") in wide_table(joined).columns
    assert wide_table(joined).loc[("11.1", "QViD"), ("Avg over common", "±")] == "2.0"  # 1.96


def test_nothing_is_missing_without_a_dash():
    text = wide_table(JOINED)
    assert not text.isna().any().any() and (text == "–").any().any()
    assert "nan" not in text.to_html().lower()


def test_only_what_a_joined_table_is():
    with pytest.raises(ValueError, match="wide_table takes what beside"):
        wide_table(pd.DataFrame({"method": ["qvid"], "benchmark": ["GQA"], "value": [1.0]}))


def test_a_wide_table_is_saved_wide_and_its_numbers_long(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "figures_dir", lambda profile: tmp_path)
    shown = wide_table(JOINED)
    assert results.save_table(JOINED, "t", caption="Table 7", show=shown) is shown
    assert list(pd.read_csv(tmp_path / "t.csv").columns) == list(JOINED.columns)
    head = (tmp_path / "t_wide.csv").read_text().splitlines()[0]
    assert head.startswith('"kept, %",method,Avg paper,')
    page = (tmp_path / "t.md").read_text()
    assert "| QViD " in page and "NaN" not in page and "nan" not in page
    tex = (tmp_path / "t.tex").read_text()
    assert r"\toprule" in tex and "QViD & " in tex
