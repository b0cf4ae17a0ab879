"""Sana: one stream that attends to the text, an MLP of convolutions, AdaLN from a table in each block.

The forward's end reshapes to the rows it began with, so that there is no fork. Cross-attention has no gate. Sizes are
as given: the pipeline's own rounding to a list of aspect ratios is switched off.
"""

from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="sana",
    transformer="SanaTransformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            returns="tensor",
            adaln=None,
            given="timestep",
            table="scale_shift_table",
            attn="attn1",
            text_only=(),
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    conditioning=("timestep", "encoder_hidden_states", "encoder_attention_mask"),
    embedding="",
    fork=False,
    call={"use_resolution_binning": False},
    pipelines=("SanaPipeline",),
    config=(("timestep_scale", 1.0), ("guidance_embeds", False)),
    defaults=Defaults(steps=20, pixels=(1024, 1024), text=(0, 300)),
)
