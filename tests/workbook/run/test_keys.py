"""What a cell's key is made of: code, weights, questions and pictures, rules of one's own."""

import json
import shutil
import sys
import textwrap
import types

import pytest
import torch
from PIL import Image
from published_samples import film
from twins import embedded

from qvid_utils import load
from qvid_utils.methods import METHODS, RULES
from qvid_utils.paths import DATA
from qvid_utils.workbook.benchmarks import Suite, suite
from qvid_utils.workbook.benchmarks.prompts import prompts
from qvid_utils.workbook.benchmarks.published import published
from qvid_utils.workbook.run import key as identity
from qvid_utils.workbook.run.cell import Cell
from qvid_utils.workbook.run.content import data_hash
from qvid_utils.workbook.run.evaluate import evaluate, tasks_of
from qvid_utils.workbook.run.plain import plain
from qvid_utils.workbook.run.store import Store


@pytest.fixture(scope="module")
def loaded():
    return embedded("tiny/llava")


def loudest(hidden):
    return hidden.norm(dim=-1)


def keys(loaded, cells, one=None, tmp="unused"):
    model, processor = loaded
    with Store(tmp) as store:
        made = tasks_of(
            store, identity.model_parts(model, processor), [one or suite("tiny_gqa")], cells
        )
        return [task.log.key for task in made]


def test_cells_that_do_the_same_have_one_key(loaded, tmp_path):
    same = [Cell("qvid", 16), Cell("qvid", 16, None, {"query": "question"}),
            Cell(METHODS["qvid"], 16, None, {"positions": "original"})]  # fmt: skip
    assert len(set(keys(loaded, same, tmp=tmp_path))) == 1
    assert keys(loaded, same, tmp=tmp_path) == keys(loaded, same, tmp=tmp_path / "other")


def test_every_choice_of_a_cell_is_in_its_key(loaded, tmp_path):
    cells = [Cell(), Cell("qvid", 16), Cell("qvid", 17), Cell("qvid", 16, 3), Cell("random", 16),
             *(Cell("qvid", 16, None, {k: v}) for k, v in {
                 "rank": 8, "query": "content", "positions": "contiguous", "reading": "two_pass",
                 "rope": True}.items()),
             Cell("random", 16, None, {"seed": 1})]  # fmt: skip
    assert len(set(keys(loaded, cells, tmp=tmp_path))) == len(cells)


