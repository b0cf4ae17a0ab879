"""PixArt-Sigma: one stream that attends to the text, noise predicted, AdaLN from a table in each block.

The blocks are given one modulation (rows, 6 x channels) and add a table of their own. The end of the forward modulates
with the rows it began with, outside any module, so there is no fork. Cross-attention has no gate. Half of the output is
a variance. Sizes are as given: the pipeline's own rounding to a list of aspect ratios is switched off.
"""

from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="pixart",
    transformer="PixArtTransformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            returns="tensor",
            adaln=None,
            given="timestep",
            table="scale_shift_table",
            attn="attn1",
            products=("attn1",),
            crossed=("attn2",),
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
    prediction="noise",
    call={"use_resolution_binning": False},
    pipelines=("PixArtSigmaPipeline",),
    defaults=Defaults(steps=20, text=(0, 300)),
    patch_projection="pos_embed.proj",
    tokenizers=("tokenizer",),
)
