"""The lmms-eval bridge over a stand-in of the harness's base class, as its 0.7.3 source has it."""

import sys
import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import twins
from PIL import Image

from qvid_utils.families import Unavailable
from qvid_utils.paths import ROOT
from qvid_utils.prune import pruned
from qvid_utils.workbook.harness import lmms_eval as bridge


class Base(ABC):
    """lmms_eval.api.model.lmms: what a model must have, and what it is given."""

    def __init__(self):
        self.task_dict, self.kept = {}, []
        self.cache_hook = SimpleNamespace(add_partial=lambda *args: self.kept.append(args))

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass
class Manifest:
    model_id: str
    chat_class_path: str


@pytest.fixture
def harness(monkeypatch):
    """lmms_eval as far as the bridge imports it."""
    for name, held in (("lmms_eval", {}), ("lmms_eval.api", {}), ("lmms_eval.models", {}),
                       ("lmms_eval.api.model", {"lmms": Base}),
                       ("lmms_eval.models.registry_v2", {"ModelManifest": Manifest})):  # fmt: skip
        module = ModuleType(name)
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, name, module)
    vars(bridge).pop("QViD", None)
    yield
    vars(bridge).pop("QViD", None)


TWIN = twins.twin("llava")


@pytest.fixture
def model(harness, monkeypatch):
    monkeypatch.setattr(bridge, "load", lambda name, **options: (TWIN, twins.PROCESSOR))
    return lambda **options: bridge.QViD(**options)


WORDS = ["what color is the star ?", "is the star blue ?", "which letter stands left ?"]


def requests(one, options=None, count=3):
    """As the harness makes them: (context, doc_to_messages, options, number, task, split)."""
    pictures = [Image.new("RGB", (24, 24), (80 * i, 90, 10)) for i in range(count)]
    one.task_dict = {"pope": {"test": [{"i": i} for i in range(count)]}}

    def messages(doc):
        shown = {"type": "image", "url": pictures[doc["i"]]}
        words = {"type": "text", "text": WORDS[doc["i"]] + twins.TAIL}
        return [{"role": "user", "content": [shown, words]}]

    options = {"max_new_tokens": 4, "temperature": 0} if options is None else options
    return [
        SimpleNamespace(args=(WORDS[i], messages, dict(options), i, "pope", "test"))
        for i in range(count)
    ]


def directly(one, number, keep=None, **options):
    """The answer of `generate` without the bridge."""
    asked = requests(one)[number].args
    (turn,) = asked[1]({"i": number})
    shown, words = turn["content"]
    inputs = twins.PROCESSOR.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": shown["url"]}, words]}],
        tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
    )  # fmt: skip

    def said():
        ids = TWIN.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return twins.PROCESSOR.batch_decode(new, skip_special_tokens=True)[0].strip()

    if keep is None:
        return said()
    with pruned(TWIN, "qvid", keep, **options):
        return said()


@pytest.mark.parametrize("batch", [1, 2])
def test_answers_are_those_of_the_model_in_the_order_asked(batch, model):
    one = model(batch_size=batch)
    assert one.generate_until(requests(one)) == [directly(one, i) for i in range(3)]
    assert len(one.kept) == 3 and one.kept[0][0] == "generate_until"


def test_method_keep_layer_and_parameters_reach_the_cut(model, monkeypatch):
    one = model(method="qvid", keep=4, layer=1, rank=2, batch_size=2)
    seen, real = [], bridge.pruned
    monkeypatch.setattr(bridge, "pruned", lambda *a, **o: seen.append((a[1:], o)) or real(*a, **o))
    wanted = [directly(one, i, 4, layer=1, rank=2) for i in range(3)]
    assert one.generate_until(requests(one)) == wanted
    assert seen == [(("qvid", 4), {"layer": 1, "rank": 2})] * 2


