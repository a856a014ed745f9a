"""Asks what `question` needs and stores it: one line an answer, appended batch by batch.

What a file already has is not asked again, so the same command goes on after whatever stopped it.
"""

import argparse
import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ...algebra.leverage import leverage
from ...algebra.spectrum import numerical_rank
from ...families.calls import pictures_once
from ...models.load import load
from ...paths import DATA, RUNS
from ...prune import observed
from ...startup import start
from ..benchmarks import suite
from ..benchmarks.crowded import KIN
from ..benchmarks.prompts import prompts
from ..benchmarks.scoring import right
from ..run.grid import Grid
from ..run.shared_layers import layers_once, up_to
from .question import KEEP, LEFT_OUT, MODELS, PRIMARY, STAGES, WORDS, Cell, Seen, cells, kept
from .question_tables import chosen

LAYER = 1  # where QViD cuts in all four: round(3 · L / 32)
BATCH = 16  # prompts
COLUMNS = ("sample", "rule", "source", "keep", "right", "recall", "n_query", "modes", "used")
STORED = DATA / "measured" / "tiny_question_answers.parquet"
WORK = RUNS / "question"


def questions(model: str, setting: str, part: str) -> pd.DataFrame:
    """All questions of a setting's part that a model is asked, with the one of another picture
    (`other`) and the format sentence alone (`format`) beside each."""
    films = model in MODELS[2:]
    ending = "" if part == "reported" else "_deciding"
    names = [f"{setting}_{kin}{ending}" for kin in KIN if (kin == "mvbench") == films]
    found = pd.concat([suite(name).samples.assign(suite=name) for name in names])
    found = found.sort_values("id").reset_index(drop=True)
    found["other"] = ""
    for _, same in found.groupby(["kind", "split"]):
        turned = np.roll(np.arange(len(same)), len(same) // 2)  # about another picture
        found.loc[same.index, "other"] = same["question"].to_numpy()[turned]
    found["format"] = found["question"].str.extract(r"(Answer (?:the question|with)[^?]*\.)$")[0]
    return found


@torch.inference_mode()
def look(model: nn.Module, processor, rows: pd.DataFrame, asked: str) -> list[Seen]:
    """The evidence of each prompt where the cut is made; asked: the column that has the question
    (the picture is the row's own)."""
    inputs = prompts(processor, rows.assign(question=rows[asked]), model.device)
    with observed(model, *WORDS, layer=LAYER) as found, up_to(model, LAYER):
        model(**inputs)
    return found


def shown_by_token(row, frames: torch.Tensor) -> np.ndarray:
    """Which thing each visual token shows, (N_v,): -1 for ground, line breaks and class tokens."""
    shown = np.full(len(frames), -1)
    shown[frames.numpy() >= 0] = row.shown
    return shown


def recall(index: torch.Tensor, shown: np.ndarray, named: Sequence[int]) -> float:
    """The share of the named things' tokens that are kept; NaN where nothing is named."""
    theirs = np.isin(shown, list(named))
    return float(theirs[index.numpy()].sum() / theirs.sum()) if theirs.any() else np.nan


@torch.inference_mode()
def answers(
    model: nn.Module, processor, rows: pd.DataFrame, plan: Mapping[int, Sequence], part: int
) -> Iterator[list]:
    """Lines (`COLUMNS`) of a batch of questions under every cell of a plan; "full" is unpruned."""
    sources = {cell.source for some in plan.values() for cell in some} & {"swap", "other", "format"}
    with pictures_once(model), layers_once(model):
        inputs = prompts(processor, rows, model.device)
        grid = Grid(model, inputs, max_new_tokens=1)
        full = processor.batch_decode(grid.alone(None).ids, skip_special_tokens=True)
        views = {s: look(model, processor, rows, s) for s in sorted(sources)}
        views["own"] = look(model, processor, rows, "question")
        views = [{s: seen[i] for s, seen in views.items()} for i in range(len(rows))]
        truth = [
            (shown_by_token(row, view["own"]["frames"]), row.named)
            for row, view in zip(rows.itertuples(), views, strict=True)
        ]
        about = [_about(view["own"]) for view in views]
        for row, said, facts in zip(rows.itertuples(), full, about, strict=True):
            yield [row.id, "full", "", "", int(right(said, row.answer)), "", *facts]
        for keep, some in plan.items():
            sets = [[kept(cell, keep, view, true, (part, row)) for view, true, row in
                     zip(views, truth, rows.index, strict=True)] for cell in some]  # fmt: skip
            for number, answer in grid.given(LAYER, sets):
                said = processor.batch_decode(answer.ids, skip_special_tokens=True)
                for i, row in enumerate(rows.itertuples()):
                    share = recall(sets[number][i], *truth[i])
                    share = "" if np.isnan(share) else round(100 * share)
                    yield [row.id, *some[number], keep, int(right(said[i], row.answer)), share,
                           "", "", ""]  # fmt: skip


def _about(seen: Seen) -> tuple:
    """N_q, rank(M) and r_eff ÷ rank(M) at rank 16, mean over the heads."""
    M = seen["interaction"]
    modes = numerical_rank(M).double().mean()
    used = leverage(M, 16).sum(-1).mean() / modes
    return M.shape[1], round(float(modes), 2), round(float(used), 3)


def ask(name: str, stage: str, folder: Path = WORK, limit: int | None = None) -> Path:
    """Ask one model one stage's questions, or the first `limit` of them; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.rpartition('/')[2]}-{stage}.csv"
    done = set(pd.read_csv(path, usecols=["sample"])["sample"]) if path.exists() else set()
    place, best = STAGES[stage], ()
    if stage == "more":
        best = chosen(gathered(folder))["rule"].tolist()
    asked = questions(name, place.setting, place.part)
    asked = asked[~asked["kind"].isin(LEFT_OUT.get(name, ()))].head(limit or place.limit)
    asked = asked[~asked["id"].isin(done)]
    # batches of one length, in an order that has nothing to do with it: any part is a fair sample
    asked = asked.iloc[asked["question"].str.split().str.len().argsort(kind="stable")]
    starts = np.random.default_rng(0).permutation(np.arange(0, len(asked), BATCH))
    model, processor = load(name)
    plan, seed = cells(stage, best), MODELS.index(name)
    for first in tqdm(starts, desc=path.stem, mininterval=20):
        lines = list(answers(model, processor, asked.iloc[first : first + BATCH], plan, seed))
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            lines if path.exists() else [COLUMNS, *lines]
        )
        with open(path, "ab", buffering=0) as file:
            file.write(text.getvalue().encode())  # a batch in one piece
    return path


def run(
    models: Sequence[str] = MODELS, stages: Sequence[str] = tuple(STAGES), folder: Path = WORK,
    limit: int | None = None,
) -> None:  # fmt: skip
    """The whole run, stage by stage: what the deciding part chooses, the later ones ask."""
    for stage, name in product(stages, models):
        ask(name, stage, folder, limit)


def gathered(folder: Path = WORK) -> pd.DataFrame:
    """What is stored in a folder of work: a row an answer, with model, stage, setting, part, suite,
    kind and picture; what two processes asked at once counts once."""
    frames = []
    for path in sorted(folder.glob("*-*.csv")):
        name, stage = path.stem.split("-")
        model, place = f"tiny/{name}", STAGES[stage]
        about = questions(model, place.setting, place.part).set_index("id")
        found = pd.read_csv(path, keep_default_na=False, na_values=[""])
        found["source"] = found["source"].fillna("")
        found = found.join(about[["suite", "kind", "picture"]], on="sample")
        named = {"model": model, "stage": stage, "setting": place.setting, "part": place.part}
        frames.append(found.assign(**named))
    every = pd.concat(frames, ignore_index=True)
    return every.drop_duplicates(["model", "stage", "sample", "rule", "source", "keep"])


def store(folder: Path = WORK, path: Path = STORED) -> Path:
    """Write what is in a folder of work as the stored run."""
    found = gathered(folder)
    texts = "sample rule source suite kind picture model stage setting part".split()
    numbers = {"keep": "Int16", "right": "int8", "recall": "Int16"}
    found = found.astype({**dict.fromkeys(texts, "category"), **numbers})
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    found.to_parquet(path, index=False, compression="zstd")
    return path


def read(path: Path = STORED) -> pd.DataFrame:
    """The stored run: a row an answer. ValueError where it is missing."""
    if not path.exists():
        raise ValueError(f"{path.name} is missing: python -m qvid_utils run --stored question")
    return pd.read_parquet(path)


def asked_again(records: pd.DataFrame, name: str, number: int) -> pd.Series:
    """Whether some questions of the primary stage answer now as they are stored, by sample."""
    stored_run = records.query("stage == 'primary' and model == @name and keep == @KEEP")
    asked = questions(name, "crowded", "reported").set_index("id", drop=False)
    rows = asked.loc[stored_run["sample"].astype(str).unique()[:number]]
    model, processor = load(name)
    plan = {KEEP: [Cell(rule, source) for rule in PRIMARY for source in ("own", "swap")]}
    lines = answers(model, processor, rows.reset_index(drop=True), plan, 0)
    now = pd.DataFrame(list(lines), columns=COLUMNS).query("rule != 'full'")
    by = ["sample", "rule", "source"]
    before = stored_run.astype(dict.fromkeys(by, str)).set_index(by)["right"]
    now = now.set_index(by)["right"]
    return (before.loc[now.index] == now).groupby("sample").all()


def main(argv: Sequence[str] | None = None) -> int:
    """The stored run of notebook 09: all stages, going on where it stopped."""
    new = argparse.ArgumentParser("python -m qvid_utils run --stored question",
                                  description=main.__doc__)  # fmt: skip
    new.add_argument("--limit", type=int, help="questions of a model and stage (default: all)")
    new.add_argument("--store", type=Path, default=WORK, help="folder of the work")
    new.add_argument("--out", type=Path, default=STORED.parent, help="folder of the stored run")
    chosen = new.parse_args(argv)
    start(0)
    run(folder=chosen.store, limit=chosen.limit)
    print(store(chosen.store, chosen.out / STORED.name))
    return 0
