"""Z-Image, base and Turbo: lists of pictures and captions in, image tokens first and then the text in one sequence.

Rows may have texts of different lengths, so that a rerun has all rows of its call, and there is no fork. A branch is
normed before its gate, which is a tanh. The two refiners before the layers are not looked into. The pipeline is told
1 - sigma, takes minus the prediction, and its CFG is c + g (c - u): g is the usual scale less one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dg_tools.families.inputs import Inputs
from dg_tools.families.latents import Latents
from dg_tools.families.records import BlockList, Defaults, Family

if TYPE_CHECKING:
    import torch


class Lists(Inputs):
    """A list of pictures (channels, 1, rows, columns) and 1 - sigma, as one tensor and sigma."""

    def named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "x" not in inputs:
            return inputs
        import torch

        named = {k: v for k, v in inputs.items() if k not in ("x", "t")}
        timestep = 1 - inputs["t"]
        timestep.native = inputs["t"]  # 1 - (1 - t) is not t to the last bit
        return {**named, "hidden_states": torch.stack(list(inputs["x"])), "timestep": timestep}

    def native(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "x" in inputs:
            return inputs
        native = {k: v for k, v in inputs.items() if k not in ("hidden_states", "timestep")}
        timestep = inputs["timestep"]
        return {**native, "x": list(inputs["hidden_states"].unbind()), "t": getattr(timestep, "native", 1 - timestep)}

    def prediction(self, sample: Any, inputs: dict[str, Any] | None = None) -> torch.Tensor:
        import torch

        return torch.stack(list(sample))


class OneFrame(Latents):
    """Latents with a dimension of frames, of which there is one."""

    def pack(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :, None]

    def unpack(self, pipeline: Any, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latents.squeeze(2) if latents.ndim == 5 else latents


FAMILY = Family(
    name="z-image",
    transformer="ZImageTransformer2DModel",
    lists=(
        BlockList(
            "layers",
            returns="sequence",
            image_first=True,
            hidden="x",
            adaln="adaLN_modulation.0",
            modulation=("scale_msa", "gate_msa", "scale_mlp", "gate_mlp"),
            gate_is_tanh=True,
            attn="attention_norm2",
            mlp="ffn_norm2",
            mlp_is_concatenated=True,
            text_only=(),
            length="n_layers",
        ),
    ),
    rows="batched_cond_first",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="guidance_scale",
    scale_offset=1.0,
    live_scale="guidance_scale",
    row_inputs=("hidden_states", "timestep", "cap_feats"),
    row_lists=("cap_feats",),
    ragged=True,
    conditioning=("attn_mask", "freqs_cis", "adaln_input"),
    embedding="",
    tail="all_final_layer.2-1",
    fork=False,
    layer_norms=False,
    prediction="minus velocity",
    inputs=Lists(),
    call={"cfg_normalization": False},
    own_call=("cfg_normalization",),
    pipelines=("ZImagePipeline",),
    config=(("siglip_feat_dim", None), ("all_patch_size", (2,)), ("all_f_patch_size", (1,))),
    latents=OneFrame(),
    defaults=Defaults(steps=50, pixels=(1024, 1024)),
    width_config="dim",
    input_sizes=("in_channels", "all_patch_size", "cap_feat_dim"),
)
