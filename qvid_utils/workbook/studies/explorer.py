"""Pick a picture, type a question, and see what each method keeps and how the answer changes.

    explore(model, processor, picture, "What color is the star?", methods=("qvid", "random"))

Where somebody sits at the notebook this shows sliders (extra `lab`); in a batch run (papermill,
nbval, nbconvert) and in an exported page the same call shows the figure alone, equal byte for byte.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from html import escape
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from torch import nn

from ...families import Unavailable
from ...methods import Method, method
from ...models.load import LoadError, load
from ...paths import DATA, FIGURES
from ..benchmarks import TINY, suite
from ..benchmarks.prompts import picture as picture_of
from ..plots import base as figures
from ..plots.pictures import split_question
from . import explorer_figure as figures_explorer
from .cell_lists import every_method
from .one_question import Asked, Look, ask, look

__all__ = ["Panel", "Session", "attended", "embedded", "examples", "explore"]

EACH = 8  # example questions of each embedded suite
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 0.5, 0.8, 0.9, 0.99)
OWN = "own"  # each method at its own layer
INSTALL = 'pip install -c constraints.txt -e ".[lab]"'
WRONG = (ValueError, TypeError, Unavailable, LoadError)


# ---------------------------------------------------------------------------- what is looked at
@dataclass
class Session:
    """A question, a picture and some settings; `update` changes some and looks again.

    methods: two or more; keep, layer (None: each method's own), rank: as in `views.look`; profile,
    name: where `save` writes. The unpruned answer is kept until picture, question, model or layer
    change.
    """

    model: nn.Module
    processor: Any
    picture: Any
    question: str
    methods: Sequence[str | Method] = ("qvid", "random")
    keep: int = 16
    layer: int | None = None
    rank: int | float = 16
    profile: str = "tiny"
    asked: Asked | None = field(default=None, repr=False)
    seen: Look | None = field(default=None, repr=False)

    def update(self, **changes: Any) -> Look:
        """Look again with some settings changed; after an error everything is as it was.

        model may be a name, which is loaded; keep is capped where a picture has fewer tokens.
        """
        unknown = sorted(set(changes) - {"model", "picture", "question", "methods", "keep", "layer",
                                         "rank"})  # fmt: skip
        if unknown:
            raise ValueError(f"the explorer has no {', '.join(unknown)}")
        if isinstance(changes.get("model"), str):
            model, processor = load(changes["model"])
            changes |= {"model": model, "processor": processor}
        new = replace(self, **changes)
        if new.asked is None or {"model", "picture", "question", "layer"} & set(changes):
            new.asked = ask(new.model, new.processor, new.picture, new.question, new.layer)
        new.keep = min(new.keep, new.asked.n_visual)
        new.seen = look(new.asked, new.methods, new.keep, layer=new.layer, rank=new.rank)
        vars(self).update(vars(new))
        return self.seen

    def save(self, name: str) -> str:
        """Write the figure and its numbers as figures/<profile>/<name>.png, .pdf and .csv."""
        seen = self.seen or self.update()
        figures.save(figures_explorer.explorer(seen), name, seen.numbers, self.profile)
        return f"{(figures.figures_dir(self.profile) / name).relative_to(FIGURES.parent)}.png"


def examples() -> dict[str, tuple[str, str]]:
    """Some questions of the embedded suites: what to call each -> (suite, id)."""
    return {
        f"{row.id}: {split_question(row.question)[0]}": (name, row.id)
        for name in TINY
        for row in suite(name).samples.drop_duplicates("picture").head(EACH).itertuples()
    }


def embedded() -> list[str]:
    """The names of the embedded models."""
    found = sorted((DATA / "tiny").glob("*/generation_config.json"))
    return [f"tiny/{path.parent.name}" for path in found]


# ------------------------------------------------------------------------------------ the call
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

    picture: as in `views.opened`; settings: those of `Session`; live: True or False to decide
    otherwise. The figure alone is saved as figures/<profile>/<name>, as all figures are; with
    sliders, only where the button is pressed.
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


# ------------------------------------------------------------------------------------ the sliders
class Panel:
    """The controls around a `Session`: every change looks again and shows the new figure.

    controls: by name; image: the figure; message: what went wrong, or how long it took; box: all.
    """

    def __init__(self, widgets: Any, session: Session, name: str):
        self.widgets, self.session, self.busy = widgets, session, False
        session.update()
        self.controls = self._controls(name)
        self.image = widgets.Image(format="png")
        self.message = widgets.HTML()
        for control, change in self._changes().items():
            self.controls[control].observe(lambda event, f=change: self._moved(f(event)), "value")
        self.controls["save"].on_click(self._save)
        self.box = self._arranged()
        self._draw()

    def _controls(self, name: str) -> dict[str, Any]:
        w, session = self.widgets, self.session
        wide = {"layout": {"width": "99%"}, "style": {"description_width": "68px"}}
        slow = wide | {"continuous_update": False}
        methods = [(method(name).label, name) for name in every_method()]
        layer = OWN if session.layer is None else session.layer
        ranks = sorted({*RANKS, session.rank}, key=lambda rank: (rank < 1, rank))
        ranks = [(_modes(rank), rank) for rank in ranks]
        found = {
            "model": w.Combobox(value=_name(session.model), options=embedded(),
                                description="model", **slow),
            "example": w.Dropdown(options=[("one of the embedded", None), *examples().items()],
                                  description="picture", **wide),
            "file": w.Text(placeholder="or a file's path", description=" ", **slow),
            "upload": w.FileUpload(accept="image/*", description="or upload"),
            "question": w.Text(value=session.question, description="question", **slow),
            "keep": w.IntSlider(session.keep, 1, session.asked.n_visual, description="keep",
                                **slow),
            "layer": w.SelectionSlider(value=layer, options=_layers(session), description="layer",
                                       **slow),
            "rank": w.SelectionSlider(value=session.rank, options=ranks, description="rank",
                                      **slow),
            "name": w.Text(value=f"{name}_mine", description="save as", **wide),
            "save": w.Button(description="save the figure"),
        }  # fmt: skip
        for number, one in enumerate(session.methods, 1):
            own = [] if isinstance(one, str) else [(f"{one.label} (as given)", one)]
            found[f"method {number}"] = w.Dropdown(
                options=own + methods, value=one, description=f"method {number}", **wide
            )
        return found

    def _changes(self) -> dict[str, Any]:
        """Control -> its event as the changes that `Session.update` takes."""
        plain = {name: lambda event, name=name: {name: event["new"]}
                 for name in ("model", "question", "keep", "rank")}  # fmt: skip
        names = [name for name in self.controls if name.startswith("method")]

        def chosen(event: dict) -> dict:
            return {"methods": [self.controls[name].value for name in names]}

        return plain | dict.fromkeys(names, chosen) | {
            "layer": lambda event: {"layer": None if event["new"] == OWN else event["new"]},
            "example": lambda event: _example(event["new"]),
            "file": lambda event: {"picture": event["new"]} if event["new"] else {},
            "upload": lambda event: {"picture": bytes(event["new"][0]["content"])}
            if event["new"] else {},
        }  # fmt: skip

    def _arranged(self) -> Any:
        w, names = self.widgets, list(self.controls)
        left = ["model", "example", "file", "upload", "question"]
        below = ["keep", "layer", "rank", "name", "save"]
        right = [name for name in names if name not in left + below] + below
        columns = [
            w.VBox([self.controls[name] for name in side], layout={"width": "50%"})
            for side in (left, right)
        ]
        return w.VBox([w.HBox(columns), self.message, self.image])

    def _moved(self, changes: dict) -> None:
        if self.busy or not changes:
            return
        self.busy, began = True, perf_counter()  # what is set below moves controls, too
        try:
            self.session.update(**changes)
            self._draw()
            self._follow()
            self._say(f"{perf_counter() - began:.2f} s{_strange(self.session.asked)}")
        except Exception as wrong:  # a callback's traceback goes to a log that nobody reads
            kind = "" if isinstance(wrong, WRONG) else f"{type(wrong).__name__}: "
            self._say(f"{kind}{wrong}", wrong=True)
        finally:
            self.busy = False

    def _draw(self) -> None:
        self.image.value = figures_explorer.png(figures_explorer.explorer(self.session.seen))

    def _follow(self) -> None:
        """Let the controls say what the session has: another picture has other limits."""
        session, controls = self.session, self.controls
        controls["question"].value = session.question
        controls["keep"].max = session.asked.n_visual
        controls["keep"].value = session.keep
        if _layers(session) != list(controls["layer"].options):
            controls["layer"].options = _layers(session)

    def _say(self, text: str, wrong: bool = False) -> None:
        colour = figures.VERMILION if wrong else figures.GREY
        self.message.value = f'<span style="color:{colour}">{escape(text)}</span>'

    def _save(self, button: Any) -> None:
        try:
            self._say(f"saved {self.session.save(self.controls['name'].value)}, .pdf and .csv")
        except (ValueError, OSError) as wrong:
            self._say(str(wrong), wrong=True)

    def show(self) -> None:
        """Display the controls; where a page cannot have them it shows the figure of now."""
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "explorer"}
        display(bundle | {"image/png": b64encode(self.image.value).decode()}, raw=True)


def _name(model: nn.Module) -> str:
    """What `load` calls it; an embedded model by its short name."""
    name = str(getattr(model.config, "_name_or_path", ""))
    return name.removeprefix(f"{DATA}/") if name.startswith(f"{DATA}/tiny/") else name


def _layers(session: Session) -> list:
    return [OWN, *range(session.asked.depth)]


def _modes(rank: int | float) -> str:
    return str(rank) if rank >= 1 else f"{100 * rank:.0f} % of the energy"


def _example(place: tuple[str, str] | None) -> dict:
    """The picture and the question of an embedded example, as changes of a session."""
    if place is None:
        return {}
    samples = suite(place[0]).samples
    row = next(samples[samples["id"] == place[1]].itertuples())
    return {"picture": picture_of(row.image, row.id), "question": row.question}


def _strange(asked: Asked) -> str:
    if not asked.unknown:
        return ""
    return f"; words that this model does not know: {', '.join(asked.unknown)}"
