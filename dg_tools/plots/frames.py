"""Where in a video are activations largest: in the first frame, where frames meet, or in between?"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dg_tools.plots.style import MASSIVE, POINT, QUIET, finish, name_lines, side_by_side, styled

LOOKS = {"first frame": ("o-", MASSIVE), "frame boundary": ("s-", POINT), "interior": ("^-", QUIET)}


PLACES = {"first frame": "the first frame", "frame boundary": "frame boundaries", "interior": "the interior of frames"}


def frame_parts(frame: np.ndarray, grid: tuple[int, int], edge: int | None = None) -> dict[str, np.ndarray]:
    """Which image tokens are the first frame's, a frame boundary's, and interior, each as (tokens,) of bools.

    STAS (arXiv 2603.17825) calls the head and the tail of each latent frame's tokens its boundary.

    Args:
        frame: (tokens,), the latent frame of each token; -1 for a token that is not of the image.
        grid: rows and columns of a frame.
        edge: tokens at the head and at the tail of each frame after the first; None: one row of tokens.

    Example:
        >>> parts = frame_parts(np.repeat([0, 1], 6), (3, 2))
        >>> {name: np.flatnonzero(part).tolist() for name, part in parts.items()}
        {'first frame': [0, 1, 2, 3, 4, 5], 'frame boundary': [6, 7, 10, 11], 'interior': [8, 9]}
    """
    rows, columns = grid
    edge = columns if edge is None else edge
    place = np.arange(len(frame)) % (rows * columns)
    outer = (place < edge) | (place >= rows * columns - edge)
    return {
        "first frame": frame == 0,
        "frame boundary": (frame > 0) & outer,
        "interior": (frame > 0) & ~outer,
    }


@styled
def frames_by_block(data: Any, *, edge: int | None = None, step: int | None = None) -> Figure:
    """The largest |x| of a token by block: mean over the tokens of the first frame, of frame boundaries, of the rest.

    Args:
        data: of a capture of a video, with the coordinate `frame`.
        edge: as in `frame_parts`.
        step: of one denoising step; None: mean over steps.

    Raises:
        ValueError: a capture of pictures.
    """
    if "frame" not in data.coords:
        raise ValueError("these activations are of pictures, which have no frames: capture with num_frames=")
    sizes = data["token_max"].sel(stream="image")
    sizes = sizes if step is None else sizes.sel(step=step)
    sizes = sizes.mean([d for d in sizes.dims if d not in ("site", "token")]).transpose("site", "token").values
    names = [str(site) for site in data["site"].values]
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    parts = frame_parts(data["frame"].values, tuple(data.attrs["grid"]), edge)
    means = {name: sizes[:, tokens].mean(1) for name, tokens in parts.items() if tokens.any()}
    for name, mean in means.items():
        marker, color = LOOKS[name]
        axis.plot(np.arange(len(names)), mean, marker, ms=4, color=color, label=name)
    axis.set(xlabel="block", ylabel="largest |x| of a token", yscale="log", xticks=np.arange(len(names)))
    axis.set_xticklabels(names, rotation=90 if len(names) > side_by_side(names, 100) else 0, fontsize=8)
    holders = [max(means, key=lambda name: means[name][block]) for block in range(len(names))]
    most = max(means, key=holders.count)
    axis.set_title(
        f"Activations are largest in {PLACES[most]} after {holders.count(most)} of {len(names)} blocks", fontsize=10
    )
    name_lines(axis)
    return finish(figure)
