"""Bria 3.2: FLUX.1's blocks without a pooled text; CFG in one batched call, [uncond, cond].

Its pipeline's `vae_scale_factor` counts the pixels of a token. Its call arguments `normalize` and `clip_value` change
the guided prediction and are refused with a guidance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dg_tools.families.flux import FAMILY as FLUX
from dg_tools.families.latents import Packed
from dg_tools.families.records import Defaults

if TYPE_CHECKING:
    import torch


class PackedFloat(Packed):
    """The VAE's scale is undone in float32."""

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return super().to_vae(pipeline, latents.float())


FAMILY = replace(
    FLUX,
    name="bria",
    transformer="BriaTransformer2DModel",
    lists=tuple(replace(record, products=()) for record in FLUX.lists),
    rows="batched",
    timestep_scale=1000.0,
    scale_per_token=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "guidance"),
    call={"normalize": False, "clip_value": None},
    own_call=("normalize", "clip_value"),
    image_first=None,
    pipelines=("BriaPipeline",),
    latents=PackedFloat(),
    defaults=Defaults(steps=30, latent_side=128, text=(0, 128)),
    input_sizes=("in_channels", "joint_attention_dim"),
)
