"""Methods are data: every entry complete, overrides honoured, mistakes named."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qvid_utils.algebra.cuts import at, mean_tokens
from qvid_utils.algebra.selection import top_k
from qvid_utils.methods import METHODS, RULES, Method, method, rule
from qvid_utils.methods.base import Methods
from qvid_utils.methods.sparsevlm import Recycle

rules = SimpleNamespace(**RULES)
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_an_entry_is_complete(name):
    entry = METHODS[name]
    assert entry.name == name and entry.source and entry.label and entry.schedule.source
    assert RULES[entry.rule.name] is entry.rule and set(entry.params) == set(entry.rule.params)


def test_labels_differ():
    assert len({entry.label for entry in METHODS.values()}) == len(METHODS)


@every_method
def test_the_description_is_one_line_that_names_rule_and_source(name):
    entry = METHODS[name]
    line = entry.describe()
    assert "\n" not in line and entry.rule.name in line and entry.source in line
    spanned = {"interaction", "clip_text"} & set(entry.rule.sees)
    assert (f"query {entry.query}" in line) == bool(spanned)


@every_method
@pytest.mark.parametrize("keep", [48, 32, 16])
def test_a_method_cuts_the_embedded_model_to_its_budget(name, keep):
    cuts = METHODS[name].schedule(keep, 144, 12)
    if len(cuts) == 1:
        door = METHODS[name].schedule.depth == 0  # before the language model
        assert (cuts[0].layer, cuts[0].keep) == (0 if door else 1, keep)
    else:
        assert abs(mean_tokens(cuts, 144, 12) - keep) < 0.5


def test_the_methods_of_the_papers():
    assert METHODS["qvid"].params == {"rank": 16} and not METHODS["qvid"].rope
    assert METHODS["qvid_rope"].rope and METHODS["qvid_rope"].rule is rules.qvid
    assert METHODS["fastv"].rule is rules.previous_attention
    assert METHODS["fastv"].schedule(64, 576, 32)[0].layer == 2
    assert METHODS["v2drop"].rule is METHODS["variation"].rule is rules.variation
    assert len(METHODS["v2drop"].schedule(64, 576, 32)) == 3
    assert METHODS["sigma_weighted"].params == {"rank": None}


def test_in_a_notebook_the_methods_are_a_table():
    page = METHODS._repr_html_()
    assert page.count("<tr>") == len(METHODS) + 1 and page.count("<td>") == 4 * len(METHODS)
    assert (
        "<tr><td>FastV</td><td><code>fastv</code></td><td>"
        '<a href="https://arxiv.org/abs/2403.06764">ECCV 2024</a></td><td>layer 2 of 32</td></tr>'
    ) in page
    own = Methods(a=dataclasses.replace(METHODS["qvid"], label="a < b", schedule=lambda *_: ()))
    assert "a &lt; b" in own._repr_html_()


def test_overrides_make_a_new_method():
    made = method("qvid", rank=8, query="content", positions="contiguous", reading="two_pass")
    assert (made.params, made.query, made.positions) == ({"rank": 8}, "content", "contiguous")
    assert made.reading == "two_pass" and made.name == "qvid" and made.label == "QViD"
    assert METHODS["qvid"].params == {"rank": 16} and METHODS["qvid"].query == "question"
    assert method(made, rope=True).params == {"rank": 8}
    assert method("qvid", schedule=at(5)).schedule(9, 99, 32)[0].layer == 5


def test_a_method_or_a_rule_may_stand_for_its_name():
    assert method("qvid") is METHODS["qvid"] is method(METHODS["qvid"])
    assert method(rules.previous_attention).rule is rules.previous_attention
    assert method("previous_attention").schedule == at(3)


def test_a_new_rule_is_a_method_at_once():
    @rule(source="a test")
    def brand_new(hidden, *, power=2):
        return hidden.norm(dim=-1) ** power

    try:
        made = method("brand_new", power=3)
        assert (made.rule, made.params, made.select) == (brand_new, {"power": 3}, top_k)
        assert made.source == "a test" and made.label == "brand_new"
    finally:
        del RULES["brand_new"]


def test_methods_and_params_cannot_be_shared_by_accident():
    given = {"rank": 4}
    made = Method("mine", rules.qvid, params=given)
    given["rank"] = 9
    assert made.params == {"rank": 4}
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.rope = True
    assert made != Method("mine", rules.qvid, query=torch.ones(4, dtype=torch.bool))


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, near", [("qvdi", "qvid"), ("fast_v", "fastv"), ("strid", "stride")]
)
def test_an_unknown_name_raises_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"unknown method {wrong!r}: did you mean .*{near}"):
        method(wrong)


def test_a_name_like_no_other_raises_with_all():
    with pytest.raises(ValueError, match="'zzz': known are alike, .*column_norm, .*v2drop"):
        method("zzz")


@pytest.mark.parametrize("wrong", [3, None, rules, top_k])
def test_what_is_no_name_is_refused(wrong):
    with pytest.raises(TypeError, match="give a method's name, a Method or a Rule"):
        method(wrong)


@pytest.mark.parametrize("wrong", ["rnk", "layer", "keep", "params", "name", "seed"])
def test_an_unknown_override_raises_with_those_allowed(wrong):
    message = f"takes no {wrong}=3; parameters of its rule: rank; .*fields of every method: sched"
    with pytest.raises(ValueError, match=message):
        method("qvid", **{wrong: 3})
    with pytest.raises(ValueError, match="takes no rank=3; parameters of its rule: none"):
        method("fastv", rank=3)


@pytest.mark.parametrize(
    "override, message",
    [
        ({"query": "words"}, "query='words': allowed are question, content, prompt or a bool"),
        ({"query": None}, "query=None: allowed are question"),
        ({"query": torch.ones(4)}, "a mask must be bool .* got torch.float32"),
        ({"query": torch.ones(1, 1, 4, dtype=torch.bool)}, r"got torch.bool of shape \(1, 1, 4\)"),
        ({"positions": "old"}, "positions='old': allowed are original, contiguous, contiguous_on"),
        ({"reading": "once"}, "reading='once': allowed are in_place, two_pass$"),
        ({"rank": 0}, "rank=0: give a number of modes"),
        ({"rank": 1.0}, "rank=1.0: give a number of modes"),
    ],
)
def test_a_bad_value_raises_with_what_is_allowed(override, message):
    with pytest.raises(ValueError, match=message):
        method("qvid", **override)


@pytest.mark.parametrize(
    "override, message",
    [
        ({"rope": "yes"}, "rope='yes': give True or False"),
        ({"schedule": 3}, "schedule must be callable"),
        ({"select": "top_k"}, "select must be callable"),
        ({"rank": None}, "rank=None: give a number of modes"),
    ],
)
def test_a_bad_type_raises_with_what_is_allowed(override, message):
    with pytest.raises(TypeError, match=message):
        method("qvid", **override)


@pytest.mark.parametrize(
    "name, option, kind, message",
    [
        ("sparsevlm", {"size": 0}, ValueError, "size=0: give a whole number, 1 or more"),
        ("sparsevlm", {"size": 2.5}, TypeError, "size=2.5: give a whole number, 1 or more"),
        ("sparsevlm", {"part": 2.0}, ValueError, "part=2.0: give a number, 0 or more, below 1"),
        ("sparsevlm", {"part": 1}, ValueError, "part=1: give a number, 0 or more, below 1"),
        ("sparsevlm", {"part": float("nan")}, ValueError, "part=nan: give a number"),
        ("sparsevlm", {"in_place": "no"}, TypeError, "in_place='no': give True or False"),
        ("holov", {"chunks": 2.5}, TypeError, "chunks=2.5: give a whole number, 1 or more"),
        ("holov", {"alpha": -1}, ValueError, "alpha=-1: give a number, 0 or more"),
        ("vispruner", {"step": 1.5}, TypeError, "step=1.5: give a whole number, 1 or more"),
        ("vispruner", {"important": 1.1}, ValueError, "important=1.1: give a number, 0 to 1"),
        ("dart", {"text_pivots": "a"}, TypeError, "text_pivots='a': give a whole number, 0 or"),
        ("dart", {"visual_pivots": True}, TypeError, "visual_pivots=True: give a whole number, 1"),
        ("hired", {"official_counts": "yes"}, TypeError, "official_counts='yes': give True or"),
        ("hired", {"official_counts": 1}, TypeError, "official_counts=1: give True or False"),
        ("visionzip", {"part": 1.0}, ValueError, "part=1.0: give a number, 0 or more, below 1"),
        ("prumerge", {"neighbours": -1}, ValueError, "neighbours=-1: give a whole number, 0 or"),
        ("svd_prune", {"center": "yes"}, TypeError, "center='yes': give True or False"),
        ("svd_prune", {"tau": "0.9"}, TypeError, "tau='0.9': give a number, such as 0.9"),
        ("sparsevlm_plus", {"heads": "all"}, TypeError, "heads='all': give a number, such as 14"),
        ("trim", {"sign": True}, TypeError, "sign=True: give a number, such as -1"),
        ("qvid", {"name": "abc"}, ValueError, "method 'qvid' takes no name='abc'"),
    ],
)
def test_an_option_of_another_kind_is_refused_before_anything_runs(name, option, kind, message):
    with pytest.raises(kind, match=message):
        method(name, **option)


def test_numpy_numbers_and_masks_are_plain_ones():
    made = method("sparsevlm", size=np.int64(5), part=np.float32(0.5), in_place=np.bool_(True))
    assert made.select == Recycle(0.5, 5, True) and type(made.select.size) is int
    assert method("qvid", rank=np.int64(8)).params == {"rank": 8}
    mask = np.array([True, False])
    assert torch.equal(method("qvid", query=mask).query, torch.tensor([True, False]))
    with pytest.raises(ValueError, match="a mask must be bool .* got torch.int64"):
        method("qvid", query=np.array([1, 0]))


def test_the_nearest_name_is_found_whatever_the_case():
    with pytest.raises(ValueError, match="unknown method 'QViD': did you mean qvid"):
        method("QViD")


def test_rope_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="rope=True: rule 'variation' sees hidden, previous, and"):
        method("v2drop", rope=True)


def test_a_method_needs_a_rule_and_its_parameters():
    with pytest.raises(TypeError, match="rule='qvid' is no Rule"):
        Method("mine", "qvid")
    with pytest.raises(ValueError, match="rule 'qvid' takes no power; it takes rank"):
        Method("mine", rules.qvid, params={"power": 2})
    with pytest.raises(ValueError, match="takes no rank; it takes no parameters"):
        Method("mine", rules.variation, params={"rank": 2})
