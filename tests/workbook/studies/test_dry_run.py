"""The list before a big run: which cells, what is done, what is missing, how long."""

import re

import pandas as pd
import pytest

from qvid_utils.families import Unavailable
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks.published import BENCHMARKS
from qvid_utils.workbook.benchmarks.published.entries import SEEN
from qvid_utils.workbook.cli import main
from qvid_utils.workbook.cost import flops
from qvid_utils.workbook.cost.workloads import config_of
from qvid_utils.workbook.studies import dry_run
from qvid_utils.workbook.tables import schema as results
from qvid_utils.workbook.tables.paper_tables import ANSWERS, COSTS, cells_of

LLAVA = "llava-hf/llava-1.5-7b-hf"


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch):
    """A machine without checkpoints, data, video reader and Java."""
    monkeypatch.setattr(dry_run, "_here", lambda name: False)
    monkeypatch.setattr(dry_run.importlib.util, "find_spec", lambda name: None)


def write(path, **changed):
    row = {
        "table": "mine", "model": LLAVA, "method": "qvid", "keep": 64, "layer": 3, "rank": 16,
        "benchmark": "pope", "metric": "f1", "value": 80.0, "unit": "%", "n": 9000,
        "source": "measured",
    } | changed  # fmt: skip
    return results.write(pd.DataFrame([row]), path)


# ---------------------------------------------------------------- the cells


def test_every_table_of_both_papers_is_listed():
    files = {path.stem for path in (DATA / "paper").glob("*table*.csv")}
    named = {results.paper(table)["table"].iloc[0] for table in (*ANSWERS, *COSTS)}
    assert named == files


@pytest.mark.parametrize("table", [t for t in ANSWERS if t != "svd_1"])
def test_the_cells_of_a_table_are_what_it_prints(table):
    """One cell for each printed number that is no average, no part and no second metric."""
    printed = results.paper(table)
    printed = printed[~printed["benchmark"].isin(["Avg", *results.PARTS])]
    keys = ["method", "keep", "retention_pct", "layer", "rank"]
    wanted = printed.assign(benchmark=printed["benchmark"].str.replace(r"-[PC]$", "", regex=True))
    found = cells_of(table)
    assert len(found) == len(wanted.drop_duplicates([*keys, "benchmark"]))
    assert set(found["checkpoint"]) <= set(results.PAPER_MODELS)
    assert found.notna()[["method", "benchmark", "questions", "checkpoint"]].all().all()


def test_table_1_has_24_rows_of_six_benchmarks():
    found = cells_of("1")
    assert len(found) == 144 and found["benchmark"].nunique() == 6
    assert "pyramiddrop" in set(found["method"]) and "pdrop" not in set(found["method"])
    assert cells_of("2a")["method"].unique().tolist() == ["full", "qvid", "v2drop_qwen2_vl"]


def test_svd_prunes_table_has_the_rows_whose_numbers_are_lost():
    found = cells_of("svd_1")
    assert len(found) == 44  # 22 printed rows of two benchmarks, of which our copy has six whole
    kept = results.paper("svd_1")[["method", "keep"]].drop_duplicates().astype(object)
    rows = set(zip(found["method"], found["keep"], strict=True))
    assert {tuple(row) for row in kept.to_numpy()} <= rows


def test_a_table_of_costs_has_no_cells():
    with pytest.raises(ValueError, match="table '8' has no runs of answers; there are 1, 2a"):
        cells_of("8")


# ---------------------------------------------------------------- done


def test_a_measured_row_makes_its_cells_done_in_every_table(tmp_path):
    plan = dry_run.plan([write(tmp_path / "a.csv")])
    done = plan[plan["done"]]
    assert set(done["method"]) == {"qvid"} and set(done["keep"]) == {64}
    assert set(done["benchmark"]) == {"pope"}
    # at the default layer and rank, said or unsaid; 2 to 5 are other models, budgets or layers
    assert done["table"].tolist() == ["1", "3a", "6", "7", "15"]


@pytest.mark.parametrize(
    "changed",
    [{"n": 200}, {"variant": "two_pass"}, {"rank": 8}, {"layer": 2}, {"model": "tiny/llava"},
     {"keep": 65}, {"source": "paper"}],
    ids=str,
)  # fmt: skip
def test_another_run_makes_nothing_of_table_1_done(changed, tmp_path):
    plan = dry_run.plan([write(tmp_path / "a.csv", **changed)])
    assert not plan.loc[plan["table"] == "1", "done"].any()


def test_a_run_of_the_full_model_is_done_whatever_its_count(tmp_path):
    file = write(tmp_path / "a.csv", method="full", keep=576, layer=None, rank=None)
    done = dry_run.plan([file]).query("done")
    assert set(done["method"]) == {"full"} and len(done) == 6  # 1, 3a, 3b, 4, 6, 7


QWEN = "Qwen/Qwen2-VL-7B-Instruct"


