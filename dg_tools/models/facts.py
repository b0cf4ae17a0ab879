"""Facts of a model and the memory that it needs, read from its configurations without loading weights or torch.

Counts of parameters and sizes of captures are exact. The memory of a forward and of decoding is estimated from shapes,
well enough to answer "does it fit?": in float32 on a CPU, two rows of 1357 tokens at SD3.5-medium's width took 245 MiB
(estimate 254), and SD3's decoder at 256 pixels took 316 MiB (estimate 320).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dg_tools.families import Family, family_named
from dg_tools.models.files import (
    adapter_folder,
    base_of,
    cached,
    card_call,
    check_folder,
    parameters,
    read_json,
    source_of,
)
from dg_tools.models.profiles import check_profile, read_profile

COPIES = 16  # of the streams in one block: residual, normed, q, k, v, attention, the MLP's fourfold inside twice
DECODED = 5  # copies of the decoder's second widest level at full resolution
BYTES = {"float32": 4, "bfloat16": 2}  # what `load` takes on a CPU and on an accelerator


@dataclass(frozen=True)
class Facts:
    """The facts that `facts` returns.

    Attributes:
        model: the name as given; `pipeline`, `transformer`: class names; `family`: short name.
        blocks: how many blocks each list has, by label; `sites`: the names of all blocks, in execution order.
        width: channels of the residual stream.
        pixels: height and width of the default picture; `grid`: its image tokens, rows and columns.
        text_tokens: the most that a prompt makes; `steps`: the default; `prediction`: velocity or noise.
        profile: the known massive channels, or None.
        parameters: by component; None where the weights are not there.
        memory: bytes by dtype: `weights` (None where they are not there), `capture` and `detail_guidance` beside them,
            at the default size, one picture, CFG on for Detail Guidance.
        statistics: bytes that a capture of one run keeps, `raw` those of one block's hidden states at one step.
    """

    model: str
    pipeline: str
    transformer: str
    family: str
    blocks: dict[str, int]
    sites: list[str]
    width: int
    pixels: tuple[int, int]
    grid: tuple[int, int]
    text_tokens: int
    steps: int
    prediction: str
    profile: dict[str, Any] | None
    parameters: dict[str, int | None]
    memory: dict[str, dict[str, int | None]]
    statistics: int
    raw: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def facts(model: str | Path | None = None) -> Facts:
    """Facts of a model, from its folder's JSON files and the headers of its weights.

    Args:
        model: None (the embedded default), an embedded name, a diffusers folder, or a Hub id that is in the cache.

    Raises:
        FileNotFoundError: no such model, no pipeline folder, or a Hub id that is not in the cache.
        ValueError: a transformer without a family record, or a configuration that the record does not cover.
    """
    adapter = adapter_folder(model)
    source = source_of(base_of(adapter) if adapter else model)
    folder = source if isinstance(source, Path) else cached(source)
    check_folder(folder)
    index = read_json(folder / "model_index.json")
    if "transformer" not in index:
        parts = ", ".join(k for k in index if not k.startswith("_"))
        raise ValueError(
            f"{index.get('_class_name', 'this pipeline')} has no transformer (it has: {parts}); dg_tools works on "
            "diffusion transformers, not on U-Nets"
        )
    config, vae = (read_json(folder / part / "config.json") for part in ("transformer", "vae"))
    family = family_named(index["transformer"][1], index.get("_class_name"))
    check_facts(family, config, index)
    transformer = SimpleNamespace(config=SimpleNamespace(**config))
    counts = {record.label: length(config, record.length) for record in family.lists}
    sites = [f"{label}.{i}" if label else str(i) for label, n in counts.items() for i in range(n)]
    width, side = family.width(transformer), latent_pixels(vae)
    pixels = default_pixels(family, config, side, card_call(folder))
    step = side * family.patch(transformer)
    grid = (pixels[0] // step, pixels[1] // step)
    profile = read_profile(adapter or source)
    if profile is not None:
        check_profile(profile, sites, width)
    text = text_tokens(family, folder)
    held = {
        k: parameters(folder / k) for k, v in index.items() if isinstance(v, list) and v[0] and is_model(folder / k)
    }
    statistics = statistics_size(family, config, len(sites), width, grid, text) + 3 * pixels[0] * pixels[1]
    shapes: dict[str, Any] = {"width": width, "tokens": grid[0] * grid[1] + text, "pixels": pixels, "vae": vae}
    return Facts(
        model=str(model or source.name if isinstance(source, Path) else source),
        pipeline=index.get("_class_name", ""),
        transformer=index["transformer"][1],
        family=family.name,
        blocks={label or "blocks": n for label, n in counts.items()},
        sites=sites,
        width=width,
        pixels=pixels,
        grid=grid,
        text_tokens=text,
        steps=family.defaults.steps,
        prediction=family.prediction,
        profile=profile,
        parameters=held,
        memory={dtype: memory(family, size, held, statistics, **shapes) for dtype, size in BYTES.items()},
        statistics=statistics,
        raw=grid[0] * grid[1] * width * 4,
    )


def text_tokens(family: Family, folder: Path) -> int:
    """The most text tokens that a prompt makes."""
    fixed, most = family.defaults.text
    if family.defaults.padded:
        fixed += int(read_json(folder / "tokenizer" / "tokenizer_config.json")["model_max_length"])
    return fixed + card_call(folder).get("max_sequence_length", most)


def is_model(folder: Path) -> bool:
    """Whether a component has weights: schedulers and tokenizers have none."""
    return (folder / "config.json").is_file()


def check_facts(family: Family, config: dict[str, Any], index: dict[str, Any]) -> None:
    """Raise ValueError for a configuration that the record does not cover."""
    family.check(config, "model", index, "model")
    if index.get("transformer_2", [None, None])[1]:
        raise ValueError("this pipeline hands over to a second transformer within a run; dg_tools looks into one only")


def length(config: dict[str, Any], name: str) -> int:
    """How many blocks a list has."""
    if not isinstance(config.get(name), int):
        raise ValueError(f"the transformer's config.json has no {name!r}, so the number of blocks is unknown")
    return config[name]


def latent_pixels(vae: dict[str, Any]) -> int:
    """Pixels along one side of a latent cell, from a VAE's configuration."""
    if vae.get("scale_factor_spatial"):
        return vae["scale_factor_spatial"]
    if "temperal_downsample" in vae:  # so spelt in diffusers
        return 2 ** len(vae["temperal_downsample"])
    if "spatio_temporal_scaling" in vae:
        return vae.get("spatial_compression_ratio") or vae["patch_size"] * 2 ** sum(vae["spatio_temporal_scaling"])
    levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
    if not levels:
        raise ValueError("the VAE's config.json does not give its downsampling factor")
    return 2 ** (len(levels) - 1)


