"""Chroma: FLUX.1's blocks, with AdaLN chunks from one approximator for all of them.

A double block gets chunks (rows, 12, channels), the image stream's six first. A single block gets (rows, 3, channels)
and returns one sequence, text first.
"""

from dg_tools.families.latents import PACKED
from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="chroma",
    transformer="ChromaTransformer2DModel",
    lists=(
        BlockList("transformer_blocks", label="double", adaln=None, given="temb"),
        BlockList(
            "single_transformer_blocks",
            label="single",
            length="num_single_layers",
            returns="sequence",
            adaln=None,
            given="temb",
            modulation=("shift", "scale", "gate"),
            attn=None,
            mlp="proj_out",
            mlp_gate="gate",
            mlp_is_concatenated=True,
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "attention_mask"),
    conditioning=("temb", "attention_mask"),
    embedding="",
    pipelines=("ChromaPipeline",),
    latents=PACKED,
    positions="img_ids",
    defaults=Defaults(steps=35, latent_side=128),
)
