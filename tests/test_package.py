"""The wheel, installed away from the checkout, prunes a model: `make test-package`.

The dependencies are those of the environment that runs the test; nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from qvid_utils.paths import ROOT

PRUNES = """
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from qvid_utils import METHODS, load, paths, pruned
from qvid_utils.models.load import LoadError

assert not paths.IN_CHECKOUT and (paths.papers_numbers() / "table01.csv").is_file()
assert paths.figures_dir() == paths.Path.cwd() / "figures" / "tiny"
torch.manual_seed(0)
tower = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=2, image_size=24, patch_size=6, projection_dim=32)
text = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                   num_attention_heads=2, max_position_embeddings=128)
model = LlavaForConditionalGeneration(
    LlavaConfig(vision_config=tower, text_config=text, image_token_index=4)).eval()
ids = torch.tensor([[1, 7, *[4] * 16, 9, 10, 11]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
          "pixel_values": torch.randn(1, 3, 24, 24)}
asked = torch.zeros_like(ids, dtype=torch.bool)
asked[0, -3:] = True
with torch.no_grad(), pruned(model, "qvid", keep=5, layer=1, query=asked) as trace:
    model.generate(**inputs, max_new_tokens=3, do_sample=False)
assert [len(cut.kept) for cut in trace.cuts] == [5], trace.cuts
try:
    load("tiny/llava")
except LoadError as error:
    print(error)
"""


@pytest.mark.full
def test_the_wheel_prunes_a_model_elsewhere(tmp_path):
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = {"check": True, "capture_output": True, "text": True, "env": alone}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = tmp_path / "source"  # what a build leaves behind stays out of the checkout
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("qvid_utils", "data/paper"):
        shutil.copytree(ROOT / folder, source / folder)
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], **run
    )
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "elsewhere"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], **run)
    own = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **run
        ).stdout.strip()
    )
    # The dependencies by their folder alone: the editable install beside them is not read.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    shown = subprocess.run([python, "-c", PRUNES], cwd=tmp_path, **run).stdout
    assert "tiny/llava" in shown and "checkout" in shown
    inside = subprocess.run([python, "-m", "zipfile", "-l", wheel], **run).stdout
    assert "qvid_utils/py.typed" in inside and "tiny" not in inside.replace("figures/tiny", "")
    assert list((place / "lib").rglob("figures")) == []  # nothing is written beside the package
