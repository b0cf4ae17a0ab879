"""Prepares a recorder's arrays for labels: splits AdaLN chunks, joins streams of different lengths, numbers frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dg_tools.models.block import Block

MODULATION = ("gate", "shift", "scale")
Parts = dict[str, dict[str, np.ndarray]]  # arrays (branch, step, site, ...) by variable, and stream or part


def told_apart(parts: Parts, names: Sequence[str | None], chunks: np.ndarray) -> None:
    """Add AdaLN chunks (branch, step, site, chunk, channel); NaN at the blocks whose chunks have other names."""
    for i, name in enumerate(names):
        if name is not None:
            variable, part = of_chunk(name)
            there = parts[variable].setdefault(part, chunks[:, :, :, i])
            np.copyto(there, chunks[:, :, :, i], where=np.isnan(there))


def of_chunk(name: str) -> tuple[str, str]:
    """Variable and part of an AdaLN chunk: `gate` and `msa` of `gate_msa`; the part is `all` where it has none."""
    variable, _, part = name.partition("_")
    return variable, part or "all"


def gated(parts: Parts, blocks: Sequence[Block]) -> None:
    """Mean |output| of a branch to what it adds to the stream, mean |gate x output|, in place."""
    for block in blocks:
        for written, gate in (("attn_write", block.record.attn_gate), ("mlp_write", block.record.mlp_gate)):
            if gate is not None and "" in parts[written]:
                variable, part = of_chunk(gate)
                parts[written][""][:, :, block.index] *= np.abs(parts[variable][part][:, :, block.index])


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
