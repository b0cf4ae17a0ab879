"""The parts of every explorer's page: labelled controls, rows that wrap, panels with a title, text and tables."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from traitlets import TraitError

MOST_RHO = 3  # the mark in style.css stands at a third of the track
WIDE = {"description_width": "initial"}


def control(kind: type, label: str, width: str = "auto", **settings: Any) -> Any:
    """A control with its label written out beside it. Without a tooltip the page would show `null` as one."""
    return kind(description=label, style=WIDE, layout={"width": width}, tooltip=label, **settings)


def check_box(label: str, width: str) -> Any:
    """A box to tick, off, with its label."""
    return widgets.Checkbox(False, description=label, indent=False, layout={"width": width}, tooltip=label)


def slider(label: str, most: int, value: int = 0, width: str = "220px", at_once: bool = False) -> Any:
    """A whole number from 0; the keyboard moves it by one. `at_once`: also while it is dragged."""
    return control(widgets.IntSlider, label, width, min=0, max=most, value=value, continuous_update=at_once)


def knob(value: float) -> Any:
    """The dose rho from 0 (zeroed) to 3; a mark on the track shows 1, where the model is as it is."""
    field = control(
        widgets.FloatSlider, "Knob rho (1 clean)", "300px", min=0, max=MOST_RHO, step=0.05, value=value,
    )  # fmt: skip
    field.add_class("dg-knob")
    return field


def row(*children: Any) -> Any:
    """Side by side; on a narrow screen, under each other."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def panels(*children: Any) -> Any:
    """Titled parts side by side, their titles in line."""
    return widgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def side_by_side(*children: Any) -> Any:
    """Pictures beside each other, smaller where there is no room."""
    box = widgets.HBox(children, layout={"align_items": "flex-end"})  # under titles of one line and of two
    box.add_class("dg-fit")
    return box


def panel(title: str, *children: Any) -> Any:
    """A titled part."""
    box = widgets.VBox([text_block(title, "title"), *children], layout={"flex": "0 1 auto"})
    box.add_class("dg-panel")
    return box


class Tabs(widgets.VBox):
    """Views of which one is shown; where there is room and `spread` is set, all of them beside each other.

    Args:
        views: name -> view, or the parts of one; a part may be in several views.
        spread: side by side on a wide page.

    Attributes:
        choice: the buttons.
    """

    def __init__(self, views: Mapping[str, Any], spread: bool = False) -> None:
        self.choice = control(widgets.ToggleButtons, "View", options=list(views))
        self.choice.style.button_width = "auto"
        self.views = dict(views)
        self.parts = list(dict.fromkeys(part for name in views for part in self._of(name)))
        inside = panels(*self.parts)
        super().__init__([self.choice, inside])
        self.add_class("dg-tabbed")
        inside.add_class("dg-tabbed-views")
        if spread:
            self.add_class("dg-spread")
        self.choice.observe(lambda change: self._turn(), names="value")
        self._turn()

    def __repr__(self) -> str:
        return f"Tabs({', '.join(self.views)})"

    def _turn(self) -> None:
        for part in self.parts:
            (part.add_class if part in self._of(self.choice.value) else part.remove_class)("dg-open")

    def _of(self, name: str) -> tuple[Any, ...]:
        view = self.views[name]
        return view if isinstance(view, tuple) else (view,)


def text_block(text: str, kind: str = "text") -> Any:
    """Text in the theme's colour."""
    return markup(f'<div class="dg-{kind}">{html.escape(text)}</div>')


def markup(value: str = "") -> Any:
    """HTML that is escaped already; an empty tooltip, because none shows as `null`."""
    return widgets.HTML(value, tooltip="")


def set_text(block: Any, text: str, kind: str = "text") -> None:
    """Change the text of a `text_block`."""
    block.value = f'<div class="dg-{kind}">{html.escape(text)}</div>'


def table(rows: list[list[str]]) -> str:
    """HTML of a small table; the first row is its head."""
    cells = [
        "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in line)
        for tag, line in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    return '<table class="dg-text">' + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


def check_range(field: Any, proposal: Any) -> Any:
    """The value of a trait's validator, where its control can show it; the control would clip it without an error.

    Raises:
        TraitError: outside the control's range.
    """
    value = proposal["value"]
    if field is not None and not field.min <= value <= field.max:
        name = proposal["trait"].name
        raise TraitError(f"{name} {value:g} requested; this explorer has {field.min:g} to {field.max:g}")
    return value


def parse_numbers(text: str, what: str) -> list[int]:
    """Whole numbers from `3, 7`.

    Raises:
        ValueError: something else.
    """
    parts = text.replace(",", " ").split()
    if not parts or not all(p.isdigit() for p in parts):
        raise ValueError(f"{what}: {text!r} is not a list of whole numbers: write such as 3, 7")
    return [int(p) for p in parts]
