"""The store of records: killed processes, full disks, locks, two at once. No model here."""

import errno
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import nullcontext
from hashlib import sha256
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from qvid_utils.workbook.run import disk
from qvid_utils.workbook.run.queue import Task, answer_all
from qvid_utils.workbook.run.store import Log, Store, StoreError

SUITES = [SimpleNamespace(name="long"), SimpleNamespace(name="short")]
SIZES = {"long": (15, 3), "short": (4, 2)}  # batches, samples in each
CELLS = ["full", "qvid", "random"]


def said(cell: str, suite: str, sample: str) -> str:
    return sha256(f"{cell} {suite} {sample}".encode()).hexdigest()[:8]


def ask(task, ids):
    time.sleep(0.001)
    return [
        {"sample": one, "prediction": said(task.cell, task.suite.name, one), "who": os.getpid()}
        for one in ids
    ]


def tasks(store):
    found = []
    for suite in SUITES:
        batches, size = SIZES[suite.name]
        ids = [[f"{suite.name}/{b}.{i} ü" for i in range(size)] for b in range(batches)]
        for cell in CELLS:
            log = store.log(
                sha256(f"{cell}{suite.name}".encode()).hexdigest(), {"cell": cell}, cell
            )
            found.append(Task(cell, suite, log, ids))
    return found


def run(folder, report=None, **how):
    """The real loop on a store, with answers that need no model; `report` gets what is stored."""
    how = {"sharers": 2} | how
    with Store(folder) as store:
        mine = tasks(store)
        for task in mine:
            append = task.log.append

            def told(new, task=task, append=append):
                append(new)
                if report:
                    lines = (f"{task.cell}\t{task.suite.name}\t{one['sample']}\n" for one in new)
                    report("".join(lines))

            task.log.append = told
        answer_all(mine, how.pop("ask", ask), lambda suite, coming: nullcontext(), **how)


def table(folder):
    """What stands in the store, without times, writers and process numbers; every line looked at,
    but the last of a file where it was cut short."""
    lines = [
        (path.name.split(".")[0], record["sample"], record["prediction"])
        for path in sorted((folder / "cells").glob("*.jsonl"))
        for record in map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    ]
    assert len({line[:2] for line in lines}) == len(lines), "a sample is there twice"
    return sorted(lines)


def child(work) -> tuple[int, int]:
    """A forked process that does `work(report)` and ends; its number, and where its reports are."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        os.close(read)
        work(lambda text: os.write(write, text.encode()))
        code = 0
    finally:
        os._exit(code)


def ended(pid: int, read: int) -> tuple[int, list[str]]:
    """Exit code (or minus the signal) and the reports."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(read, encoding="utf-8") as stream:
        return code, stream.read().splitlines()


@pytest.fixture(autouse=True)
def _own_lock():
    """tqdm's own is shared by forked processes: one killed while it holds it stops all others."""
    tqdm.set_lock(threading.RLock())


@pytest.fixture
def whole(tmp_path):
    run(tmp_path / "whole")
    return table(tmp_path / "whole")


# ---------------------------------------------------------------- killed


def test_killed_at_fifty_moments_nothing_is_lost_and_nothing_is_double(tmp_path, whole):
    """50 live processes killed, each some batches after its start and a moment more; where a store
    is full, a fresh one follows."""
    moments, kills, rounds, seen = random.Random(0), 0, 0, set()
    while kills < 50:
        folder, reported, code = tmp_path / f"round{rounds}", [], -9
        while code and kills < 50:
            pid, read = child(lambda report, folder=folder: run(folder, report))
            first = b"".join(os.read(read, 1 << 16) for _ in range(moments.randint(0, 6)))
            time.sleep(moments.uniform(0.0, 0.004))
            os.kill(pid, signal.SIGKILL)
            code, lines = ended(pid, read)
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            reported += [*first.decode().splitlines(), *lines]
            there = {(sample, text) for _, sample, text in table(folder)}
            seen.add(len(there))
            for cell, suite, sample in (line.split("\t") for line in reported):
                assert (sample, said(cell, suite, sample)) in there, "reported, and lost"
        run(folder)
        assert table(folder) == whole
        assert max(Counter(reported).values()) == 1, "a sample was asked twice"
        rounds += 1
    assert len(seen) > 15, "the kills came at different moments of the run"


