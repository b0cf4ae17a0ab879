"""What a record says: `BlockList` of one list of blocks, `Family` of the whole model and its pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dg_tools.families.latents import PLAIN, Latents

if TYPE_CHECKING:  # a record is read without torch
    import torch

Rows = Literal["batched", "batched_cond_first", "sequential"]
Stream = Literal["image", "text"]
SIX = ("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")


def bind(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's inputs by name, however they were passed."""
    if not args:
        return kwargs
    named = inspect.signature(type(module).forward).bind_partial(module, *args).arguments
    return {**kwargs, **{name: value for name, value in named.items() if value is not module}}


@dataclass(frozen=True)
class BlockList:
    """One list of blocks, all of one kind.

    Attributes:
        path: the list's attribute on the transformer, `transformer_blocks`.
        label: prefix of the site names; empty: `3`, `single`: `single.3`.
        returns: `tuple`, both streams; `tensor`, the image stream alone (text is only attended to); `sequence`, one
            tensor with the text tokens first and the image tokens after them.
        image, text: position of the image and the text hidden states (rows, tokens, channels) in a returned tuple. The
            text position may hold None (SD3's last block).
        adaln: path of the block's linear layer that gives the AdaLN chunks of the image stream; None where the chunks
            come from outside.
        given: then the block's input that holds them, (rows, chunks x channels) or (rows, chunks, channels), the image
            stream's first; `table` is the block's parameter (chunks, channels) that is added to it, if any.
        modulation: names of the chunks (rows, channels), in order; None for a chunk of the text stream.
        modulation_dual: the same where the block has a second image attention (SD3.5-medium).
        attn: path of the attention module; `attn_gate` the chunk that scales its image output, None where attention
            reaches the stream through the MLP alone.
        mlp: path of the last module of the MLP branch, None where it runs more than once in a block (a trace could not
            tell the runs apart); `mlp_gate` the chunk that scales its output. Where attention and MLP are written
            together (FLUX single blocks) `attn` is None and `mlp` is the joint projection.
        mlp_is_concatenated: the outputs of `attn` and `mlp` hold the text tokens too, before the image tokens.
        text_only: names of the block's parts that see the text stream and nothing else, where they have LayerNorms.
        length: the transformer's configuration that says how many blocks these are.
    """

    path: str
    label: str = ""
    returns: Literal["tuple", "tensor", "sequence"] = "tuple"
    image: int = 1
    text: int = 0
    adaln: str | None = "norm1.linear"
    given: str = ""
    table: str = ""
    modulation: tuple[str | None, ...] = SIX
    modulation_dual: tuple[str | None, ...] | None = None
    attn: str | None = "attn"
    attn_gate: str | None = "gate_msa"
    mlp: str | None = "ff"
    mlp_gate: str = "gate_mlp"
    mlp_is_concatenated: bool = False
    text_only: tuple[str, ...] = ("norm1_context", "norm2_context")
    length: str = "num_layers"

    # -- AdaLN --------------------------------------------------------------------------------------------------------

    def chunks(self, block: torch.nn.Module) -> tuple[str | None, ...]:
        """Names of this block's AdaLN chunks, in order; None for one of the text stream."""
        if self.modulation_dual and getattr(block, "use_dual_attention", False):
            return self.modulation_dual
        return self.modulation

    def as_chunks(self, block: torch.nn.Module, value: torch.Tensor, width: int) -> torch.Tensor:
        """A view (rows, chunks, channels) of what `adaln` gives, or of the block's input `given`."""
        return value.view(value.shape[0], -1, width)[:, : len(self.chunks(block))]

    def added(self, block: torch.nn.Module) -> torch.Tensor | None:
        """What the block itself adds to its chunks, (chunks, channels) or (1, chunks, channels)."""
        return getattr(block, self.table) if self.table else None

    # -- streams ------------------------------------------------------------------------------------------------------

    def get(self, output: Any, stream: Stream, image_tokens: int | None = None) -> torch.Tensor | None:
        """One stream (rows, tokens, channels) of what a block returned; None where the block has none.

        Raises:
            RuntimeError: both streams are one sequence, and how many of its tokens are the image's is not known.
        """
        if self.returns == "tuple":
            return output[getattr(self, stream)]
        if self.returns == "tensor":
            return output if stream == "image" else None
        at = -known(image_tokens)
        return output[:, at:] if stream == "image" else output[:, :at]

    def put(self, output: Any, stream: Stream, value: torch.Tensor, image_tokens: int | None = None) -> Any:
        """What a block returned, with one stream replaced."""
        if self.returns == "tuple":
            at = getattr(self, stream)
            return tuple(value if i == at else kept for i, kept in enumerate(output))
        if self.returns == "tensor":
            return value
        import torch

        at = -known(image_tokens)
        return torch.cat([output[:, :at], value] if stream == "image" else [value, output[:, at:]], dim=1)


