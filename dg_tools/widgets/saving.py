"""What is on the page as files: a page without a kernel, or the figures as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from dg_tools.paths import free
from dg_tools.widgets.parts import control
from dg_tools.widgets.runner import Messages, guarded

FIGURES = (".png", ".svg", ".pdf")


def save(path: str | Path, page: Callable[[Path], Path], figures: Callable[[], Mapping[str, Figure]]) -> list[Path]:
    """Write a page (`.html`) or figures (`.png`, `.svg`, `.pdf`); the paths. No figure's file is replaced.

    Raises:
        ValueError: another ending, or no file named.
        FileNotFoundError: the folder is not there.
    """
    path = Path(str(path).strip()).expanduser()
    if path.suffix == ".html":
        return [page(path)]
    if path.suffix not in FIGURES:
        raise ValueError(f"{str(path)!r} cannot be saved: name a file that ends in .html, {', '.join(FIGURES)}")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} does not exist: make the folder first, or name another file")
    made = figures()
    written = []
    for name, figure in made.items():
        file = free(path if len(made) == 1 else path.with_stem(f"{path.stem}_{name}"))
        figure.savefig(file, dpi=200, facecolor="white")
        written.append(file)
    return written


class SaveRow(widgets.HBox):
    """A file's name and a button that saves what is on the page."""

    def __init__(self, name: str, act: Callable[[str], list[Path]], messages: Messages) -> None:
        self.field = control(widgets.Text, "Save as", "220px", value=name)
        self.field.tooltip = "a page (.html) or the figures (.png, .svg, .pdf)"
        self.button = widgets.Button(description="Save", icon="download", layout={"width": "80px"})
        self.button.tooltip = self.field.tooltip
        super().__init__([self.field, self.button])

        def write(_: Any) -> None:
            messages.say(f"Written: {', '.join(map(str, act(self.field.value)))}.")

        self.button.on_click(guarded(messages, write))

    def __repr__(self) -> str:
        return f"SaveRow({self.field.value!r})"
