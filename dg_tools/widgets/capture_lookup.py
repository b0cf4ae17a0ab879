"""Read what a capture holds at one point of an `Activations`; no model runs.

A point is prompt, seed, branch, step, block, stream, token, channel. Raw hidden states may be missing, or kept for some
blocks, steps, tokens or channels only; then statistics are shown instead, with the line of code that captures more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dg_tools.activations import Activations, open_activations
from dg_tools.kinds import counted, kind_of
from dg_tools.massive import find_massive
from dg_tools.plots.surface import spike

NEEDED = ("abs_mean", "token_norm", "top_value", "median_abs_mean")
SMALL = 2**29  # bytes that are read into memory at once


@dataclass(frozen=True)
class Point:
    """A point of a capture: indices; `token` and `channel` are numbers of the model, `stream` is a name.

    `word`: whose attention map is shown; empty: activations. `head`: of this map; -1: the mean of all.
    """

    prompt: int = 0
    seed: int = 0
    branch: int = 0
    step: int = 0
    block: int = 0
    stream: str = "image"
    channel: int = 0
    token: int = 0
    log: bool = False
    word: str = ""
    head: int = -1


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
    except Exception as error:  # zarr raises many kinds of errors for folders that hold no capture
        raise ValueError(f"{folder} is not a capture: pass a folder that Activations.save wrote") from error
    return checked(acts)


def capture_of(source: Any) -> Activations:
    """An `Activations`, or the folder of a saved one, as a capture that can be explored.

    Raises:
        ValueError: a folder without a capture.
        TypeError: something else.
    """
    if isinstance(source, str | Path):
        return read_capture(source)
    if isinstance(source, Activations):
        return checked(source)
    raise TypeError(f"{kind_of(source)} cannot be explored: pass an Activations, its folder, or a DiT")


def check_beside(first: Activations, second: Activations) -> None:
    """Raise ValueError where two captures differ in tokens, blocks or channels."""
    sizes = [(acts.grid, acts.data.sizes["site"], acts.data.sizes["channel"]) for acts in (first, second)]
    if sizes[0] != sizes[1]:
        words = [
            f"{g[0]} x {g[1]} tokens, {counted(blocks, 'block')}, {counted(channels, 'channel')}"
            for g, blocks, channels in sizes
        ]
        raise ValueError(
            f"the capture beside has {words[1]}; the first one has {words[0]}: pass two of one model and size"
        )


def opening(acts: Activations, massive: list[int]) -> Point:
    """The first view: the most massive channel, at a block and step with raw hidden states where there are any."""
    data = acts.data
    block, step = data.sizes["site"] // 2, data.sizes["step"] // 2
    if "hidden_states" in data:
        blocks = [list(data["site"].values).index(s) for s in data["raw_site"].values]
        block = min(blocks, key=lambda b: abs(b - block))
        step = min((int(s) for s in data["raw_step"].values), key=lambda s: abs(s - step))
    rows, columns = acts.grid
    point = Point(block=block, step=step, token=rows // 2 * columns + columns // 2)
    return replace(point, channel=massive[0] if massive else int(np.argmax(by_channel(acts, point))))


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


def part(acts: Activations, name: str, point: Point, **places: int) -> Any:
    """A variable of one run and branch, and of the point's stream; further dims by position.

    Coordinates are left out: reading them too would take longer than a move of a slider may.
    """
    variable = acts.data.variables[name]
    places |= {"prompt": point.prompt, "seed": point.seed, "branch": point.branch}
    if "stream" in variable.dims:
        places["stream"] = list(acts.data["stream"].values).index(point.stream)
    return variable.isel({dim: place for dim, place in places.items() if dim in variable.dims})


def clipped(acts: Activations, point: Point) -> Point:
    """The point, brought into the range of this capture."""
    sizes = acts.data.sizes
    most = {"prompt": "prompt", "seed": "seed", "branch": "branch", "step": "step", "block": "site"}
    indices: dict[str, Any] = {f: min(getattr(point, f), sizes[d] - 1) for f, d in most.items()}
    stream = point.stream if point.stream in acts.data["stream"].values else "image"
    tokens = token_count(acts, replace(point, **indices, stream=stream))
    channel = min(point.channel, sizes["channel"] - 1)
    indices |= {"token": min(point.token, max(tokens - 1, 0)), "channel": channel}
    word = point.word if point.word in words_kept(acts) else ""
    return replace(point, **indices, stream=stream, word=word, head=min(point.head, head_count(acts) - 1))


def words_kept(acts: Activations) -> list[str]:
    """The words whose attention maps the capture has, see `word_maps`."""
    return [str(word) for word in acts.data["word"].values] if "word_map" in acts.data else []


def head_count(acts: Activations) -> int:
    """Heads of each attention product; 0 where there are no maps of words."""
    return int(acts.data.sizes["head"]) if "word_map" in acts.data else 0


def token_norms(acts: Activations, point: Point) -> np.ndarray:
    """Norm over channels by token of one stream, without the padding behind a shorter stream."""
    norms = part(acts, "token_norm", point)
    everywhere = np.isfinite(norms.values).reshape(-1, norms.sizes["token"]).any(0)
    count = int(np.flatnonzero(everywhere)[-1]) + 1 if everywhere.any() else 0
    return norms.isel(step=point.step, site=point.block).values[:count]


def token_count(acts: Activations, point: Point) -> int:
    """Tokens of a stream: of the image, rows x columns."""
    rows, columns = acts.grid
    return rows * columns if point.stream == "image" else len(token_norms(acts, point))


def hidden_at(acts: Activations, point: Point) -> HiddenStates | None:
    """Hidden states at a point, where they were kept."""
    data = acts.data
    if "hidden_states" not in data or point.stream != raw_stream(acts):
        return None
    steps, sites = data["raw_step"].values.tolist(), data["raw_site"].values.tolist()
    site = data["site"].values[point.block]
    if point.step not in steps or site not in sites:
        return None
    kept = part(acts, "hidden_states", point, raw_step=steps.index(point.step), raw_site=sites.index(site))
    tokens, channels = (
        np.asarray(data[d].values) if d in data.coords else np.arange(kept.sizes[d]) for d in kept.dims[-2:]
    )
    values = kept.values.astype(np.float32)
    whole = np.isfinite(values).any(1)  # rows of NaN are padding
    return HiddenStates(values[whole], tokens[whole], channels) if whole.any() else None


def largest_near(acts: Activations, point: Point, token: int, channel: int) -> tuple[int, int]:
    """The token and channel of the largest |x| in the cell of a surface that these two are in."""
    hidden = hidden_at(acts, point)
    if hidden is None:
        return token, channel
    row, column = np.searchsorted(hidden.tokens, token), np.searchsorted(hidden.channels, channel)
    y, x = spike(np.abs(hidden.values), int(row), int(column))
    return int(hidden.tokens[y]), int(hidden.channels[x])


def raw_stream(acts: Activations) -> str:
    """Which stream's hidden states were kept: as stated in the capture, or else by the number of tokens."""
    hidden, (rows, columns) = acts.data.variables["hidden_states"], acts.grid
    whole = hidden.dims[-2] not in acts.data.coords
    guess = "text" if whole and hidden.shape[-2] != rows * columns else "image"
    return str(acts.data.attrs.get("raw_stream", guess))


