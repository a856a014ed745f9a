"""Memory counted: what is alive at once, not what was ever made."""

import pytest
import torch

from qvid_utils.workbook.cost.memory import held, score_bytes


def test_the_peak_is_of_what_lives_at_once():
    """4,000 and 2,000 bytes live together; the first is gone when 3,200 more come."""

    def task():
        a = torch.zeros(1000)
        b = torch.zeros(500)
        view = b[10:]  # no bytes of its own
        del a
        c = torch.zeros(800)
        return b, c, view

    assert held(task) == 6000


def test_what_was_there_before_does_not_count():
    before = torch.zeros(10_000)
    assert held(lambda: before.add_(1)) == 0
    assert held(lambda: before.view(100, 100).sum(0)) == 400


def test_other_threads_are_not_missed():
    """32 heads of this size are shared out among torch's threads, where nobody would count them."""
    threads, counted = torch.get_num_threads(), {}
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            counted[number] = score_bytes(32, 40, 2000)
            assert torch.get_num_threads() == number
        with pytest.raises(ZeroDivisionError):
            held(lambda: 1 / 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert counted[1] == counted[2] > 8 * 32 * 2000  # the scores alone


def test_the_score_needs_no_square_of_the_tokens():
    """Twice the tokens at most twice the bytes, and fewer than M has."""
    sizes = {n: score_bytes(4, 20, n) for n in (4000, 8000, 16_000)}
    assert sizes[8000] <= 2.05 * sizes[4000] and sizes[16_000] <= 2.05 * sizes[8000]
    assert sizes[16_000] < 1.05 * 4 * 4 * 20 * 16_000
