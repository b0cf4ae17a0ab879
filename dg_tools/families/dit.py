"""DiT-XL/2: class labels instead of prompts, one stream, noise predicted, square pictures of one size.

The rows of classifier-free guidance are [cond, uncond], the unconditional ones with the null class. Half of the
output is a variance, which the pipeline throws away. Every block embeds timestep and class on its own; the end of the
forward reads the first block's embedding once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.latents import Latents
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Scaled(Latents):
    """The pipeline multiplies where others divide, which differs in the last bit."""

    def to_vae(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return 1 / pipeline.vae.config.scaling_factor * latents

    def from_vae(self, pipeline: Any, encoded: torch.Tensor) -> torch.Tensor:
        return pipeline.vae.config.scaling_factor * encoded


FAMILY = Family(
    name="dit",
    transformer="DiTTransformer2DModel",
    lists=(BlockList("transformer_blocks", returns="tensor", attn="attn1", products=("attn1",), text_only=()),),
    rows="batched_cond_first",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "class_labels"),
    conditioning=("timestep", "class_labels"),
    embedding="",
    tail_conditioning=("proj_out_1",),
    prediction="noise",
    prompt="class_labels",
    negative_prompt=False,
    pipelines=("DiTPipeline",),
    latents=Scaled(),
    defaults=Defaults(steps=50, text=(0, 0)),
    patch_projection="pos_embed.proj",
    class_count="num_embeds_ada_norm",
)
