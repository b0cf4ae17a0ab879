"""AuraFlow: joint blocks, then single ones on one sequence [registers, text, image].

The attention output is normed and fed to the MLP, and only the MLP's output is added to the stream:
x + gate_mlp MLP(norm(x + gate_msa attention)). The text stream has eight register tokens before the words.
"""

from dg_tools.families.records import BlockList, Defaults, Family

FAMILY = Family(
    name="auraflow",
    transformer="AuraFlowTransformer2DModel",
    lists=(
        BlockList("joint_transformer_blocks", label="joint", length="num_mmdit_layers", attn_gate=None),
        BlockList(
            "single_transformer_blocks",
            label="single",
            length="num_single_dit_layers",
            returns="sequence",
            attn_gate=None,
            mlp_is_concatenated=True,
        ),
    ),
    rows="batched",
    timestep_scale=1.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states"),
    positions_are_flat=True,
    pipelines=("AuraFlowPipeline",),
    defaults=Defaults(steps=50, pixels=(1024, 1024), text=(8, 256)),
    patch_projection="pos_embed.proj",
)
