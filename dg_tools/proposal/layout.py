"""Sizes, positions and latents: the parts of a record besides its blocks and its guidance."""

from __future__ import annotations

from typing import Any

import torch

from dg_tools.families import FAMILIES
from dg_tools.families.latents import PACKED, PLAIN, Latents, Standardised
from dg_tools.families.records import Defaults
from dg_tools.proposal.runs import Run, Runs
from dg_tools.proposal.streams import Chain

TIME = "timestep"
GUESS = (1024, 1024)
MASK = 3  # a mask has at most this many different values


def scale_factor(pipeline: Any) -> int:
    """Pixels along one side of a latent pixel."""
    for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
        if hasattr(pipeline, name):
            return getattr(pipeline, name)
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def timestep_scale(run: Run, words: list[str]) -> tuple[float, float]:
    """(a, b) with transformer's timestep = a x scheduler's timestep / 1000 + b."""
    given = [forward.inputs.get(TIME) for forward in run.forwards[:: run.passes]]
    if not all(isinstance(value, torch.Tensor) for value in given):
        one, two = (run.forwards[at * run.passes].inputs for at in (0, 1))
        times = [n for n, x in one.items() if isinstance(x, torch.Tensor) and x.ndim == 1 and not x.equal(two[n])]
        told_at = [f"{n!r} is {one[n][0]:g} and {two[n][0]:g}" for n in times]
        levels = " and ".join(f"{level:g}" for level in run.levels[:2])
        words.append(
            f"timestep_scale: the transformer has no input {TIME!r}, and the record needs an `inputs`; at the "
            f"scheduler's {levels} {', '.join(told_at) or 'no input is a number that changes'}"
        )
        return 1.0, 0.0
    told = [float(value.flatten()[0]) for value in given if isinstance(value, torch.Tensor)]
    scales = [1000.0 * t / level for t, level in zip(told, run.levels, strict=False) if level]
    if max(scales) - min(scales) <= 0.02 * abs(max(scales)):
        return float(f"{sum(scales) / len(scales):.3g}"), 0.0
    slope = 1000.0 * (told[1] - told[0]) / (run.levels[1] - run.levels[0])
    return float(f"{slope:.3g}"), float(f"{told[0] - slope * run.levels[0] / 1000.0:.3g}")


def own_tokens(run: Run, chain: Chain) -> int:
    """Image tokens of the picture itself, without those of reference pictures."""
    sample = run.samples[0]
    return sample.shape[1] if sample.ndim == 3 else chain.tokens


def packing(runs: Runs, run: Run, chain: Chain, words: list[str]) -> int | None:
    """Latent pixels per token along a side; None where it is the transformer's `patch_size`."""
    size = runs.size if "height" in runs.takes else None
    if size is None:
        sample = run.samples[0]
        pixels = sample.shape[-1] * sample.shape[-2]
    else:
        pixels = size[0] * size[1] // scale_factor(runs.pipeline) ** 2
    sample = run.samples[0]
    frames = sample.shape[axes(runs, run).index("f")] if sample.ndim == 5 else 1
    side = (pixels * frames / own_tokens(run, chain)) ** 0.5
    if side != int(side):
        words.append(f"packing: {own_tokens(run, chain)} tokens for {pixels} latent pixels is not a square patch")
    return None if packing_of(runs.transformer) == int(side) else int(side)


def packing_of(transformer: torch.nn.Module) -> int:
    """Its `patch_size` along a side of the picture; 0 where it has none."""
    stated = getattr(transformer.config, "patch_size", 0)
    return stated[-1] if isinstance(stated, list | tuple) else stated


def axes(runs: Runs, run: Run) -> str:
    """The axes of latents with a dimension of frames, as `Family.layout`."""
    sample, channels = run.samples[0], getattr(runs.transformer.config, "in_channels", 0)
    if sample.ndim != 5:
        return "ncfhw"
    height, width = (side // scale_factor(runs.pipeline) for side in runs.size)
    if sample.shape[2:4] == (height, width) != sample.shape[3:]:
        return "nfhwc"
    return "nfchw" if sample.shape[2] == channels != sample.shape[1] else "ncfhw"


def grid_of(runs: Runs, run: Run, side: int) -> tuple[int, int]:
    """Rows and columns of image tokens."""
    if "height" not in runs.takes:
        height, width = run.samples[0].shape[-2:]
        return height // side, width // side
    pixels = scale_factor(runs.pipeline) * side
    return runs.size[0] // pixels, runs.size[1] // pixels


def positions(inputs: dict[str, Any], tokens: int, grid: tuple[int, int]) -> str:
    """The transformer's input with (picture, row, column) of each image token."""
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor) or value.ndim < 2 or value.shape[-1] < 3 or value.shape[-2] < tokens:
            continue
        ids = value.reshape(-1, value.shape[-1])[-tokens:]  # those of the text may come before
        ids = ids - ids.amin(0)
        expected = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).to(ids)
        if ids[:, 1:3].shape == expected.shape and ids[:, 1:3].equal(expected):
            return name
    return ""


def shapes(inputs: dict[str, Any], grid: tuple[int, int]) -> str:
    """The input that lists (frames, rows, columns) of each picture, the generated one first."""
    for name, value in inputs.items():
        one = value
        while isinstance(one, list | tuple) and one and isinstance(one[0], list | tuple):
            one = one[0]
        sizes = tuple(one[1:]) if isinstance(one, list | tuple) else ()
        if isinstance(value, list) and all(isinstance(size, int) for size in sizes) and sizes == grid:
            return name
    return ""


