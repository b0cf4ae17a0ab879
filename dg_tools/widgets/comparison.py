"""Which setting of a sweep looks best, and does its number say so? A stored sweep as a grid of pictures.

Everything is looked up; no model is loaded. `render` is the view of a look; the widget only keeps the look and puts the
view on the page.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets as t
from PIL import Image

from dg_tools.sweeps import Sweep
from dg_tools.widgets.gallery import Page, View, render, thumbnail
from dg_tools.widgets.parts import control, panel, panels, row, table, words, write
from dg_tools.widgets.picture import Picture
from dg_tools.widgets.png import draw
from dg_tools.widgets.runner import Messages, guarded
from dg_tools.widgets.stored import AXES, OF_SETTING, Look, Stored, label, read_sweep, unit

FIELDS = ("rows", "columns", "at", "measure", "mean", "chosen")


class ComparisonExplorer(widgets.VBox):
    """Look through a stored sweep: two axes as a grid of pictures, the other axes held by controls.

    Args:
        source: a `Sweep`, or the folder of one, whole or on its way; None: the reader writes one.

    Attributes:
        rows, columns: axes of the grid, of those that vary: `guidance`, `block`, `channels`, `s`, `w`, `window`,
            `prompt`, `seed`, `split`.
        at: the place looked at, a value on every axis; the grid goes through it.
        measure: a column of the sweep's table, shown in each cell.
        mean: its mean over all pictures of the setting and split.
        chosen: every guidance in the setting that the sweep chose for it.
        stored: what is looked at; None before a sweep is open.
    """

    rows, columns, measure = t.Unicode(""), t.Unicode(""), t.Unicode("")
    at = t.Dict({})
    mean, chosen = t.Bool(False), t.Bool(False)

    def __init__(self, source: Any = None) -> None:
        super().__init__()
        self.add_class("dg-explorer")
        self.add_class("dg-comparison-explorer")
        self.stored: Stored | None = None
        self._moving = False
        self._shown: Page | None = None
        self.messages = Messages()
        self._build()
        self.observe(guarded(self.messages, self._changed), names=list(FIELDS))
        if source is None:
            self.messages.say("Write the folder of a sweep and press Open; `dg-tools sweep` and dg.sweep make one.")
        else:
            guarded(self.messages, self.show)(source)

    def __repr__(self) -> str:
        if self.stored is None:
            return "ComparisonExplorer(no sweep yet)"
        return f"ComparisonExplorer({len(self.stored.plan.settings)} settings, {self.rows} x {self.columns})"

    @t.validate("rows", "columns", "measure")
    def _known(self, proposal: Any) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        known = [] if self.stored is None else self.stored.measures if name == "measure" else self.stored.varying
        if value not in known:
            raise t.TraitError(f"{name} {value!r} asked for; {self._offer(known)}")
        return value

    @t.validate("chosen")
    def _choosable(self, proposal: Any) -> bool:
        if proposal["value"] and not (self.stored and self.stored.chosen):
            raise t.TraitError("chosen settings asked for; this sweep has not chosen yet: start it again to go on")
        return proposal["value"]

    @t.validate("at")
    def _somewhere(self, proposal: Any) -> dict[str, Any]:
        axes = {} if self.stored is None else self.stored.axes
        for axis, value in proposal["value"].items():
            if axis not in axes:
                raise t.TraitError(f"axis {axis!r} asked for; {self._offer(list(axes))}")
            if value not in axes[axis]:
                raise t.TraitError(f"{axis} {value!r} asked for; {self._offer(axes[axis])}")
        return {**self.at, **proposal["value"]}

    def _offer(self, known: list[Any]) -> str:
        return f"this sweep has {', '.join(map(str, known))}" if known else "no sweep is open yet"

    # -- state and view ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> Look:
        """What the reader looks at."""
        return Look(**{name: getattr(self, name) for name in FIELDS})

    def render(self, state: Look | None = None) -> View:
        """The view of a look, without a change to the widget.

        Raises:
            RuntimeError: no sweep is open.
        """
        return render(self._open(), state or self.state)

    def show(self, source: Any) -> None:
        """Look at a `Sweep`, or at the folder of one; at the same folder again, at what has come since.

        Raises:
            FileNotFoundError, ValueError: a folder that holds no sweep, or a damaged one.
            TypeError: something else.
        """
        if not isinstance(source, str | Path | Sweep):
            raise TypeError(f"a {type(source).__name__} cannot be compared: pass a sweep's folder, or a Sweep")
        sweep = read_sweep(source.folder if isinstance(source, Sweep) else source)
        thumbnail.cache_clear()  # a damaged picture may have been made again
        stored, before = Stored(sweep), self.stored
        again = before is not None and before.sweep.folder == sweep.folder and before.axes == stored.axes
        again = again and self.measure in stored.measures and (bool(stored.chosen) or not self.chosen)
        look = self.state if again else stored.opening()
        self.stored, self._shown = stored, None
        self.folder.value = str(sweep.folder)
        self._ranges(stored)
        self.move(**vars(look))

    def move(self, **fields: Any) -> None:
        """Set several fields of the look, or values on axes by name (`block=4`), and draw once."""
        places = {name: fields.pop(name) for name in list(fields) if name in AXES}
        if "rows" in fields and fields["rows"] == fields.get("columns"):
            raise ValueError(f"rows and columns are both {fields['rows']!r}: name two axes")
        before = self.rows, self.columns, self.at.get("split")
        self._moving = True
        try:
            for name, value in {**fields, "at": {**fields.get("at", {}), **places}}.items():
                setattr(self, name, value)
            self._settle(*before)
        finally:
            self._moving = False
        self.refresh()

    def refresh(self) -> None:
        """Put the current view on the page."""
        view = self.render()
        self._moving = True
        try:
            self._follow()
            if view.page != self._shown:
                self._shown, shape = view.page, (len(view.page.rows), len(view.page.columns))
                self.grid.width = round(100 * (figure := view.page.draw()).get_figwidth())
                self.grid.draw(draw(figure, shape), view.cell)
            self.grid.cell, self._places = view.cell, view.places
        finally:
            self._moving = False
        for picture, png in ((self.picture, view.picture), (self.unguided, view.unguided)):
            picture.png = png
            wide = Image.open(io.BytesIO(png)).width if png else 0
            picture.width, picture.pixelated = min(max(wide, 256), 512), wide < 256
        self.sides.children = self.beside if view.unguided else self.beside[:1]
        write(self.title, view.title)
        write(self.note, view.note)
        self.numbers.value, self.code.value = table(view.numbers) if view.numbers else "", view.code
        self.code.layout.display = "" if view.code else "none"

    def _open(self) -> Stored:
        if self.stored is None:
            raise RuntimeError("no sweep is open: write its folder and press Open, or pass it")
        return self.stored

    def _changed(self, change: Any) -> None:
        if self._moving:
            return
        self._moving = True
        try:
            before = {**vars(self.state), change["name"]: change["old"]}
            self._settle(before["rows"], before["columns"], before["at"].get("split"))
        finally:
            self._moving = False
        self.refresh()

    def _settle(self, rows: str, columns: str, split: str | None) -> None:
        """After a change: two different axes, and a prompt of the split. The arguments are what was before."""
        if self.rows == self.columns:  # an axis taken from the other side: they change places
            self.rows, self.columns = (columns, self.columns) if self.rows == rows else (self.rows, rows)
        self.at, said = self._open().settled(self.state, split is not None and self.at["split"] != split)
        self.messages.say(said)

    # -- the page -----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.folder = control(widgets.Text, "Stored sweep", "400px", placeholder="folder that dg.sweep wrote")
        self.opening = widgets.Button(description="Open", icon="folder-open", layout={"width": "90px"})
        self.opening.tooltip = "Read the folder, or read it again"
        self.opening.on_click(guarded(self.messages, lambda _: self.show(self.folder.value)))
        self.rows_field = control(widgets.Dropdown, "Rows", "220px")
        self.columns_field = control(widgets.Dropdown, "Columns", "240px")
        self.measure_field = control(widgets.Dropdown, "Measure", "340px")
        self.mean_box = widgets.Checkbox(False, description="mean of the split", indent=False)
        self.chosen_box = widgets.Checkbox(False, description="chosen settings only", indent=False)
        self.mean_box.layout.width, self.chosen_box.layout.width = "160px", "190px"
        self.places = {axis: control(widgets.Dropdown, said, "auto") for axis, said in AXES.items()}
        self.controls = {
            "rows": self.rows_field, "columns": self.columns_field, "measure": self.measure_field,
            "mean": self.mean_box, "chosen": self.chosen_box,
        }  # fmt: skip
        for name, made in self.controls.items():
            made.observe(guarded(self.messages, partial(self._set, name)), names="value")
        for axis, made in self.places.items():
            made.layout.max_width, made.layout.margin = "330px", "2px 12px 2px 2px"
            made.observe(guarded(self.messages, partial(self._place, axis)), names="value")
        self.note, self.title, self.numbers = words(""), words(""), widgets.HTML("")
        self.grid = Picture(width=600, label="cells of the sweep: arrow keys or a click choose one")
        self.grid.observe(guarded(self.messages, self._point), names="cell")
        self.picture, self.unguided = Picture(label="picture of the chosen cell"), Picture(label="picture: unguided")
        self.beside = [panel("The cell", self.picture), panel("Without guidance, same noise", self.unguided)]
        self.sides = panels(*self.beside)
        self.code = control(widgets.Textarea, "Code", "100%", rows=5)
        self.held = row()
        details = widgets.VBox(
            [self.title, self.sides, panel("Its numbers", self.numbers)], layout={"flex": "1 1 400px"}
        )
        details.add_class("dg-details")
        self.views = widgets.VBox(
            [
                row(self.rows_field, self.columns_field, self.measure_field, self.mean_box, self.chosen_box),
                self.held,
                self.note,
                panels(panel("Which setting? (click a cell)", self.grid), details),
                self.code,
            ],
            layout={"display": "none"},
        )
        self.children = [row(self.folder, self.opening), self.messages, self.views]

    def _set(self, field: str, change: Any) -> None:
        if not self._moving:
            setattr(self, field, change["new"])

    def _place(self, axis: str, change: Any) -> None:
        if not self._moving:
            self.at = {**self.at, axis: change["new"]}

    def _point(self, change: Any) -> None:
        if not self._moving and change["new"] >= 0:
            self.move(**self._places[change["new"]])

    def _ranges(self, stored: Stored) -> None:
        """What the controls can be set to."""
        self._moving = True
        axes = [(AXES[a], a) for a in stored.varying]
        self.rows_field.options = self.columns_field.options = axes
        self.measure_field.options = [(unit(m), m) for m in stored.measures]
        self.chosen_box.disabled = not stored.chosen
        self.held.children = [made for axis, made in self.places.items() if axis in stored.varying]
        self.views.layout.display = ""
        self._moving = False

    def _follow(self) -> None:
        """The controls show the traits."""
        stored, look = self._open(), self.state
        for name, made in self.controls.items():
            made.value = getattr(self, name)
        for axis in stored.varying:
            made, options = self.places[axis], [(label(axis, v), v) for v in stored.values(axis, look)]
            if made.options != tuple(options):
                made.options = options
            made.value, made.disabled = self.at[axis], look.chosen and axis in OF_SETTING[1:]
