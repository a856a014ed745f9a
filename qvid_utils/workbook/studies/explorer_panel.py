"""The explorer's sliders: controls around a `Session` (extra `lab`)."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from time import perf_counter
from typing import Any

from ...families import Unavailable
from ...methods import method
from ...models.load import LoadError
from ..plots import base as figures
from . import explorer_figure as figures_explorer
from .cell_lists import every_method
from .explorer_session import Session, embedded, example, examples, strange
from .one_question import name_of

RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 0.5, 0.8, 0.9, 0.99)
OWN = "own"  # each method at its own layer
NONE = ""  # no embedded example is chosen
WRONG = (ValueError, TypeError, Unavailable, LoadError)


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
            "model": w.Combobox(value=name_of(session.model), options=embedded(),
                                description="model", **slow),
            "example": w.Dropdown(options=[("one of the embedded", NONE), *examples().items()],
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
            "example": lambda event: _chosen(event["new"]),
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
        """Look again; what went wrong is said, and the controls go back to what is drawn."""
        if self.busy or not changes:
            return
        self.busy, began = True, perf_counter()  # what is set below moves controls, too
        self._say("…")
        try:
            self.session.update(**changes)
            self._draw()
            took = f"{perf_counter() - began:.2f} s"
            self._say("; ".join(part for part in (strange(self.session.asked), took) if part))
        except Exception as wrong:  # a callback's traceback goes to a log that nobody reads
            kind = "" if isinstance(wrong, WRONG) else f"{type(wrong).__name__}: "
            self._say(f"{kind}{wrong}", wrong=True)
        finally:
            self._follow()
            self.busy = False

    def _draw(self) -> None:
        self.image.value = figures_explorer.png(figures_explorer.explorer(self.session.seen))

    def _follow(self) -> None:
        """Let the controls say what the session has: another picture has other limits."""
        session, controls = self.session, self.controls
        controls["keep"].max = session.asked.n_visual
        if _layers(session) != list(controls["layer"].options):
            controls["layer"].options = _layers(session)
        has = {"model": name_of(session.model), "question": session.question,
               "keep": session.keep, "rank": session.rank,
               "layer": OWN if session.layer is None else session.layer}  # fmt: skip
        has |= {f"method {n}": one for n, one in enumerate(session.methods, 1)}
        for name, value in has.items():
            if controls[name].value != value:
                controls[name].value = value

    def _say(self, text: str, wrong: bool = False) -> None:
        colour = figures.VERMILION if wrong else figures.GREY
        self.message.value = f'<span style="color:{colour}">{escape(text)}</span>'

    def _save(self, button: Any) -> None:
        try:
            where = self.session.save(self.controls["name"].value, anew=True)
            self._say(f"saved {where}, .pdf and .csv")
        except (ValueError, OSError) as wrong:
            self._say(str(wrong), wrong=True)

    def show(self) -> None:
        """Display the controls; where a page cannot have them it shows the figure of now."""
        from IPython.display import display

        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        bundle = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "explorer"}
        display(bundle | {"image/png": b64encode(self.image.value).decode()}, raw=True)


def _layers(session: Session) -> list:
    return [OWN, *range(session.asked.depth)]


def _modes(rank: int | float) -> str:
    return str(rank) if rank >= 1 else f"{100 * rank:.0f} % of the energy"


def _chosen(place: tuple[str, str] | str) -> dict:
    return example(place) if place else {}
