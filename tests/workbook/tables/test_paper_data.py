"""The papers' typed tables against themselves: averages, repeated rows, bold marks, shape.

What does not fit is named here and in data/paper/README.md; a typing slip shows as a new name.
"""

from itertools import combinations

import pandas as pd
import pytest

from qvid_utils.paths import DATA
from qvid_utils.workbook.tables import beside_paper
from qvid_utils.workbook.tables import schema as results

FOLDER = DATA / "paper"
ROWS = {
    "table01": 168, "table02a": 63, "table02b": 21, "table03a": 42, "table03b": 42,
    "table04": 49, "table05": 171, "table06": 114, "table07": 78, "table08": 13, "table09": 28,
    "table10": 42, "table11": 7, "table12": 42, "table13": 28, "table14": 24, "table15": 24,
    "svd_table01": 14, "svd_table02": 26, "svd_table03": 13,
}  # fmt: skip
# What the compared methods print of themselves.
PEERS = {"peers_visionzip": 26, "peers_fastv": 20, "peers_fastv_rerun": 2, "peers_pdrop": 6}
AVERAGED = ["table01", "table02a", "table02b", "table03a", "table03b", "table04", "table05",
            "table06", "table07", "table10", "table12"]  # fmt: skip

INFERRED = "(prose)"  # at the end of `printed`: the cell is lost, the text says what it was
# SVD-Prune's section 4.2: points lost by keep, GQA and TextVQA; at 64 it has the value for GQA.
DROPS = {
    "GQA": {192: 2.02, 128: 3.20, 32: 8.38, 16: 8.86},
    "TextVQA": {192: 0.96, 128: 2.06, 64: 3.06, 32: 3.39, 16: 4.17},
}

# (table, method, keep or retention): (printed, recomputed from the printed row)
DO_NOT_RECOMPUTE = {("table01", "qvid", 192.0): (98.1, 98.378)}
# Off in the last printed digit, but within what the rounding of the row's own cells allows.
ONLY_WITHIN_ROUNDING = {
    ("table02b", "qvid", 33.3): (97.7, 97.600),
    ("table02b", "v2drop", 33.3): (97.5, 97.428),
    ("table02b", "qvid", 22.2): (94.2, 94.085),
    ("table02b", "v2drop", 22.2): (91.7, 91.511),
    ("table02b", "qvid", 11.1): (91.2, 91.083),
    ("table02b", "v2drop", 11.1): (69.4, 69.300),
}
# The same quantity in two tables with two values: (table, printed), (table, printed).
DISAGREE = {
    ("qvid", 128.0, "MME", ("table03a", "1726.0"), ("table04", "1726.3")),
    ("qvid", 128.0, "MME", ("table03b", "1726.0"), ("table04", "1726.3")),
    ("qvid", 128.0, "MME", ("table04", "1726.3"), ("table06", "1726.0")),
    ("qvid", 128.0, "MME", ("table04", "1726.3"), ("table07", "1726.0")),
    ("v2drop", 128.0, "efficiency", ("table08", "2.84"), ("table09", "2.85")),
    ("v2drop", 192.0, "efficiency", ("table08", "3.72"), ("table09", "3.73")),
}


def digits(printed: str) -> str:
    return printed.strip("*").split(" ")[0].rstrip("%×")


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(digits(printed).partition(".")[2])


def budget(frame: pd.DataFrame) -> pd.Series:
    return frame.keep.astype("float64").fillna(frame.retention_pct)


def everything() -> pd.DataFrame:
    frame = pd.concat([results.paper(stem) for stem in ROWS], ignore_index=True)
    ours = frame.method == "qvid"  # an empty layer or rank of QViD is its default, 3 and 16
    frame["layer"] = frame.layer.astype("float64").mask(ours & frame.layer.isna(), 3.0).fillna(-1)
    frame["rank"] = frame["rank"].mask(ours & frame["rank"].isna(), 16.0).fillna(-1)
    return frame.assign(budget=budget(frame))


def test_every_table_is_there_and_nothing_else():
    assert {p.stem for p in FOLDER.glob("*.csv")} == {*ROWS, *PEERS}
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [stem for stem in (*ROWS, *PEERS) if f"`{stem}.csv`" not in readme] == []


@pytest.mark.parametrize("stem", ROWS)
def test_file_obeys_the_schema_and_is_written_canonically(stem, tmp_path):
    frame = results.paper(stem)
    assert len(frame) == ROWS[stem]
    assert set(frame.table) == {stem}
    copy = results.write(frame, tmp_path / "copy.csv", order="given")
    assert copy.read_bytes() == (FOLDER / f"{stem}.csv").read_bytes()


