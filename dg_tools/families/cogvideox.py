"""CogVideoX: two streams in a tuple, the image's first; AdaLN from two linear layers, each for both streams.

A picture is a video of one frame, which is the default here (`num_frames=1`); the tokens of several latent frames come
one frame after the other. Latents lie as (rows, frames, channels, height, width), v is predicted. One LayerNorm serves
both streams, so clean statistics cannot be kept. The forward's end reshapes to the rows it began with, so that there is
no fork. CogVideoX 1.5, which makes tokens of two frames, is not covered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dg_tools.families.block_list import SIX, BlockList, Handles, bind
from dg_tools.families.latents import Latents, with_frames
from dg_tools.families.records import Defaults, Family

if TYPE_CHECKING:
    import torch


class TwoNorms(BlockList):
    """Blocks with one linear layer for attention's chunks and one for the MLP's."""

    def moving(self, block: torch.nn.Module, given: Any) -> torch.Tensor:
        import torch

        norms = [block.get_submodule(name) for name in ("norm1", "norm2")]
        return torch.cat([norm.get_submodule("linear")(norm.get_submodule("silu")(given)) for norm in norms], dim=1)

    def on_modulation(self, block: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor | None]) -> Handles:
        changed: dict[str, torch.Tensor] = {}  # by linear layer, until it runs

        def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            value = function(self.moving(module, bind(module, args, kwargs)[self.given]))
            if value is not None:
                changed.update(zip(("norm1", "norm2"), value.chunk(2, dim=1), strict=True))

        def after(name: str) -> Callable[..., torch.Tensor | None]:
            return lambda module, args, output: changed.pop(name, None)

        linears = [
            block.get_submodule(f"{name}.linear").register_forward_hook(after(name)) for name in ("norm1", "norm2")
        ]
        return Handles(block.register_forward_pre_hook(before, with_kwargs=True), *linears)


class FramesFirst(Latents):
    """(N, frames, C, H, W) for the transformer; (N, C, H, W) here, with a dimension of frames where there are more."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return with_frames(latents).transpose(1, 2)

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents.transpose(1, 2).squeeze(2) if latents.ndim == 5 else latents

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return 1 / pipeline.vae.config.scaling_factor * with_frames(latents)

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        return encoded.squeeze(2) * pipeline.vae.config.scaling_factor

    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) of latents of one frame; videos (N, 3, frames, H, W) of several."""
        return super().decode(pipeline, latents).squeeze(2)

    def encode(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        return super().encode(pipeline, with_frames(pictures))


FAMILY = Family(
    name="cogvideox",
    transformer="CogVideoXTransformer3DModel",
    lists=(
        TwoNorms(
            "transformer_blocks",
            image=0,
            text=1,
            adaln=None,
            given="temb",
            modulation=(*SIX[:3], *[None] * 3, *SIX[3:], *[None] * 3),
            attn="attn1",
            mlp_is_concatenated=True,
            text_only=(),
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states"),
    tail="norm_final",
    fork=False,
    layer_norms=False,
    prediction="v",
    call={"num_frames": 1, "use_dynamic_cfg": False},
    free_call=("num_frames",),
    own_call=("use_dynamic_cfg",),
    pipelines=("CogVideoXPipeline",),
    config=(("patch_size_t", None), ("ofs_embed_dim", None)),
    latents=FramesFirst(),
    layout="nfchw",
    defaults=Defaults(steps=50, pixels=(480, 720), text=(0, 226)),
    input_sizes=("in_channels", "out_channels", "patch_size", "text_embed_dim"),
)
