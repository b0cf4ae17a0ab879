"""The view of a stored sweep: a grid of thumbnails as data, and the current place in full."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dg_tools.plots.thumbnails import thumbnail_grid
from dg_tools.widgets.sweep_code import code
from dg_tools.widgets.sweep_lookup import AXES, OF_SETTING, CellContent, Selection, StoredSweep, label, unit

MOST_ROWS, MOST_COLUMNS = 6, 5  # more would be too small to read on half a screen
SIDE = 256  # pixels of a thumbnail, at most
UNREADABLE = "its file cannot be read"


@dataclass(frozen=True)
class Page:
    """A grid as data; it is drawn only where it differs from what is on the page.

    Attributes:
        files: of the pictures, by row and column; None where there is none.
        words: under them, or in their place.
        values: the measure of each; None where there is none.
        measure: its name and unit.
        aspect: width of a picture over its height.
        rows, columns: what each of them is.
        marked: (row, column) of cells in a chosen setting.
        names: of both axes.
        title: over it.
    """

    files: tuple[tuple[Path | None, ...], ...]
    words: tuple[tuple[str, ...], ...]
    values: tuple[tuple[float | None, ...], ...]
    measure: str
    aspect: float
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    marked: tuple[tuple[int, int], ...]
    names: tuple[str, str]
    title: str

    def front(self) -> dict[str, Any]:
        """As the browser takes it, without the pictures."""
        columns = len(self.columns)
        return {
            "files": [["" if f is None else f.name for f in line] for line in self.files],
            "words": self.words,
            "values": self.values,
            "measure": self.measure,
            "aspect": self.aspect,
            "rows": self.rows,
            "columns": self.columns,
            "names": self.names,
            "title": self.title,
            "marked": [y * columns + x for y, x in self.marked],
        }

    def pictures(self) -> dict[str, bytes]:
        """The thumbnails by the names of their files."""
        files = {f for line in self.files for f in line if f is not None}
        return {f.name: small for f in sorted(files) if (small := thumbnail(f)) is not None}

    def draw(self) -> Figure:
        """The grid as a figure."""
        pictures = [[None if f is None else pixels(f) for f in line] for line in self.files]
        return thumbnail_grid(
            pictures,
            self.words,
            self.rows,
            self.columns,
            ylabel=self.names[0],
            xlabel=self.names[1],
            title=self.title,
            marked=self.marked,
        )


@dataclass(frozen=True)
class SweepView:
    """The view of a selection.

    Attributes:
        page: the grid of thumbnails.
        cell: index of the current place in it, row * columns + column.
        places: the place of every cell, in that order, as values of the two axes.
        title: setting, prompt, seed and split of the current place, or why nothing is there.
        picture, unguided: PNG bytes there, and without guidance from the same noise; empty where there are none.
        numbers: rows of a table; the first is its head.
        code: that makes the same picture; empty where the sweep has no setting there.
        note: how the grid is to be read.
    """

    page: Page
    cell: int
    places: list[dict[str, Any]]
    title: str
    picture: bytes
    unguided: bytes
    numbers: list[list[str]]
    code: str
    note: str


def render(stored: StoredSweep, selection: Selection) -> SweepView:
    """The view of a selection, from what is stored."""
    rows, row = page_values(stored, selection, selection.rows, MOST_ROWS)
    columns, column = page_values(stored, selection, selection.columns, MOST_COLUMNS)
    cells = [[stored.find(selection, **{selection.rows: r, selection.columns: c}) for c in columns] for r in rows]
    page = page_of(stored, selection, cells, rows, columns)
    here = cells[row][column]
    file = readable(here)
    cond = stored.rows.get((0, here.at["prompt"], here.at["seed"]), {}).get("picture")
    plain = stored.sweep.folder / cond if isinstance(cond, str) else None
    setting = None if here.number is None else stored.plan.settings[here.number]
    return SweepView(
        page=page,
        cell=row * len(columns) + column,
        places=[{selection.rows: r, selection.columns: c} for r in rows for c in columns],
        title=title_of(stored, here),
        picture=b"" if file is None else file.read_bytes(),
        unguided=b"" if plain is None or thumbnail(plain) is None else plain.read_bytes(),
        numbers=numbers_of(stored, here),
        code="" if setting is None else code(stored.plan, setting, here.at["prompt"], here.at["seed"]),
        note=note_of(stored, selection, [cell for line in cells for cell in line]),
    )


def page_values(stored: StoredSweep, selection: Selection, axis: str, most: int) -> tuple[list[Any], int]:
    """The values of an axis that are on the page with the current one, and where that is among them."""
    values = stored.values(axis, selection)
    index = values.index(selection.at[axis])
    start = index // most * most
    return values[start : start + most], index - start


def page_of(
    stored: StoredSweep, selection: Selection, cells: list[list[CellContent]], rows: list[Any], columns: list[Any]
) -> Page:
    """The grid as data."""
    marked = set(stored.chosen.values()) - {0, None}
    height, width = stored.size

    def value(cell: CellContent) -> float | None:
        found = stored.value(selection, cell)
        return None if found is None or not math.isfinite(found) else float(found)

    def caption(cell: CellContent) -> str:
        value = stored.value(selection, cell)
        number = "" if value is None else f"{value:.3g}"
        if readable(cell) is None:
            return f"{cell.words or UNREADABLE}\n{number}".strip()
        return number

    of = "mean of the split's pictures" if selection.mean else "this picture"
    return Page(
        files=tuple(tuple(readable(c) for c in line) for line in cells),
        words=tuple(tuple(caption(c) for c in line) for line in cells),
        values=tuple(tuple(value(c) for c in line) for line in cells),
        measure=unit(selection.measure),
        aspect=width / height,
        rows=tuple(label(selection.rows, r) for r in rows),
        columns=tuple(label(selection.columns, c) for c in columns),
        marked=tuple((y, x) for y, line in enumerate(cells) for x, c in enumerate(line) if c.number in marked),
        names=(AXES[selection.rows], AXES[selection.columns]),
        title=f"{unit(selection.measure)}: {of}",
    )


def title_of(stored: StoredSweep, here: CellContent) -> str:
    """The place in words."""
    at = here.at
    where = f"{at['prompt']!r}, seed {at['seed']}, {at['split']} prompts"
    if here.number is None:
        axes = [f"{AXES[a].lower()} {label(a, at[a])}" for a in OF_SETTING[1:] if a in stored.varying]
        return f"{here.words[0].upper()}{here.words[1:]}: {', '.join([at['guidance'], *axes])}; {where}"
    star = ", chosen" if here.number in set(stored.chosen.values()) - {0} else ""
    missing = here.words if here.file is None else UNREADABLE if readable(here) is None else ""
    return f"{stored.plan.settings[here.number]}{star}; {where}" + (f". Nothing to see: {missing}." if missing else "")


def numbers_of(stored: StoredSweep, here: CellContent) -> list[list[str]]:
    """Each measure of the picture, of the unguided one from the same noise, and of all pictures of the split."""
    if not here.row:
        return []
    split, cond = here.at["split"], stored.rows.get((0, here.at["prompt"], here.at["seed"]), {})
    means, plain = stored.means[int(here.row["number"]), split], stored.means.get((0, split), {})
    head = ["", "here", "cond", f"mean of {means['pictures']}", f"cond, mean of {plain.get('pictures', 0)}"]
    columns = (here.row, cond, means, plain)
    return [head, *([unit(m), *(f"{c.get(m, np.nan):.3g}" for c in columns)] for m in stored.measures if m in here.row)]


def note_of(stored: StoredSweep, selection: Selection, cells: list[CellContent]) -> str:
    """Notes on this grid for the reader."""
    notes = [of_sweep(stored)]
    numbers = sorted({c.number for c in cells if c.number is not None})
    for axis in [a for a in selection.axes if a in OF_SETTING[1:]]:
        same = [n for n in numbers if selection.chosen or stored.coordinates[n][axis] is None]
        names = list(dict.fromkeys(stored.plan.settings[n].guidance for n in same))
        if names:
            why = "in the chosen setting" if selection.chosen else f"without a {AXES[axis].lower()}"
            notes.append(f"{', '.join(names)} {why}: the same picture for each {AXES[axis].lower()}.")
    for axis, most in ((selection.rows, MOST_ROWS), (selection.columns, MOST_COLUMNS)):
        if (count := len(stored.values(axis, selection))) > most:
            notes.append(f"At most {most} of {count} are shown of {AXES[axis].lower()}: its control shows the others.")
    return " ".join(notes)


def of_sweep(stored: StoredSweep) -> str:
    """A note on the whole sweep for the reader."""
    if stored.missing:
        return f"Nothing is chosen yet: {stored.missing} of {stored.total} development cells are missing."
    if any(n for g, n in stored.chosen.items() if g != "cond"):
        return "Framed: the setting chosen for its guidance on the development prompts."
    return "No setting of any guidance holds the objective's guard: none is chosen."


def readable(content: CellContent) -> Path | None:
    """The picture's file, where it can be read as a picture."""
    return content.file if content.file is not None and thumbnail(content.file) is not None else None


@lru_cache(maxsize=1024)
def thumbnail(file: Path, side: int = SIDE) -> bytes | None:
    """A kept picture, small, as bytes; None: it is damaged. A sweep never writes another picture under a name.

    What is small already stays as it is; what is made smaller is a JPEG.
    """
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except OSError:
        return None
    if max(small.size) <= side:
        return file.read_bytes()
    small.thumbnail((side, side))
    into = io.BytesIO()
    small.save(into, format="jpeg", quality=90)
    return into.getvalue()


def pixels(file: Path) -> np.ndarray | None:
    """A thumbnail as (H, W, 3) uint8."""
    small = thumbnail(file)
    return None if small is None else np.asarray(Image.open(io.BytesIO(small)).convert("RGB"))
