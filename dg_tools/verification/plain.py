"""The pipeline's own call, with plain hooks and nothing else: what every check compares with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dg_tools.families import bind
from dg_tools.forward.stepping import after_each_step
from dg_tools.models.dit import DiT
from dg_tools.verification.result import NotApplicable

SCALE = 3.0  # the CFG scale of the checks
WEIGHT = 0.5  # and the w


@dataclass(frozen=True)
class Plain:
    """A short call of a DiT's pipeline, the same for all checks.

    Attributes:
        dit: the model.
        prompt: what to draw.
        steps: denoising steps.
        call: further arguments of `DiT.arguments`, such as `height` and `width`.
    """

    dit: DiT
    prompt: Any
    steps: int
    call: dict[str, Any] = field(default_factory=dict)

    def latents(self, scale: float = 1.0) -> torch.Tensor:
        """What the scheduler leaves after the last step, from seed 0, at the CFG scale `scale`."""
        arguments = self.dit.arguments(self.prompt, seed=0, steps=self.steps, guidance_scale=scale, **self.call)
        left: list[torch.Tensor] = []
        with after_each_step(self.dit.pipeline, lambda step, latents: left.append(latents.clone())):
            self.dit.sample(**arguments, output_type="latent")
        return left[-1]

    @property
    def scales(self) -> tuple[float, ...]:
        """The CFG scales that the pipeline can be called with: 1, and one more where it has CFG."""
        return (1.0, SCALE) if self.dit.has_cfg else (1.0,)

    def calls(self, scale: float) -> list[tuple[dict[str, Any], torch.Tensor]]:
        """(inputs by name, prediction) of each call of the transformer, in the order of the calls."""
        made: list[tuple[dict[str, Any], torch.Tensor]] = []

        def keep(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            inputs = bind(module, args, kwargs)
            made.append((inputs, self.tensor(output[0], inputs).detach().clone()))

        with ExitStack() as hooks:
            hooks.callback(self.dit.transformer.register_forward_hook(keep, with_kwargs=True).remove)
            self.latents(scale)
        return made

    def tensor(self, sample: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The transformer's output as one tensor."""
        return sample if self.dit.family.inputs is None else self.dit.family.inputs.prediction(sample, inputs)

    def image_tokens(self, inputs: dict[str, Any]) -> int:
        """Image tokens of a call, by the record."""
        return self.dit.family.image_tokens(self.dit.transformer, inputs["hidden_states"])

    @contextmanager
    def watched(self, read: Callable[[int, Any, int], None]) -> Iterator[None]:
        """`read(block, output, image tokens)` after every block of every call inside."""
        tokens = 0

        def begin(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            nonlocal tokens
            tokens = self.image_tokens(bind(module, args, kwargs))

        with ExitStack() as hooks:
            hooks.callback(self.dit.transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
            for block in self.dit.blocks:
                hook = lambda module, args, output, index=block.index: read(index, output, tokens)  # noqa: E731
                hooks.callback(block.module.register_forward_hook(hook).remove)
            yield


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest value of the other; infinite for shapes that differ."""
    if one.shape != other.shape:
        return float("inf")
    largest = other.abs().max().double().item()
    difference = (one.double() - other.double()).abs().max().item()
    return difference / largest if largest else difference


def unequal(one: torch.Tensor, other: torch.Tensor) -> float:
    """How many values differ; all of them for shapes that differ."""
    return float(one.numel() if one.shape != other.shape else (one != other).sum().item())


def check_scale(plain: Plain, scale: float) -> None:
    """Raise NotApplicable for a CFG scale that the pipeline cannot be called with."""
    if scale not in plain.scales:
        raise NotApplicable(f"{type(plain.dit.pipeline).__name__} has no classifier-free guidance")
