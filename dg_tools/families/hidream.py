"""HiDream-I1: double blocks that return (image, text), then single ones with one sequence, image tokens first.

A picture that is not square is padded to a fixed count of tokens, which attention sees. The padding comes after the
picture's own tokens and belongs to no stream. In the single blocks it lies before the text; the text is not read there.
Each block gets text tokens from a different layer of the language model. MLPs of the image are mixtures of experts. The
pipeline negates the prediction and changes every size to the same area. The forward's end reads the rows it began with,
so that there is no fork.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dg_tools.families.block_list import SIX, Stream
from dg_tools.families.inputs import Inputs
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Named(Inputs):
    """`timesteps`, and the language model's hidden states with their layers before the rows."""

    def named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "timesteps" not in inputs:
            return inputs
        named = {k: v for k, v in inputs.items() if k not in ("timesteps", "encoder_hidden_states_llama3")}
        layers = inputs["encoder_hidden_states_llama3"]
        return {**named, "timestep": inputs["timesteps"], "llama3_by_row": layers.transpose(0, 1)}

    def native(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "timesteps" in inputs:
            return inputs
        native = {k: v for k, v in inputs.items() if k not in ("timestep", "llama3_by_row")}
        layers = inputs["llama3_by_row"].transpose(0, 1)
        return {**native, "timesteps": inputs["timestep"], "encoder_hidden_states_llama3": layers}


class Padded(BlockList):
    """Blocks whose image tokens may have padding after them."""

    def get(self, output: Any, stream: Stream, image_tokens: int | None = None) -> torch.Tensor | None:
        if stream == "image":
            whole = output[self.image] if self.returns == "tuple" else output
            return whole[:, self.tokens_of("image", whole.shape[1], image_tokens)]
        return super().get(output, stream, image_tokens) if self.returns == "tuple" else None

    def put(self, output: Any, stream: Stream, value: torch.Tensor, image_tokens: int | None = None) -> Any:
        if stream == "image":
            whole = output[self.image] if self.returns == "tuple" else output
            changed = whole.clone()
            changed[:, self.tokens_of("image", whole.shape[1], image_tokens)] = value
            value = changed
        return super().put(output, stream, value, image_tokens) if self.returns == "tuple" else value

    def entering(self, inputs: Any, image_tokens: int | None = None) -> torch.Tensor:
        whole = inputs[self.hidden]
        return whole[:, self.tokens_of("image", whole.shape[1], image_tokens)]

    def has_text(self, block: torch.nn.Module) -> bool:
        return self.returns == "tuple"


def one_area(pipeline: Any, height: int, width: int) -> tuple[int, int]:
    """The height and width that the pipeline's call makes of these, to the last rounding."""
    side = pipeline.vae_scale_factor * 2
    scale = math.sqrt((pipeline.default_sample_size * pipeline.vae_scale_factor) ** 2 / (width * height))
    return int(height * scale // side * side), int(width * scale // side * side)


BRANCHES: dict[str, Any] = {
    "adaln": "block.adaLN_modulation.1",
    "attn": "block.attn1",
    "mlp": "block.ff_i",
    "mlp_is_concatenated": True,
    "image_first": True,
    "text_only": ("block.norm1_t", "block.norm3_t"),
}

FAMILY = Family(
    name="hidream",
    transformer="HiDreamImageTransformer2DModel",
    lists=(
        Padded("double_stream_blocks", label="double", image=0, text=1, modulation=(*SIX, *[None] * 6), **BRANCHES),
        Padded("single_stream_blocks", label="single", length="num_single_layers", returns="sequence", **BRANCHES),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states_t5", "llama3_by_row", "pooled_embeds"),
    tail="final_layer",
    fork=False,
    prediction="minus velocity",
    inputs=Named(),
    pipelines=("HiDreamImagePipeline",),
    fit=one_area,
    defaults=Defaults(steps=50, latent_side=128, text=(0, 256)),
    input_sizes=("in_channels", "out_channels", "patch_size", "text_emb_dim"),
)