def test_a_share_is_of_each_prompts_tokens(model, monkeypatch):
    """16 visual tokens: 11.1 % of them are two, as asked by hand."""
    one = model(method="qvid", share=11.1, batch_size=2)
    seen, real = [], bridge.pruned
    monkeypatch.setattr(bridge, "pruned", lambda *a, **o: seen.append(a[2]) or real(*a, **o))
    wanted = [directly(one, i, 2) for i in range(3)]
    assert one.generate_until(requests(one)) == wanted
    assert sorted(seen) == [[2], [2, 2]]
    for given, says in [({"keep": 4, "share": 10}, "give one of them"), ({"share": 0}, "0, 100]"),
                        ({}, "or share in place of keep")]:  # fmt: skip
        with pytest.raises(ValueError, match=says):
            model(method="qvid", **given)


def test_a_failure_stops_the_run_with_its_question(model, monkeypatch):
    one = model(batch_size=1)

    def fails(**inputs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TWIN, "generate", fails)
    with pytest.raises(RuntimeError, match=r"generation failed on pope #1: out of memory"):
        one.generate_until(requests(one))
    assert one.kept == []


def test_options_are_the_tasks_own(model, monkeypatch):
    one, seen, real = model(), [], TWIN.generate
    monkeypatch.setattr(
        TWIN, "generate", lambda **o: seen.append(o) or real(**(o | {"max_new_tokens": 1}))
    )
    one.generate_until(requests(one, {"until": ["ASSISTANT:"]}, 1))
    one.generate_until(requests(one, {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 3}, 1))
    first, second = ({k: o.get(k) for k in ("max_new_tokens", "do_sample", "top_p")} for o in seen)
    assert first == {"max_new_tokens": 1024, "do_sample": False, "top_p": None}
    assert second == {"max_new_tokens": 3, "do_sample": True, "top_p": 0.9}


def test_requests_of_other_options_are_not_batched(model):
    one = model(batch_size=8)
    asked = requests(one)
    asked[1].args[2]["max_new_tokens"] = 2
    assert sorted(map(sorted, one._batches(asked))) == [[0, 2], [1]]


def test_an_answer_ends_at_a_stop_word():
    assert bridge._cut(" red ASSISTANT: blue", ["", "ASSISTANT:"]) == "red"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "qvid"}, "give both to prune"),
        ({"keep": 4}, "give both to prune"),
        ({"layer": 1}, "the full model has neither"),
        ({"method": "qvid", "keep": 4, "rnak": 2}, "rnak"),
        ({"method": "qivd", "keep": 4}, "qivd"),
        ({"batch_size": "auto"}, "batch_size='auto': a whole number"),
    ],
)
def test_wrong_arguments_stop_before_the_model_is_loaded(options, says, model, monkeypatch):
    monkeypatch.setattr(bridge, "load", lambda *a, **o: pytest.fail("the model was loaded"))
    with pytest.raises((ValueError, TypeError), match=says):
        model(**options)


def test_several_processes_are_refused(model, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Unavailable, match="the bridge runs in one process"):
        model()


def test_what_is_not_offered_says_so(model):
    one = model()
    for ask in (one.loglikelihood, one.generate_until_multi_round):
        with pytest.raises(ValueError, match="are not"):
            ask([])
    with pytest.raises(ValueError, match="LLaVA-1.5 takes no video"):
        one._part({"type": "video", "url": "x"})
    with pytest.raises(ValueError, match="a audio is neither"):
        one._part({"type": "audio", "url": "x"})


def test_the_entry_point_leads_to_the_class(harness):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["lmms_eval.models"] == {
        "qvid": "qvid_utils.workbook.harness.lmms_eval:manifest"
    }
    found = bridge.manifest()
    module, name = found.chat_class_path.rsplit(".", 1)
    made = getattr(sys.modules[module], name)
    assert found.model_id == "qvid" and issubclass(made, Base) and made.is_simple is False


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    vars(bridge).pop("QViD", None)
    with pytest.raises(Unavailable, match=r"pip install 'qvid-workbook\[lmms\]'"):
        _ = bridge.QViD
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = bridge.Other
