"""The parts of a capture that go into a page without a kernel: all statistics, and hidden states as far as they fit."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dg_tools.activations import Activations
from dg_tools.widgets import capture_lookup as lookup
from dg_tools.widgets.capture_lookup import Point
from dg_tools.widgets.capture_panel import background
from dg_tools.widgets.kept_page import halves, png_address
from dg_tools.widgets.word_maps import fields as word_fields

MOST_MB = 16.0  # of hidden states in a page, before they are written as text


def capture_data(acts: Activations, point: Point, massive: list[int], most_mb: float = MOST_MB) -> dict[str, Any]:
    """A capture as JSON for a page.

    Args:
        acts: the capture.
        point: where the page opens.
        massive: channels that are marked.
        most_mb: of hidden states. Where all of them are more, the massive channels' alone are kept, and of these as
            many steps as fit.

    Raises:
        ValueError: statistics alone are more than the page may hold.
    """
    data, sizes = acts.data, acts.data.sizes
    runs = list(itertools.product(*(range(sizes[d]) for d in ("prompt", "seed", "branch"))))
    places = len(runs) * sizes["step"] * sizes["site"]
    statistics = places * sizes["stream"] * (sizes["channel"] + sizes["token"]) * 2
    rows, columns = acts.grid
    words, heads = lookup.words_kept(acts), lookup.head_count(acts)
    one = places * len(words) * rows * columns * 2
    heads = heads if one * (1 + heads) <= most_mb * 2**20 else 0  # else their mean alone
    statistics += one * (1 + heads)
    if statistics > 4 * most_mb * 2**20:
        raise ValueError(
            f"the statistics of this capture are {statistics / 2**20:.0f} MB, more than a page should hold "
            f"({4 * most_mb:g} MB): select fewer prompts, seeds or steps from `.data` first, or pass a larger most_mb"
        )
    streams = [str(s) for s in data["stream"].values]
    whole, channels, steps = kept_hidden(acts, massive, len(runs), most_mb)
    stream = lookup.raw_stream(acts) if "hidden_states" in data else "image"
    tokens: list[int] = []
    kept: dict[str, Any] = {}
    for run in runs:
        at = replace(point, prompt=run[0], seed=run[1], branch=run[2])
        hidden: dict[str, str] = {}
        for step, block in itertools.product(steps, range(sizes["site"])):
            found = lookup.hidden_at(acts, replace(at, step=step, block=block, stream=stream))
            if found is not None:
                tokens = found.tokens.tolist()
                hidden[f"{step},{block}"] = halves(
                    found.values[:, [found.channels.tolist().index(c) for c in channels]]
                )
        kept[",".join(map(str, run))] = {
            **statistics_of(acts, at, streams),
            "hidden": hidden,
            "maps": {word: word_halves(acts, replace(at, word=word), heads) for word in words},
            "pictures": pictures(acts, at),
        }
    _, aspect = background(acts, point)
    return {
        "prompts": [str(v) for v in data["prompt"].values],
        "seeds": [str(v) for v in data["seed"].values],
        "branches": [str(v) for v in data["branch"].values],
        "streams": streams,
        "sites": [str(v) for v in data["site"].values],
        "steps": [str(v) for v in data["step"].values],
        "sigmas": [float(v) for v in data["sigma"].values],
        "grid": list(acts.grid),
        "aspect": aspect,
        "channels": sizes["channel"],
        "massive": [int(c) for c in massive],
        "words": {s: [lookup.words_of(acts, i, s) for i in range(sizes["prompt"])] for s in streams},
        "attended": words,
        "heads": heads,
        "hidden_stream": stream,
        "hidden_tokens": tokens,
        "hidden_channels": [int(c) for c in channels],
        "hidden_whole": whole,
        "point": asdict(point),
        "runs": kept,
        "edge": edge(acts, point, kept),
    }


def kept_hidden(acts: Activations, massive: list[int], runs: int, most_mb: float) -> tuple[bool, list[int], list[int]]:
    """Whether all channels are kept, which, and at which steps."""
    if "hidden_states" not in acts.data:
        return False, [], []
    part = acts.data["hidden_states"]
    steps = [int(s) for s in part["raw_step"].values]
    own = part[part.dims[-1]].values.tolist() if part.dims[-1] in part.coords else list(range(part.shape[-1]))
    one = runs * part.sizes["raw_site"] * part.shape[-2] * 2 / 2**20
    if one * len(own) * len(steps) <= most_mb:
        return True, [int(c) for c in own], steps
    channels = sorted(int(c) for c in massive if c in own)
    fitting = int(most_mb / max(one * max(len(channels), 1), 1e-9))
    if not channels or not fitting:
        return False, [], []
    return False, channels, steps if fitting >= len(steps) else steps[:: -(-len(steps) // fitting)]


def statistics_of(acts: Activations, point: Point, streams: list[str]) -> dict[str, Any]:
    """What a page needs of one run besides hidden states, by stream: [step, block, size]."""
    values: dict[str, dict[str, Any]] = {}
    for name in lookup.NEEDED:
        values[name] = {}
        for stream in streams:
            part = lookup.part(acts, name, replace(point, stream=stream), rank=0).transpose("step", "site", ...)
            array = part.values.reshape(part.sizes["step"], part.sizes["site"], -1)
            values[name][stream] = {"values": halves(array.astype(np.float32)), "size": array.shape[-1]}
    return values


def word_halves(acts: Activations, point: Point, heads: int) -> str:
    """A word's maps in one run, [step, block, head, token]: the mean of all heads, then the first `heads` of them."""
    maps = word_fields(acts, point)
    return halves(np.concatenate([maps.mean(2, keepdims=True), maps[:, :, :heads]], 2))


def pictures(acts: Activations, point: Point) -> list[str]:
    """The pictures of one run: one per step, or the finished one, or none."""
    by_step = "step_picture" in acts.data
    steps = range(acts.data.sizes["step"]) if by_step else [point.step]
    pngs = [background(acts, replace(point, step=step))[0] for step in steps]
    return [png_address(png) for png in pngs if png]


def edge(acts: Activations, point: Point, kept: dict[str, Any]) -> dict[str, Any] | None:
    """Two pictures of a capture to compare: this step's and the last one's, or two runs'; None: there are no two."""
    small = lookup.picture_at(acts, point)[0]
    settings = {"title": "Before and after (drag the edge)", "pixelated": small is not None and small.shape[1] < 256}
    own = kept[f"{point.prompt},{point.seed},{point.branch}"]["pictures"]
    if len(own) > 1:
        two = {"expected at this step": own[point.step], "at the last step": own[-1]}
        return {**settings, "pictures": two, **sides(two)}
    data, found = acts.data, {}
    for key, run in kept.items():
        prompt, seed, _ = map(int, key.split(","))
        if run["pictures"]:
            found[f"{data['prompt'].values[prompt]}, seed {data['seed'].values[seed]}"] = run["pictures"][0]
    return {**settings, "pictures": found, **sides(found)} if len(found) > 1 else None


def sides(pictures: dict[str, str]) -> dict[str, str]:
    """The first two pictures, left and right of the edge."""
    return dict(zip(("left", "right"), pictures, strict=False))
