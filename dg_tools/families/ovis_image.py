"""Ovis-Image: FLUX.1's blocks without a pooled text and with gated MLPs; CFG in two calls."""

from dataclasses import replace

from dg_tools.families.flux import FAMILY as FLUX
from dg_tools.families.records import Defaults

FAMILY = replace(
    FLUX,
    name="ovis-image",
    transformer="OvisImageTransformer2DModel",
    lists=tuple(replace(record, products=()) for record in FLUX.lists),
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states"),
    image_first=None,
    pipelines=("OvisImagePipeline",),
    defaults=Defaults(steps=50, latent_side=128, text=(0, 256)),
    input_sizes=("in_channels", "out_channels", "joint_attention_dim"),
)
