"""One block of a DiT, and what a trace can read of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dg_tools.families import BlockList, Family, bind

if TYPE_CHECKING:  # nnsight is imported on first use
    from nnsight import NNsight
    from nnsight.intervention.tracer import InterleavingTracer


class Model(Protocol):
    """The part of a DiT that blocks and traces use."""

    pipeline: Any
    transformer: Any
    family: Family
    width: int
    blocks: list[Block]
    tracer: InterleavingTracer | None

    @property
    def nnsight(self) -> NNsight: ...

    def running(self) -> AbstractContextManager[None]: ...

    def first_index(self, record: BlockList) -> int: ...

    def guard(self, index: int, rank: int, what: str) -> None: ...

    def image_tokens_now(self) -> int: ...


class Block:
    """One block of a DiT, with views of what it computes for use inside `dit.trace(...)`.

    Attributes:
        index: position in execution order, over all block lists.
        name: site name, `3` or `single.7`.
        module: the torch module.
        record: the family's record of this block list.
    """

    def __init__(self, dit: Model, index: int, name: str, record: BlockList, module: torch.nn.Module) -> None:
        self.dit = dit
        self.index = index
        self.name = name
        self.record = record
        self.module = module

    def __repr__(self) -> str:
        return f"Block({self.index}, site {self.name!r}, {type(self.module).__name__})"

    @property
    def has_text(self) -> bool:
        """Whether the block returns a text stream."""
        return self.record.has_text(self.module)

    def _envoy(self, rank: int, what: str) -> Any:
        self.dit.guard(self.index, rank, what)
        envoy = getattr(self.dit.nnsight.transformer, self.record.path)
        return envoy[self.index - self.dit.first_index(self.record)]

    @property
    def conditioning(self) -> torch.Tensor:
        """The time-text embedding that the block's AdaLN reads, (rows, channels). Read only, before other views."""
        return bind(self.module, *self._envoy(0, "conditioning").inputs)[self.dit.family.embedding]

    @property
    def modulation(self) -> dict[str, torch.Tensor]:
        """AdaLN shift, scale and gate chunks by name, each (rows, channels). Read only."""
        envoy, record = self._envoy(0, "modulation"), self.record
        if record.adaln is not None:
            value = part_of(envoy, record.adaln).output
        else:
            value = record.moving(self.module, bind(self.module, *envoy.inputs)[record.given])
        return record.modulated(self.module, value, self.dit.width)

    @property
    def gates(self) -> dict[str, torch.Tensor]:
        """The AdaLN gates (the paper's alpha) by name, each (rows, channels). Read only."""
        return {name: value for name, value in self.modulation.items() if name.startswith("gate")}

    @property
    def heads(self) -> torch.Tensor:
        """Output of each attention head for the image stream, before the heads are mixed: (rows, tokens, heads,
        channels per head). Read, edit in place or assign. The second, image-only attention of SD3.5 is not included.
        """
        whole, image = self._heads()
        return whole[:, image].unflatten(-1, (self._attention.heads, -1))

    @heads.setter
    def heads(self, value: torch.Tensor) -> None:
        whole, image = self._heads()
        whole[:, image] = value.flatten(2)

    @property
    def _attention(self) -> Any:
        """The module of the block's first attention product."""
        if not self.record.products:
            raise AttributeError(f"{self!r}: the record of family {self.dit.family.name!r} names no attention products")
        return part_of(self.module, self.record.products[0])

    def _heads(self) -> tuple[torch.Tensor, slice]:
        """In a trace: the heads' outputs side by side, (rows, tokens, channels), and which tokens are the image's."""
        attention = self._attention
        envoy = part_of(self._envoy(1, "heads"), self.record.products[0])
        if getattr(attention, "to_out", None) is not None:  # the image's tokens alone go into this projection
            return part_of(envoy, "to_out.0").input, slice(None)
        whole = envoy.output  # FLUX.1's single blocks mix heads and MLP at once, text tokens too
        return whole, self.dit.family.image_rows(whole.shape[1], self.dit.image_tokens_now())

    @property
    def attn(self) -> torch.Tensor:
        """Output of attention for the image stream, before its gate: (rows, tokens, channels). Read only."""
        if self.record.attn is None:
            raise AttributeError(f"{self!r} writes attention and MLP in one projection: read .mlp")
        return self._of_image(self.record.attn)

    @property
    def mlp(self) -> torch.Tensor:
        """Output of the MLP for the image stream, before its gate: (rows, tokens, channels). Read only."""
        if self.record.mlp is None:
            raise AttributeError(f"{self!r} runs its MLP more than once, and a trace cannot tell which run is which")
        return self._of_image(self.record.mlp)

    def _of_image(self, path: str) -> torch.Tensor:
        rank, what = (2, "attn") if path == self.record.attn else (3, "mlp")
        output = part_of(self._envoy(rank, what), path).output
        return self.record.of_image(output, path, self.dit.image_tokens_now())

    @property
    def output(self) -> Any:
        """The block's raw return value (its record says where the streams are). Read it, or assign it whole."""
        return self._envoy(4, "output").output

    @output.setter
    def output(self, value: Any) -> None:
        self._envoy(4, "output").output = value

    @property
    def image(self) -> torch.Tensor:
        """Hidden states of the image stream at the block's output: (rows, tokens, channels). Read, edit or assign."""
        return self._envoy(4, "image").image

    @image.setter
    def image(self, value: torch.Tensor) -> None:
        self._envoy(4, "image").image = value

    @property
    def text(self) -> torch.Tensor | None:
        """Hidden states of the text stream at the block's output; None where there are none (SD3's last block, and
        families that only attend to the text).
        """
        return self._envoy(4, "text").text

    @text.setter
    def text(self, value: torch.Tensor) -> None:
        self._envoy(4, "text").text = value


def part_of(module: Any, path: str) -> Any:
    """A part of a module, or of its nnsight envoy, by a path such as `norm1.linear` or `img_mod.1`."""
    for name in path.split("."):
        module = module[int(name)] if name.isdigit() else getattr(module, name)
    return module