def test_a_row_at_a_share_is_done_where_the_table_has_that_share(tmp_path):
    shared = {"model": QWEN, "keep": None, "retention_pct": 11.11}
    plan = dry_run.plan([write(tmp_path / "a.csv", **shared)])
    done = plan[plan["done"]]
    assert set(done["retention_pct"]) == {11.1} and set(done["benchmark"]) == {"pope"}
    assert done[["table", "layer"]].fillna(0).to_numpy().tolist() == [["2a", 0], ["5", 3]]
    line = next(x for x in dry_run.report(100, [tmp_path / "a.csv"]).splitlines()
                if x.startswith("  qvid retention 11.1 %: ai2d"))  # fmt: skip
    assert "pope (done)" in line


def test_a_count_is_no_share(tmp_path):
    """Table 12 has 25 %, and 25 tokens are something else."""
    video = {"model": "LanguageBind/Video-LLaVA-7B-hf", "benchmark": "mvbench", "n": 4000}
    plan = dry_run.plan([write(tmp_path / "a.csv", **video, keep=25)])
    assert not plan["done"].any()
    plan = dry_run.plan([write(tmp_path / "b.csv", **video, keep=None, retention_pct=25)])
    assert plan.loc[plan["done"], ["table", "benchmark"]].to_numpy().tolist() == [["12", "mvbench"]]


def test_a_row_under_the_papers_names_counts_too(tmp_path):
    """As `video.rows` makes them, without a layer, and with baselines that are no method."""
    video = {"model": "LanguageBind/Video-LLaVA-7B-hf", "benchmark": "VideoMME", "n": 2700,
             "keep": None, "layer": None, "rank": None, "metric": "score"}  # fmt: skip
    files = [
        write(tmp_path / f"{name}.csv", **video, method=name, retention_pct=share)
        for name, share in (("qvid", 15), ("full", 100), ("fewer_frames", 15))
    ]
    done = dry_run.plan(files).query("done")
    assert done[["table", "method"]].to_numpy().tolist() == [["12", "full"], ["12", "qvid"]]


def test_files_of_another_kind_are_passed_over(tmp_path):
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    assert not dry_run.plan([tmp_path / "b.csv"])["done"].any()


# ---------------------------------------------------------------- missing


def missing(plan, **cell):
    for name, value in cell.items():
        plan = plan[plan[name] == value]
    return set(plan["missing"])


def test_what_a_cell_lacks_is_named(monkeypatch):
    no_java = Unavailable("COCO captions are cut into words by a Java program: there is no java")
    monkeypatch.setattr(dry_run, "caption_tools", lambda: (_ for _ in ()).throw(no_java))
    plan = dry_run.plan([])
    assert missing(plan, table="1", benchmark="gqa") == {f"checkpoint {LLAVA}; data gqa"}
    asked = {"table": "13", "method": "qvid"}
    assert {x.split("; ")[-1] for x in missing(plan, benchmark="hallusionbench", **asked)} == {
        "a judge"
    }
    caption = missing(plan, benchmark="coco2014_cap_val", **asked)
    assert {x.split("; ")[-1] for x in caption} == {"Java"}
    video = missing(plan, table="2b", method="qvid", benchmark="mvbench")
    assert video == {
        "checkpoint llava-hf/llava-onevision-qwen2-7b-ov-hf; data mvbench; extra video"
    }
    (trim,) = missing(plan, method="trim", benchmark="gqa")
    assert trim == f"checkpoint {LLAVA}; checkpoint openai/clip-vit-large-patch14-336; data gqa"


def test_the_extra_is_told_from_java(monkeypatch):
    no_extra = Unavailable("captions are scored by pycocoevalcap, and it is not installed: pip")
    monkeypatch.setattr(dry_run, "caption_tools", lambda: (_ for _ in ()).throw(no_extra))
    monkeypatch.setattr(dry_run, "_here", lambda name: True)
    found = missing(dry_run.plan([]), table="13", benchmark="coco2014_cap_val")
    assert found == {"extra caption"}


