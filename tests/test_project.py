"""The project's own files: one set of versions everywhere, no trace of one machine."""

import ast
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import qvid_utils
from qvid_utils.paths import FIGURES, ROOT, figures_dir

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED_EXTRAS = ("workbook", "test", "lab")


def constraints() -> list[Requirement]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line]


def conda_lines() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return pip


def ranges(*extras: str) -> dict[str, Requirement]:
    """Declared requirements by normalised name: the package's own and those of the given extras."""
    texts = PROJECT["dependencies"] + [text for extra in extras for text in EXTRAS[extra]]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


PINS = {canonicalize_name(pin.name): pin for pin in constraints()}


def test_constraints_are_exact_and_torch_is_first():
    assert [pin.name for pin in constraints()][0] == "torch"
    assert len(PINS) == len(constraints()), "a name stands twice"
    assert all(re.fullmatch(r"==[^*,+]+", str(pin.specifier)) for pin in constraints())


def test_no_torchvision_and_no_cuda():
    assert not {name for name in PINS if name.startswith(("torchvision", "nvidia", "triton"))}
    assert "torchvision" not in ranges(*EXTRAS)


@pytest.mark.parametrize("name", sorted(ranges(*PINNED_EXTRAS)))
def test_every_declared_package_is_pinned_within_its_range(name):
    (version,) = [part.version for part in PINS[name].specifier]
    assert ranges(*PINNED_EXTRAS)[name].specifier.contains(version)


def test_conda_has_the_same_names_and_versions():
    pins = [Requirement(line) for line in conda_lines() if not line.startswith("-")]
    listed = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert listed == {name: str(PINS[name].specifier) for name in ranges(*PINNED_EXTRAS)}


def test_conda_installs_this_package_editable_under_the_same_constraints():
    assert {"-c constraints.txt", "-e .[workbook]"} <= set(conda_lines())
    assert conda_lines()[1].startswith("torch==")


def test_every_line_of_the_conda_file_says_what_it_is_for():
    files = (ROOT / "environment.yml", ROOT / ".binder" / "environment.yml")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    entries = [line for line in lines if line.lstrip().startswith("- ")]
    entries = [line for line in entries if line.strip() != "- pip:"]
    assert [line for line in entries if " # " not in line] == []


def test_binder_has_the_same_versions_and_the_lab():
    text = (ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8")
    own = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^  - (python|pytorch-cpu)=([\d.]+)", text, flags=re.MULTILINE))
    assert listed["pytorch-cpu"] == str(PINS["torch"].specifier)[2:]
    assert f"- python={listed['python']} " in own
    after = ROOT / ".binder" / "postBuild"
    assert after.stat().st_mode & 0o111, "not executable"
    assert '-c constraints.txt -e ".[workbook,lab]"' in after.read_text(encoding="utf-8")


def test_pre_commit_has_the_pinned_ruff():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {str(PINS["ruff"].specifier)[2:]}


def test_installed_versions_are_those_of_the_project():
    """Not the exact ones: the oldest supported versions run these tests too."""
    import torch
    import transformers

    declared = ranges()
    assert declared["torch"].specifier.contains(torch.__version__.split("+")[0])
    assert declared["transformers"].specifier.contains(transformers.__version__)


def imported_names() -> set[str]:
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("qvid_utils", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    folders = (ROOT / "tests", ROOT / "data" / "tiny" / "make")  # on the tests' path
    own = {"qvid_utils", *(path.stem for folder in folders for path in folder.rglob("*.py"))}
    return (names | {node.module.split(".")[0] for node in froms}) - own - sys.stdlib_module_names


def test_every_import_is_declared():
    """A package that only comes along with another one may be gone tomorrow."""
    owners = packages_distributions()
    declared = set(ranges(*EXTRAS))
    missing = {
        name
        for name in imported_names()
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & declared
    }
    assert missing == set()


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == qvid_utils.__version__
    assert citation["license"] == PROJECT["license"]


def test_both_papers_are_cited():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    titles = [reference["title"] for reference in yaml.safe_load(text)["references"]]
    assert len(titles) == 2
    assert "Query–Vision Interaction Decomposition" in titles[0]
    assert "SVD-Based Vision Token Pruning" in titles[1]


# Written so that this file does not find itself.
MACHINE = re.compile(rb"(?<![\w.])/(work|root|home/\w+|Users/\w+|opt|tmp)/[\w.]")
REGISTRY = re.compile(
    rb"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|/simp[l]e\b"
)


def tracked_files():
    """What is, or is about to be, in the repository; without git, all but the ignored folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        paths = [ROOT / name for name in out.split("\0") if name]
    else:
        ignored = {".git", "runs", "__pycache__", ".pytest_cache", ".ruff_cache"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part in ignored or part.startswith(".venv") for part in path.parts)
        ]
    return [path for path in paths if path.is_file()]


def test_no_machine_path_and_no_registry_in_tracked_files():
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content[:8000] or path.suffix in {".pdf", ".png"}:
            continue  # compressed: four bytes in a row prove nothing
        for pattern in (MACHINE, REGISTRY):
            found += [f"{path.relative_to(ROOT)}: {match!r}" for match in pattern.findall(content)]
    assert found == []


@pytest.mark.parametrize("text", [b"at /" + b"work/main", b"'/" + b"home/me/x'", b"(/" + b"tmp/x)"])
def test_a_machine_path_would_be_found(text):
    assert MACHINE.search(text)


def test_every_skip_is_listed():
    listed = (ROOT / "tests" / "SKIPS.md").read_text(encoding="utf-8")
    marks = re.compile(r"pytest\.(skip|xfail|importorskip)\(|mark\.(skip|skipif|xfail)\b")
    files = [path for path in (ROOT / "tests").glob("*.py") if path.name != "test_project.py"]
    skipping = [path.name for path in files if marks.search(path.read_text(encoding="utf-8"))]
    assert [name for name in skipping if name not in listed] == []


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_make_test():
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111, "not executable"
    assert "make test" in run.read_text(encoding="utf-8")


def test_figures_dir_is_by_profile():
    assert figures_dir("tiny") == FIGURES / "tiny"
    with pytest.raises(ValueError, match="profile='huge'.*tiny, paper"):
        figures_dir("huge")


def test_other_machines_are_out_of_reach():
    with pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="example"):
        socket.getaddrinfo("example.invalid", 80)
    with socket.socket() as sock, pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        sock.connect_ex(("192.0.2.1", 80))


def test_this_machine_stays_in_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
