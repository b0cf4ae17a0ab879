"""From what a recorder has to labelled arrays: streams of other lengths together, frames of tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def stacked(arrays: list[np.ndarray | None]) -> np.ndarray:
    """Arrays (branch, step, site, ...) along a new fourth axis, filled up with NaN to the longest; None is all NaN."""
    there = [array for array in arrays if array is not None]
    longest = [max(sizes) for sizes in zip(*(a.shape[3:] for a in there), strict=True)]
    together = np.full((*there[0].shape[:3], len(arrays), *longest), np.nan, np.float32)
    for i, array in enumerate(arrays):
        if array is not None:
            together[(slice(None),) * 3 + (i, *(slice(0, n) for n in array.shape[3:]))] = array
    return together


def frame_of_tokens(norms: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
    """The frame of each image token of a video, whose frames come one after the other; -1 beyond the image's tokens.

    Args:
        norms: by stream, arrays whose last dimension is the stream's tokens.
        frames: how many there are.
    """
    token = np.arange(max(array.shape[-1] for array in norms.values()))
    image = norms["image"].shape[-1]
    return np.where(token < image, token // (image // frames), -1)
