"""LayerNorm statistics frozen to a clean pass at the same z_t, to separate a channel's effect from its effect on norms.

A channel of size A adds A^2 / C to the variance that LayerNorm divides by, so zeroing it rescales every other channel
downstream. With `norms="clean"` each LayerNorm of the image stream after the edit subtracts and divides by the mean and
the standard deviation that it would have had without the edit. The effect that is left is the channel's own.

The clean pass is one more forward with the same inputs, before each forward that the edit is concerned with.
Text-stream LayerNorms see no edit of the image stream directly, and are left alone: freezing them would undo what the
edit does through attention. In FLUX's single blocks, where one LayerNorm serves both streams, it is frozen on the image
tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.call import Call
from dg_tools.forward.replaced import replaced
from dg_tools.interventions.settings import EditSettings

Statistics = tuple[torch.Tensor, torch.Tensor]  # mean and variance, each (rows, tokens, 1)
Norm = tuple[int, torch.nn.LayerNorm, bool]


def image_norms(transformer: torch.nn.Module, family: Family, first: int) -> list[Norm]:
    """(block, LayerNorm, whether image tokens come first in it) of the image stream from block `first` on.

    The tail counts as the block after the last.

    These are the LayerNorms over the full width, without those that the family's record names as text only.
    """
    norms: list[Norm] = []
    parts: list[tuple[torch.nn.Module, tuple[str, ...], bool]] = []
    width = family.width(transformer)
    for _, record, block in family.blocks(transformer):
        parts.append((block, record.text_only, record.image_first))
    parts.append((transformer.get_submodule(family.tail), (), False))
    for index, (part, text_only, image_first) in enumerate(parts):
        for name, module in part.named_modules():
            if isinstance(module, torch.nn.LayerNorm) and tuple(module.normalized_shape) == (width,):
                if index >= first and not f"{name}.".startswith(tuple(f"{part}." for part in text_only)):
                    norms.append((index, module, image_first))
    return norms


class CleanNorms:
    """The LayerNorms after the edits that ask for clean statistics, with those of the clean pass."""

    def __init__(self, transformer: torch.nn.Module, family: Family, edits: Sequence[EditSettings]) -> None:
        self.transformer = transformer
        # a gate acts inside its block, so that block's later LayerNorms see it too
        self.edits = [(e, min(e.blocks) + (e.mode != "gate")) for e in edits if e.norms == "clean"]
        self.norms = image_norms(transformer, family, min(first for _, first in self.edits)) if self.edits else []
        self.tail = transformer.get_submodule(family.tail)
        self.statistics: dict[torch.nn.Module, Statistics] = {}
        self.collecting = False
        self.tokens = 0
        self.call: Call | None = None
        if self.edits and not family.layer_norms:
            raise ValueError(f"norms='clean' keeps LayerNorms' statistics; family {family.name!r} has no LayerNorms")
        if self.edits and not self.norms:
            raise ValueError(f"norms='clean': {type(transformer).__name__} has no LayerNorm after the edit's block")

    def collect(self, forward: Callable[[], Any], call: Call) -> None:
        """Run the clean pass of a call where an edit is concerned with it; `forward` runs the model once more."""
        self.statistics.clear()
        self.call = call
        if not any(edit.concerns(call) for edit, _ in self.edits):
            return
        self.collecting = True
        try:
            with torch.no_grad(), untraced(self.transformer):
                forward()
        finally:
            self.collecting = False

    def hooks(self) -> Iterator[Any]:
        """Register every hook; yields the handles."""
        if not self.edits:
            return
        for index, module, image_first in self.norms:
            yield module.register_forward_hook(self.norm_hook(index, image_first))

        def count(module: torch.nn.Module, args: tuple) -> None:
            self.tokens = args[0].shape[1] if self.collecting else self.tokens

        yield self.tail.register_forward_pre_hook(count)

    def norm_hook(self, index: int, image_first: bool) -> Callable:
        """A hook that collects statistics in a clean pass, then applies them in rows edited before `index`."""

        def hook(module: torch.nn.LayerNorm, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
            hidden = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
            if self.collecting:
                variance, mean = torch.var_mean(hidden, -1, correction=0, keepdim=True)
                self.statistics[module] = mean, variance
                return None
            if module not in self.statistics or self.call is None:
                return None
            mean, variance = self.statistics[module]
            if mean.shape != (*hidden.shape[:-1], 1):
                raise RuntimeError(
                    f"norms='clean': a LayerNorm sees {tuple(hidden.shape[:2])} rows and tokens, "
                    f"the clean pass had {tuple(mean.shape[:2])}: something else changes the batch in the same forward"
                )
            frozen = (hidden - mean) * (variance + module.eps).rsqrt()
            frozen = frozen if module.weight is None else frozen * module.weight
            frozen = frozen if module.bias is None else frozen + module.bias
            output = output.clone()
            image = slice(0, self.tokens) if image_first else slice(-self.tokens, None)
            for edit, first in self.edits:
                if first <= index and edit.concerns(self.call):
                    rows = self.call.rows(edit.rows)
                    output[rows, image] = frozen[rows, image].to(output.dtype)
            return output

        return hook


def own_forward(transformer: torch.nn.Module) -> Callable:
    """The transformer's forward, below the one with which Detail Guidance has replaced it."""
    forward = transformer.forward
    while hasattr(forward, "unguided"):
        forward = forward.unguided
    return forward


@contextmanager
def untraced(module: torch.nn.Module) -> Iterator[None]:
    """Hide what runs inside from a trace: nnsight's replacements of `forward` are off meanwhile.

    A trace counts visits of a module, and would count the clean pass as a denoising step.
    """
    with ExitStack() as stack:
        for part in module.modules():
            if type(part.__dict__.get("forward")).__module__.startswith("nnsight"):
                stack.enter_context(replaced(part, "forward", MethodType(type(part).forward, part)))
        yield
