"""Stable Diffusion 3 and 3.5: one list of joint blocks, both streams in a tuple."""

from dg_tools.families.records import SIX, BlockList, Defaults, Family

FAMILY = Family(
    name="sd3",
    transformer="SD3Transformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            modulation_dual=(*SIX, "shift_msa2", "scale_msa2", "gate_msa2"),
            attn_dual="attn2",
            products=("attn", "attn2"),
            drops_text="context_pre_only",
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
    defaults=Defaults(text=(0, 256), padded=True),
    image_first=True,
    tokenizers=("tokenizer", "tokenizer_3"),
    patch_projection="pos_embed.proj",
)
