"""start(): repeatable, and one clear sentence for a wrong argument."""

import importlib

import matplotlib
import pytest
import torch

from qvid_utils import startup
from qvid_utils.workbook import plots


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    with matplotlib.rc_context():
        yield
    torch.set_num_threads(threads)


def test_the_same_seed_gives_the_same_numbers():
    first = torch.rand(3, generator=startup.start(5)), torch.rand(3)
    again = torch.rand(3, generator=startup.start(5)), torch.rand(3)
    other = torch.rand(3, generator=startup.start(6)), torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_threads_are_the_same_everywhere_unless_asked():
    startup.start()
    assert torch.get_num_threads() == startup.THREADS
    startup.start(threads=1)
    assert torch.get_num_threads() == 1


def test_figure_style_is_set_where_figures_are_drawn():
    importlib.reload(plots)
    assert {key: matplotlib.rcParams[key] for key in ("savefig.dpi", "legend.frameon")} == {
        "savefig.dpi": startup.STYLE["savefig.dpi"],
        "legend.frameon": False,
    }


def test_loading_bars_are_off(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    startup.start()
    assert not transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 1.5}, {"seed": True}, {"threads": 0}])
def test_wrong_arguments_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        startup.start(**wrong)
