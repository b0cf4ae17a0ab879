"""CogView4: two streams in a tuple, the image's first; one linear layer gives both AdaLN chunks alternately.

One MLP runs twice in a block, first for the image stream and then for the text stream, so a trace cannot tell its two
writes apart. The forward's end reshapes to the rows it began with, so that there is no fork.
"""

from dg_tools.families.records import SIX, BlockList, Defaults, Family

FAMILY = Family(
    name="cogview4",
    transformer="CogView4Transformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            image=0,
            text=1,
            modulation=tuple(name for image in SIX for name in (image, None)),
            attn="attn1",
            mlp=None,
            text_only=("norm1.norm_context", "norm2_context"),
        ),
    ),
    rows="sequential",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=(
        *("hidden_states", "timestep", "encoder_hidden_states", "attention_mask"),
        *("original_size", "target_size", "crop_coords"),
    ),
    fork=False,
    pipelines=("CogView4Pipeline",),
    defaults=Defaults(steps=50, text=(0, 1024)),
)
