"""What a record says of one list of blocks: its streams, its AdaLN chunks, its branches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dg_tools.families.inputs import Inputs

if TYPE_CHECKING:  # a record is read without torch
    import torch
    from torch.utils.hooks import RemovableHandle

Stream = Literal["image", "text"]
SIX = ("shift_msa", "scale_msa", "gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")


INPUTS: dict[str, Inputs] = {}  # transformer class -> its own calling convention; filled by records


def bind(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's inputs by name, however they were passed."""
    named = kwargs
    if args:
        given = inspect.signature(type(module).forward).bind_partial(module, *args).arguments
        named = {**kwargs, **{name: value for name, value in given.items() if value is not module}}
    return INPUTS[type(module).__name__].named(named) if type(module).__name__ in INPUTS else named


@dataclass(frozen=True)
class BlockList:
    """One list of blocks, all of one kind.

    Attributes:
        path: the list's attribute on the transformer, `transformer_blocks`.
        label: prefix of the site names; empty: `3`, `single`: `single.3`.
        returns: `tuple`, both streams; `tensor`, the image stream alone (text is only attended to); `sequence`, one
            tensor with the text tokens first and the image tokens after them, or the other way round (`image_first`).
        hidden: the block's input with the image stream, or with both streams in one sequence.
        image, text: position of the image and the text hidden states (rows, tokens, channels) in a returned tuple. The
            text position may hold None (SD3's last block).
        adaln: path of the block's linear layer that gives the AdaLN chunks of the image stream; None where the chunks
            come from outside.
        given: where `adaln` is None, the block's input that holds the chunks, (rows, chunks x channels) or (rows,
            chunks, channels), the image stream's first; `table` is the block's parameter (chunks, channels) that is
            added to it, if any.
        still: `given` has one more row, the last: chunks at time 0, for the tokens that are not of the image.
        modulation: names of the chunks (rows, channels), in order; None for a chunk of the text stream.
        modulation_dual: the same where the block has a second image attention (SD3.5-medium), at the path `attn_dual`,
            with the gate `gate_msa2`.
        gate_is_tanh: a gate acts as the tanh of its chunk.
        attn: path of the attention module; `attn_gate` the chunk that scales its image output, None where attention
            reaches the stream through the MLP alone.
        mlp: path of the last module of the MLP branch, None where it runs more than once in a block (a trace could not
            tell the runs apart); `mlp_gate` the chunk that scales its output. Where attention and MLP are written
            together (FLUX single blocks) `attn` is None and `mlp` is the joint projection.
        mlp_in: path of the linear layer that the MLP branch begins with, where `mlp` does not hold it.
        mlp_is_concatenated: the outputs of `attn` and `mlp` hold the text tokens too.
        image_first: in one sequence of both, image tokens come before the text.
        products: paths of the modules that compute attention over image tokens, where a block has them; empty: not
            known.
        crossed: paths of those in which image tokens attend to the text alone.
        text_only: names of the block's parts that see the text stream and nothing else, where they have LayerNorms.
        drops_text: a block's attribute that is true where it returns no text stream (SD3's last block).
        tokens_first: what a block takes and returns, and its MLP's output, is (tokens, rows, channels).
        length: the transformer's configuration that says how many blocks these are.
    """

    path: str
    label: str = ""
    returns: Literal["tuple", "tensor", "sequence"] = "tuple"
    hidden: str = "hidden_states"
    image: int = 1
    text: int = 0
    adaln: str | None = "norm1.linear"
    given: str = ""
    table: str = ""
    still: bool = False
    modulation: tuple[str | None, ...] = SIX
    modulation_dual: tuple[str | None, ...] | None = None
    attn_dual: str = ""
    gate_is_tanh: bool = False
    attn: str | None = "attn"
    attn_gate: str | None = "gate_msa"
    mlp: str | None = "ff"
    mlp_gate: str = "gate_mlp"
    mlp_in: str = ""
    mlp_is_concatenated: bool = False
    image_first: bool = False
    products: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    text_only: tuple[str, ...] = ("norm1_context", "norm2_context")
    drops_text: str = ""
    tokens_first: bool = False
    length: str = "num_layers"

    # -- AdaLN --------------------------------------------------------------------------------------------------------

    def chunks(self, block: torch.nn.Module) -> tuple[str | None, ...]:
        """Names of this block's AdaLN chunks, in order; None for one of the text stream."""
        if self.modulation_dual and getattr(block, "use_dual_attention", False):
            return self.modulation_dual
        return self.modulation

    def most_chunks(self, config: Mapping[str, Any]) -> tuple[str | None, ...]:
        """The chunks of the block with most of them, by a transformer's configuration alone."""
        return self.modulation_dual if self.modulation_dual and config.get("dual_attention_layers") else self.modulation

    def table_of(self, block: torch.nn.Module) -> torch.Tensor | None:
        """The block's own table that is added to its chunks, (chunks, channels) or (1, chunks, channels)."""
        return getattr(block, self.table) if self.table else None

    def modulated(self, block: torch.nn.Module, value: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
        """AdaLN chunks (rows, channels) by name, as they act: with the block's table.

        Args:
            block: of this list.
            value: what `adaln` gives, (rows, chunks x channels), or the block's input `given`.
            width: channels of the stream.
        """
        parts = self.chunked(block, value, width)
        return {name: parts[:, i] for i, name in enumerate(self.chunks(block)) if name is not None}

    def chunked(self, block: torch.nn.Module, value: torch.Tensor, width: int) -> torch.Tensor:
        """All AdaLN chunks in order as one tensor (rows, chunks, channels), see `modulated`."""
        parts = value.view(value.shape[0], -1, width)[:, : len(self.chunks(block))]
        table = self.table_of(block)
        parts = parts if table is None else table + parts
        if not self.gate_is_tanh:
            return parts
        gates = [i for i, name in enumerate(self.chunks(block)) if name is not None and name.startswith("gate")]
        acting = parts.clone()
        acting[:, gates] = acting[:, gates].tanh()
        return acting

    def moving(self, block: torch.nn.Module, given: Any) -> torch.Tensor:
        """The chunks in the block's input `given` that are of the image."""
        return given[:-1] if self.still else given

    def with_moving(self, block: torch.nn.Module, given: Any, value: torch.Tensor) -> Any:
        """The block's input `given` with other chunks of the image."""
        whole = given.clone()
        self.moving(block, whole).copy_(value)
        return whole

    def closed(
        self, block: torch.nn.Module, value: torch.Tensor, width: int, rows: slice, channels: list[int]
    ) -> torch.Tensor:
        """A copy of `value` (see `modulated`) with every gate at zero in these rows and channels.

        Where the block adds a table, the copy holds the values that cancel it.
        """
        edited, table = value.clone(), self.table_of(block)
        parts = edited.view(value.shape[0], -1, width)
        for i, name in enumerate(self.chunks(block)):
            if name is not None and name.startswith("gate"):
                zero = 0 if table is None else -table.reshape(-1, width)[i, channels].to(edited.dtype)
                parts[rows, i, channels] = zero
        return edited

    def on_modulation(
        self, block: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor | None]
    ) -> RemovableHandle | Handles:
        """A hook where the block's chunks come from: its linear layer, or its own input. Returns the handle.

        Args:
            block: of this list.
            function: is given the chunks (see `modulated`); what it returns replaces them, None leaves them.
        """
        if self.adaln is not None:
            return block.get_submodule(self.adaln).register_forward_hook(lambda module, args, output: function(output))

        def before(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            inputs = bind(module, args, kwargs)
            given = inputs[self.given]
            value = function(self.moving(module, given))
            return None if value is None else ((), {**inputs, self.given: self.with_moving(module, given, value)})

        return block.register_forward_pre_hook(before, with_kwargs=True)

    # -- branches -----------------------------------------------------------------------------------------------------

    def branches(self, block: torch.nn.Module) -> list[tuple[str, str, str]]:
        """(branch, module path, gate) of what a block adds to the image stream, in order.

        Branches are `attention`, `attention 2`, `MLP`, and `joint` where attention and MLP are written together. One
        that a trace cannot tell from another run of the same module is left out.
        """
        branches = []
        if self.attn is not None and self.attn_gate is not None:
            branches.append(("attention", self.attn, self.attn_gate))
        if self.attn_dual and "gate_msa2" in self.chunks(block):
            branches.append(("attention 2", self.attn_dual, "gate_msa2"))
        if self.mlp is not None:
            branches.append(("joint" if self.attn is None else "MLP", self.mlp, self.mlp_gate))
        return branches

    def attentions(self, block: torch.nn.Module) -> list[torch.nn.Module]:
        """The block's modules that compute attention over image tokens."""
        parts = (getattr(block, path, None) for path in self.products)
        return [part for part in parts if part is not None]

    # -- streams ------------------------------------------------------------------------------------------------------

    def has_text(self, block: torch.nn.Module) -> bool:
        """Whether the block returns a text stream."""
        return self.returns != "tensor" and not (self.drops_text and getattr(block, self.drops_text))

    def get(self, output: Any, stream: Stream, image_tokens: int | None = None) -> torch.Tensor | None:
        """One stream (rows, tokens, channels) of what a block returned; None where the block has none.

        Raises:
            RuntimeError: both streams are one sequence, and how many of its tokens are the image's is not known.
        """
        if self.returns == "tuple":
            return output[getattr(self, stream)]
        if self.returns == "tensor":
            return output if stream == "image" else None
        output = self.rows_first(output)
        return output[:, self.tokens_of(stream, output.shape[1], image_tokens)]

    def entering(self, inputs: Mapping[str, Any], image_tokens: int | None = None) -> torch.Tensor:
        """The image stream (rows, tokens, channels) that a block's inputs, by name, hold."""
        hidden = self.rows_first(inputs[self.hidden])
        if self.returns != "sequence":
            return hidden
        return hidden[:, self.tokens_of("image", hidden.shape[1], image_tokens)]

    def of_image(self, output: Any, path: str, image_tokens: int | None) -> torch.Tensor:
        """The image tokens of what the branch at `path` gives; a convolution's (rows, channels, y, x) as tokens."""
        first: torch.Tensor = output[0] if isinstance(output, tuple) else output
        if first.ndim == 4:
            return first.flatten(2).transpose(1, 2)
        if not self.mlp_is_concatenated:
            return first
        first = self.rows_first(first) if path == self.mlp else first
        return first[:, self.tokens_of("image", first.shape[1], image_tokens)]

    def rows_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """A view of (rows, tokens, channels) from the block's own axis order, or back to that order."""
        return hidden.transpose(0, 1) if self.tokens_first else hidden

    def take(self, hidden: torch.Tensor, rows: slice) -> torch.Tensor:
        """Some rows of a tensor that a block returned."""
        return hidden[:, rows] if self.tokens_first else hidden[rows]

    def tokens_of(self, stream: Stream, tokens: int, image_tokens: int | None) -> slice:
        """Which of the `tokens` of one sequence of both streams are this stream's."""
        count = count_known(image_tokens)
        at = count if self.image_first else tokens - count
        return slice(0, at) if (stream == "image") == self.image_first else slice(at, tokens)

    def put(self, output: Any, stream: Stream, value: torch.Tensor, image_tokens: int | None = None) -> Any:
        """What a block returned, with one stream replaced."""
        if self.returns == "tuple":
            at = getattr(self, stream)
            return tuple(value if i == at else part for i, part in enumerate(output))
        if self.returns == "tensor":
            return value
        import torch

        other = self.get(output, "text" if stream == "image" else "image", image_tokens)
        assert other is not None
        first = (stream == "image") == self.image_first
        return self.rows_first(torch.cat([value, other] if first else [other, value], dim=1)).contiguous()


class Handles:
    """Several hooks that are taken off together."""

    def __init__(self, *handles: RemovableHandle) -> None:
        self.handles = handles

    def __repr__(self) -> str:
        return f"Handles({len(self.handles)} hooks)"

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def count_known(image_tokens: int | None) -> int:
    """The count of image tokens; an error where it is not known."""
    if not image_tokens:
        raise RuntimeError(
            "this block returns text and image tokens in one sequence, and the number of image tokens is "
            "unknown: call the transformer as a module, or give its Call image_tokens"
        )
    return image_tokens