def known(image_tokens: int | None) -> int:
    """The count of image tokens, which must be there."""
    if not image_tokens:
        raise RuntimeError(
            "this block returns text and image tokens in one sequence, and how many are the image's is not known here: "
            "the transformer was not called as a module, or its Call has no image_tokens"
        )
    return image_tokens


@dataclass(frozen=True)
class Defaults:
    """What a pipeline's call does where it is not told; for what is said before anything is loaded.

    Attributes:
        steps: denoising steps.
        latent_side: latent pixels along a side; None: the transformer's `sample_size`.
        pixels: height and width, where the call states them itself.
        text: text tokens: a fixed number, and the most of a prompt (`max_sequence_length`).
        padded: the first tokenizer's full length comes before these (SD3's CLIP).
    """

    steps: int = 28
    latent_side: int | None = None
    pixels: tuple[int, int] | None = None
    text: tuple[int, int] = (0, 512)
    padded: bool = False


@dataclass(frozen=True)
class Family:
    """What the toolkit must know of a DiT family.

    Attributes:
        name: short name, `sd3`.
        transformer: class name of the transformer in diffusers.
        lists: block lists in execution order.
        rows: how classifier-free guidance is laid out: `batched` (one call, rows [uncond, cond]), `batched_cond_first`
            (rows [cond, uncond]) or `sequential` (two calls a step, the conditional one first).
        timestep_scale: the transformer's `timestep` input is sigma times this (for `noise`: the training step over
            1000, times this).
        packing: latent pixels per token along a side; None: the transformer's `patch_size`.
        partial_forward: whether a forward may start from a stored block output.
        guidance_argument: the pipeline's argument for the usual CFG scale.
        row_inputs: names of the transformer's inputs whose first dimension is the rows.
        conditioning: names of the blocks' inputs, besides the two streams, whose first dimension is the rows.
        embedding: the blocks' input that holds the embedding of time (and text), (rows, channels), the same for all
            of them; empty where there is no such input.
        tail: path of the module after the last block; it takes the image stream and the conditioning.
        positions_are_flat: the transformer's `pos_embed_max_size` counts tokens, not tokens along a side.
        tail_conditioning: paths of further modules there whose inputs have rows.
        fork: whether rows may be added inside a forward; not where its end relies on the rows of its beginning.
        prediction: what the transformer predicts: a `velocity` (flow matching), or `noise`. Experiments at a z_t of
            one's own, z = (1 - sigma) x + sigma noise, are for velocities only.
        prompt: the pipeline's argument for what to draw; `class_labels` takes class numbers, or the names that the
            pipeline knows them by.
        negative_prompt: whether the pipeline takes one.
        call: arguments of every pipeline call that this toolkit needs to be so.
        pipelines: class names of the pipelines that the record is about; empty: any.
        config, pipeline_config: (name, value) of the transformer's and of the pipeline's configuration that the record
            is about; another is refused.
        latents: how latents are packed into tokens, and brought to the VAE's scale.
        rescaling: what the pipeline does to the guided prediction afterwards, as a sentence; empty: nothing. It must
            depend on the conditional prediction that the transformer returned and on the guided one only.
        defaults: of the pipeline's call.
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
    embedding: str = "temb"
    tail: str = "norm_out"
    positions_are_flat: bool = False
    tail_conditioning: tuple[str, ...] = ()
    fork: bool = True
    prediction: Literal["velocity", "noise"] = "velocity"
    prompt: str = "prompt"
    negative_prompt: bool = True
    call: dict[str, Any] = field(default_factory=dict)
    pipelines: tuple[str, ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    pipeline_config: tuple[tuple[str, Any], ...] = ()
    latents: Latents = PLAIN
    rescaling: str = ""
    defaults: Defaults = Defaults()

    def blocks(self, transformer: torch.nn.Module) -> Iterator[tuple[str, BlockList, torch.nn.Module]]:
        """(site name, record, module) of every block, in execution order."""
        for record in self.lists:
            for i, block in enumerate(getattr(transformer, record.path)):
                yield (f"{record.label}.{i}" if record.label else str(i)), record, block

    def width(self, transformer: Any) -> int:
        """Channels of the residual stream."""
        return transformer.config.num_attention_heads * transformer.config.attention_head_dim

    def patch(self, transformer: Any) -> int:
        """Latent pixels per token along a side."""
        size = transformer.config.patch_size
        return self.packing or (size if isinstance(size, int) else size[-1])

    def most_tokens(self, transformer: Any) -> int | None:
        """Most image tokens along a side that the position table holds; None where it has no end."""
        most = getattr(transformer.config, "pos_embed_max_size", None)
        return int(most**0.5) if most and self.positions_are_flat else most

    def image_tokens(self, transformer: Any, hidden_states: torch.Tensor) -> int:
        """Image tokens in the transformer's own input: a latent picture, or tokens already packed."""
        if hidden_states.ndim == 3:
            return hidden_states.shape[1]
        patch = self.patch(transformer)
        return (hidden_states.shape[-2] // patch) * (hidden_states.shape[-1] // patch)
