"""Each method says where it comes from, and outside lists no other file than its own names it."""

import ast
import re

import pytest

from qvid_utils.methods import METHODS
from qvid_utils.paths import DATA, ROOT

PACKAGE = ROOT / "qvid_utils"
TEXT = (DATA / "methods.bib").read_text(encoding="utf-8")
ENTRIES = {key: body for key, body in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", TEXT, re.M | re.S)}
PUBLISHED = [m for m in METHODS.values() if m.venue not in ("ours", "floor")]
#: Where a method may be named besides its own file: lists of studies and of commands, and what
#: stands beside the papers' CSV. `qvid`, the default of the package, and the floors, which every
#: table has, may be named anywhere.
LISTS = ("workbook/studies/", "workbook/cli/", "workbook/tables/paper_")
NAMES = {name for name, m in METHODS.items() if m.group != "floors"} - {"qvid"}


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda m: m.name)
def test_a_published_method_has_an_entry_and_a_link(entry):
    assert entry.key in ENTRIES and entry.departures
    assert entry.link.startswith("https://arxiv.org/abs/") or entry.key == "athi2026qvid"
    body = ENTRIES[entry.key]
    assert all(f"  {field} = {{" in body for field in ("title", "author", "year"))
    if entry.link:  # the link and the entry are of one paper
        assert f"eprint = {{{entry.link.removeprefix('https://arxiv.org/abs/')}}}" in body


def test_every_entry_is_of_a_method_and_every_key_has_an_entry():
    keys = {m.key for m in METHODS.values() if m.key}
    assert keys <= set(ENTRIES)
    assert set(ENTRIES) - keys <= {"alaoui2015ridge"}  # of a rule
    assert TEXT.count("{") == TEXT.count("}")


def test_what_is_ours_or_a_floor_is_called_so():
    own = {m.name for m in METHODS.values() if m.venue == "floor"}
    assert own == {m.name for m in METHODS.values() if m.group == "floors"}
    assert all(not m.link and not m.key for m in METHODS.values() if m.venue == "floor")


def test_no_two_curves_share_marker_and_line():
    curves = [m.curve for m in METHODS.values() if m.curve]
    assert len({(marker, line) for _, marker, line in curves}) == len(curves) > 15


def named_in(text):
    """The methods that a source names in a string; docstrings and `__all__` are left out."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            node.value = ast.Constant(None)
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in NAMES]
    said = [n.value for n in ast.walk(tree) if isinstance(n, ast.Expr)]
    return {node.value for node in strings if node not in said}


def test_the_names_of_methods_are_seen():
    text = '"""fastv"""\n__all__ = ["dart"]\nCELLS = {"fastv": ("tome", 3), "qvid": 1}\n"hired"\n'
    assert named_in(text) == {"fastv", "tome"}


def test_outside_lists_a_method_is_named_in_its_own_file():
    files = {p.relative_to(PACKAGE).as_posix(): p.read_text("utf-8") for p in PACKAGE.rglob("*.py")}
    files = {file: named_in(text) for file, text in files.items() if not file.startswith(LISTS)}
    places = {name: [file for file, names in files.items() if name in names] for name in NAMES}
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
    assert all(found[0].startswith("methods/") for found in places.values() if found)
