"""Every planned cut is made once, with its number of tokens, or the call raises one sentence."""

import contextvars
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from twins import STAR, TALK, ask, built, language, twin

from qvid_utils.algebra.selection import Kept, top_k
from qvid_utils.methods import METHODS
from qvid_utils.prune import pruned

KEEP = 7


def compiled_parts():
    def in_place(address):
        return lambda model: model.get_submodule(address).compile(backend="eager")

    def wrapped(address):
        def wrap(model):
            above, _, name = address.rpartition(".")
            part = torch.compile(model.get_submodule(address), backend="eager")
            setattr(model.get_submodule(above), name, part)

        return wrap

    return {
        "model.language_model is compiled in place": in_place("model.language_model"),
        "model.language_model is wrapped by torch.compile": wrapped("model.language_model"),
        "model.language_model.layers.3 is compiled": in_place("model.language_model.layers.3"),
        "model.language_model.layers.3 is wrapped": wrapped("model.language_model.layers.3"),
        "model.model is compiled in place": in_place("model"),
    }


@pytest.mark.parametrize("match", compiled_parts())
def test_a_compiled_part_is_refused_by_name(match):
    model = twin()
    compiled_parts()[match](model)
    with pytest.raises(ValueError, match=match) as caught, pruned(model, "qvid", KEEP):
        pass
    assert "\n" not in str(caught.value)


def test_a_compiled_model_is_refused_and_its_tower_only_where_it_is_looked_at():
    model, inputs = twin(), ask(STAR)
    with (
        pytest.raises(ValueError, match="model is wrapped by torch.compile"),
        pruned(torch.compile(model, backend="eager"), "qvid", KEEP),
    ):
        pass
    model.base_model.vision_tower.compile(backend="eager")
    model(**inputs)
    with pruned(model, "qvid", KEEP) as trace:
        model(**inputs)
    assert len(trace.cuts) == 1
    for name in ("fastervlm", "tome"):
        with (
            pytest.raises(ValueError, match=r"model\.model\.vision_tower is compiled in place"),
            pruned(model, name, KEEP),
        ):
            pass


@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_is_not_entered_once_ends_the_call(monkeypatch, times):
    """What a stale graph does: the layer runs, and its hooks do not."""
    model, inputs = twin(), ask(STAR)
    text = language(model)
    if times:
        last, whole, given = text.layers[7], text.norm.forward, {}
        last.register_forward_pre_hook(lambda _, a, k: given.update(k), with_kwargs=True)
        monkeypatch.setattr(text.norm, "forward", lambda x: whole(last(x, **given)))
    else:
        text.layers[5] = _Blind(text.layers[5])
    with (
        pruned(model, "qvid", KEEP, layer=5),
        pytest.raises(RuntimeError, match="of 8 decoder layers"),
    ):
        model(**inputs)


class _Blind(torch.nn.Module):
    """A layer whose call goes past every hook."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def __call__(self, *args, **kwargs):
        return self.layer.forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ([0, 1, 2], "kept 3 tokens where 7 were planned"),
        ([0, 1, 2, 3, 3, 4, 5], "give each once, ascending"),
        ([1, 0, 2, 3, 4, 5, 6], "give each once, ascending"),
        ([0, 1, 2, 3, 4, 5, 16], "from 0 to 15"),
    ],
)
def test_a_selection_keeps_what_was_planned(index, match):
    method = replace(METHODS["qvid"], select=lambda scores, keep: Kept(torch.tensor(index)))
    with pruned(built(), method, KEEP), pytest.raises(RuntimeError, match=match):
        built()(**ask(STAR))


def test_a_selection_that_says_so_has_a_count_of_its_own():
    def select(scores, keep):
        return top_k(scores, keep - 2)

    select.own_counts = True
    with pruned(built(), replace(METHODS["qvid"], select=select), KEEP, layer=2) as trace:
        built()(**ask(STAR))
    assert len(trace.cuts[0].kept) == KEEP - 2
    assert trace.mean_tokens == [(2 * 16 + 6 * (KEEP - 2)) / 8]


def test_a_block_without_a_picture_warns_once():
    model, other = built(), built(seed=1)
    for ask_something in (lambda: None, lambda: model(**ask(TALK)), lambda: other(**ask(STAR))):
        with (
            pytest.warns(UserWarning, match="no call with pictures has reached") as seen,
            pruned(model, "qvid", KEEP),
        ):
            ask_something()
        assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pruned(model, "qvid", KEEP):
            model(**ask(TALK))
            model(**ask(STAR))


def test_a_block_left_while_a_thread_generates_is_refused_there_and_here():
    model, inputs, failed = twin(), ask(STAR), []
    first, go_on = threading.Event(), threading.Event()

    def wait(ids, scores, **_):
        first.set()
        go_on.wait(10)
        return torch.zeros(len(ids), dtype=torch.bool)

    def work():
        try:
            model.generate(**inputs, max_new_tokens=4, stopping_criteria=[wait])
        except RuntimeError as said:
            failed.append(str(said))

    with (
        pytest.raises(RuntimeError, match="generate was running in another thread"),
        pruned(model, "qvid", KEEP),
    ):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        assert first.wait(10)
    go_on.set()
    thread.join()
    assert len(failed) == 1 and "was left while generate was running" in failed[0]
    assert "generate" not in vars(model)
