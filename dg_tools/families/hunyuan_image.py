"""HunyuanImage 2.1: two lists of blocks, both of which return (image, text); CFG in a guider component.

In the single blocks attention sees the image tokens first and the text after them. The forward's end reshapes to the
rows it began with, so that there is no fork. `pipe.guider = dg.DetailGuidance(...)` works too. The distilled model,
whose mean flow also takes the next timestep, is not covered.
"""

from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="hunyuan-image",
    transformer="HunyuanImageTransformer2DModel",
    lists=(
        BlockList("transformer_blocks", label="double", image=0, text=1),
        BlockList(
            "single_transformer_blocks",
            label="single",
            length="num_single_layers",
            image=0,
            text=1,
            adaln="norm.linear",
            modulation=("shift", "scale", "gate"),
            attn=None,
            mlp="proj_out",
            mlp_gate="gate",
            mlp_is_concatenated=True,
            image_first=True,
        ),
    ),
    rows="sequential",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    guiders=("guider", "ocr_guider"),
    row_inputs=(
        *("hidden_states", "timestep", "guidance", "encoder_hidden_states", "encoder_attention_mask"),
        *("encoder_hidden_states_2", "encoder_attention_mask_2"),
    ),
    conditioning=("temb", "attention_mask"),
    fork=False,
    pipelines=("HunyuanImagePipeline",),
    config=(("use_meanflow", False),),
    defaults=Defaults(steps=50, latent_side=64, text=(128, 1000)),
)