def default_pixels(family: Family, config: dict[str, Any], side: int, call: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the picture that a call without a size makes; `call` is the model card's."""
    if family.defaults.pixels:
        height, width = family.defaults.pixels
    else:
        height = width = (family.defaults.latent_side or config["sample_size"]) * side
    return call.get("height", height), call.get("width", width)


def statistics_size(
    family: Family, config: dict[str, Any], sites: int, width: int, grid: tuple[int, int], text: int
) -> int:
    """Bytes that a capture of one run with the default steps keeps, as float32."""
    streams = 1 if all(r.returns == "tensor" for r in family.lists) else 2
    tokens = max(grid[0] * grid[1], text if streams == 2 else 0)
    kinds = {name for record in family.lists for name in record.most_chunks(config) if name}
    attn = any(r.attn and r.attn_gate for r in family.lists)
    mlp = any(r.mlp for r in family.lists)
    values = streams * (5 * width + 2 * tokens + 3 * 3 + 2) + (len(kinds) + attn + mlp) * width
    return 4 * family.defaults.steps * (sites * values + (width if family.embedding else 0))


def memory(
    family: Family,
    size: int,
    held: dict[str, int | None],
    statistics: int,
    *,
    width: int,
    tokens: int,
    pixels: tuple[int, int],
    vae: dict[str, Any],
) -> dict[str, int | None]:
    """Bytes in one dtype: the weights, and the additional memory of a capture and of a run with Detail Guidance."""
    weights = None if None in held.values() else size * sum(n for n in held.values() if n)
    levels = vae.get("block_out_channels") or vae.get("decoder_block_out_channels") or [vae.get("base_dim", 128)] * 2
    decoding = DECODED * levels[min(1, len(levels) - 1)] * pixels[0] * pixels[1] * size
    row = tokens * width * size
    rows = (1 if family.rows == "sequential" else 2) + family.fork  # the fork adds the disrupted row
    output = 0 if family.fork else row
    return {
        "weights": weights,
        "capture": max(COPIES * row, decoding) + 2 * statistics,
        "detail_guidance": max(COPIES * rows * row, decoding) + output,
    }
