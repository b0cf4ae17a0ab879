"""The explorer of a stored sweep: which setting looks best, and do its numbers agree? A grid of pictures.

Everything is looked up; no model is loaded. `render` is the view of a selection; the widget only keeps the selection
and puts the view on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import traitlets as t

from dg_tools.kinds import counted, kind_of
from dg_tools.sweeps import Sweep
from dg_tools.widgets.comparison_page import ComparisonPage
from dg_tools.widgets.kept_page import page, write_page
from dg_tools.widgets.kept_sweep import MOST_MB, sweep_data
from dg_tools.widgets.runner import guarded
from dg_tools.widgets.saving import save
from dg_tools.widgets.sweep_lookup import AXES, OF_SETTING, Selection, StoredSweep, label, read_sweep
from dg_tools.widgets.sweep_view import Page, SweepView, render, thumbnail

FIELDS = ("rows", "columns", "at", "measure", "mean", "chosen")


class ComparisonExplorer(ComparisonPage):
    """Look through a stored sweep: two axes as a grid of pictures, the other axes held by controls.

    Args:
        source: a `Sweep`, or the folder of one, finished or not; None: the reader types a folder.

    Attributes:
        rows, columns: axes of the grid, of those that vary: `guidance`, `block`, `channels`, `s`, `w`, `window`,
            `prompt`, `seed`, `split`.
        at: the current place, a value on every axis; the grid goes through it.
        measure: a column of the sweep's table, shown in each cell.
        mean: its mean over all pictures of the setting and split.
        chosen: every guidance in the setting that the sweep chose for it.
        stored: the sweep on the page; None before one is open.
    """

    rows = t.Unicode("")
    columns = t.Unicode("")
    measure = t.Unicode("")
    at = t.Dict({})
    mean = t.Bool(False)
    chosen = t.Bool(False)

    def __init__(self, source: Any = None) -> None:
        super().__init__(self.save)
        self.stored: StoredSweep | None = None
        self._moving = False
        self._drawn: Page | None = None
        self._connect()
        if source is None:
            self.messages.say("Write the folder of a sweep and press Open; `dg-tools sweep` and dg.sweep make one.")
        else:
            guarded(self.messages, self.show)(source)

    def __repr__(self) -> str:
        if self.stored is None:
            return "ComparisonExplorer(no sweep yet)"
        return f"ComparisonExplorer({counted(len(self.stored.plan.settings), 'setting')}, {self.rows} x {self.columns})"

    @t.validate("rows", "columns", "measure")
    def _check_name(self, proposal: Any) -> str:
        name, value = proposal["trait"].name, proposal["value"]
        known = [] if self.stored is None else self.stored.measures if name == "measure" else self.stored.varying
        if value not in known:
            raise t.TraitError(f"{name} {value!r} requested; {self._offer(known)}")
        return value

    @t.validate("chosen")
    def _check_chosen(self, proposal: Any) -> bool:
        if proposal["value"] and not (self.stored and self.stored.chosen):
            raise t.TraitError("chosen settings requested; this sweep has not chosen yet: start it again to go on")
        return proposal["value"]

    @t.validate("at")
    def _check_place(self, proposal: Any) -> dict[str, Any]:
        axes = {} if self.stored is None else self.stored.axes
        for axis, value in proposal["value"].items():
            if axis not in axes:
                raise t.TraitError(f"axis {axis!r} requested; {self._offer(list(axes))}")
            if value not in axes[axis]:
                raise t.TraitError(f"{axis} {value!r} requested; {self._offer(axes[axis])}")
        return {**self.at, **proposal["value"]}

    def _offer(self, known: list[Any]) -> str:
        return f"this sweep has {', '.join(map(str, known))}" if known else "no sweep is open yet"

    # -- state and view ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> Selection:
        """The selection on the page."""
        return Selection(**{name: getattr(self, name) for name in FIELDS})

    def render(self, state: Selection | None = None) -> SweepView:
        """The view of a selection, without a change to the widget.

        Raises:
            RuntimeError: no sweep is open.
        """
        return render(self._open(), state or self.state)

    def to_html(self, path: str | Path, *, most_mb: float = MOST_MB) -> Path:
        """Write the sweep as one file that opens without a kernel or a network, at the current place; its path.

        Axes, cells, numbers and code answer as here. Pictures are thumbnails of 256 pixels, or of 128 or 64 where
        these fit.

        Args:
            path: ends in `.html`; a file there is replaced.
            most_mb: megabytes of pictures, at most.

        Raises:
            RuntimeError: no sweep is open.
            ValueError, FileNotFoundError: a path that cannot be written, or pictures that do not fit.

        Example:
            >>> explorer.to_html("sweep.html")  # doctest: +SKIP
            PosixPath('sweep.html')
        """
        stored = self._open()
        data = {"sweep": sweep_data(stored, self.state, most_mb)}
        done = f"{counted(len(stored.rows), 'picture')} of {counted(len(stored.plan.settings), 'setting')}"
        return write_page(path, page(f"Sweep {stored.sweep.folder.name}", f"{done}. Pictures are thumbnails.", data))

    def save(self, path: str | Path) -> list[Path]:
        """Write a page (`.html`) or the grid as a figure (`.png`, `.svg`, `.pdf`); the paths.

        Raises:
            RuntimeError: no sweep is open.
            ValueError, FileNotFoundError: a path that cannot be written.
        """
        grid = self.render().page
        return save(path, self.to_html, lambda: {"grid": grid.draw()})

    def show(self, source: Any) -> None:
        """Put a `Sweep`, or the folder of one, on the page; the same folder again shows what was added since.

        Raises:
            FileNotFoundError, ValueError: a folder that holds no sweep, or a damaged one.
            TypeError: something else.
        """
        if not isinstance(source, str | Path | Sweep):
            raise TypeError(f"{kind_of(source)} cannot be compared: pass a sweep's folder, or a Sweep")
        sweep = read_sweep(source.folder if isinstance(source, Sweep) else source)
        thumbnail.cache_clear()  # a damaged picture may have been replaced since
        stored, before = StoredSweep(sweep), self.stored
        again = before is not None and before.sweep.folder == sweep.folder and before.axes == stored.axes
        again = again and self.measure in stored.measures and (bool(stored.chosen) or not self.chosen)
        selection = self.state if again else stored.opening()
        self.stored = stored
        self._drawn = None
        self.folder.value = str(sweep.folder)
        with self._silent():
            self.set_ranges(stored)
        self.move(**vars(selection))

    def move(self, **fields: Any) -> None:
        """Set several fields of the selection, or values on axes by name (`block=4`), and draw once."""
        places = {name: fields.pop(name) for name in list(fields) if name in AXES}
        if "rows" in fields and fields["rows"] == fields.get("columns"):
            raise ValueError(f"rows and columns are both {fields['rows']!r}: name two axes")
        before = self.rows, self.columns, self.at.get("split")
        with self._silent():
            for name, value in {**fields, "at": {**fields.get("at", {}), **places}}.items():
                setattr(self, name, value)
            self._settle(*before)
        self.refresh()

    def refresh(self) -> None:
        """Put the current view on the page."""
        view = self.render()
        with self._silent():
            self._follow()
            if view.page != self._drawn:
                self._drawn = view.page
                self.grid.draw(view.page.front(), view.page.pictures(), view.cell)
            self.grid.cell = view.cell
            self._cells = view.places
        self.show_cell(view)

    def _open(self) -> StoredSweep:
        if self.stored is None:
            raise RuntimeError("no sweep is open: write its folder and press Open, or pass it")
        return self.stored

    @contextmanager
    def _silent(self) -> Iterator[None]:
        """Traits and controls change inside without a new view."""
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    def _settle(self, rows: str, columns: str, split: str | None) -> None:
        """After a change: two different axes, and a prompt of the split. The arguments are the values before."""
        if self.rows == self.columns:  # the axis was the other one: the two change places
            if self.rows == rows:
                self.rows = columns
            else:
                self.columns = rows
        self.at, note = self._open().settled(self.state, split is not None and self.at["split"] != split)
        self.messages.say(note)

    # -- controls and clicks ------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        say = self.messages
        self.opening.on_click(guarded(say, lambda _: self.show(self.folder.value)))
        for name, field in self.controls.items():
            field.observe(guarded(say, partial(self._set, name)), names="value")
        for axis, field in self.places.items():
            field.observe(guarded(say, partial(self._set_place, axis)), names="value")
        self.grid.observe(guarded(say, self._clicked), names="cell")
        self.observe(guarded(say, self._changed), names=list(FIELDS))

    def _changed(self, change: Any) -> None:
        if self._moving:
            return
        with self._silent():
            before = {**vars(self.state), change["name"]: change["old"]}
            self._settle(before["rows"], before["columns"], before["at"].get("split"))
        self.refresh()

    def _set(self, name: str, change: Any) -> None:
        if not self._moving:
            setattr(self, name, change["new"])

    def _set_place(self, axis: str, change: Any) -> None:
        if not self._moving:
            self.at = {**self.at, axis: change["new"]}

    def _clicked(self, change: Any) -> None:
        if not self._moving and change["new"] >= 0:
            self.move(**self._cells[change["new"]])

    def _follow(self) -> None:
        """The controls show the traits."""
        stored, selection = self._open(), self.state
        for name, field in self.controls.items():
            field.value = getattr(self, name)
        for axis in stored.varying:
            field, options = self.places[axis], [(label(axis, v), v) for v in stored.values(axis, selection)]
            if field.options != tuple(options):
                field.options = options
            field.value = self.at[axis]
            field.disabled = selection.chosen and axis in OF_SETTING[1:]
