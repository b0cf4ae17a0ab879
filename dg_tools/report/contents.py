"""The sections about the model and its channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dg_tools.activations.headroom import limit_of
from dg_tools.massive import RATIO, constant
from dg_tools.models.pictures import pictures
from dg_tools.plots.report import channels_figure, gates_figure, headroom_figure, maps_figure, surface_figure
from dg_tools.report.figures import bytes_of, drawn
from dg_tools.report.findings import Findings
from dg_tools.report.own_samples import COND
from dg_tools.report.parts import Figure, Section, Table
from dg_tools.report.verdict import HOLDS, Row

MAPPED = 7  # channels whose map is drawn
PLACES = {
    "image": "image stream",
    "text": "text stream",
    "attn": "attention, before its gate",
    "mlp": "MLP, before its gate",
}
HALF = "float16"


def facts(of: Findings) -> Section:
    """What the model is."""
    dit, given = of.dit, of.given
    rows, columns = dit.grid(given.height, given.width)
    lists = ", ".join(f"{len(getattr(dit.transformer, r.path))} {r.label or 'blocks'}" for r in dit.family.lists)
    known: list[list[Any]] = [
        ["pipeline", type(dit.pipeline).__name__],
        ["transformer", type(dit.transformer).__name__],
        ["family", dit.family.name],
        ["blocks", lists],
        ["width of the residual stream", dit.width],
        ["predicts", dit.family.prediction],
        ["default steps", dit.default_steps],
        ["pictures, height x width", f"{given.height} x {given.width}"],
        ["image tokens, rows x columns", f"{rows} x {columns}"],
        ["pixels of a latent cell", dit.vae_scale_factor],
        ["dtype of the transformer", str(dit.dtype).removeprefix("torch.")],
        ["device", dit.device.type],
    ]
    parts = [
        [name, type(part).__name__, sum(x.numel() for x in part.parameters())]
        for name, part in dit.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    ]
    prompts = [["choose", x.prompt] for x in given.choice] + [["measure", x.prompt] for x in given.test]
    words = (
        f"Prompts: {given.source}. Channels, block, dose and w are chosen on {len(given.choice)} of them; everything "
        f"that is reported is measured on {len(given.test)} others."
    )
    tables = [
        Table("Model", ["what", "value"], known),
        Table("Components", ["component", "class", "parameters"], parts),
        Table("Prompts", ["used to", "prompt"], prompts),
    ]
    return Section("facts", "The model", words, tables)


def channels(of: Findings) -> Section:
    """Which channels are massive, from which block on, how stably, and what they look like."""
    found, stream, sites = of.found, of.stream, of.dit.sites
    sigma, block, top = of.strongest
    if not found.channels:
        ratio = float(stream.ratio.mean((0, 1)).max())
        words = (
            f"No channel is massive: none has {RATIO:g} times the median channel's mean |x|, one sign and little "
            f"variation over tokens at two blocks or more. The largest ratio is {ratio:.3g}, at block {sites[block]}, "
            f"sigma {sigma:g}, channel {top}."
        )
        return Section("channels", "Massive channels", words, figures=[surface(of, [])])
    names = ", ".join(map(str, found.channels))
    words = (
        f"Massive: channel {names}, found on the prompts to choose on; the numbers are of the others. A channel is "
        f"massive where its mean |x| is at least {RATIO:g} times the median channel's, with one sign on 95% of the "
        "image tokens and little variation over them."
    )
    holds = stable(of)
    held = found.cells.mean(0) >= 0.5
    onset = {c: int(np.flatnonzero(held[:, c])[0]) for c in found.channels}
    ratio, size, mean = (x.mean((0, 1)) for x in (stream.ratio, stream.values["size"], stream.values["mean"]))
    rows: list[list[Any]] = []
    for i, c in enumerate(found.channels):
        level, at = np.unravel_index(int(ratio[:, :, c].argmax()), ratio.shape[:2])
        rows.append(
            [c, sites[onset[c]], sites[int(found.writers[c])], sites[at], stream.sigmas[level], ratio[level, at, c],
             size[level, at, c], "+" if mean[level, at, c] > 0 else "-", holds[..., held[:, c], i].mean()]
        )  # fmt: skip
    header = ["channel", "first massive at block", "written at block", "stands out most at block", "sigma"]
    header += ["ratio to the median channel", "mean |x| there", "sign", "stability where massive"]
    by_block = [[site, *holds[:, :, :, b].mean((0, 1, 3))] for b, site in enumerate(sites)]
    levels = [f"sigma {s:g}" for s in stream.sigmas]
    stability = "Stability: the share of pictures in which the rule holds, mean over the massive channels"
    tables = [Table("Massive channels", header, rows), Table(stability, ["block", *levels], by_block)]
    median = np.median(size, axis=-1)
    numbers = {
        "sites": sites,
        "by_block": {str(c): size[:, :, c].mean(0) for c in found.channels},
        "median_by_block": median.mean(0),
        "sigmas": list(stream.sigmas),
        "by_sigma": {str(c): size[:, block, c] for c in found.channels},
        "median_by_sigma": median[:, block],
        "onset": {str(c): first for c, first in onset.items()},
        "at": sites[block],
    }
    title = "Mean |x| over image tokens, by block and by noise level."
    figures = [drawn("channels", title, channels_figure, numbers), surface(of, found.channels), maps(of)]
    return Section("channels", "Massive channels", words, tables, figures)


def stable(of: Findings) -> np.ndarray:
    """Where the rule holds for the massive channels: (prompt, seed, sigma, block, channel)."""
    values = {name: of.stream.values[name][..., of.found.channels] for name in ("one_sign", "variation")}
    return constant(values | {"ratio": of.stream.ratio[..., of.found.channels]})


def surface(of: Findings, massive: list[int]) -> Figure:
    """|x| over token and channel where a channel stands out most."""
    sigma, block, _ = of.strongest
    at = f"block {of.dit.sites[block]}, sigma {sigma:g}, {of.given.test[0].prompt!r}"
    numbers = {"massive": massive, "at": at}
    return drawn("surface", "Every channel at every image token.", surface_figure, numbers, hidden=of.hidden)


def maps(of: Findings) -> Figure:
    """Massive channels over the picture."""
    grid = of.dit.grid(of.given.height, of.given.width)
    first = of.given.test[0].picture if of.given.has_pictures else None
    picture = bytes_of(pictures(of.dit, of.drawn.first[COND][:1].to(of.dit.device))[0] if first is None else first)
    shown = {str(c): np.abs(of.hidden[:, c]).reshape(grid).round(4) for c in of.found.channels[:MAPPED]}
    return drawn("maps", "Massive channels over the picture.", maps_figure, {"maps": shown}, picture=picture)


def gates(of: Findings) -> Section:
    """The AdaLN gates at the block that writes each massive channel."""
    found, stream, sites = of.found, of.stream, of.dit.sites
    if not found.channels:
        return Section("gates", "Gates at the writing block", missing="No channel is massive, so none is written.")
    rows: list[list[Any]] = []
    peaks: dict[int, tuple[int, str, np.ndarray]] = {}
    for c in found.channels:
        block = int(found.writers[c])
        ranked = []
        for part, gate in stream.gates.items():
            mean = gate[:, :, :, block].mean((0, 1, 2))
            if np.isfinite(mean).all():
                ranked.append((1 + int((mean > mean[c]).sum()), part, mean))
        if not ranked:
            continue
        rank, part, mean = min(ranked, key=lambda one: one[0])
        peaks[c] = block, part, mean
        rows.append([c, sites[block], part, float(mean[c]), float(np.median(mean)), rank])
    if not rows:
        return Section("gates", "Gates at the writing block", missing="The writing blocks have no AdaLN gates.")
    header = ["channel", "written at block", "gate", "mean |gate|", "median channel's", "rank (1 is the largest)"]
    tables = [Table("Gates at the writing block", header, rows)]
    block, part, mean = peaks[next(iter(peaks))]
    there = [c for c in peaks if peaks[c][:2] == (block, part)]
    numbers = {"gate": mean, "massive": there, "at": sites[block], "part": part}
    words = (
        "A block adds gate times branch to the residual stream. Of each massive channel: the gate in which it ranks "
        "highest, at the block at which its token mean changes most. What is left without these gates: "
        f"{verdict(of, 'gate makes it')}."
    )
    figure = drawn("gates", f"Gate {part} of block {sites[block]}, every channel.", gates_figure, numbers)
    return Section("gates", "Gates at the writing block", words, tables, [figure])


def verdict(of: Findings, key: str) -> str:
    """The status of a claim, in words."""
    row: Row = next(row for row in of.claims if row.key == key)
    return f"claim `{key}` {row.status}" if row.status == HOLDS else f"claim `{key}`: {row.status}"


def headroom(of: Findings) -> Section:
    """How near each block comes to the largest number of float16."""
    title = "Headroom in float16"
    if not of.headroom:
        return Section("headroom", title, missing="The capture has no sizes of hidden states.")
    places = list(dict.fromkeys(row["place"] for row in of.headroom))
    sizes = {(row["site"], row["place"]): row["largest"] for row in of.headroom}
    largest = {PLACES[p]: [sizes.get((s, p)) for s in of.dit.sites] for p in places}
    numbers = {"sites": of.dit.sites, "largest": largest, "limit": limit_of(HALF), "dtype": HALF}
    worst = max(of.headroom, key=lambda row: row["largest"])
    words = (
        f"The largest |x| is {worst['largest']:.4g}, at block {worst['site']}, {PLACES[worst['place']]}, sigma "
        f"{worst['sigma']:.2g}: {worst['share']:.1%} of float16's largest number. Measured in "
        f"{str(of.dit.dtype).removeprefix('torch.')} on one prompt; what is inside attention and the MLP may be larger."
    )
    header = ["block", "place", "largest |x|", "sigma", "share of float16's largest", "octaves left"]
    names = ("largest", "sigma", "share", "octaves")
    rows = [[row["site"], PLACES[row["place"]], *(row[n] for n in names)] for row in of.headroom]
    figure = drawn("headroom", "Largest |x| by block.", headroom_figure, numbers)
    return Section("headroom", title, words, [Table("Headroom by block", header, rows)], [figure])