@pytest.mark.parametrize("stem", ROWS)
def test_value_is_the_printed_one(stem):
    frame = results.paper(stem)
    frame = frame[~frame.printed.str.endswith(INFERRED)]
    assert [float(digits(p)) for p in frame.printed] == frame.value.tolist()
    errors = frame[frame.stderr.notna()]
    assert [float(p.split(" ± ")[1]) for p in errors.printed] == errors.stderr.tolist()


@pytest.mark.parametrize("stem", [s for s in ROWS if not s.startswith("svd")])
def test_tables_are_rectangular(stem):
    """Every row of a QViD table has every column; the lone gap is the dash of Table 8."""
    frame = results.paper(stem).fillna({"layer": -1, "rank": -1})
    cells = frame.groupby(["benchmark", "metric"]).size()
    lines = frame.assign(b=budget(frame)).groupby(["method", "b", "layer", "rank"]).ngroups
    gaps = {"reduction": 1} if stem == "table08" else {}
    assert {m: lines - n for (_, m), n in cells.items() if n != lines} == gaps


def misses() -> tuple[dict, dict]:
    """Averages off by more than rounding allows, and those off in the last digit only."""
    beyond, within = {}, {}
    for stem in AVERAGED:
        frame = results.paper(stem)
        printed = frame[frame.benchmark == "Avg"].reset_index(drop=True)
        again = beside_paper.average_rows(frame)
        rows = frame[~frame.benchmark.isin(["Avg", *results.PARTS])]
        full = rows[rows.method == "full"].set_index("benchmark")
        assert len(printed) == len(again) > 1
        for i, row in printed.iterrows():
            assert row.method == again.method[i]
            cell = rows[(rows.method == row.method) & (budget(rows) == budget(printed)[i])]
            for key in ("layer", "rank"):
                cell = cell[cell[key].fillna(-1) == (-1 if pd.isna(row[key]) else row[key])]
            assert len(cell) == rows.benchmark.nunique()
            slack = [
                100 * (half_unit(c.printed) + share * half_unit(f.printed)) / f.value
                for c in cell.itertuples()
                for f in [full.loc[c.benchmark]]
                for share in [c.value / f.value]
            ]
            off = abs(again.value[i] - row.value)
            if off > 0.05 + 1e-9:
                name = (stem, row.method, budget(printed)[i])
                room = 0.05 + sum(slack) / len(slack)
                (beyond if off > room else within)[name] = (row.value, round(again.value[i], 3))
    return beyond, within


def test_averages_recompute_from_their_own_rows():
    beyond, within = misses()
    assert beyond == {k: pytest.approx(v, abs=1e-3) for k, v in DO_NOT_RECOMPUTE.items()}
    assert within == {k: pytest.approx(v, abs=1e-3) for k, v in ONLY_WITHIN_ROUNDING.items()}


def test_a_row_printed_twice_agrees():
    frame = everything()
    frame = frame[(frame.benchmark != "Avg") & ~frame.table.str.startswith("svd")]
    found, pairs = set(), 0
    keys = ["model", "method", "budget", "layer", "rank", "benchmark", "metric"]
    for at, rows in frame.groupby(keys):
        for a, b in combinations(rows.itertuples(), 2):
            pairs += 1
            # 1726 and 1726.3 agree as far as the coarser of them is printed
            if abs(a.value - b.value) > max(half_unit(a.printed), half_unit(b.printed)) + 1e-9:
                pair = tuple((r.table, digits(r.printed)) for r in (a, b))
                found.add((at[1], at[2], at[5], *pair))
    assert pairs == 395
    assert found == DISAGREE


def test_averages_of_the_five_benchmark_tables_agree():
    frame = everything()
    frame = frame[frame.table.isin(["table03a", "table03b", "table06", "table07"])]
    frame = frame[frame.benchmark == "Avg"]
    assert (frame.groupby(["method", "budget", "rank"]).value.nunique() == 1).all()


def test_rules_said_to_be_identical_differ_in_one_cell():
    """Column norm and sigma-weighting keep the same tokens, yet one MME cell differs by a point."""
    keys = ["keep", "benchmark"]
    frame = results.paper(7)
    rules = ("column_norm", "sigma_weighted")
    a, b = (frame[frame.method == m].set_index(keys).value for m in rules)
    differ = a.index[a != b]
    assert differ.tolist() == [(128, "MME")]
    assert (a[differ].item(), b[differ].item()) == (1069.0, 1070.0)


def test_bold_marks_the_best_of_each_block():
    frame = everything()
    plain = ["table08", "table09", "table15", "svd_table01", "svd_table02", "svd_table03"]
    marked = frame.printed.str.startswith("**")
    assert not marked[frame.table.isin(plain) | (frame.method == "full")].any()
    frame = frame[~frame.table.isin(plain) & (frame.method != "full")]
    alone = (frame.table == "table14") & (frame.budget == 11.1)  # one row, nothing to beat
    assert not frame[alone].printed.str.startswith("**").any()
    frame = frame[~alone]
    best = frame.groupby(["table", "budget", "benchmark", "metric"]).value.transform("max")
    odd = frame[(frame.value == best) != frame.printed.str.startswith("**")]
    assert odd.empty, odd[["table", "method", "budget", "benchmark", "printed"]].to_string()


