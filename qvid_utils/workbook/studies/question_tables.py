"""Tables of `question`: where a suite can tell, the control, recall, and what was tuned."""

from collections.abc import Sequence
from itertools import product

import pandas as pd

from ..tables.statistics import cells, holm, paired_bootstrap, points
from .question import BLIND, CLEAR, KEEP, PRIMARY, TUNED


def answers_of(records: pd.DataFrame, rule: str, source: str = "own", keep: int | None = KEEP):
    """The answers of one cell, by sample: model, setting, part, suite, kind, picture, score,
    recall; a question that two stages asked counts once."""
    some = records[
        (records["rule"] == rule) & (records["source"] == ("" if rule in _SEES_NONE else source))
    ]
    if keep is not None:
        some = some[some["keep"] == keep]
    by = ["model", "setting", "part", "suite", "kind", "picture", "sample"]
    found = some.astype(dict.fromkeys(by, str)).groupby(by, sort=False)[["right", "recall"]].mean()
    return found.reset_index().rename(columns={"right": "score"}).set_index("sample")


SHOWN = ("a", "b", "difference", "low", "high", "p", "n", "pictures")
_SEES_NONE = (*BLIND, "named", "full")


def accuracy(records: pd.DataFrame, keep: int, wanted: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Accuracy in % of some cells at one budget, a row each, a column a model; `full` first."""
    rows = {"full": answers_of(records, "full", keep=None).groupby("model")["score"].mean()}
    for rule, source in wanted:
        name = rule if source in ("", "own") else f"{rule}, {source}"
        rows[name] = answers_of(records, rule, source, keep).groupby("model")["score"].mean()
    return (100 * pd.DataFrame(rows).T).rename_axis("scored by")


def recalls(records: pd.DataFrame, keep: int, wanted: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The mean share of the named things' tokens that is kept, in %, as `accuracy` is."""
    rows = {}
    for rule, source in wanted:
        name = rule if source in ("", "own") else f"{rule}, {source}"
        rows[name] = answers_of(records, rule, source, keep).groupby("model")["recall"].mean()
    return pd.DataFrame(rows).T.rename_axis("scored by")


def can_tell(records: pd.DataFrame) -> pd.DataFrame:
    """Where a suite can tell: a row for each model, suite and budget of the deciding part, and for
    all suites of a setting together.

    full, named (accuracy in %), blind (the best row that sees no question) and its accuracy,
    difference (named minus it) with its 95 % interval over pictures, n, tells (low >= CLEAR).
    """
    decided = records[records["part"] == "deciding"]
    full = answers_of(decided, "full", keep=None)
    rows = []
    for keep in sorted(decided["keep"].dropna().unique(), reverse=True):
        sides = {rule: answers_of(decided, rule, keep=keep) for rule in ("named", *BLIND)}
        parts = [
            *cells(sides["named"], ["model", "suite"]),
            *cells(sides["named"], ["model", "setting"]),
        ]
        for labels, named in parts:
            model, name = labels.values()
            here = {rule: side[side["model"].eq(model)].loc[named.index]["score"]
                    for rule, side in sides.items()}  # fmt: skip
            best = max(BLIND, key=lambda rule: here[rule].mean())
            found, low, high, _ = paired_bootstrap(
                100 * here["named"], 100 * here[best], named["picture"].to_numpy()
            )
            whole = full[full["model"].eq(model)].loc[named.index]["score"].mean()
            rows.append({
                "model": model, "suite": name.removesuffix("_deciding"),
                "keep": int(keep), "n": len(named),
                "full": 100 * whole, "named": 100 * here["named"].mean(), "blind": best,
                "its": 100 * here[best].mean(), "difference": found, "low": low, "high": high,
                "tells": low >= CLEAR,
            })  # fmt: skip
    return pd.DataFrame(rows)


def differences(
    records: pd.DataFrame, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
    keeps: Sequence[int] = (KEEP,), by: str = "model",
) -> pd.DataFrame:  # fmt: skip
    """One cell minus another on the same questions, in points, for each model and budget.

    pairs: of (rule, source). a, b (accuracy in %), difference, low, high (95 %, over pictures), p,
    and `holm`: p corrected for all rows of this table.
    """
    rows = []
    for keep, (first, second) in product(keeps, pairs):
        a, b = (answers_of(records, *cell, keep=keep) for cell in (first, second))
        for name in a[by].unique():
            mine, theirs = a[a[by].eq(name)], b[b[by].eq(name)]
            if not len(theirs) or set(mine.index) != set(theirs.index):
                raise ValueError(f"{first} and {second} at {keep} tokens: not asked the same")
            found = points(mine, theirs.loc[mine.index])
            told = {"keep": keep, "scored by": ", ".join(filter(None, first))}
            told |= {"minus": ", ".join(filter(None, second)), by: name}
            rows.append(told | {name: found[name] for name in SHOWN})
    frame = pd.DataFrame(rows)
    return frame.assign(holm=holm(frame["p"]))


def control(records: pd.DataFrame) -> pd.DataFrame:
    """The primary question's table: own question minus swap, reported part, crowded, keep 8."""
    some = records.query("part == 'reported' and setting == 'crowded'")
    return differences(some, [((rule, "own"), (rule, "swap")) for rule in PRIMARY])


def chosen(records: pd.DataFrame) -> pd.DataFrame:
    """The best of each family of scores on the deciding part, crowded, 8 tokens: mean accuracy over
    the models. Columns family, rule, accuracy, tried (all four of them)."""
    some = records.query("part == 'deciding' and setting == 'crowded' and keep == @KEEP")
    mean = some.groupby(["rule", "model"], observed=True)["right"].mean()
    mean = 100 * mean.groupby("rule").mean()
    rows = []
    for family, rules in TUNED.items():
        best = max(rules, key=mean.__getitem__)
        tried = ", ".join(f"{rule.rpartition(' ')[2]}: {mean[rule]:.1f}" for rule in rules)
        rows.append({"family": family, "rule": best, "accuracy": mean[best], "tried": tried})
    return pd.DataFrame(rows)


def tuned_by_halves(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each family's best value on the even pictures of the deciding part, reported on the odd ones.

    The first frame is `chosen`'s with `held_out`, the chosen one's accuracy on the other half; the
    second ridge's minus the other families' and minus rank 16 and 4 as they are, paired, the four
    models together, in points: keep 8.
    """
    some = records.query("part == 'deciding' and setting == 'crowded'")
    even = some["picture"].astype(int) % 2 == 0
    found, rest = chosen(some[even]), some[~even].astype({"sample": str})
    rest = rest.assign(sample=rest["model"].astype(str) + rest["sample"], all="all models")
    held = {rule: answers_of(rest, rule) for rule in {*found["rule"], "qvid 16", "qvid 4"}}
    found["held_out"] = [
        100 * held[rule].groupby("model")["score"].mean().mean() for rule in found["rule"]
    ]
    ours = found.set_index("family")["rule"]["ridge"]
    others = [rule for rule in dict.fromkeys([*found["rule"], "qvid 16", "qvid 4"]) if rule != ours]
    rows = [{"ridge": ours, "minus": rule} | points(_apart(held[ours]), _apart(held[rule]))
            for rule in others]  # fmt: skip
    gaps = pd.DataFrame(rows)[["ridge", "minus", *SHOWN]]
    return found, gaps.assign(holm=holm(gaps["p"]))


def _apart(answers: pd.DataFrame) -> pd.DataFrame:
    # a picture that two models are asked about stays one picture
    return answers.assign(picture=answers["suite"].str.endswith("mvbench_deciding").map(str)
                          + answers["picture"]).sort_index()  # fmt: skip


def about_questions(records: pd.DataFrame) -> pd.DataFrame:
    """N_q, rank(M) and r_eff ÷ rank(M) of rank 16, means by model and suite."""
    full = records[records["rule"].eq("full") & records["part"].eq("reported")]
    by = ["model", "suite"]
    found = full.groupby(by, observed=True)[["n_query", "modes", "used"]].mean()
    names = {"n_query": "N_q", "modes": "rank(M)", "used": "r_eff / rank(M) at rank 16"}
    return found.rename(columns=names).reset_index()
