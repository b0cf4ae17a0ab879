"""Wan 2.1: one stream that attends to the text, AdaLN from a table in each block.

A picture is a video of one frame, which is the default here (`num_frames=1`); the tokens of several latent frames come
one frame after the other. The forward's end reshapes to the rows it began with, so
that there is no fork. Cross-attention has no gate. Pipelines that hand over to a second transformer, or give every
token a timestep of its own (Wan 2.2), are not covered.
"""

from dg_tools.families.latents import Standardised
from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="wan",
    transformer="WanTransformer3DModel",
    lists=(
        BlockList(
            "blocks",
            returns="tensor",
            adaln=None,
            given="temb",
            table="scale_shift_table",
            attn="attn1",
            mlp="ffn",
            text_only=(),
        ),
    ),
    rows="sequential",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
    conditioning=("temb", "encoder_hidden_states"),
    embedding="",
    fork=False,
    call={"num_frames": 1},
    free_call=("num_frames",),
    pipelines=("WanPipeline",),
    pipeline_config=(("expand_timesteps", False), ("boundary_ratio", None)),
    latents=Standardised(),
    defaults=Defaults(steps=50, pixels=(480, 832)),
)