def test_where_all_is_there_nothing_is_missing(monkeypatch):
    """Counts (1), shares of pictures (2a, 5, 11, 14) and of clips (2b, 12) alike."""
    monkeypatch.setattr(dry_run, "_here", lambda name: True)
    monkeypatch.setattr(dry_run.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(dry_run, "caption_tools", lambda: None)
    plan = dry_run.plan([])
    shares = plan[plan["retention_pct"].notna() & (plan["method"] != "full")]
    assert set(shares["table"]) == {"2a", "2b", "5", "11", "12", "14"}
    assert set(shares["missing"]) == {"", "a judge"}
    assert set(shares.loc[shares["missing"] != "", "benchmark"]) == {"hallusionbench"}
    assert missing(plan, table="1") == {""}


# ---------------------------------------------------------------- hours


def test_operations_are_those_of_the_schedule():
    config = config_of("llava")
    whole = flops.prefill(config, [576] * 32, 76, blocks=[576]).total
    cut = flops.prefill(config, [576] * 3 + [64] * 29, 76, blocks=[576]).total
    assert dry_run.operations("LLaVA-1.5-7B", "full", None, None, None, 76) == whole
    assert dry_run.operations("LLaVA-1.5-7B", "qvid", 64, None, None, 76) == cut
    door = flops.prefill(config, [64] * 32, 76, blocks=[576]).total
    assert dry_run.operations("LLaVA-1.5-7B", "svd_prune", 64, None, None, 76) == door
    assert 8e12 < whole < 1.1e13  # the paper's 8.86 TFLOPs and the tower


def test_a_budget_below_the_floor_costs_nothing_and_is_told():
    assert dry_run.operations("LLaVA-1.5-7B", "sparsevlm", 32, None, None, 76) is None
    assert "sparsevlm keep 32: gqa, textvqa_ocr; no schedule has this budget" in dry_run.report()


def test_a_share_is_of_the_models_tokens():
    third = dry_run.operations("Qwen2-VL-7B", "qvid", None, 33.3, None, 76)
    assert third == dry_run.operations("Qwen2-VL-7B", "qvid", 130, None, None, 76)
    ninth = dry_run.operations("Qwen2-VL-7B", "qvid", None, 11.1, None, 76)
    assert ninth == dry_run.operations("Qwen2-VL-7B", "qvid", 43, None, None, 76)  # 43.4


def test_hours_are_operations_of_all_questions_over_the_rate():
    plan = dry_run.plan([])
    each = dry_run.operations("LLaVA-1.5-7B", "full", None, None, None, 76)  # 60 + 16 text tokens
    row = plan[(plan["table"] == "1") & (plan["method"] == "full") & (plan["benchmark"] == "gqa")]
    assert row["tflops"].item() == pytest.approx(each * BENCHMARKS["gqa"].size / 1e12)
    hours = plan.loc[plan["table"] == "1", "tflops"].sum() / 100 / 3600
    line = next(x for x in dry_run.report(100).splitlines() if x.startswith("table 1:"))
    assert line == f"table 1: LLaVA-1.5-7B, 144 cells, 0 done, {hours:.1f} GPU-hours to go"


def test_a_cell_of_several_tables_counts_once_in_the_sum(tmp_path):
    before, after = dry_run.report(100), dry_run.report(100, [write(tmp_path / "a.csv")])
    ends = [int(text.splitlines()[-1].split(": ")[1].split()[0]) for text in (before, after)]
    assert ends[0] - ends[1] == 1
    assert "qvid keep 64: gqa, scienceqa_img, textvqa_ocr, pope (done), mme, mmb" in after


def test_a_rate_is_a_number_or_a_measured_file(tmp_path):
    assert dry_run.rate_of("120") == 120
    rows = [
        {"table": "x", "model": "m", "method": "full", "benchmark": "efficiency", "metric": metric,
         "value": value, "unit": unit, "source": "measured"}
        for metric, value, unit in (("compute", 9.0, "TFLOPs"), ("first_token", 60.0, "ms"))
    ]  # fmt: skip
    file = results.write(pd.DataFrame(rows), tmp_path / "a.csv")
    assert dry_run.rate_of(file) == pytest.approx(150)
    results.write(pd.DataFrame(rows[:1]), file)
    with pytest.raises(ValueError, match="no compute and first_token of 'full'"):
        dry_run.rate_of(file)


@pytest.mark.parametrize("given", ["0", "-3", "nan", "inf"])
def test_a_rate_is_above_zero(given):
    with pytest.raises(ValueError, match="it must be above 0"):
        dry_run.rate_of(given)


def test_a_rate_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="--rate fast: give TFLOP/s, such as 120, or a file"):
        dry_run.rate_of("fast")


def test_sizes_that_nobody_looked_up_are_named():
    line = next(x for x in dry_run.report().splitlines() if "seen on no card" in x)
    assert line.split(": ")[1] == "mmbench_en_dev, mvbench, videomme, ocrbench, seedbench_image"


def test_a_size_that_was_read_is_the_one_of_the_table():
    """The digits of where it was read: all of them, or the leading ones of a rounded one."""
    for name, where in SEEN.items():
        size, said = BENCHMARKS[name].size, re.findall(r"\d[\d,.]*k?", where.split(":")[-1])
        if not said:
            continue  # a table of several
        exact = said[-1].replace(",", "")
        if exact.endswith("k"):
            assert abs(size / 1000 - float(exact[:-1])) < 0.05, name
        else:
            assert size == int(exact), name


# ---------------------------------------------------------------- the command


def test_the_command_prints_the_list_and_runs_nothing(capsys):
    assert main(["dry-run", "--rate", "100"]) == 0
    said = capsys.readouterr().out
    assert said.strip() == dry_run.report(100) and "GPU-hours" in said.splitlines()[-1]
    assert main(["dry-run"]) == 0
    assert "give --rate TFLOP/s" in capsys.readouterr().out


def test_a_rate_that_is_none_is_refused(capsys):
    assert main(["dry-run", "--rate", "fast"]) == 2
    assert "dry-run: --rate fast: give TFLOP/s" in capsys.readouterr().err
