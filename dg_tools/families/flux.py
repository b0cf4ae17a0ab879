"""FLUX.1: double blocks, then single ones, in which attention and MLP are written by one projection."""

from dg_tools.families.latents import PACKED
from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="flux",
    transformer="FluxTransformer2DModel",
    lists=(
        BlockList("transformer_blocks", label="double", products=("attn",)),
        BlockList(
            "single_transformer_blocks",
            label="single",
            length="num_single_layers",
            adaln="norm.linear",
            modulation=("shift", "scale", "gate"),
            attn=None,
            mlp="proj_out",
            mlp_gate="gate",
            mlp_in="proj_mlp",
            mlp_is_concatenated=True,
            products=("attn",),
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="true_cfg_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance"),
    latents=PACKED,
    defaults=Defaults(latent_side=128),
    image_first=False,
    tokenizers=("tokenizer_2",),
    positions="img_ids",
)
