"""ERNIE-Image: one sequence, image tokens first, as (tokens, rows, channels); AdaLN chunks from the model itself.

The chunks are a list of tensors, each repeated for every token. Latents are noised as patches, standardised by
the VAE's own batch norm as in FLUX.2. The forward's end reshapes to the rows it began with, so that there is no fork.
Prompts are rewritten by a language model only with `use_pe=True`: the rewriting samples words, so two calls would
differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.flux2 import Patches
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Listed(BlockList):
    """Blocks that are given a list of chunks, each (tokens, rows, channels) and the same for all tokens."""

    def moving(self, block: torch.nn.Module, given: Any) -> torch.Tensor:
        import torch

        return torch.stack([chunk[0] for chunk in given], dim=1)

    def with_moving(self, block: torch.nn.Module, given: Any, value: torch.Tensor) -> Any:
        return [part.expand_as(chunk) for part, chunk in zip(value.unbind(1), given, strict=True)]


class Spatial(Patches):
    """Patches that stay in their rows and columns; the epsilon of the batch norm is the pipeline's own."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return pipeline._patchify_latents(latents)

    def scale(self, pipeline: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        norm = pipeline.vae.bn
        mean, variance = (x.view(1, -1, 1, 1) for x in (norm.running_mean, norm.running_var))
        return mean.to(like), (variance + 1e-5).sqrt().to(like)


FAMILY = Family(
    name="ernie-image",
    transformer="ErnieImageTransformer2DModel",
    lists=(
        Listed(
            "layers",
            returns="sequence",
            image_first=True,
            hidden="x",
            tokens_first=True,
            adaln=None,
            given="temb",
            attn="self_attention",
            mlp="mlp",
            mlp_is_concatenated=True,
            text_only=(),
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=2,
    patched=True,
    scale_per_token=True,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "text_bth", "text_lens"),
    conditioning=(),
    embedding="",
    tail="final_norm",
    fork=False,
    layer_norms=False,
    call={"use_pe": False},
    free_call=("use_pe",),
    pipelines=("ErnieImagePipeline",),
    config=(("patch_size", 1),),
    latents=Spatial(),
    defaults=Defaults(steps=50, pixels=(1024, 1024)),
    width_config="hidden_size",
    input_sizes=("in_channels", "out_channels", "text_in_dim"),
)
