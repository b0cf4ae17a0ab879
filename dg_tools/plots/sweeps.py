"""Where in a sweep's grid is the objective best, and where is the chosen setting?"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dg_tools.plots.style import MASSIVE, finish, styled, wrap

PANELS = 8


@styled
def sweep_map(result: Any, guidance: str = "DG") -> Figure:
    """Mean cost by block (down) and w (across), one panel for each s, window, set of channels and rho.

    On the development prompts. Darker is better (less cost); a cell is crossed out where the guard does not hold; the
    chosen cell is framed. One range of colours for all panels. Above: the cost of each chosen setting.

    Args:
        result: a `Sweep` whose development cells are all there.
        guidance: `DG`, or `control` for the same grid with the control's disruption.

    Raises:
        ValueError: the sweep has no grid of this guidance, or the figure would have more than 8 panels.
    """
    scores = result.scores
    grid = scores[(scores["guidance"] == guidance) & (scores["w"] > 0)]
    if not len(grid):
        raise ValueError(f"no grid of {guidance!r} in this sweep; there are {sorted(set(scores['guidance']))}")
    keys = grid[[k for k in ("s", "window", "channels", "rho") if k in grid]].astype(str).agg(" | ".join, axis=1)
    panels = list(dict.fromkeys(keys))
    if len(panels) > PANELS:
        raise ValueError(
            f"{len(panels)} panels (s x window x channels x rho); at most {PANELS} can be read in one figure"
        )
    low, high = np.nanmin(grid["cost"]), np.nanmax(grid["cost"])
    choice = result.chosen.get(guidance)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(2.2 + 2.6 * len(panels), 2.6 + 0.3 * grid["block"].nunique()),
        squeeze=False,
        layout="constrained",
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        part = grid[keys == panel]
        image = heat(axis, part, low, high, str(choice) if choice is not None else "")
        first = part.iloc[0]
        dose = f" x {first['rho']:g}" if "rho" in grid else ""
        axis.set_title(
            wrap(f"s = {first['s']:g}, window {first['window']}, channels {first['channels']}{dose}", 30), fontsize=8
        )
    axes[0][0].set_ylabel("block")
    figure.colorbar(image, ax=axes[0].tolist(), label="cost")
    figure.suptitle(heading(scores, result.chosen), fontsize=9)
    return finish(figure)


def heat(axis: Axes, part: pd.DataFrame, low: float, high: float, chosen: str) -> Any:
    """One panel; gives the image, for a colour bar."""
    cost = part.pivot(index="block", columns="w", values="cost")
    image = axis.imshow(cost, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(cost.shape[1]), [f"{w:g}" for w in cost.columns])
    axis.set_yticks(range(cost.shape[0]), [str(int(b)) for b in cost.index])
    axis.set_xlabel("w")
    for row in part.to_dict("records"):
        x, y = cost.columns.get_loc(row["w"]), cost.index.get_loc(row["block"])
        if not row["allowed"]:
            axis.plot([x - 0.5, x + 0.5], [y + 0.5, y - 0.5], color="white", lw=0.8)
        if row["name"] == chosen:
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=MASSIVE, lw=2.5))
    return image


def heading(scores: pd.DataFrame, chosen: dict[str, Any]) -> str:
    """What was chosen for each guidance, and at which cost."""
    lines = ["Cost on development prompts: less is better"]
    for guidance, setting in chosen.items():
        if setting is None:
            lines.append(f"{guidance}: no setting holds the guard")
        else:
            cost = scores.loc[scores["name"] == str(setting), "cost"].iloc[0]
            lines.append(f"{guidance}: {cost:.3f}" + ("" if guidance == "cond" else f" ({setting})"))
    return "\n".join(lines)
