"""What a capture holds at one point: pure reads of an `Activations`; no model runs.

A point is prompt, seed, branch, step, block, stream, token, channel. Raw hidden states may be missing, or kept for some
blocks, steps, tokens or channels only; then statistics are shown instead, with the line of code that captures more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dg_tools.activations import Activations, open_activations
from dg_tools.massive import find_massive

NEEDED = ("abs_mean", "token_norm", "top_value", "median_abs_mean")
SMALL = 2**29  # bytes that are read into memory at once


@dataclass(frozen=True)
class Point:
    """A point of a capture; indices, but for `stream`, and `token` and `channel`, which are numbers of the model."""

    prompt: int = 0
    seed: int = 0
    branch: int = 0
    step: int = 0
    block: int = 0
    stream: str = "image"
    channel: int = 0
    token: int = 0
    log: bool = False


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states at a point: (tokens, channels), and the numbers of both."""

    values: np.ndarray
    tokens: np.ndarray
    channels: np.ndarray

    def row(self, token: int) -> np.ndarray | None:
        """All kept channels of a token; None where it was not kept."""
        rows = np.flatnonzero(self.tokens == token)
        return self.values[rows[0]] if len(rows) else None

    def column(self, channel: int) -> np.ndarray | None:
        """A channel at all kept tokens; None where it was not kept."""
        columns = np.flatnonzero(self.channels == channel)
        return self.values[:, columns[0]] if len(columns) else None


def read_capture(folder: Any) -> Activations:
    """`open_activations`, with a ValueError for every folder that cannot be read as a capture.

    Raises:
        ValueError: a folder that does not exist, holds no capture, or lacks what an explorer shows.
    """
    if not str(folder).strip():
        raise ValueError("no folder named: write the path of one that Activations.save wrote")
    if not Path(str(folder).strip()).is_dir():
        raise ValueError(f"there is no folder {folder}: pass one that Activations.save wrote")
    try:
        acts = open_activations(str(folder).strip())
    except Exception as error:  # zarr has its own words for each way in which a folder can be something else
        raise ValueError(f"{folder} is not a capture: pass a folder that Activations.save wrote") from error
    return checked(acts)


def checked(acts: Activations) -> Activations:
    """The capture, read into memory where it is small.

    Raises:
        ValueError: something that an explorer shows is missing.
    """
    missing = [name for name in NEEDED if name not in acts.data]
    if missing or "grid" not in acts.data.attrs:
        there = ", ".join(map(str, acts.data.data_vars)) or "nothing"
        raise ValueError(
            f"this is not a whole capture: it lacks {', '.join(missing) or 'its grid'} (there is: {there}); pass what "
            "dg.capture gave, or a folder that Activations.save wrote"
        )
    if acts.data.nbytes <= SMALL:
        acts.data.load()
    return acts


def massive_channels(acts: Activations) -> list[int]:
    """Channels that `find_massive` finds, over at least two blocks where there are two."""
    return find_massive(acts, blocks=min(2, acts.data.sizes["site"])).channels


def run_at(acts: Activations, point: Point) -> Any:
    """The dataset of one run and branch."""
    return acts.data.isel(prompt=point.prompt, seed=point.seed, branch=point.branch)


def clipped(acts: Activations, point: Point) -> Point:
    """The point, brought into the range of this capture."""
    sizes = acts.data.sizes
    most = {"prompt": "prompt", "seed": "seed", "branch": "branch", "step": "step", "block": "site"}
    indices: dict[str, Any] = {f: min(getattr(point, f), sizes[d] - 1) for f, d in most.items()}
    stream = point.stream if point.stream in acts.data["stream"].values else "image"
    tokens = token_count(acts, replace(point, **indices, stream=stream))
    channel = min(point.channel, sizes["channel"] - 1)
    return replace(point, **indices, stream=stream, token=min(point.token, max(tokens - 1, 0)), channel=channel)


def token_norms(acts: Activations, point: Point) -> np.ndarray:
    """Norm over channels by token of one stream, without the padding behind a shorter stream."""
    part = run_at(acts, point)["token_norm"].sel(stream=point.stream)
    everywhere = np.isfinite(part.values).reshape(-1, part.sizes["token"]).any(0)
    count = int(np.flatnonzero(everywhere)[-1]) + 1 if everywhere.any() else 0
    return part.isel(step=point.step, site=point.block).values[:count]


def token_count(acts: Activations, point: Point) -> int:
    """Tokens of a stream: of the image, rows x columns."""
    rows, columns = acts.grid
    return rows * columns if point.stream == "image" else len(token_norms(acts, point))


def hidden_at(acts: Activations, point: Point) -> HiddenStates | None:
    """Hidden states at a point, where they were kept."""
    data = run_at(acts, point)
    if "hidden_states" not in data:
        return None
    part = data["hidden_states"]
    if point.stream != raw_stream(acts):
        return None
    at = {"raw_step": point.step, "raw_site": data["site"].values[point.block]}
    if any(value not in part[name].values for name, value in at.items()):
        return None
    part = part.sel(at)
    tokens, channels = part.dims[-2:]
    numbers = [np.asarray(part[d].values) if d in part.coords else np.arange(part.sizes[d]) for d in (tokens, channels)]
    values = part.values.astype(np.float32)
    whole = np.isfinite(values).any(1)  # rows of NaN are padding
    return HiddenStates(values[whole], numbers[0][whole], numbers[1]) if whole.any() else None


def raw_stream(acts: Activations) -> str:
    """Which stream's hidden states were kept: as the capture says; if it does not, by the number of tokens."""
    part, (rows, columns) = acts.data["hidden_states"], acts.grid
    whole = part.dims[-2] not in part.coords
    guess = "text" if whole and part.shape[-2] != rows * columns else "image"
    return str(acts.data.attrs.get("raw_stream", guess))


def by_channel(acts: Activations, point: Point) -> np.ndarray:
    """Mean |x| over tokens by channel."""
    part = run_at(acts, point)["abs_mean"].sel(stream=point.stream)
    return part.isel(step=point.step, site=point.block).values


def magnitudes(acts: Activations, point: Point, along: str) -> dict[str, np.ndarray]:
    """The channel's mean |x| along `site` or `step`, beside the largest |x| and the median channel."""
    other = {"site": point.block} if along == "step" else {"step": point.step}
    data = run_at(acts, point).sel(stream=point.stream).isel(other)
    return {
        f"channel {point.channel}": data["abs_mean"].isel(channel=point.channel).values,
        "largest |x|": np.abs(data["top_value"].isel(rank=0).values),
        "median channel": data["median_abs_mean"].values,
    }


def picture_at(acts: Activations, point: Point) -> tuple[np.ndarray | None, str]:
    """The picture under the map, (H, W, 3), and what it is: the estimate at this step where there is one."""
    data = run_at(acts, point)
    if "step_picture" in data:
        return data["step_picture"].isel(step=point.step).values, "the picture expected at this step"
    if "picture" in data:
        return data["picture"].values, "the finished picture (this capture has none by step)"
    return None, "no picture in this capture"


def advice_on_raw(acts: Activations, point: Point) -> str:
    """How to capture what is missing at a point."""
    stream = "" if point.stream == "image" else f", raw_stream={point.stream!r}"
    return (
        f"No hidden states of the {point.stream} stream were kept at this block and step, so norms and means are "
        f"shown. For single activations: dg.capture(dit, prompts, "
        f"raw=[{point.block}], raw_steps=[{point.step}]{stream})"
    )
