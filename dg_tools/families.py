"""Where does a DiT keep its blocks, its image tokens and its AdaLN gates?

One declarative record a family, and no `if` on a class name anywhere else: everything that reads or changes a
transformer asks its record. The facts are read from diffusers 0.42 and checked on load by `dg_tools.models`.

A family of your own: write a `Family` and pass it to `dg_tools.load(..., family=...)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

Rows = Literal["batched", "sequential"]


@dataclass(frozen=True)
class BlockList:
    """One list of blocks, all of one kind.

    Attributes:
        path: the list's attribute on the transformer, `transformer_blocks`.
        label: prefix of the site names; empty: `3`, `single`: `single.3`.
        image, text: position of the image and the text hidden states (rows, tokens, channels) in the tuple that a
            block returns. The text position may hold None (SD3's last block).
        norm: the block's AdaLN module of the image stream. Its `linear` returns the chunks of `modulation`.
        modulation: names of the chunks (rows, channels) of `norm.linear`, in order.
        modulation_dual: the same where the block has a second image attention (SD3.5-medium).
        attn: path of the attention module; `attn_gate` the chunk that scales its image output.
        mlp: path of the last module of the MLP branch; `mlp_gate` the chunk that scales its output. Where attention and
            MLP are written together (FLUX single blocks) `attn` is None and `mlp` is the joint projection.
        text_only: names of the block's parts with LayerNorms that see the text stream and nothing else.
    """

    path: str
    label: str = ""
    image: int = 1
    text: int = 0
    norm: str = "norm1"
    modulation: tuple[str, ...] = ("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")
    modulation_dual: tuple[str, ...] | None = None
    attn: str | None = "attn"
    attn_gate: str = "gate_msa"
    mlp: str = "ff"
    mlp_gate: str = "gate_mlp"
    mlp_is_concatenated: bool = False
    text_only: tuple[str, ...] = ("norm1_context", "norm2_context")

    def chunks(self, block: torch.nn.Module) -> tuple[str, ...]:
        """Names of the chunks that this block's AdaLN linear returns."""
        if self.modulation_dual and getattr(block, "use_dual_attention", False):
            return self.modulation_dual
        return self.modulation


@dataclass(frozen=True)
class Family:
    """What the toolkit must know of a DiT family.

    Attributes:
        name: short name, `sd3`.
        transformer: class name of the transformer in diffusers.
        lists: block lists in execution order.
        rows: how classifier-free guidance is laid out: `batched` (one call, rows [uncond, cond]) or `sequential` (two
            calls a step, the conditional one first).
        timestep_scale: the transformer's `timestep` input is sigma times this.
        packing: latent pixels per token along a side; None: the transformer's `patch_size`.
        partial_forward: whether a forward may start from a stored block output.
        guidance_argument: the pipeline's argument for the usual CFG scale.
        row_inputs: names of the transformer's inputs whose first dimension is the rows.
        conditioning: names of the blocks' keyword inputs, besides the two streams, whose first dimension is the rows.
        tail: path of the module after the last block; it takes the image stream and the conditioning.
    """

    name: str
    transformer: str
    lists: tuple[BlockList, ...]
    rows: Rows
    timestep_scale: float
    packing: int | None
    partial_forward: bool
    guidance_argument: str
    row_inputs: tuple[str, ...]
    conditioning: tuple[str, ...] = ("temb",)
    tail: str = "norm_out"

    def blocks(self, transformer: torch.nn.Module) -> Iterator[tuple[str, BlockList, torch.nn.Module]]:
        """(site name, record, module) of every block, in execution order."""
        for record in self.lists:
            for i, block in enumerate(getattr(transformer, record.path)):
                yield (f"{record.label}.{i}" if record.label else str(i)), record, block


SD3 = Family(
    name="sd3",
    transformer="SD3Transformer2DModel",
    lists=(
        BlockList(
            "transformer_blocks",
            modulation_dual=(
                *("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp"),
                *("shift_msa2", "scale_msa2", "gate_msa2"),
            ),
        ),
    ),
    rows="batched",
    timestep_scale=1000.0,
    packing=None,
    partial_forward=True,
    guidance_argument="guidance_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
)

FLUX = Family(
    name="flux",
    transformer="FluxTransformer2DModel",
    lists=(
        BlockList("transformer_blocks", label="double"),
        BlockList(
            "single_transformer_blocks",
            label="single",
            norm="norm",
            modulation=("shift", "scale", "gate"),
            attn=None,
            mlp="proj_out",
            mlp_gate="gate",
            mlp_is_concatenated=True,
        ),
    ),
    rows="sequential",
    timestep_scale=1.0,
    packing=2,
    partial_forward=True,
    guidance_argument="true_cfg_scale",
    row_inputs=("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance"),
)

FAMILIES = (SD3, FLUX)


def family_of(transformer: torch.nn.Module | Any) -> Family:
    """The record of a transformer, by its class.

    Raises:
        ValueError: a class without a record; names the known ones and what a record of one's own needs.
    """
    name = type(transformer).__name__
    for family in FAMILIES:
        if family.transformer == name:
            return family
    known = ", ".join(f"{f.transformer} ({f.name})" for f in FAMILIES)
    raise ValueError(
        f"no family record for {name}; there are {known}. For another DiT pass family=dg_tools.families.Family(...), "
        "which names the block lists in execution order, where a block returns its image tokens, its AdaLN module and "
        "gates, the CFG row layout and the timestep scale."
    )
