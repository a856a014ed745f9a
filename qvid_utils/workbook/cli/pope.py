"""The work of `python -m qvid_utils check pope`: a few questions beside the paper's range."""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from ...models.load import LoadError, load
from ...paths import RUNS
from ...startup import start
from ..benchmarks import Suite
from ..benchmarks.base import FULL, metrics
from ..benchmarks.paper_profile import CHECKPOINT, place
from ..benchmarks.prompts import prompts, same_share
from ..benchmarks.published import published
from ..benchmarks.scoring import value_of
from ..run.cell import Cell
from ..run.evaluate import evaluate
from ..tables import schema as results
from ..tables.statistics import paired

__all__ = ["expected", "report"]

KEEP = 64
WIDE = 1.96  # standard errors to each side: 95 %

OTHER = 5.0  # %: with more answers that are neither yes nor no, a number says nothing

CHECK = """\
what to look at, most likely first:
  1. the prompt: the question, then "Answer the question using a single word or phrase." (above);
     a chat template of another kind, or another order of picture and words, changes answers
  2. F1 or accuracy: the paper does not say which; a paper's value near the other one explains it
  3. yes (%) far from 50: few yes under QViD is what lost objects look like; many other words than
     yes and no mean that the model is another, or its weights are not what they say
  4. dtype and kernel: compare with --dtype float32, and --attention eager
  5. the picture: {tokens} visual tokens per prompt; LLaVA-1.5 has 576
  6. the cut: keep counts after layer {layer}; the mean over the layers is {mean:.0f} tokens
  7. bad luck: one run in twenty is outside; another --seed draws other questions"""


def expected(n: int) -> pd.DataFrame:
    """The paper's POPE of the full model and QViD at 64 tokens, and 95 % of what n questions give.

    Rows: method "full" and "qvid". paper (Table 1), stderr of n questions: QViD's printed one
    (Table 15, of 9,000) times √(9000/n); the full model's, which is not printed, √(p(1-p)/n).
    low and high: paper ± 1.96 stderr. In %. ValueError for fewer than two questions.
    """
    if n < 2:
        raise ValueError(f"{n} question(s): a range needs at least two")
    first, errors = results.paper(1), results.paper(15)
    full = _cell(first, FULL, 576)["value"]
    ours, printed = _cell(first, "qvid", KEEP)["value"], _cell(errors, "qvid", KEEP)["stderr"]
    rows = [
        (FULL, full, 100 * np.sqrt(full / 100 * (1 - full / 100) / n)),
        ("qvid", ours, printed * np.sqrt(9000 / n)),
    ]
    frame = pd.DataFrame(rows, columns=["method", "paper", "stderr"]).set_index("method")
    low, high = (frame["paper"] + way * WIDE * frame["stderr"] for way in (-1, 1))
    return frame.assign(low=low, high=high.clip(upper=100))


def _cell(table: pd.DataFrame, method: str, keep: int) -> pd.Series:
    rows = table[(table["method"] == method) & (table["keep"] == keep)]
    return rows[rows["benchmark"] == "POPE"].iloc[0]


