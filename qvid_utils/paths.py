"""Where data, figures and notebooks are.

In a checkout: beside the package, never in the working folder. Where the package alone is installed
there is no checkout: figures and runs then go below the working folder, never beside the package.
"""

from importlib import metadata
from pathlib import Path

_BESIDE = Path(__file__).resolve().parent.parent
IN_CHECKOUT = (_BESIDE / "data" / "paper").is_dir()
ROOT = _BESIDE if IN_CHECKOUT else Path.cwd()
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"  # untracked: executed copies, times, records of long runs

PROFILES = ("tiny", "paper")


def papers_numbers() -> Path:
    """Folder of the papers' tables as CSV: the checkout's, or the one that the wheel brought.

    Raises FileNotFoundError where neither is there.
    """
    if IN_CHECKOUT:
        return DATA / "paper"
    brought = metadata.files("qvid-workbook") or []
    for file in brought:
        if file.name == "table01.csv":
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError("the papers' tables are not installed: install qvid-workbook anew")


def figures_dir(profile: str = "tiny") -> Path:
    """Folder that the figures and tables of one profile are written to; not created here.

    Raises ValueError for a name that is not one of `PROFILES`.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    return FIGURES / profile
