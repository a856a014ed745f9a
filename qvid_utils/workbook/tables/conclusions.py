"""What may be concluded from per-question records: which suites can tell, differences, verdicts.

Records are those of `evaluate`. All errors and intervals are over pictures: questions about one
picture are not independent, and stay together.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ...methods import method as find_method
from ..benchmarks.base import CELL, FULL, Suite
from ..benchmarks.scoring import error_of
from .failed_questions import counted, scored
from .report import budgets_of, cells_in, key_of, naming, normalised
from .schema import AVERAGE
from .statistics import paired

SAYS = 15.0  # accuracy points that random pruning must cost at a ninth of the tokens
NINTH = 9


@counted()
def says_something(records: pd.DataFrame, least: float = SAYS) -> pd.DataFrame:
    """Whether a suite can tell rules apart at a layer: does chance at 1/9 cost at least 15 points?

    Where it costs less, the model has read the picture before the cut, and every rule looks good.
    One row per layer and suite: n, full and random (accuracy in %, the score of single questions),
    loss in points with its stderr over pictures, `speaks`. Raises ValueError without records of the
    full model and of `random` at a ninth of its tokens.
    """
    full = records[records["method"] == FULL].set_index("sample")
    ninth = round(full["mean_tokens"].mean() / NINTH) if len(full) else 0
    random = records[records["method"] == "random"]
    chance = random[random["keep"] == ninth]
    if chance.empty and "retention_pct" in random:
        chance = random[random["retention_pct"].round(1) == round(100 / NINTH, 1)]
    if chance.empty:
        raise ValueError(
            f"says_something compares the full model with random at 1/{NINTH} of its tokens: "
            f"records of 'full' and of 'random' at keep={ninth or '?'} (or at a share of "
            f"{100 / NINTH:.1f} %) are needed"
        )
    rows = []
    for (layer, suite), part in chance.groupby(["layer", "suite"], sort=False):
        own = full.loc[part["sample"]]
        lost = 100 * (own["score"].to_numpy() - part["score"].to_numpy())
        pull = pd.Series((lost - lost.mean()) / len(lost)).groupby(own["picture"].to_numpy()).sum()
        rows.append({
            "layer": layer, "suite": suite, "n": len(part), "full": 100 * own["score"].mean(),
            "random": 100 * part["score"].mean(), "loss": lost.mean(), "stderr": error_of(pull),
            "speaks": bool(lost.mean() >= least),
        })  # fmt: skip
    return pd.DataFrame(rows).sort_values("layer", kind="stable", ignore_index=True)


@counted()
def averages(
    records: pd.DataFrame, suites: Sequence[Suite], speaking: Iterable[str]
) -> pd.DataFrame:
    """Avg of every cell over all suites, and over the speaking ones alone, in % of the full model.

    Columns: the cell, mean_tokens, all, all_stderr, speaking, speaking_stderr, n (questions of all
    suites). Without a speaking suite these two are empty: nothing is concluded there.
    """
    names = set(speaking)
    kept = ["value", "stderr"]
    every = normalised(records, suites)
    frame = every[[*naming(records), "mean_tokens", *kept, "n"]]
    frame = frame.rename(columns={"value": "all", "stderr": "all_stderr"})
    loud = [suite for suite in suites if suite.name in names]
    part = normalised(records, loud)[kept] if loud else pd.DataFrame(np.nan, every.index, kept)
    frame.insert(frame.columns.get_loc("n"), "speaking", part["value"])
    frame.insert(frame.columns.get_loc("n"), "speaking_stderr", part["stderr"])
    return frame


def averages_by_layer(records: pd.DataFrame, suites: Sequence[Suite]) -> pd.DataFrame:
    """`averages` for every layer of a cut, with the suites that say something at that layer.

    A column more: `loud`, how many suites say something there. The full model is left out.
    """
    says, frames = says_something(records), []
    for layer, part in says.groupby("layer"):
        loud = part.loc[part["speaks"], "suite"]
        mine = records[(records["layer"] == layer) | (records["method"] == FULL)]
        found = averages(mine, suites, loud)
        frames.append(found[found["method"] != FULL].assign(loud=len(loud)))
    frame = pd.concat(frames, ignore_index=True)
    return frame.fillna({"failed": 0}) if "failed" in frame else frame


def defaults(records: pd.DataFrame) -> pd.DataFrame:
    """The records of the full model and of every method as it is by default, at any layer."""
    return records[_default(records)]


def _default(records: pd.DataFrame) -> pd.Series:
    names = [name for name in records["method"].unique() if name != FULL]
    ranks = {name: find_method(name).params.get("rank") for name in names}
    usual = records["method"].map(ranks).astype("float64")
    same = (records["rank"] == usual) | (records["rank"].isna() & usual.isna())
    return (records["variant"] == "") & same


@counted()
def differences(
    records: pd.DataFrame, suites: Sequence[str], method: str = "qvid", seed: int = 0
) -> pd.DataFrame:
    """`method`, as it is by default, minus every other cell of the same budget, in accuracy points.

    records: at one layer; suites: names. As `statistics.paired` has it: the other cell, then the
    numbers; ValueError where a budget has no cell of the method with its defaults, or two.
    """
    asked = records[records["suite"].isin(list(suites)) & (records["method"] != FULL)]
    own = {"method": method, "variant": "", "rank": find_method(method).params.get("rank")}
    return paired(asked, own, by=budgets_of(asked), seed=seed)


def verdicts(joined: pd.DataFrame, pairs: pd.DataFrame, method: str = "qvid") -> pd.DataFrame:
    """Does `method` lead where the paper says so?  One row per other cell that the paper prints.

    joined: `beside` frames; pairs: `differences` of the same cells. paper and measured: its Avg
    minus the other's, in % of the full model; points, low, high: the paired difference; here: "same
    way", "other way", or "no difference" where the interval holds zero.
    """
    keys = ["method", "rank", "budget_pct"]
    lines = joined[joined["benchmark"].str.startswith(AVERAGE) & (joined["method"] != FULL)]
    if "paper_pct_of_full" in lines:
        lines = lines.drop(columns=["paper", "measured"], errors="ignore")
    lines = lines.rename(columns=lambda name: name.replace("_pct_of_full", ""))
    lines = lines.dropna(subset=["paper", "measured"]).drop_duplicates(keys)
    usual = find_method(method).params.get("rank")
    # In a table without ranks the method stands with its default one, unsaid.
    lead = (lines["method"] == method) & (lines["rank"].isna() | (lines["rank"] == usual))
    own = lines[lead].drop_duplicates("budget_pct").set_index("budget_pct")
    rows = lines[~lead].rename(columns={"keep_measured": "keep"})
    for side in ("paper", "measured"):
        rows = rows.assign(**{side: own[side].loc[rows["budget_pct"]].to_numpy() - rows[side]})
    ranks = rows["method"].map(lambda name: find_method(name).params.get("rank"))
    rows["rank"] = rows["rank"].fillna(ranks.astype("float64"))
    plain = pairs[pairs["variant"] == ""].rename(columns={"difference": "points"})
    plain = plain.astype({"rank": "float64", "keep": "Int64"})
    on = ["method", "rank", "keep"]
    if "retention_pct" in plain:  # of a row without a count; the tables' budgets have one decimal
        on.append("retention_pct")
        rows["retention_pct"] = rows["budget_pct"].where(rows["keep"].isna())
        plain["retention_pct"] = plain["retention_pct"].round(1)
    found = rows.merge(plain[[*on, "points", "low", "high"]], on=on)
    clear = (found["low"] > 0) | (found["high"] < 0)
    way = np.where(found["paper"] * found["points"] > 0, "same way", "other way")
    found["here"] = np.where(clear, way, "no difference")
    shown = [*on, "paper", "measured", "points", "low", "high", "here"]
    shown += [name for name in ("failed",) if name in found]
    return found[shown]


def agreement(live: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Whether a run on some questions agrees with the stored one on all of them, cell by cell.

    live, stored: accuracy in %, each on its own questions; bound: four standard errors over
    pictures of so few questions, as the stored run scatters, at least the weight of one question
    (some sixty cells are looked at, so two would be too few); within: |live - stored| <= bound;
    same: share of equal answers, in %, on the questions that both were asked. Cells that were not
    stored are left out.
    """
    live, stored = scored(live), scored(stored)
    names = [name for name in CELL if name in live or name in stored]
    live, stored = (
        frame.assign(**{name: np.nan for name in names if name not in frame})
        for frame in (live, stored)
    )
    keys = ["sample", *names]
    both = live.merge(stored[[*keys, "prediction"]], on=keys, suffixes=("", "_stored"))
    both["same"] = 100.0 * (both["prediction"] == both["prediction_stored"])
    known = {key_of(labels): part for labels, part in cells_in(stored)}
    rows = []
    for labels, part in cells_in(both):
        score = 100 * known[key_of(labels)]["score"]
        pictures = known[key_of(labels)]["picture"].to_numpy()
        error = error_of(((score - score.mean()) / len(score)).groupby(pictures).sum())
        value, n = 100 * part["score"].mean(), len(part)
        bound = max(4 * error * (len(score) / n) ** 0.5, 100 / n)
        rows.append(labels | {"n": n, "live": value, "stored": score.mean(), "bound": bound,
                              "same": part["same"].mean()})  # fmt: skip
    frame = pd.DataFrame(rows, columns=[*names, "n", "live", "stored", "bound", "same"])
    frame["within"] = (frame["live"] - frame["stored"]).abs() <= frame["bound"]
    return frame.astype({"keep": "Int64", "layer": "Int64", "rank": "float64"})
