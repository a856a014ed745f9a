"""Pick a picture, type a question, and see what each method keeps and how the answer changes.

    explore(model, processor, picture, "What color is the star?", methods=("qvid", "random"))

Where somebody sits at the notebook this shows sliders (extra `lab`); in a batch run (papermill,
nbval, nbconvert) and in an exported page the same call shows the figure alone, equal byte for byte.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from torch import nn

from .explorer_panel import Panel
from .explorer_session import Session

INSTALL = 'pip install -c constraints.txt -e ".[lab]"'


def attended() -> bool:
    """Whether somebody sits at this notebook: its front end can be asked for input.

    papermill, nbval, nbconvert and plain Python cannot.
    """
    with suppress(ImportError):
        from IPython import get_ipython

        kernel = getattr(get_ipython(), "kernel", None)
        return bool(getattr(kernel, "_allow_stdin", False))
    return False


def explore(
    model: nn.Module,
    processor: Any,
    picture: Any,
    question: str,
    *,
    name: str,
    live: bool | None = None,
    **settings: Any,
) -> None:
    """Show the explorer: sliders where somebody sits at the notebook, else the figure alone.

    picture: as in `one_question.opened`; settings: those of `Session`; live: True or False to
    decide otherwise. The figure alone is saved as figures/<profile>/<name>, as all figures are;
    with sliders, only where the button is pressed.
    Raises ImportError naming the extra where live=True and ipywidgets is not installed (without
    live=True the figure is shown, and a line says so), and what `Session` raises.
    """
    wanted = attended() if live is None else live
    if wanted and (live or find_spec("ipywidgets")):
        widgets = _widgets()
        return Panel(widgets, Session(model, processor, picture, question, **settings), name).show()
    if wanted:
        print(f"for sliders: {INSTALL}, and restart the kernel")
    Session(model, processor, picture, question, **settings).save(name)


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError as cause:
        raise ImportError(
            f"the explorer's sliders need ipywidgets: {INSTALL}; live=False shows the figure alone"
        ) from cause
    return ipywidgets
