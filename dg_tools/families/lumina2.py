"""Lumina Image 2.0: one sequence, text first and then the image tokens, padding at its end.

A branch is normed before its gate, which is a tanh. The refiners before the layers are not looked into. The pipeline
is told 1 - sigma and takes minus the prediction. Several prompts in one call must have texts of one length: else the
image tokens of each row begin elsewhere. The forward's end reads the rows that it began with, so that there is no fork.
"""

from __future__ import annotations

from typing import Any

from dg_tools.families.inputs import Inputs
from dg_tools.families.records import BlockList, Defaults, Family


class OneLength(Inputs):
    """Texts of one length in a call."""

    def named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        lengths = inputs["encoder_attention_mask"].sum(1).tolist() if "encoder_attention_mask" in inputs else []
        if len(set(lengths)) > 1:
            raise ValueError(
                f"the prompts of this call have {', '.join(map(str, lengths))} text tokens; family 'lumina2' needs "
                "texts of one length in a call, for the image tokens come after them: draw these prompts one by one"
            )
        return inputs


FAMILY = Family(
    name="lumina2",
    transformer="Lumina2Transformer2DModel",
    lists=(
        BlockList(
            "layers",
            returns="sequence",
            modulation=("scale_msa", "gate_msa", "scale_mlp", "gate_mlp"),
            gate_is_tanh=True,
            attn="norm2",
            mlp="ffn_norm2",
            mlp_is_concatenated=True,
            text_only=(),
        ),
    ),
    rows="sequential",
    timestep_scale=-1.0,
    timestep_offset=1.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    conditioning=("attention_mask", "image_rotary_emb", "temb"),
    fork=False,
    layer_norms=False,
    prediction="minus velocity",
    inputs=OneLength(),
    pipelines=("Lumina2Pipeline",),
    rescaling=(
        "Lumina2's pipeline rescales every line of latent pixels of a guided prediction to the norm of the conditional "
        "one: of what a guidance adds the direction stays, not the size"
    ),
    rescaling_switch="cfg_normalization",
    defaults=Defaults(steps=30, text=(0, 256)),
    width_config="hidden_size",
    input_sizes=("in_channels", "out_channels", "patch_size", "cap_feat_dim"),
)
