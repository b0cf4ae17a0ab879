"""Hidden states of a DiT as features that match places between pictures (DiTF).

DiTF (arXiv 2505.18584) reads the image tokens at a block's *input*, where its authors find that massive channels make
all tokens look alike. It sets those channels to zero, then applies what the block itself applies first: LayerNorm
without weights, and the block's own AdaLN, (1 + scale) * x + shift. Each step can also be used alone.

Its authors' next recipe, here `mrep`, keeps what DiTF discards: it adds the map of the massive channels over the
picture to the modulated features. A channel that is nearly constant still varies a little from token to token, and the
map is that variation.

The input of a block is the output of the one before it; that of block 0 is the patch embedding with its positions.
`capture_image` can keep the raw hidden states of every block; here a forward ends as soon as the last requested block
is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F

from dg_tools.datasets.pictures import as_pictures
from dg_tools.families import bind
from dg_tools.kinds import counted
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_loaded
from dg_tools.models.pictures import encode
from dg_tools.numbers import number
from dg_tools.onestep import check_velocity, conditions, velocity

Recipe = Literal["ditf", "raw", "discard", "adaln", "mrep"]
DISCARDS, MODULATES = ("ditf", "discard"), ("ditf", "adaln", "mrep")
WITH_CHANNELS: tuple[Recipe, ...] = ("ditf", "discard", "mrep")
EPSILON = 1e-6  # of the LayerNorm, as in DiTF and in the blocks' own


class Entry(NamedTuple):
    """A block's input, (rows, tokens, channels), and its AdaLN's shift and scale, each (rows, channels)."""

    hidden: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor


class _Reached(Exception):
    """Ends a forward when nothing more is to be read."""


def features(
    dit: DiT,
    images: Any,
    *,
    block: int,
    sigma: float,
    prompt: str | Sequence[str] = "",
    channels: Sequence[int] | None = None,
    recipe: Recipe = "ditf",
    seed: int | Sequence[int] = 0,
    span: tuple[float, float] | None = None,
    batch: int = 32,
    **kwargs: Any,
) -> torch.Tensor:
    """Features of pictures, one vector per image token, from one partial forward at z = (1 - sigma) x + sigma noise.

    Args:
        dit: from `load`.
        images: one picture or a list, all of one size: PIL, paths, arrays or tensors, see
            `datasets.pictures.as_picture`.
        block: the block whose input is read; 0: the patch embedding.
        sigma: noise level, 0 < sigma <= 1.
        prompt: one for all pictures, or one each.
        span: the values of black and white in arrays and tensors; None: `as_picture` infers them from the values.
        channels: massive channels to discard, or to keep as a map (`mrep`); None: the channels of the model's profile.
            Must be None for `raw` and `adaln`.
        recipe: `ditf`: discard, LayerNorm, AdaLN; `raw`: hidden states as they are; `discard`, `adaln`: one step alone;
            `mrep`: `adaln` at unit norm for each token, then the channels' map: each channel with mean 0 and variance 1
            over the picture's tokens, divided by the root of their count, so that both parts have the same mean square.
        seed: of the noise; one for all pictures (the same noise) or one each.
        batch: pictures per forward.
        **kwargs: passed to the pipeline's call, from which the text embeddings are read.

    Returns:
        (pictures, rows, columns, channels), float32 on the CPU; token (y, x) covers `dit.pixels_per_token` pixels. With
        `mrep` the maps come after the model's channels.

    Raises:
        TypeError, ValueError: no picture, sizes that differ or do not fit, sigma outside (0, 1], an unknown recipe, no
            channels known, channels that the recipe does not use, a model that predicts no velocity, a recipe with a
            LayerNorm where the blocks have another norm.
        IndexError: a block or channels that this model does not have.

    Example:
        >>> known = dg.references(dit)
        >>> apple = known.picture(known.reference("red apple"))
        >>> dg.features(dit, apple, block=6, sigma=0.3, channels=[55]).shape
        torch.Size([1, 8, 8, 144])
    """
    check_loaded(dit, "features")
    check_velocity(dit)
    if recipe not in get_args(Recipe):
        raise ValueError(f"recipe={recipe!r}; allowed: {', '.join(get_args(Recipe))}")
    if recipe in MODULATES and not dit.family.layer_norms:
        raise ValueError(
            f"recipe {recipe!r} needs a LayerNorm, which family {dit.family.name!r} does not have: take 'raw' "
            "or 'discard'"
        )
    if not 0 < number(sigma, "sigma") <= 1:
        raise ValueError(f"sigma={sigma} requested; noise levels lie above 0 and up to 1")
    if batch < 1:
        raise ValueError(f"batch={batch} requested; at least 1")
    dit.block(block)
    selection = known_channels(dit, channels, recipe)
    pictures = as_pictures(images, span)
    height, width = dit.size(*pictures.shape[-2:])
    prompts, seeds = one_each(prompt, len(pictures), "prompt"), one_each(seed, len(pictures), "seed")
    parts = []
    for begin in range(0, len(pictures), batch):
        part = slice(begin, begin + batch)
        noised = noisy(encode(dit, pictures[part]), sigma, seeds[part])
        inputs = conditions(dit, prompts[part], height, width, **kwargs)
        entry = entries(dit, noised, sigma, inputs, [block])[block]
        parts.append(modulated(entry, selection, recipe).cpu())
    return torch.cat(parts).unflatten(1, dit.grid(height, width))


def known_channels(dit: DiT, channels: Sequence[int] | None, recipe: Recipe) -> list[int]:
    """The channels that a recipe discards or keeps as a map; empty for a recipe that does neither."""
    if recipe not in WITH_CHANNELS:
        if channels is not None:
            raise ValueError(
                f"recipe {recipe!r} uses no channels: leave channels out, or take 'ditf', 'discard' or 'mrep'"
            )
        return []
    selection = list((dit.profile or {}).get("channels", ()) if channels is None else channels)
    if not selection:
        raise ValueError(
            f"recipe {recipe!r} needs massive channels, and none are given or in a profile of this model: pass "
            "channels=, such as find_massive(...).channels, or take 'raw' or 'adaln'"
        )
    wrong = [c for c in selection if not 0 <= c < dit.width]
    if wrong:
        raise IndexError(f"channels {wrong} requested; there are 0 to {dit.width - 1}")
    return selection


def one_each(value: Any, count: int, what: str) -> list[Any]:
    """One value for all pictures, or one for each."""
    values = [value] * count if isinstance(value, str | int) else list(value)
    if len(values) != count:
        raise ValueError(
            f"{counted(len(values), what)} for {counted(count, 'picture')}: pass one, or one for each picture"
        )
    return values


def noisy(latents: torch.Tensor, sigma: float, seeds: Sequence[int]) -> torch.Tensor:
    """Noised latents z = (1 - sigma) x + sigma noise, (N, C, h, w), each with the noise of its own seed."""
    noise = [torch.randn(latents.shape[1:], generator=torch.Generator("cpu").manual_seed(int(s))) for s in seeds]
    return (1 - sigma) * latents + sigma * torch.stack(noise).to(latents)


@torch.no_grad()
def entries(
    dit: DiT, noised: torch.Tensor, sigma: float, inputs: dict[str, Any], blocks: Sequence[int]
) -> dict[int, Entry]:
    """The inputs of these blocks in one forward, which stops at the last of them.

    Args:
        dit: the model.
        noised: z_t, (N, C, h, w).
        sigma: noise level.
        inputs: of `dg_tools.onestep.conditions`, for as many prompts.
        blocks: indices.
    """
    rows, columns = dit.grid(*dit.picture_size(noised))
    hidden: dict[int, torch.Tensor] = {}
    result: dict[int, Entry] = {}

    def keep(block: Block, modulation: torch.Tensor) -> None:
        chunks = block.record.modulated(block.module, modulation, dit.width)
        shift, scale = first_of(chunks, "shift"), first_of(chunks, "scale")
        assert scale is not None
        if shift is None:  # Qwen-Image 2.1 scales alone
            shift = torch.zeros_like(scale)
        result[block.index] = Entry(hidden[block.index], shift.float(), scale.float())
        if len(result) == len(set(blocks)):
            raise _Reached

    def at_entry(block: Block) -> Any:
        def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            image = block.record.entering(bind(module, args, kwargs), rows * columns)
            hidden[block.index] = image.detach().to(torch.float32, copy=True)  # a compiled block reuses its memory

        return block.module.register_forward_pre_hook(hook, with_kwargs=True)

    with dit.running(), ExitStack() as stack:
        for index in sorted(set(blocks)):
            block = dit.block(index)
            stack.callback(at_entry(block).remove)
            stack.callback(block.record.on_modulation(block.module, partial(keep, block)).remove)
        try:
            velocity(dit, noised, sigma, inputs)
        except _Reached:
            pass
    return result


def first_of(chunks: dict[str, torch.Tensor], kind: str) -> torch.Tensor | None:
    """The chunk that the block's first LayerNorm takes: `shift_msa`, or `shift` where there is only one."""
    return next((value for name, value in chunks.items() if name in (kind, f"{kind}_msa")), None)


def modulated(entry: Entry, channels: Sequence[int], recipe: Recipe) -> torch.Tensor:
    """Features (rows, tokens, channels) of a block's input, by a recipe."""
    x = entry.hidden
    if recipe in DISCARDS:
        x = x.clone()
        x[..., list(channels)] = 0
    if recipe in MODULATES:
        x = F.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + entry.scale[:, None]) + entry.shift[:, None]
    if recipe == "mrep":
        return torch.cat([F.normalize(x, dim=-1), normalised_maps(entry.hidden[..., list(channels)])], -1)
    return x


def normalised_maps(values: torch.Tensor) -> torch.Tensor:
    """Maps (rows, tokens, channels): mean 0 and equal variance over tokens; a token's squares sum to 1 on average."""
    centred = values - values.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
    return centred / spread / values.shape[-1] ** 0.5