def test_what_is_left_is_not_counted_anew_for_every_batch(tmp_path, monkeypatch):
    """The loop's own time for an answer must not grow with the suite."""
    looks, done = [], Log.done
    monkeypatch.setattr(Log, "done", lambda self: looks.append(1) or done(self))
    counts = []
    for size in (5, 40):
        monkeypatch.setitem(SIZES, "long", (size, 1))
        looks.clear()
        run(tmp_path / str(size), sharers=1)
        counts.append(len(looks))
    assert counts[0] == counts[1]


def test_two_processes_share_the_work(tmp_path, whole):
    pairs = [child(lambda report: run(tmp_path / "two", report)) for _ in range(2)]
    results = [ended(*pair) for pair in pairs]
    assert [code for code, _ in results] == [0, 0]
    assert table(tmp_path / "two") == whole
    shares = [len(lines) for _, lines in results]
    assert sum(shares) == len(whole) and min(shares) > len(whole) / 5


def test_eight_at_once_with_some_killed_leave_the_same_table(tmp_path, whole):
    pairs = [child(lambda report: run(tmp_path / "many", report, sharers=8)) for _ in range(8)]
    for place, (pid, _) in enumerate(pairs[:5]):
        time.sleep(0.01 * place)
        os.kill(pid, signal.SIGKILL)
    assert {ended(*pair)[0] for pair in pairs[5:]} == {0}
    assert all(ended(*pair)[0] in (0, -9) for pair in pairs[:5])
    assert table(tmp_path / "many") == whole


def test_a_stopped_process_keeps_its_cells_and_goes_on_with_them(tmp_path, whole):
    """Stopped after five batches: it lives, so that nobody asks what it has; then woken up."""
    batches = iter(range(100))

    def stops(text):
        if next(batches) == 5:
            os.kill(os.getpid(), signal.SIGSTOP)

    pid, read = child(lambda report: run(tmp_path / "held", stops, wait=False))
    os.waitpid(pid, os.WUNTRACED)
    before = table(tmp_path / "held")
    run(tmp_path / "held", wait=False)
    assert len(before) < len(table(tmp_path / "held")) < len(whole)
    os.kill(pid, signal.SIGCONT)
    assert ended(pid, read)[0] == 0
    run(tmp_path / "held")
    assert table(tmp_path / "held") == whole


# ---------------------------------------------------------------- one log


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


def one(sample, **more):
    return {"sample": sample, "prediction": "yes", **more}


def reopened(log, folder=None):
    """The same cell, as the next process finds it."""
    log.release()
    again = Store(folder or log.store.folder).log(log.key, log.about, log.name.rpartition("-")[0])
    assert again.name == log.name and again.claim()
    return again


@pytest.mark.parametrize("tail", [b'{"sample":"c","predi', b"\0\0\0", b'{"sample":"c"}'])
def test_a_truncated_last_line_counts_for_nothing(store, tail):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim()
    log.append([one("a"), one("b")])
    log.release()
    with log.path.open("ab") as file:
        file.write(tail)
    assert log.done() == {"a": True, "b": True}
    again = reopened(log)
    again.append([one("c")])
    assert [r["sample"] for r in again.records()] == ["a", "b", "c"]
    assert again.path != log.path and log.path.read_bytes().endswith(tail), "a file has one writer"
    again.release()


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"answer": 1}'])
def test_a_broken_line_in_the_middle_is_named(store, line):
    log = store.log("k" * 64, {}, "cell")
    log.path.write_text(f'{{"sample": "a"}}\n{line}\n{{"sample": "b"}}\n', encoding="utf-8")
    with pytest.raises(StoreError, match="line 2 is no record"):
        log.claim()
    assert log.held() is None, "the cell is given back"


