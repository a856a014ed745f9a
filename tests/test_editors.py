"""Editors see the package's names, with their signatures, though they are looked up when used."""

import jedi
import pytest

import qvid_utils
from qvid_utils.paths import ROOT

PROJECT = jedi.Project(ROOT)


@pytest.mark.parametrize("name", qvid_utils.__all__)
def test_a_name_completes_and_is_defined_in_the_package(name):
    script = jedi.Script(f"import qvid_utils\nqvid_utils.{name}", project=PROJECT)
    assert name in {found.name for found in script.complete(2, len(f"qvid_utils.{name}"))}
    (place,) = script.goto(2, len("qvid_utils.") + 1, follow_imports=True)
    assert place.full_name.startswith("qvid_utils.") and place.full_name.endswith(name)
    assert name in dir(qvid_utils) and getattr(qvid_utils, name) is not None


@pytest.mark.parametrize(
    ("name", "first"), [("pruned", "model"), ("load", "name"), ("ask", "model"), ("method", "name")]
)
def test_a_function_shows_its_signature(name, first):
    script = jedi.Script(f"from qvid_utils import {name}\n{name}(", project=PROJECT)
    shown = [found.params for found in script.get_signatures(2, len(name) + 1)]
    assert first in {parameters[0].name for parameters in shown if parameters}
