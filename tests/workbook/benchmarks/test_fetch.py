"""`fetch` against a hub that stands in for the real one, and against no network at all."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import huggingface_hub
import published_samples as samples
import pytest
from huggingface_hub import errors

from qvid_utils.families import Unavailable
from qvid_utils.paths import ROOT
from qvid_utils.workbook.benchmarks import fetch as module
from qvid_utils.workbook.benchmarks.fetch import fetch
from qvid_utils.workbook.benchmarks.published import BENCHMARKS, published
from qvid_utils.workbook.cli import main

# the library that huggingface_hub speaks through: httpx, or httpx2 since its version 2
httpx = importlib.import_module(errors.HTTPError.__module__.split(".")[0])


class Hub:
    """Repositories in a folder, and the calls that were made."""

    def __init__(self, root: Path):
        self.root, self.calls, self.lost, self.refuses = root, [], (), None

    def files(self, repo, **options):
        if self.refuses is not None:
            raise self.refuses
        place = self.root / repo.replace("/", "--")
        return [p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()]

    def download(self, repo, *, allow_patterns=None, ignore_patterns=None, **options):
        self.calls.append((repo, options))
        here = options.get("local_dir") or self.root / "cache" / repo.replace("/", "--")
        chosen = huggingface_hub.utils.filter_repo_objects(
            self.files(repo), allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for file in chosen:
            if file not in self.lost:
                (Path(here) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / repo.replace("/", "--") / file, Path(here) / file)
        return str(here)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    api = type("Api", (), {"list_repo_files": staticmethod(made.files)})
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    return made


def offer(hub, name):
    return samples.write(name, hub.root / BENCHMARKS[name].hub.replace("/", "--"))


@pytest.mark.parametrize("name", ["pope", "gqa", "mmmu_pro_standard"])
def test_what_is_fetched_into_a_folder_can_be_asked(name, hub, tmp_path):
    offer(hub, name)
    folder = fetch(name, tmp_path / "here")
    assert folder == tmp_path / "here" / name
    assert len(published(name, folder).samples) == len(samples.ROWS[name])
    ((repo, options),) = hub.calls
    assert repo == BENCHMARKS[name].hub and options["repo_type"] == "dataset"


def test_a_benchmark_from_the_hub_goes_through_the_cache(hub):
    offer(hub, "pope")
    assert len(published("pope", revision="abc").samples) == 6
    assert hub.calls[0][1]["revision"] == "abc" and "local_dir" not in hub.calls[0][1]


def test_other_splits_stay_where_they_are(hub, tmp_path):
    place = offer(hub, "textvqa")
    (place / "data" / "train-00000-of-00001.parquet").write_bytes(b"x")
    folder = fetch("textvqa", tmp_path / "here")
    assert [p.name for p in folder.rglob("*.parquet")] == ["validation-00000-of-00001.parquet"]


def test_a_checkpoint_comes_without_its_copies(hub, tmp_path):
    place = hub.root / "llava-hf--llava-1.5-7b-hf"
    place.mkdir(parents=True)
    for file in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (place / file).write_bytes(b"x")
    folder = fetch("llava-hf/llava-1.5-7b-hf", tmp_path / "here")
    assert folder.name == "llava-hf--llava-1.5-7b-hf"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert hub.calls[0][1]["repo_type"] == "model"


def test_archives_of_videos_are_unpacked_once(hub, tmp_path):
    place = offer(hub, "videomme")
    with zipfile.ZipFile(place / "videos_chunked_01.zip", "w") as packed:
        packed.writestr("data/v0.mp4", b"film")
    folder = fetch("videomme", tmp_path / "here")
    assert (folder / "data" / "v0.mp4").read_bytes() == b"film"
    (folder / "data" / "v0.mp4").write_bytes(b"mine")
    fetch("videomme", tmp_path / "here")
    assert (folder / "data" / "v0.mp4").read_bytes() == b"mine"


def test_a_file_that_did_not_come_is_no_success(hub, tmp_path):
    offer(hub, "pope")
    hub.lost = ("data/test-00000-of-00001.parquet",)
    with pytest.raises(Unavailable, match="1 of 1 files are not there after .* run it again"):
        fetch("pope", tmp_path / "here")
    hub.lost = ()
    assert fetch("pope", tmp_path / "here").is_dir()


def test_a_repository_of_another_layout_is_named(hub):
    (hub.root / "lmms-lab-encoder--POPE").mkdir(parents=True)
    with pytest.raises(ValueError, match="lmms-lab-encoder/POPE has none of the files"):
        fetch("pope")


def refusal(kind):
    answer = httpx.Response(503, request=httpx.Request("GET", "https://hub.invalid"))
    return kind("no", response=answer)


@pytest.mark.parametrize(
    "refuses, says",
    [
        (refusal(errors.GatedRepoError), "is gated: accept its terms .* `hf auth login`"),
        (refusal(errors.RepositoryNotFoundError), "not on the hub under this name, or is private"),
        (refusal(errors.RevisionNotFoundError), "no such revision on the hub: check revision="),
        (refusal(errors.HfHubHTTPError), "was refused by the hub: no"),
        (errors.LocalEntryNotFoundError("no"), "the hub cannot be reached from here"),
        (errors.OfflineModeIsEnabled("no"), "the hub cannot be reached from here"),
        (httpx.ConnectError("no"), "the hub cannot be reached from here"),
        (ConnectionRefusedError(111, "no"), "the hub cannot be reached from here"),
    ],
)
def test_why_it_failed_is_one_sentence(refuses, says, hub):
    hub.refuses = refuses
    with pytest.raises(Unavailable, match=f"^lmms-lab-encoder/POPE .*{says}"):
        fetch("pope")


def test_without_a_network_each_way_is_told_what_it_takes(hub):
    """A name that is asked is told to fetch it; the fetch itself is not told to run itself."""
    hub.refuses = errors.LocalEntryNotFoundError("no")
    with pytest.raises(Unavailable) as fetching:
        fetch("pope")
    assert "give it, with --to FOLDER, to a machine with" in str(fetching.value)
    assert "benchmarks fetch" not in str(fetching.value)
    with pytest.raises(Unavailable) as asking:
        published("pope")
    assert "benchmarks fetch pope --to FOLDER" in str(asking.value)
    assert "set QVID_FILES=FOLDER" in str(asking.value)  # which the runner reads
    # `--data` is named with the one command of this package that has it for a benchmark
    assert "(ten_minutes also takes `--data FOLDER/pope`" in str(asking.value)


def test_a_full_disk_stays_what_it_is(hub):
    hub.refuses = OSError(28, "No space left on device", "somewhere")
    with pytest.raises(OSError, match="No space left"):
        fetch("pope")


def test_one_name_that_fails_does_not_stop_the_others(hub, tmp_path, capsys):
    offer(hub, "pope")
    assert main(["benchmarks", "fetch", "mme", "pop", "pope", "--to", str(tmp_path / "here")]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"pope: {tmp_path / 'here' / 'pope'}"]
    assert "mme: not fetched. lmms-lab-encoder/MME has none" in err
    assert "pop: not fetched. unknown benchmark 'pop'; did you mean 'pope'" in err


def test_the_list_names_every_benchmark(capsys):
    assert main(["benchmarks", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in BENCHMARKS)
    assert len(shown.splitlines()) == len(BENCHMARKS) + 1
    assert "Java" in module.listing() and "GPT-4" in shown


# the closed door is tried again and again for half a minute: with `full`
@pytest.mark.parametrize("offline", ["1", pytest.param("0", marks=pytest.mark.full)])
def test_the_command_line_without_a_network(offline, tmp_path):
    """For real, in a fresh process: told to stay offline, or in front of a door that is closed."""
    door = {"HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    door["HF_HOME"] = str(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "qvid_utils", "benchmarks", "fetch", "pope", "--to", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | door,
    )  # fmt: skip
    assert ran.returncode == 1 and ran.stdout == ""
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("pope: not fetched. lmms-lab-encoder/POPE")
    assert "reached from here" in last
