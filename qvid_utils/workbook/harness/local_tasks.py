"""lmms-eval's own tasks on local files, for machines without a network (extra `lmms`).

    python -m qvid_utils benchmarks tasks pope mme --data /data/hub --to tasks
    python -m lmms_eval --model qvid --include_path tasks --tasks pope_local …

writes one YAML for each task: it includes the harness's own and changes where the rows come from,
to the files that `python -m qvid_utils benchmarks fetch NAME --to /data/hub` brought.
"""

import importlib.util
import json
from pathlib import Path

from ...families import Unavailable
from ..benchmarks.published import benchmark, source

__all__ = ["STOCK", "task", "write_task"]

#: Our name of a benchmark -> the harness's file of its task.
STOCK = {
    "pope": "pope/pope.yaml", "mme": "mme/mme.yaml",
    "scienceqa_img": "scienceqa/scienceqa_img.yaml", "textvqa": "textvqa/textvqa_val.yaml",
    "textvqa_ocr": "textvqa/textvqa_val.yaml", "mmbench_en_dev": "mmbench/mmbench_en_dev.yaml",
    "ai2d": "ai2d/ai2d.yaml", "chartqa": "chartqa/chartqa.yaml", "mmmu_val": "mmmu/mmmu_val.yaml",
    "ocrbench": "ocrbench/ocrbench.yaml", "mmmu_pro_standard": "mmmu_pro/mmmu_pro_standard.yaml",
    "hallusionbench": "hallusion_bench/hallusion_bench_image.yaml",
    "coco2014_cap_val": "coco_cap/coco2014_cap_val.yaml",
    "seedbench_image": "seedbench/seedbench.yaml",
}  # fmt: skip
#: Why the harness's task of a benchmark cannot be pointed elsewhere.
NOT_HERE = {
    "gqa": "its task reads the pictures from the hub by itself",
    "mvbench": "its videos are unpacked by the harness from the hub",
    "videomme": "its videos are unpacked by the harness from the hub",
    "hallusionbench_yes_no": "the harness has it with a judge only: hallusionbench",
}
#: What a task changes besides; LLaVA's 58.2 on TextVQA needs the data set's OCR tokens.
CHANGES = {
    "textvqa_ocr": {"lmms_eval_specific_kwargs": {"default": {
        "pre_prompt": "", "ocr": True,
        "post_prompt": "\nAnswer the question using a single word or phrase.",
    }}},
}  # fmt: skip


def task(name: str, folder: Path, stock: Path | None = None) -> str:
    """The YAML of the task `<name>_local`: the harness's own, with rows from a folder.

    folder: a benchmark's files, as for `published`; stock: the harness's folder of tasks (None: of
    the installed package). ValueError for an unknown benchmark, one whose task cannot be pointed
    elsewhere, and missing files; Unavailable without lmms-eval.
    """
    entry = benchmark(name)
    if name in NOT_HERE:
        raise ValueError(f"{name}: {NOT_HERE[name]}; possible: {', '.join(STOCK)}")
    if stock is None:
        stock = _stock()
    own = stock / STOCK[name]
    if not own.is_file():
        raise ValueError(f"{name}: this lmms-eval has no task file {own}; 0.7.3 has it")
    files: dict[str, list[str]] = {}
    for split, file in source.split_files(entry, folder):
        files.setdefault(split, []).append(str(file.resolve()))
    kind = {Path(file).suffix for each in files.values() for file in each}
    if kind - {".parquet"} and kind - {".json", ".jsonl"}:
        raise ValueError(f"{name}: {folder} holds {sorted(kind)}; give one kind of file")
    told = {
        "include": str(own),
        "task": f"{name}_local",
        "dataset_path": "parquet" if kind == {".parquet"} else "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **CHANGES.get(name, {}),
    }
    # JSON is YAML, value by value, with every string in quotes
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    return "\n".join(lines) + "\n"


def _stock() -> Path:
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        raise Unavailable(
            "the tasks to include are lmms-eval's, and it is not installed: "
            "pip install 'qvid-workbook[lmms]'"
        )
    return Path(found.submodule_search_locations[0]) / "tasks"


def write_task(name: str, data: Path, to: Path) -> Path:
    """Write the task of one benchmark whose files are below `data` into the folder `to`.

    Returns the YAML's path. ValueError or Unavailable where it cannot be written.
    """
    shared = {"textvqa_ocr": "textvqa", "textvqa": "textvqa_ocr"}.get(name, name)
    near = [data / each for each in (name, shared) if (data / each).is_dir()]
    text = task(name, (near or [data / name])[0])
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"{name}_local.yaml"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
