"""The parts of a stored sweep that go into a page without a kernel: settings, numbers, and small pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dg_tools.widgets.kept_page import png_address
from dg_tools.widgets.sweep_code import call_code, guidance_code
from dg_tools.widgets.sweep_lookup import AXES, OF_SETTING, Selection, StoredSweep, label, unit
from dg_tools.widgets.sweep_view import of_sweep, thumbnail

MOST_MB = 24.0  # of pictures in a page, as text
SIDES = (256, 128, 64)  # pixels of a thumbnail, at most: the first that fits


def sweep_data(stored: StoredSweep, selection: Selection, most_mb: float = MOST_MB) -> dict[str, Any]:
    """A sweep as JSON for a page; a place has an index on every axis.

    Args:
        stored: the sweep.
        selection: where the page opens.
        most_mb: megabytes of pictures; beyond, they are made smaller.

    Raises:
        ValueError: the smallest thumbnails are more than the page may hold.
    """
    axes, plan = stored.axes, stored.plan

    def places(at: dict[str, Any]) -> dict[str, int | None]:
        return {a: None if v is None else axes[a].index(v) for a, v in at.items() if a in axes}

    def numbers(row: dict[str, Any]) -> list[float | None]:
        return [finite(row.get(m)) for m in stored.measures]

    rows = [
        {
            **places({axis: row[axis] for axis in ("prompt", "seed")}),
            "number": int(number),
            "picture": Path(row["picture"]).name if isinstance(row["picture"], str) else None,
            "values": numbers(row),
        }
        for (number, _, _), row in stored.rows.items()
    ]
    height, width = stored.size
    return {
        "axes": {a: {"name": AXES[a], "labels": [label(a, v) for v in values]} for a, values in axes.items()},
        "of_setting": OF_SETTING,
        "settings": [
            {"at": places(at), "words": str(setting), "code": "\n".join(guidance_code(setting))}
            for setting, at in zip(plan.settings, stored.coordinates, strict=True)
        ],
        "chosen": [stored.chosen.get(g) for g in axes["guidance"]] if stored.chosen else [],
        "prompts": [[axes["prompt"].index(p) for p in stored.prompts[split]] for split in axes["split"]],
        "quoted": [repr(p) for p in axes["prompt"]],
        "measures": [unit(m) for m in stored.measures],
        "kept": [i for i, m in enumerate(stored.measures) if all(m in row for row in stored.rows.values())],
        "rows": rows,
        "means": {
            f"{number},{axes['split'].index(split)}": {"values": numbers(means), "pictures": int(means["pictures"])}
            for (number, split), means in stored.means.items()
        },
        "pictures": pictures(stored, most_mb),
        "aspect": width / height,
        "pixelated": width < 256,
        "call": call_code(plan),
        "note": of_sweep(stored),
        "selection": {
            "rows": selection.rows,
            "columns": selection.columns,
            "at": places(selection.at),
            "measure": stored.measures.index(selection.measure),
            "mean": selection.mean,
            "chosen": selection.chosen,
        },
    }


def finite(value: Any) -> float | None:
    """A number, or None instead of NaN, which JSON does not have."""
    return float(value) if value is not None and math.isfinite(value) else None


def pictures(stored: StoredSweep, most_mb: float) -> dict[str, str]:
    """Each picture that can be read, as large as fits, by the name of its file."""
    files = [stored.sweep.folder / row["picture"] for row in stored.rows.values() if isinstance(row["picture"], str)]
    size = 0.0
    for side in SIDES:
        made = {file.name: png_address(small) for file in files if (small := thumbnail(file, side)) is not None}
        size = sum(map(len, made.values())) / 2**20
        if size <= most_mb:
            return made
    raise ValueError(
        f"the {len(files)} pictures of this sweep are {size:.1f} MB at {SIDES[-1]} pixels, more than a page should "
        f"hold ({most_mb:g} MB): pass a larger most_mb"
    )