def test_what_two_writers_answered_is_there_once(store):
    """As where a file system let go of a lock: the first writer's answer counts."""
    first, second = (store.cells / f"cell-{'k' * 16}.{writer}.jsonl" for writer in "ab")
    lines = [one("a"), {"sample": "b", "failed": "no"}, one("c", prediction="no"), one("b")]
    first.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]), encoding="utf-8")
    second.write_text(
        "".join(json.dumps(line) + "\n" for line in [one("a", prediction="no"), *lines[2:]]),
        encoding="utf-8",
    )
    log = store.log("k" * 64, {}, "cell")
    assert log.records() == [one("a"), one("c", prediction="no"), one("b")]
    assert log.done() == dict.fromkeys("acb", True)
    assert store.log("x" * 64, {}, "cell").records() == []


def test_a_number_that_json_has_not_is_refused(store):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim()
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            log.append([one("a", score=number)])
    assert log.records() == []


def test_a_failed_sample_may_be_answered_later(store):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim()
    log.append([one("a"), {"sample": "b", "failed": "no"}])
    assert log.done() == {"a": True, "b": False}
    log.append([one("b")])
    log = reopened(log)
    assert log.done() == {"a": True, "b": True}
    assert log.records() == [one("a"), one("b")]
    log.release()


def test_only_the_holder_appends(store):
    log = store.log("k" * 64, {}, "cell")
    with pytest.raises(StoreError, match="claim the cell"):
        log.append([one("a")])


def test_the_manifest_says_what_the_cell_is(store):
    log = store.log("k" * 64, {"keep": 16, "method": ["qvid"]}, "tiny gqa/qvid:16")
    name = f"tiny-gqa-qvid-16-kkkkkkkkkkkkkkkk.{store.writer}.jsonl"
    assert log.claim() and log.path.name == name
    assert store.manifests() == [{"key": "k" * 64, "keep": 16, "method": ["qvid"]}]
    log.release()
    other = store.log("k" * 16 + "x" * 48, {}, "tiny gqa/qvid:16")
    with pytest.raises(StoreError, match="of another cell"):
        other.claim()
    assert other.held() is None


# ---------------------------------------------------------------- disk full


def full_after(patch, left: int, number: int = errno.ENOSPC):
    """A disk with room for so many bytes: the write that does not fit is cut short, then fails."""
    write, room = os.write, [left]

    def limited(file, content):
        part = content[: room[0]]
        if not part:
            raise OSError(number, os.strerror(number))
        room[0] -= len(part)
        return write(file, part)

    patch.setattr(disk.os, "write", limited)


@pytest.mark.parametrize("left", [0, 1, 40, 65])
def test_a_full_disk_is_one_sentence_and_loses_nothing(store, left):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim()
    log.append([one("a"), one("b")])
    before = log.path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, left)
        with pytest.raises(StoreError, match=r"the disk is full; all records .* are whole"):
            log.append([one("c"), one("d")])
    assert log.path.read_bytes() == before
    log.append([one("c"), one("d")])  # some space was freed
    again = reopened(log)
    assert list(again.done()) == ["a", "b", "c", "d"]
    again.release()


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path, whole):
    for left in (0, 300, 700, 1500, 2500):
        with pytest.MonkeyPatch.context() as patch:
            full_after(patch, left)
            with pytest.raises(StoreError, match="the disk is full"):
                run(tmp_path / "full")
        assert set(table(tmp_path / "full")) < set(whole)
        leftover = [p.name for p in (tmp_path / "full").rglob("*") if p.suffix not in SUFFIXES]
        assert sorted(leftover) == ["cells", "locks"], "half files stay behind"
    run(tmp_path / "full")
    assert table(tmp_path / "full") == whole


SUFFIXES = {".json", ".jsonl", ".lock"}


def test_other_troubles_of_the_disk_are_named(store):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim()
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, 5, errno.EIO)
        with pytest.raises(StoreError, match="cannot be written or read"):
            log.append([one("a")])
    assert log.path.read_bytes() == b""


def test_a_store_in_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written or read"):
        Store(tmp_path / "file")


# ---------------------------------------------------------------- locks


def test_a_living_process_keeps_its_cell(store, tmp_path):
    log = store.log("k" * 64, {}, "cell")
    assert log.claim() and log.claim()
    with Store(store.folder) as other:
        same = other.log("k" * 64, {}, "cell")
        assert not same.claim() and same.held() == f"process {os.getpid()} on {os.uname().nodename}"
        log.release()
        assert same.held() is None and same.claim()
        assert not log.claim()
    assert log.claim(), "closing a store gives its cells back"