def test_table_1_is_sorted_by_average_but_for_one_pair():
    frame = results.paper(1)
    frame = frame[frame.benchmark == "Avg"]
    odd = [
        (a.keep, a.method, b.method)
        for a, b in zip(frame[:-1].itertuples(), frame[1:].itertuples(), strict=True)
        if a.keep == b.keep and a.value < b.value
    ]
    assert odd == [(64, "pdrop", "fastv")]


def test_quoted_rows_of_table_1():
    frame = results.paper(1)
    quoted = set(frame[frame.quoted_from == "V2Drop"].method)
    assert quoted == {"tome", "fastv", "hired", "prumerge", "sparsevlm", "pdrop"}
    assert set(frame[frame.quoted_from == ""].method) == {"qvid"}
    assert set(frame[frame.quoted_from == "not said"].method) == {"v2drop", "full"}


def one(frame, method, keep, metric):
    at = (frame.method == method) & (frame.keep == keep) & (frame.metric == metric)
    return frame[at].value.item()


def test_what_is_inferred_follows_from_the_prose():
    """One row, SVD-Prune at 16 tokens: each printed cell plus its drop is the unpruned model, and
    that, minus the drop at 16, the inferred cell."""
    frames = [results.paper(stem).assign(stem=stem) for stem in ROWS]
    marked = pd.concat(frames)[lambda f: f.printed.str.endswith(INFERRED)]
    assert marked[["stem", "method", "keep"]].drop_duplicates().to_numpy().tolist() == [
        ["svd_table01", "svd_prune", 16]
    ]
    rows = results.paper("svd_1").query("method == 'svd_prune'")
    for benchmark, drops in DROPS.items():
        values = rows[rows.benchmark == benchmark].set_index("keep")["value"]
        unpruned = {round(values[keep] + drop, 2) for keep, drop in drops.items() if keep != 16}
        assert unpruned == {{"GQA": 61.9, "TextVQA": 58.2}[benchmark]}
        assert values[16] == pytest.approx(unpruned.pop() - drops[16], abs=1e-9)
        (row,) = marked[marked.benchmark == benchmark].itertuples()
        assert float(digits(row.printed)) == -drops[16]
        assert row.source == "paper (SVD-Prune)" and row.quoted_from == ""


def test_reductions_and_speedups_recompute():
    """Table 8's reductions and Table 9's speedups; the latter are ratios of throughput."""
    frame = results.paper(8)
    for row in frame[frame.metric == "reduction"].itertuples():
        share = one(frame, row.method, row.keep, "total_compute") / 8.86
        assert abs(100 * (1 - share) - row.value) <= 0.05 + 100 * 0.005 * (1 + share) / 8.86
    frame = results.paper(9)
    for row in frame[frame.metric == "speedup"].itertuples():
        ratio = one(frame, row.method, row.keep, "throughput") / 8.60
        assert row.value == pytest.approx(ratio, abs=0.005 + 0.002)


def test_svd_prune_totals_and_ratios_recompute():
    frame = results.paper("svd_2")
    vision, whole = 190.6, one(frame, "full", 576, "total_compute")
    for row in frame[frame.metric == "total_compute"].itertuples():
        parts = vision + one(frame, row.method, row.keep, "projector_compute")
        total = parts / 1000 + one(frame, row.method, row.keep, "llm_compute")
        assert row.value == pytest.approx(total, abs=0.006)
        cut = one(frame, row.method, row.keep, "reduction")
        assert cut == pytest.approx(100 * (1 - row.value / whole), abs=0.2)
    frame = results.paper("svd_3")
    now, then = ({m: one(frame, *k, m) for m in ("latency", "throughput", "kernel_time", "vram")}
                 for k in (("svd_prune", 16), ("full", 576)))  # fmt: skip
    got = {
        m: one(frame, "svd_prune", 16, m)
        for m in (
            "token_ratio",
            "latency_ratio",
            "throughput_ratio",
            "kernel_time_ratio",
            "vram_saving",
        )
    }
    assert got == pytest.approx({
        "token_ratio": 576 / 16, "latency_ratio": then["latency"] / now["latency"],
        "throughput_ratio": now["throughput"] / then["throughput"],
        "kernel_time_ratio": then["kernel_time"] / now["kernel_time"],
        "vram_saving": then["vram"] - now["vram"],
    }, abs=0.0051)  # fmt: skip
