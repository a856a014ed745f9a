"""What every test gets: one thread, a seeded generator, no network. Model fixtures at the end."""

import os
import socket

# Before the first import of a model library, which reads these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import pairwise
import pytest
import torch

LOCAL = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}

# Both are set per test, below; a session fixture that is set up meanwhile is under the same rule.
_network_allowed = False


class NetworkRefused(RuntimeError):
    """A test that is not marked `full` tried to reach another machine."""


def _refuse(host) -> None:
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if not _network_allowed and name not in LOCAL:
        raise NetworkRefused(f"a test tried to reach {name}; mark it `full` or use a local file")


def _guard(function, host_of):
    def guarded(*args, **kwargs):
        host = host_of(*args, **kwargs)
        if host is not None:
            _refuse(host)
        return function(*args, **kwargs)

    return guarded


def _peer(sock, address, *_):
    """Host of an internet address; None for a local (unix) socket."""
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def pytest_configure(config):
    """Refuse the network from collection on, so that an import cannot reach out either."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guard(socket.socket.connect, _peer))
    patch.setattr(socket.socket, "connect_ex", _guard(socket.socket.connect_ex, _peer))
    patch.setattr(socket, "getaddrinfo", _guard(socket.getaddrinfo, lambda host, *_, **__: host))
    config.add_cleanup(patch.undo)
    torch.set_num_threads(1)
    pairwise.WHOLE = config.option.markexpr != "not full"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark `full` all but one of the cells that a test has for a family beyond the papers'."""
    from qvid_utils.families import FAMILIES

    cells: dict[tuple, list] = {}
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        family = given.get("family", given.get("model_type"))
        usual = family in pairwise.PAPERS or item.get_closest_marker("full") is not None
        if family in FAMILIES and not usual:
            cells.setdefault((item.path.name, item.originalname, family), []).append(item)
    for key, some in cells.items():
        for item in set(some) - {pairwise.one_of(some, *key)}:
            item.add_marker(pytest.mark.full)


def pytest_runtest_setup(item):
    global _network_allowed
    _network_allowed = item.get_closest_marker("full") is not None


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator, seeded afresh for each test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_seed_everywhere():
    """The global generator too, for code under test that has no generator argument."""
    torch.manual_seed(0)


# --- model fixtures: session scope, read-only; one per family -----------------------------------