def sizes(inputs: dict[str, Any], grid: tuple[int, int]) -> tuple[str, ...]:
    """The inputs with the numbers of frames, rows and columns of tokens."""
    counts = {name: value for name, value in inputs.items() if type(value) is int}
    frames = [name for name in counts if "frame" in name]
    sides = [[name for name in counts if counts[name] == side and name not in frames] for side in grid]
    return (frames[0], sides[0][0], sides[1][0]) if frames and all(sides) and inputs["hidden_states"].ndim == 3 else ()


def rows_of(one: dict[str, Any], two: dict[str, Any]) -> tuple[str, ...]:
    """Inputs whose first dimension is the rows, found by comparing forwards of one row and of two."""
    names = []
    for name, value in one.items():
        other = two.get(name)
        if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
            grows = value.ndim == other.ndim > 0 and len(other) == 2 * len(value)
        elif isinstance(value, list) and isinstance(other, list):
            grows = len(other) == 2 * len(value) > 0 and isinstance(value[0], torch.Tensor)
        else:
            grows = False
        if grows:
            names.append(name)
    return tuple(names)


def embedding(chains: list[Chain], conditioning: tuple[str, ...], given: set[str]) -> str:
    """The blocks' input (rows, channels) that is the same for all of them."""
    for name in conditioning:
        values = [ran.inputs.get(name) for chain in chains for ran in chain.ran]
        first = values[0]
        if not isinstance(first, torch.Tensor) or first.ndim != 2 or not first.is_floating_point() or name in given:
            continue
        if len(first.unique()) > MASK and all(isinstance(v, torch.Tensor) and v.equal(first) for v in values):
            return name
    return ""


def latents(runs: Runs, run: Run, given: Any, words: list[str]) -> Latents:
    """The known layout that turns the run's last latents into the VAE's input.

    Args:
        runs, run: the pipeline, and a run that was decoded.
        given: the latents as the transformer gets them; some layouts differ only in this.
        words: sentences, added to.
    """
    shape = torch.stack(given).shape if isinstance(given, list) else given.shape
    others = {type(f.latents): f.latents for f in FAMILIES}
    known: list[Latents] = [PLAIN, PACKED, Standardised()]
    known += [layout for kind, layout in others.items() if kind not in {type(k) for k in known}]
    height, width = runs.size
    fits: list[tuple[float, Latents]] = []
    for layout in known:
        if run.decoded is None or run.latents is None:
            break
        try:
            spatial = layout.unpack(runs.pipeline, run.latents, height, width)
            made = layout.to_vae(runs.pipeline, spatial)
            packed = layout.pack(runs.pipeline, spatial).shape
            off = float((made.double() - run.decoded.double()).abs().max() / run.decoded.abs().max())
        except (AttributeError, RuntimeError, TypeError, ValueError, ZeroDivisionError, KeyError):
            continue
        alike = len(packed) == len(shape) and packed[2:] == shape[2:] and packed[1] <= shape[1]  # or reference tokens
        if made.shape == run.decoded.shape and off < 1e-3 and alike:
            fits.append((off, layout))
    if fits:
        return min(fits, key=lambda fit: fit[0])[1]
    words.append(
        "latents: no layout of the table brings the latents to what the VAE is given; write one, see latents.py"
    )
    return PLAIN


def patch_projection(transformer: torch.nn.Module) -> str:
    """The module that projects patches, where a table of positions is added to its output."""
    for path, module in transformer.named_children():
        if isinstance(getattr(module, "pos_embed", None), torch.Tensor) and hasattr(module, "proj"):
            return f"{path}.proj"
    return ""


def is_flat(transformer: torch.nn.Module) -> bool:
    """Whether `pos_embed_max_size` counts tokens: a table of that many positions."""
    most = getattr(transformer.config, "pos_embed_max_size", None)
    tables = [*transformer.named_parameters(), *transformer.named_buffers()]
    return any(name.endswith("pos_embed") and most in table.shape[-2:-1] for name, table in tables)


def width_config(transformer: torch.nn.Module, width: int, words: list[str]) -> str:
    """The configuration entry that is the stream's width; empty where the width is heads times head width."""
    config: Any = transformer.config
    heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(size, int) and heads * size == width:
        return ""
    same = [name for name, value in config.items() if type(value) is int and value == width]
    first = [n for n in same if n in ("dim", "hidden_size", "inner_dim", "model_dim")] or same
    if len(first) != 1:
        words.append(f"width_config: {width} channels are {' and '.join(first) or 'no configuration'}")
    return first[0] if first else ""


def class_count(runs: Runs) -> str:
    """The configuration entry with the number of classes: an embedding has as many rows, or one more."""
    if runs.prompt == "prompt":
        return ""
    sizes = {m.num_embeddings for m in runs.transformer.modules() if isinstance(m, torch.nn.Embedding)}
    config: Any = runs.transformer.config
    return next((n for n, v in config.items() if type(v) is int and v > 1 and {v, v + 1} & sizes), "")


def defaults(runs: Runs, words: list[str]) -> Defaults:
    """The defaults of the pipeline's call; the most text tokens are its `max_sequence_length`."""
    of = {name: parameter.default for name, parameter in runs.takes.items()}
    text = of.get("max_sequence_length")
    made: dict[str, Any] = {"steps": of["num_inference_steps"], "text": (0, text if isinstance(text, int) else 0)}
    config: Any = runs.transformer.config
    pixels = of.get("height"), of.get("width")
    if all(isinstance(side, int) for side in pixels):
        made["pixels"] = pixels
    elif (side := getattr(runs.pipeline, "default_sample_size", None)) is not None:
        made["latent_side"] = None if side == config.get("sample_size") else side
    elif config.get("sample_size") is None:
        made["pixels"] = GUESS
        words.append(f"defaults: the pipeline's default size is not told; {GUESS[0]} x {GUESS[1]} pixels are a guess")
    return Defaults(**made)
