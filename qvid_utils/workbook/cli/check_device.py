"""The work of `python -m qvid_utils check --device cuda --out DIR`: steps, each stored when done.

DIR/settings.json says of which device and size the results are, DIR/steps/PART--STEP.csv holds what
one step found, DIR/PART.csv all steps of a part, DIR/check.md the same to read, with each step's
seconds. A step whose file is there is not run again; one that fails is told on the page, does not
stop the others, and is tried again by the next run.
"""

import argparse
import json
import platform
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch

from ...models.load import device_of
from ...paths import RUNS
from .check_parts import STEPS, Size

__all__ = ["Book", "work"]

ABOUT = {
    "oracles": "Exactness on this device: keep-all, dropping = masking, cached = recomputed, "
    "batch = rows, static cache; the embedded models' answers beside the CPU's",
    "score": "The score alone, µs (medians), and how many times faster than the printed QR + SVD",
    "models": "Speed-up over the unpruned model in the same rounds, beside the bound by operations",
    "notebooks": "Notebooks executed on this device",
    "grid": "A grid of 12 cells in one pass beside its 12 single runs",
}


@dataclass
class Book:
    """The folder of one check's results."""

    folder: Path
    settings: dict[str, object]

    def open(self) -> None:
        """Makes the folder; ValueError where it holds the check of another setting."""
        (self.folder / "steps").mkdir(parents=True, exist_ok=True)
        place = self.folder / "settings.json"
        known = json.loads(place.read_text(encoding="utf-8")) if place.exists() else self.settings
        for name, value in self.settings.items():
            if known.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds a check with {name} {known.get(name)}, this is "
                    f"{name} {value}: give another --out"
                )
        place.write_text(json.dumps(self.settings, indent=1) + "\n", encoding="utf-8")

    def place(self, part: str, step: str, end: str = "csv") -> Path:
        return self.folder / "steps" / f"{part}--{step}.{end}"

    def run(self, part: str, step: str, task: Callable[[], pd.DataFrame]) -> bool:
        """One step, unless it is done; False where it failed."""
        done, failed = self.place(part, step), self.place(part, step, "failed")
        if done.exists():
            print(f"{part}, {step}: done before", flush=True)
            return True
        start = perf_counter()
        try:
            found = task()
        except Exception as error:  # one that fails does not stop the others
            failed.write_text(traceback.format_exc(), encoding="utf-8")
            print(f"{part}, {step}: FAILED: {type(error).__name__}: {error}", flush=True)
            self.page()
            return False
        failed.unlink(missing_ok=True)
        took = perf_counter() - start
        whole = done.with_suffix(".part")
        found.assign(step=step, step_seconds=round(took, 1)).to_csv(whole, index=False)
        whole.replace(done)
        print(f"{part}, {step}: {took:.1f} s", flush=True)
        self.page()
        return bool(found["fine"].all()) if "fine" in found else True

    def page(self) -> None:
        """Writes each part's CSV and check.md anew, of what is there."""
        lines = ["# Check of a device", ""]
        lines += [f"- {name}: {value}" for name, value in self.settings.items()]
        for part in STEPS:
            files = sorted(self.folder.glob(f"steps/{part}--*.csv"))
            failed = sorted(self.folder.glob(f"steps/{part}--*.failed"))
            if not files and not failed:
                continue
            lines += ["", f"## {part}", "", ABOUT[part], ""]
            if files:
                found = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
                found.to_csv(self.folder / f"{part}.csv", index=False)
                seconds = found.drop_duplicates("step")["step_seconds"].sum()
                lines += [_markdown(found.drop(columns=["step", "step_seconds"])), ""]
                lines.append(f"{len(files)} steps, {seconds:.0f} s")
            for file in failed:
                last = file.read_text(encoding="utf-8").strip().splitlines()[-1]
                lines += ["", f"**FAILED** {file.stem}: {last}"]
        (self.folder / "check.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _markdown(table: pd.DataFrame) -> str:
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.4g}"
        return str(value)

    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def work(chosen: argparse.Namespace) -> int:
    """Run the chosen parts; returns 1 where a step failed or found something wrong."""
    import transformers

    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device_of(device)
    size = Size(device, chosen.divide, chosen.layers, chosen.limit, chosen.rounds)
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.machine()
    settings = {"device": f"{device} ({name})", "divide": size.divide, "layers": size.layers}
    settings |= {"limit": size.limit, "rounds": size.rounds, "torch": torch.__version__}
    settings |= {"transformers": transformers.__version__}
    book = Book(chosen.out or RUNS / "check_device", settings)
    book.open()
    fine = [book.run(part, step, task) for part in chosen.parts for step, task in STEPS[part](size)]
    print(book.folder / "check.md")
    return 0 if all(fine) else 1
