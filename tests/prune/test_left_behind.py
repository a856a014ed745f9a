"""Interrupts at any moment, copies and threads: nothing is left behind, and nothing leaks out."""

import asyncio
import contextvars
import copy
import gc
import sys
import threading
from dataclasses import replace

import pytest
import torch
from twins import DOTS, STAR, TALK, ask, built, twin

from qvid_utils.algebra.selection import top_k
from qvid_utils.families.calls import pictures_once
from qvid_utils.methods import METHODS
from qvid_utils.prune import pruned
from qvid_utils.workbook.run.shared_layers import layers_once

KEEP = 7
WAYS = {
    "in the language model": "qvid",
    "looks at the tower": "fastervlm",
    "in the tower": "tome",
}
ways = pytest.mark.parametrize("name", WAYS.values(), ids=WAYS)


def hung(model):
    """All hooks, and all attributes of instances, of a model."""
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    rest = [
        len(m._forward_pre_hooks_with_kwargs)
        + len(m._forward_hooks_with_kwargs)
        + len(m._forward_hooks_always_called)
        for m in model.modules()
    ]
    return sum(hooks), sum(rest), [sorted(vars(m)) for m in model.modules()]


# ----------------------------------------------------------------------------------- interrupts


class Interrupt:
    """Raises KeyboardInterrupt at the nth line that runs in the package or in contextlib."""

    def __init__(self, nth):
        self.left, self.nth = nth, nth

    def __enter__(self):
        sys.settrace(self.called)
        return self

    def __exit__(self, *error):
        sys.settrace(None)

    def called(self, frame, event, arg):
        file = frame.f_code.co_filename
        return self.line if "qvid_utils" in file or file.endswith("contextlib.py") else None

    def line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.line


def entered_and_left(model, name, nth):
    """Whether a block was interrupted at its nth line."""
    try:
        with Interrupt(nth) as clock, pruned(model, name, KEEP):
            pass
    except KeyboardInterrupt:
        return True
    return clock.left <= 0


@ways
@pytest.mark.filterwarnings("ignore:no call with pictures")
def test_an_interrupt_at_any_line_of_entering_and_leaving_leaves_nothing(name):
    """Every 23rd line, from another start for each way; all of them were tried once."""
    model, inputs = twin(), ask(STAR)
    plain, before, lines = model(**inputs).logits, hung(model), 0
    gc.disable()  # what only the collector would free counts as left behind
    try:
        for nth in range(1 + len(name) % 23, 10**5, 23):
            stopped = entered_and_left(model, name, nth)
            assert hung(model) == before, nth
            if not stopped:
                break
            lines = nth
    finally:
        gc.enable()
    assert lines > 1000
    assert torch.equal(model(**inputs).logits, plain)
    with pruned(model, "qvid", KEEP) as trace:
        model(**inputs)
    assert len(trace.cuts) == 1


# --------------------------------------------------------------------------------------- copies


@ways
@pytest.mark.parametrize("whole", [True, False], ids=["model", "part"])
def test_a_copy_made_in_a_block_is_a_plain_model(name, whole):
    model, inputs = twin(), ask(STAR)
    own = model.register_forward_hook(lambda *_: None)
    plain, before = model(**inputs).logits, hung(model)
    with pruned(model, name, KEEP) as trace:
        pruned_logits, inside = model(**inputs).logits, hung(model)
        other = copy.deepcopy(model if whole else model.base_model)
        assert hung(model) == inside
        with torch.no_grad():  # the copy has weights of its own
            for parameter in other.parameters():
                parameter.mul_(1.5)
        assert torch.equal(model(**inputs).logits, pruned_logits)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.div_(1.5)
        if whole:
            assert hung(other) == before
            near = other(**inputs).logits - plain
            assert other(**inputs).logits.shape == plain.shape and near.abs().max() < 1e-3
            assert "generate" not in vars(other)
    assert hung(model) == before and len(trace.cuts) == 2
    own.remove()


def test_a_copy_made_under_other_blocks_is_a_plain_model():
    model, inputs = twin(), ask(STAR)
    model(**inputs)
    before = hung(model)
    with pictures_once(model), layers_once(model):
        model(**inputs)
        other = copy.deepcopy(model)
        assert hung(other) == before
    assert hung(model) == before


# -------------------------------------------------------------------------------------- threads


def in_thread(function, carry=False):
    """What a function returns, or the error that it ends in, in a thread of its own."""
    found = []

    def work():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    target = contextvars.copy_context().run if carry else (lambda call: call())
    thread = threading.Thread(target=target, args=(work,))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_that_opened_no_block_is_refused_by_name():
    model, inputs = built(), ask(STAR)
    plain = model(**inputs).logits
    with pruned(model, "qvid", KEEP) as trace:
        said = in_thread(lambda: model(**inputs))
        assert isinstance(said, RuntimeError) and "this thread has not opened" in str(said)
        said = in_thread(lambda: model(**ask(TALK)))  # text alone, too: it might go on with a cache
        assert isinstance(said, RuntimeError) and "\n" not in str(said)
        mine = model(**inputs).logits
    assert mine.shape != plain.shape and len(trace.cuts) == 1
    assert torch.equal(in_thread(lambda: model(**inputs).logits), plain)


def test_a_thread_that_carries_the_block_is_inside_it():
    model, inputs = built(), ask(STAR)
    with pruned(model, "qvid", KEEP) as trace:
        here = model(**inputs).logits
        there = in_thread(lambda: model(**inputs).logits, carry=True)

        async def elsewhere():
            return await asyncio.to_thread(lambda: model(**inputs).logits)

        assert torch.equal(there, here) and torch.equal(asyncio.run(elsewhere()), here)
    assert [c.kept.tolist() for c in trace.cuts] == [trace.cuts[0].kept.tolist()] * 3


def test_two_calls_at_once_are_refused_and_the_first_one_is_right():
    model, inputs, said = built(), ask(DOTS), []

    def select(scores, keep):
        if threading.current_thread() is threading.main_thread() and not said:
            said.append(in_thread(lambda: model(**inputs), carry=True))
        return top_k(scores, keep)

    with pruned(model, "qvid", KEEP) as alone:
        expected = model(**inputs).logits
    with pruned(model, replace(METHODS["qvid"], select=select), KEEP) as trace:
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(model(**inputs).logits, expected)
    assert len(said) == 1 and "two threads ask a model" in str(said[0])
    assert [c.kept.tolist() for c in trace.cuts] == [alone.cuts[0].kept.tolist()] * 2


def test_each_thread_may_open_its_own_block_in_turn():
    model, inputs = built(), ask(STAR)

    def work():
        with pruned(model, "qvid", KEEP) as trace:
            model(**inputs)
        return trace.cuts[0].kept.tolist()

    assert in_thread(work) == in_thread(work) == work()
    with pruned(model, "qvid", KEEP):
        said = in_thread(work)
        model(**inputs)
    assert isinstance(said, RuntimeError) and "do not nest" in str(said)


def test_a_call_that_failed_lets_the_next_thread_in():
    model, inputs = built(), ask(STAR)
    broken = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], torch.nan)}
    with pruned(model, "qvid", KEEP) as trace:
        assert isinstance(in_thread(lambda: model(**broken), carry=True), ValueError)
        model(**inputs)
    assert len(trace.cuts) == 1
