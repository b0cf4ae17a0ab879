"""Short calls of a pipeline whose transformer is unknown, and the inputs and outputs of that transformer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dg_tools.forward.replaced import replaced
from dg_tools.forward.stepping import replaced_step
from dg_tools.models.guider import without_experimental_notice
from dg_tools.models.sizes import parameters

STEPS = 2  # steps of each call: the second one shows what changes with time
SIZE = (256, 384)  # default size in pixels: small, not square, and a multiple of every family's token
TURNED_OFF = ("use_resolution_binning",)  # arguments that make another size than the one given, or
CACHES = "cache"  # keep tokens of the first step for the others


def named(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's inputs under the names in the module's own signature; no record is used."""
    return {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs}


def copied(value: Any) -> Any:
    """The same tensors in new lists and dictionaries: a forward may change the ones that it gets."""
    if isinstance(value, dict):
        return {name: copied(one) for name, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Forward:
    """One call of the transformer: its inputs by name, its output, and the pipeline's name for the pass."""

    inputs: dict[str, Any]
    prediction: Any
    name: str | None


@dataclass
class Run:
    """One call of the pipeline.

    Attributes:
        forwards: calls of the transformer, in order.
        outputs: the prediction that the scheduler got at each step.
        samples: the latents that the scheduler got with it.
        latents: the last latents that the scheduler returned.
        levels: its timesteps.
        decoded: the input of the VAE; None where nothing was decoded.
    """

    forwards: list[Forward] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    latents: torch.Tensor | None = None
    levels: list[float] = field(default_factory=list)
    decoded: torch.Tensor | None = None

    @property
    def passes(self) -> int:
        """Calls of the transformer at a step."""
        return len(self.forwards) // max(len(self.outputs), 1)

    @property
    def rows(self) -> int:
        """Rows of the first call, counted in its prediction, which may be a list with one item per row."""
        return len(self.forwards[0].prediction)

    @property
    def work(self) -> int:
        """Rows that a step computes."""
        return self.passes * self.rows


class Runs:
    """Calls a pipeline for a few steps and keeps the inputs of its transformer and its scheduler.

    Args:
        pipeline: with a transformer, a scheduler and a prompt.
        prompts: two of them, the second for calls of two rows.
        size: height and width in pixels; not used where the call takes none.
        call: further arguments of each call.
    """

    def __init__(self, pipeline: Any, prompts: tuple[Any, Any], size: tuple[int, int], call: dict[str, Any]) -> None:
        self.pipeline = pipeline
        self.transformer: torch.nn.Module = pipeline.transformer
        self.takes = parameters(type(pipeline))  # type: ignore[arg-type]  # mypy on `cache` and classes
        self.prompt = "prompt" if "prompt" in self.takes else "class_labels"
        self.prompts = prompts
        self.size = size
        self.call = call
        self.needed: dict[str, bool | int] = {name: False for name in TURNED_OFF if name in self.takes}
        self.needed |= {n: False for n, p in self.takes.items() if CACHES in n and p.default is True}
        if "num_frames" in self.takes:
            self.needed["num_frames"] = 1

    def arguments(self, rows: int, decode: bool) -> dict[str, Any]:
        """The arguments of one call of the pipeline, without its scales."""
        one = self.prompt == "prompt" and rows == 1
        call: dict[str, Any] = {self.prompt: self.prompts[0] if one else list(self.prompts[:rows])}
        generators = [torch.Generator("cpu").manual_seed(0) for _ in range(rows)]  # the same noise in each row
        call["generator"] = generators[0] if rows == 1 else generators
        call["num_inference_steps"] = STEPS
        if "height" in self.takes:
            call |= {"height": self.size[0], "width": self.size[1]}
        if "output_type" in self.takes:
            call["output_type"] = "pt" if decode and "class_labels" not in self.takes else "latent"
        return {**call, **self.needed, **self.call}

    def run(
        self, scales: dict[str, float], rows: int = 1, *, guided: bool = False, decode: bool = False, live: str = ""
    ) -> Run:
        """One call.

        Args:
            scales: arguments with guidance scales.
            rows: number of prompts.
            guided: whether the call gets an empty negative prompt, where it takes one.
            decode: whether the latents are decoded.
            live: an attribute of the pipeline that is set to another scale, 1.5 times the one given, after step 0.
        """
        made = Run()
        call = {**self.arguments(rows, decode), **scales}
        if guided and "negative_prompt" in self.takes:
            call.setdefault("negative_prompt", "" if rows == 1 else [""] * rows)
        names: list[str | None] = [None]
        given: list[dict[str, Any]] = []

        def begin(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given.append(copied(named(module, args, kwargs)))

        def keep(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            sample = output if isinstance(output, torch.Tensor) else output[0]
            kept = [x.detach().clone() for x in sample] if isinstance(sample, list) else sample.detach().clone()
            made.forwards.append(Forward(given.pop(), kept, names[-1]))

        def around(step: Any) -> Any:
            def stepping(*args: Any, **kwargs: Any) -> Any:
                told = inspect.signature(step).bind_partial(*args, **kwargs).arguments
                made.outputs.append(told["model_output"].detach().clone())
                made.samples.append(told["sample"].detach().clone())
                output = step(*args, **kwargs)
                made.latents = output[0]
                if live and len(made.outputs) == 1:
                    setattr(self.pipeline, live, 1.5 * max(scales.values()))
                return output

            return stepping

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(without_experimental_notice())  # of a guider that the pipeline makes in each call
            stack.callback(self.transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(self.transformer.register_forward_hook(keep, with_kwargs=True).remove)
            stack.enter_context(replaced_step(self.pipeline.scheduler, around))
            if hasattr(self.transformer, "cache_context"):
                context = self.transformer.cache_context
                stack.enter_context(replaced(self.transformer, "cache_context", naming(context, names)))
            if decode:
                stack.enter_context(replaced(self.pipeline.vae, "decode", decoding(self.pipeline.vae.decode, made)))
            try:
                self.pipeline(**call)
            finally:
                if live:
                    setattr(self.pipeline, live, max(scales.values()))
        made.levels = self.pipeline.scheduler.timesteps.double().tolist()[: len(made.outputs)]
        return made


def naming(context: Any, names: list[str | None]) -> Any:
    """Wraps a transformer's `cache_context` and keeps the name while the context is open."""

    @contextmanager
    def named_pass(name: str, **kwargs: Any) -> Iterator[None]:
        names.append(name)
        try:
            with context(name, **kwargs):
                yield
        finally:
            names.pop()

    return named_pass


def decoding(decode: Any, made: Run) -> Any:
    """Wraps a VAE's `decode` and keeps its input."""

    def decoded(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        made.decoded = latents.detach().clone()
        return decode(latents, *args, **kwargs)

    return decoded
