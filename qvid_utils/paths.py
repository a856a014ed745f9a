"""Where data, figures and notebooks are: from this file's place, never from the working folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"  # untracked: executed copies, times, records of long runs

PROFILES = ("tiny", "paper")


def figures_dir(profile: str = "tiny") -> Path:
    """Folder that the figures and tables of one profile are written to; not created here.

    Raises ValueError for a name that is not one of `PROFILES`.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r}: it must be one of {', '.join(PROFILES)}")
    return FIGURES / profile