def test_the_cell_of_a_killed_process_is_free_at_once(store):
    def holds(report):
        log = Store(store.folder).log("k" * 64, {}, "cell")
        assert log.claim()
        report("held\n")
        time.sleep(60)

    pid, read = child(holds)
    log = store.log("k" * 64, {}, "cell")
    assert os.read(read, 5) == b"held\n"
    assert not log.claim() and log.held() == f"process {pid} on {os.uname().nodename}"
    os.kill(pid, signal.SIGKILL)
    assert ended(pid, read)[0] == -signal.SIGKILL
    assert log.held() is None and log.claim()


def test_a_forked_child_holds_nothing_of_its_parent(store):
    """A worker that outlives a killed process (a data loader's) must not keep its cells."""

    def parent(report):
        log = Store(store.folder).log("k" * 64, {}, "cell")
        assert log.claim()
        pid, _ = child(lambda report: time.sleep(60))
        report(f"{pid}\n")
        time.sleep(60)

    pid, read = child(parent)
    grandchild = int(os.read(read, 20))
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert store.log("k" * 64, {}, "cell").claim()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(read)


def test_a_file_system_without_locks_is_named(store, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    with pytest.raises(StoreError, match="cannot be written or read .*No locks available"):
        store.log("k" * 64, {}, "cell").claim()


def test_nobody_waits_for_others_where_told_so(tmp_path):
    with Store(tmp_path) as store:
        (first, *_) = tasks(store)
        assert first.log.claim()
        run(tmp_path, wait=False)
        assert first.log.records() == []
    run(tmp_path)
    assert len(first.log.records()) == 45


# ---------------------------------------------------------------- failures


def broken(task, ids):
    if "long/2.1 ü" in ids and task.cell == "qvid":
        raise ZeroDivisionError("no")
    return ask(task, ids)


def test_a_failing_sample_stops_the_run_by_name_and_keeps_the_others(tmp_path, whole):
    with pytest.raises(ZeroDivisionError) as caught:
        run(tmp_path / "stops", ask=broken)
    (note,) = caught.value.__notes__
    assert note.startswith("suite long, cell qvid, sample long/2.1 ü;")
    with Store(tmp_path / "stops") as store:
        done = tasks(store)[1].log.done()
        assert len(done) == 7, "six before its batch and one of it"
    run(tmp_path / "stops")
    assert table(tmp_path / "stops") == whole


def test_a_failing_sample_is_recorded_where_told_so(tmp_path):
    run(tmp_path, ask=broken, on_error="record")
    asked = []
    run(tmp_path, ask=lambda task, ids: asked.append(ids) or ask(task, ids), on_error="record")
    assert asked == [], "a recorded failure is done"
    with Store(tmp_path) as store:
        log = tasks(store)[1].log
        assert [s for s, fine in log.done().items() if not fine] == ["long/2.1 ü"]
        (failed,) = [r for r in log.records() if "failed" in r]
        assert failed == {"sample": "long/2.1 ü", "failed": "ZeroDivisionError: no"}
    run(tmp_path, ask=lambda task, ids: asked.append(ids) or ask(task, ids))
    assert asked == [["long/2.1 ü"]], "where failures stop the run it is asked again"


def test_a_batch_that_fails_as_a_whole_is_told(tmp_path):
    def large(task, ids):
        if len(ids) > 2:
            raise MemoryError("too much")
        return ask(task, ids)

    with pytest.warns(UserWarning, match=r"MemoryError \(too much\) as a batch of 3"):
        run(tmp_path, ask=large)
    with Store(tmp_path) as store:
        assert all(not task.missing("stop") for task in tasks(store))


def test_a_lost_device_is_never_a_failed_sample(tmp_path):
    import torch

    def lost(task, ids):
        raise torch.AcceleratorError("device-side assert")

    with pytest.raises(torch.AcceleratorError, match="device-side"):
        run(tmp_path, ask=lost, on_error="record")
    assert table(tmp_path) == []