def report(records: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """One row per cell: F1 (mean of the splits asked) and accuracy in %, yes and other (% of the
    answers), mean_tokens, n, what is `expected`, and inside: whether F1 or accuracy is in it, and
    few answers are other: POPE's own script takes these for yes, and F1 is 67 where all are.
    """
    wanted, rows = expected(len(suite.samples)), []
    for method, part in records.groupby("method", sort=False):
        found = {name: value_of(ratios) for name, ratios in metrics(suite, part).items()}
        said = part["prediction"].str.lower().str.extract(r"(\w+)", expand=False)
        row = {"F1": found["f1"], "accuracy": found["accuracy"]}
        no_answer = ~said.isin(["yes", "no"])
        row |= {"yes": 100 * said.eq("yes").mean(), "other": 100 * no_answer.mean()}
        row |= {"mean_tokens": part["mean_tokens"].mean(), "n": len(part)}
        row |= wanted.loc[method].to_dict()
        near = any(row["low"] <= row[name] <= row["high"] for name in ("F1", "accuracy"))
        row["inside"] = near and row["other"] <= OTHER
        rows.append({"method": method} | row)
    return pd.DataFrame(rows)


def work(chosen: argparse.Namespace) -> int:
    """Ask, print, judge; returns 0 where both are inside the range, else 1."""
    start(chosen.seed)
    began = perf_counter()
    if chosen.model and Path(chosen.model).is_absolute() and not Path(chosen.model).exists():
        raise LoadError(f"--model {chosen.model}: there is no such folder")
    data = chosen.data or place("pope")
    suite = published("pope", data, limit=chosen.questions, seed=chosen.seed)
    expected(len(suite.samples))
    options = {"dtype": chosen.dtype, "device": chosen.device, "attention": chosen.attention}
    model, processor = load(chosen.model or place(CHECKPOINT) or CHECKPOINT, **options)
    cells = [Cell(), Cell("qvid", chosen.keep or _keep(model))]
    size = f"{len(suite.samples)} questions, {model.device}, {model.dtype}"
    print(f"{size}; the files were ready after {perf_counter() - began:.0f} s")
    began = perf_counter()
    records = evaluate(model, processor, [suite], cells, batch_size=chosen.batch_size,
                       store=chosen.store or RUNS / "check", progress=True)  # fmt: skip
    took = perf_counter() - began
    frame = report(records, suite)
    _print(frame, records, suite, processor)
    print(
        f"\n{len(records)} answers in {took:.0f} s, {len(records) / max(took, 1e-9):.1f} per second"
    )
    if not frame["inside"].all():
        ours = records[records["method"] == "qvid"]
        layer, tokens = int(ours["layer"].iloc[0]), _tokens(records)
        print("\n" + CHECK.format(tokens=tokens, layer=layer, mean=ours["mean_tokens"].mean()))
    return 0 if frame["inside"].all() else 1


def _keep(model) -> int:
    """64 of LLaVA-1.5's 576 tokens, or the same share of another model's."""
    return same_share(16, model)


def _tokens(records: pd.DataFrame) -> int:
    return round(records.loc[records["method"] == FULL, "mean_tokens"].mean())


def _print(frame: pd.DataFrame, records: pd.DataFrame, suite: Suite, processor) -> None:
    first = suite.samples.head(1)
    words = prompts(processor, first, "cpu")["input_ids"][0].tolist()
    shown = processor.decode([token for token in words if token != _image(processor)])
    print(f"\nthe first prompt, without its picture:\n{shown}\n")
    columns = ["method", "F1", "accuracy", "yes", "other", "mean_tokens", "n"]
    print(frame[columns].round(1).to_string(index=False))
    print(f"\nthe range to expect (Table 1 of the paper, 95 % of runs of {len(suite.samples)}):")
    for row in frame.itertuples():
        wanted = f"{row.paper} ± {WIDE * row.stderr:.1f}: {row.low:.1f} to {row.high:.1f}"
        verdict = "inside" if row.inside else "OUTSIDE"
        print(f"  {row.method}: {wanted}; F1 {row.F1:.1f}, accuracy {row.accuracy:.1f}: {verdict}")
    both = paired(records, {"method": "qvid"}, {"method": FULL}).iloc[0]
    lost = frame.set_index("method")["paper"]
    print(f"  qvid minus full, accuracy: {both.difference:.1f} ({both.low:.1f} to {both.high:.1f}, "
          f"paired); only qvid right {both.only_a}, only full {both.only_b}, McNemar's p "
          f"{both.mcnemar:.2g}; the paper: {lost['qvid'] - lost[FULL]:.1f}")  # fmt: skip


def _image(processor) -> int:
    return processor.tokenizer.convert_tokens_to_ids(processor.image_token)