def test_a_changed_weight_dtype_or_template_is_another_key(loaded, tmp_path):
    cell = [Cell("qvid", 16)]
    before = keys(loaded, cell, tmp=tmp_path)
    prompts(loaded[1], suite("tiny_gqa").samples.head(2), "cpu")
    assert keys(loaded, cell, tmp=tmp_path) == before, "a batch that was made changes nothing"
    model, processor = load("tiny/llava")
    assert keys((model, processor), cell, tmp=tmp_path) == before
    weight = next(model.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-3
    other = [before, keys((model, processor), cell, tmp=tmp_path)]
    other.append(keys(load("tiny/llava", dtype="bfloat16"), cell, tmp=tmp_path))
    other.append(keys(load("tiny/llava", attention="eager"), cell, tmp=tmp_path))
    processor.chat_template += " "
    other.append(keys((model, processor), cell, tmp=tmp_path))
    assert len({key for (key,) in other}) == 5


def test_changed_questions_are_another_key_in_whatever_order(loaded, tmp_path):
    cell, gqa = [Cell()], suite("tiny_gqa")

    def of(samples):
        return keys(loaded, cell, Suite("tiny_gqa", "GQA", "accuracy", samples), tmp_path)

    changed = gqa.samples.copy()
    changed.loc[5, "answer"] = "another"
    assert of(gqa.samples.sample(frac=1, random_state=0)) == of(gqa.samples) != of(changed)


def version(folder, text, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    identity.code_version.cache_clear()
    return identity.code_version(folder)


def test_code_counts_and_comments_do_not(tmp_path):
    def written(text, folder=tmp_path, name="methods/rules.py"):
        return version(folder, text, name)

    first = written('def f(x):\n    """Doubled."""\n    return 2 * x\n')
    assert written("# new\ndef f(x):\n\n    'Twice.'\n    return (2 * x)\n") == first
    assert written("any = 1", name="workbook/plots/figures.py") == first, "it changes no answer"
    assert written("def f(x):\n    'Doubled.'\n    return 3 * x\n") != first
    identity.code_version.cache_clear()


@pytest.mark.parametrize("name", ["algebra/a.py", "families/a.py", "prune/a.py", "models/a.py",
                                  "workbook/benchmarks/published/a.py", "workbook/run/grid.py",
                                  "workbook/run/cell.py"])  # fmt: skip
def test_every_folder_that_can_change_an_answer_counts(name, tmp_path):
    assert version(tmp_path, "a = 1", name) != version(tmp_path, "a = 2", name)
    before = version(tmp_path / "2", "a = 1", name)
    (tmp_path / "2" / name).unlink()
    moved = name if name.endswith(("grid.py", "cell.py")) else name.replace("a.py", "b/c.py")
    assert version(tmp_path / "2", "a = 1", moved) == before, "a file's own name is free"
    identity.code_version.cache_clear()


def test_a_function_of_the_users_counts_by_its_code():
    def times(factor):
        def scores(hidden):
            return factor * hidden

        return scores

    assert plain(times(2)) == plain(times(2)) != plain(times(3))
    assert plain(loudest) != plain(lambda hidden: -hidden.norm(dim=-1))


# ---------------------------------------------------------------- rules of one's own


def module(name, text):
    """A module of one's own, as an import would leave it."""
    made = sys.modules[name] = types.ModuleType(name)
    exec(textwrap.dedent(text), vars(made))  # noqa: S102
    return made


@pytest.fixture(autouse=True)
def _no_module_stays():
    yield
    for name in ("mine", "helpers"):
        sys.modules.pop(name, None)


HELPERS = "WEIGHT = 2.0\ndef weigh(keys):\n    return WEIGHT * keys\n"
USES = {  # what a rule names, as text, and what is changed in it
    "a constant": ("SIGN = 1.0\ndef f(keys): return SIGN * keys", "1.0", "-1.0"),
    "a helper": ("def g(keys): return keys + 1\ndef f(keys): return g(keys)", "+ 1", "+ 2"),
    "a helper's constant": (
        "A = 1\ndef g(keys): return keys + A\ndef f(keys): return g(keys)", "A = 1", "A = 2"),
    "a table": ("T = {'a': [1, 2]}\ndef f(keys): return keys + T['a'][1]", "2]", "3]"),
    "a set": ("T = {'a', 'b'}\ndef f(keys): return keys + len(T)", "'b'", "'c'"),
    "no number": ("T = float('nan')\ndef f(keys): return keys + T", "nan", "inf"),
    "a tensor": (
        "import torch\nT = torch.ones(2)\ndef f(keys): return keys + T.sum()", "ones", "zeros"),
    "a lambda": ("g = lambda keys: keys + 1\ndef f(keys): return g(keys)", "+ 1", "+ 2"),
    "a default": ("def f(keys, *, a=1): return keys + a", "a=1", "a=2"),
    "a closure": (
        "def by(a):\n    def f(keys): return a * keys\n    return f\nf = by(2)", "by(2)", "by(3)"),
    "a part": (
        "from functools import partial\ndef g(a, keys): return a * keys\nh = partial(g, 2)\n"
        "def f(keys): return h(keys)", "g, 2", "g, 3"),
    "what is cached": (
        "from functools import cache\n@cache\ndef g(): return 1\ndef f(keys): return keys + g()",
        "return 1", "return 2"),
    "a class": (
        "class G:\n    def __call__(self, keys): return keys + 1\ng = G()\n"
        "def f(keys): return g(keys)", "+ 1", "+ 2"),
    "a base": (
        "class B:\n    a = 1\nclass G(B):\n    pass\ndef f(keys): return keys + G.a",
        "a = 1", "a = 2"),
    "a method": (
        "class G:\n    def at(self, keys): return keys + 1\nh = G().at\n"
        "def f(keys): return h(keys)", "+ 1", "+ 2"),
    "an inner function's": (
        "A = 1\ndef f(keys):\n    def g(k): return k + A\n    return g(keys)", "A = 1", "A = 2"),
    "a comprehension's": ("A = 1\ndef f(keys): return [k + A for k in keys]", "A = 1", "A = 2"),
    "itself": ("def f(keys): return keys if keys.sum() > 1 else f(keys + 1)", "> 1", "> 2"),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_all_that_a_rule_of_ones_own_names_is_in_its_key(use):
    text, old, new = USES[use]
    before = plain(module("mine", text).f)
    assert plain(module("mine", f"# a note\n\n{text}\n\nunused = 7\n").f) == before
    assert text.count(old) == 1
    assert plain(module("mine", text.replace(old, new)).f) != before
    json.dumps(before, allow_nan=False)


@pytest.mark.parametrize(
    "way",
    [
        "import helpers\ndef f(keys): return helpers.weigh(keys)",
        "from helpers import weigh\ndef f(keys): return weigh(keys)",
        "def f(keys):\n    import helpers\n    return helpers.weigh(keys)",
    ],
)
def test_what_a_rule_takes_from_another_module_is_in_its_key(way):
    keys = []
    for text in (HELPERS, HELPERS, HELPERS.replace("2.0", "3.0")):
        module("helpers", text)
        keys.append(plain(module("mine", way).f))
    assert keys[0] == keys[1] != keys[2]


def test_what_a_library_holds_counts_by_its_version(monkeypatch):
    f = module("mine", "import pandas\ndef f(keys): return pandas.Series(keys)").f
    before = plain(f)
    assert plain(f) == before
    monkeypatch.setattr("pandas.__version__", "0.0")
    assert plain(f) != before


def test_an_object_that_nobody_can_describe_is_named():
    text = "import threading\nL = threading.Lock()\ndef f(keys):\n    with L: return keys"
    with pytest.raises(TypeError, match="lock cannot be part of a key"):
        plain(module("mine", text).f)


def test_a_rule_whose_helper_changed_is_asked_anew(loaded, tmp_path):
    text = """
        from qvid_utils.methods import rule
        SIGN = {}
        def signed(keys):
            return SIGN * keys.float().norm(dim=-1).mean(0)
        @rule(source="mine")
        def my_signed_rule(keys):
            return signed(keys)
    """
    one, said = [suite("tiny_pope").head(4)], []
    try:
        for sign in (1.0, -1.0, 1.0):
            module("mine", text.format(sign))
            cells = [Cell("my_signed_rule", 8)]
            found = evaluate(*loaded, one, cells, store=tmp_path)
            fresh = evaluate(*loaded, one, cells)
            assert found["prediction"].tolist() == fresh["prediction"].tolist()
            said.append(len(list(tmp_path.glob("cells/*.jsonl"))))
    finally:
        del RULES["my_signed_rule"]
    assert said == [1, 2, 2]


# ---------------------------------------------------------------- pictures and films as files


def painted(folder, colour):
    rows = [
        dict(question_id=i, question="is it red ?", answer=a, category=c, image=f"{c}{i}.png")
        for c in ("adversarial", "popular", "random")
        for i, a in enumerate(("yes", "no"))
    ]
    folder.mkdir(exist_ok=True)
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for row in rows:
        Image.new("RGB", (24, 24), colour).save(folder / row["image"])
    return folder


def test_pictures_count_by_what_they_hold_and_not_by_where_they_lie(loaded, tmp_path):
    def asked(folder):
        one = published("pope", folder)
        return keys(loaded, [Cell("qvid", 16)], one, tmp_path / "store"), one

    black, one = asked(painted(tmp_path / "pope", (0, 0, 0)))
    shutil.copytree(tmp_path / "pope", tmp_path / "elsewhere")
    assert asked(tmp_path / "elsewhere")[0] == black
    painted(tmp_path / "pope", (0, 0, 1))
    assert keys(loaded, [Cell("qvid", 16)], one, tmp_path / "store") != black, "the same suite"
    assert asked(tmp_path / "pope")[0] != black


def test_a_film_counts_by_its_bytes_or_its_frames(tmp_path):
    def of(image):
        rows = suite("tiny_gqa").samples.head(2).copy()
        rows["image"] = [image, image]
        return data_hash(Suite("film", "film", "accuracy", rows, media="video"))

    film(tmp_path / "a"), film(tmp_path / "b")
    shown = {"video": str(tmp_path / "a"), "frames": 4}
    first = of(shown)
    assert of(shown | {"video": str(tmp_path / "b")}) == first
    assert of(shown | {"frames": 5}) != first and of(shown | {"part": [0, 1]}) != first
    Image.new("RGB", (24, 24), (9, 9, 9)).save(tmp_path / "a" / "001.png")
    assert of(shown) != first
    (tmp_path / "x.mp4").write_bytes(b"a"), (tmp_path / "y.mp4").write_bytes(b"b")
    files = [of({"video": str(tmp_path / name), "frames": 4}) for name in ("x.mp4", "y.mp4")]
    assert files[0] != files[1]
    (tmp_path / "y.mp4").write_bytes(b"a")
    assert of({"video": str(tmp_path / "y.mp4"), "frames": 4}) == files[0]


def test_what_a_checkpoint_is_called_is_no_part_of_its_key(loaded, tmp_path):
    shutil.copytree(DATA / "tiny" / "llava", tmp_path / "renamed")
    cell = [Cell("qvid", 16)]
    assert keys(load(str(tmp_path / "renamed")), cell, tmp=tmp_path) == keys(
        loaded, cell, tmp=tmp_path
    )
