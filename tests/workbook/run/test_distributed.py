"""The runner over Ray, on an emulated cluster of three nodes: killed worker, driver and node."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from qvid_utils import load
from qvid_utils.families import Unavailable
from qvid_utils.paths import ROOT
from qvid_utils.workbook.benchmarks import suite
from qvid_utils.workbook.run.cell import Cell, grid
from qvid_utils.workbook.run.evaluate import evaluate
from qvid_utils.workbook.run.store import Log, Store
from qvid_utils.workbook.run.workers import Plan, on_ray

CELLS = (Cell(), *grid(["qvid", "random"], [16]))


def plan(folder, **changed) -> Plan:
    told = {"limit": 8, "batch_size": 1} | changed
    return Plan("tiny/llava", ("tiny_gqa",), CELLS, str(folder), **told)


def records(folder) -> list[dict]:
    lines = (path.read_text(encoding="utf-8") for path in Path(folder).glob("cells/*.jsonl"))
    return [json.loads(line) for text in lines for line in text.splitlines()]


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r"\[ray\]"):
        on_ray(plan(tmp_path))


# ---------------------------------------------------------------- with the extra


@pytest.fixture(scope="module")
def whole():
    """The same run in this process, without a store."""
    return evaluate(*load("tiny/llava"), [suite("tiny_gqa")], CELLS, limit=8, batch_size=1)


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray", reason="extra `ray`: make test-extras")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    made.others = [made.add_node(**small) for _ in range(2)]
    try:
        yield made
    finally:
        made.shutdown()


def driver(cluster, folder) -> subprocess.Popen:
    """A process that runs the plan on the cluster and ends."""
    code = (
        "import sys; from test_distributed import plan\n"
        "from qvid_utils.workbook.run.workers import on_ray\n"
        f"on_ray(plan({str(folder)!r}), address={cluster.address!r}, num_gpus=0)"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})


def holders(folder) -> set[int]:
    """Processes that hold a cell just now."""
    with Store(folder) as store:
        names = [path.stem for path in store.locks.glob("*.lock")]
        held = [Log(store, "", {}, name).held() for name in names]
    return {int(words.split()[1]) for words in held if words and words.startswith("process ")}


def until(true, seconds=120):
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends, "nothing happened"
        time.sleep(0.02)
    return found


def same_as(whole, folder):
    parts = plan(folder).identify()
    pd.testing.assert_frame_equal(plan(folder).table(parts), whole, check_exact=True)
    found = records(folder)
    assert len({(r["sample"], r["seconds"], r["at"]) for r in found}) == len(found) == len(whole)


def test_a_killed_worker_is_replaced(cluster, whole, tmp_path):
    run = driver(cluster, tmp_path)
    victim = until(lambda: records(tmp_path) and holders(tmp_path)).pop()
    os.kill(victim, signal.SIGKILL)
    before = records(tmp_path)
    assert len(before) < len(whole), "it was killed in the middle"
    assert run.wait(240) == 0
    assert all(record in records(tmp_path) for record in before)
    same_as(whole, tmp_path)


def test_a_killed_driver_is_started_again(cluster, whole, tmp_path):
    first = driver(cluster, tmp_path)
    until(lambda: records(tmp_path))
    first.kill()
    first.wait()
    before = records(tmp_path)
    assert len(before) < len(whole), "it was killed in the middle"
    assert driver(cluster, tmp_path).wait(240) == 0
    assert all(record in records(tmp_path) for record in before)
    same_as(whole, tmp_path)


def test_a_lost_node_loses_nothing(cluster, whole, tmp_path):
    run = driver(cluster, tmp_path)
    until(lambda: records(tmp_path))
    before = records(tmp_path)
    assert len(before) < len(whole), "it was lost in the middle"
    for node in cluster.others:  # one of them has a cell, whichever the head's is
        cluster.remove_node(node, allow_graceful=False)
    assert run.wait(240) == 0
    assert all(record in records(tmp_path) for record in before)
    same_as(whole, tmp_path)


def test_a_failing_cell_leaves_the_others_stored(cluster, tmp_path):
    import ray

    bad = plan(tmp_path, limit=2)
    cells = (Cell(), Cell("qvid", 16, 99), Cell("random", 16))
    object.__setattr__(bad, "cells", cells)
    ray.init(cluster.address, log_to_driver=False)
    try:
        with pytest.raises(RuntimeError, match=r"1 of 3 cells failed.*layer=99"):
            on_ray(bad, num_gpus=0)
    finally:
        ray.shutdown()
    assert len(records(tmp_path)) == 4