def by_channel(acts: Activations, point: Point) -> np.ndarray:
    """Mean |x| over tokens by channel."""
    return part(acts, "abs_mean", point, step=point.step, site=point.block).values


def magnitudes(acts: Activations, point: Point, along: str) -> dict[str, np.ndarray]:
    """The channel's mean |x| along `site` or `step`, beside the largest |x| and the median channel."""
    other = {"site": point.block} if along == "step" else {"step": point.step}
    return {
        f"channel {point.channel}": part(acts, "abs_mean", point, channel=point.channel, **other).values,
        "largest |x|": np.abs(part(acts, "top_value", point, rank=0, **other).values),
        "median channel": part(acts, "median_abs_mean", point, **other).values,
    }


def picture_at(acts: Activations, point: Point) -> tuple[np.ndarray | None, str]:
    """The picture under the map, (H, W, 3), and what it is: the estimate at this step where there is one."""
    if "step_picture" in acts.data:
        return part(acts, "step_picture", point, step=point.step).values, "the picture expected at this step"
    if "picture" in acts.data:
        return part(acts, "picture", point).values, "the finished picture (this capture has none by step)"
    return None, "no picture in this capture"


def advice_on_raw(acts: Activations, point: Point) -> str:
    """How to capture what is missing at a point."""
    stream = "" if point.stream == "image" else f", raw_stream={point.stream!r}"
    return (
        f"No hidden states of the {point.stream} stream were kept at this block and step, so norms and means are "
        f"shown. For single activations: dg.capture(dit, prompts, "
        f"raw=[{point.block}], raw_steps=[{point.step}]{stream})"
    )


def words_of(acts: Activations, prompt: int, stream: str) -> list[str] | None:
    """The words of a prompt's tokens, where the capture has them."""
    words = acts.data.attrs.get("words") if stream == "text" else None
    return list(words[prompt]) if words and prompt < len(words) and words[prompt] else None
