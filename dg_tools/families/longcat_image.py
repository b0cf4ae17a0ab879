"""LongCat-Image: FLUX.1's blocks without a pooled text; the pipeline rescales the guided prediction.

The text encoder rewrites prompts only with `enable_prompt_rewrite=True`: the rewriting samples words, so the same call
would not give the same picture.
"""

from dataclasses import replace

from dg_tools.families.flux import FAMILY as FLUX
from dg_tools.families.records import Defaults

FAMILY = replace(
    FLUX,
    name="longcat-image",
    transformer="LongCatImageTransformer2DModel",
    lists=tuple(replace(record, products=()) for record in FLUX.lists),
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "guidance"),
    call={"enable_prompt_rewrite": False},
    free_call=("enable_prompt_rewrite",),
    image_first=None,
    pipelines=("LongCatImagePipeline",),
    rescaling=(
        "LongCat-Image's pipeline rescales every token of a guided prediction whose norm is above that of the "
        "conditional one down to it: of what a guidance adds the direction stays, not the size"
    ),
    rescaling_switch="enable_cfg_renorm",
    defaults=Defaults(steps=50, latent_side=128),
    input_sizes=("in_channels", "joint_attention_dim"),
)
