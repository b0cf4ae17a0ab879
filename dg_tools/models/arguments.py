"""The arguments of one call of a DiT's pipeline, checked before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from dg_tools._as_list import as_list
from dg_tools.kinds import counted
from dg_tools.models.sizes import Sizes
from dg_tools.numbers import integer, integers, is_several


class Arguments(Sizes):
    """The part of `DiT` that builds and checks the arguments of a pipeline call."""

    def arguments(
        self,
        prompt: str | int | list[str] | list[int],
        *,
        seed: int | list[int] | torch.Generator = 0,
        steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of one call of the pipeline; `guidance_scale` is the usual CFG scale s (1 = off).

        For a class-conditional pipeline, a `prompt` is a class number or the name of a class.

        Raises:
            TypeError: a prompt or a seed of another kind.
            ValueError: a size, a count of steps, a prompt or a negative prompt that the pipeline cannot take.
        """
        height, width = self.size(height, width)
        if steps is not None and integer(steps, "steps") < 1:
            raise ValueError(f"steps={steps} requested; at least 1 is needed")
        self.check_prompts(as_list(prompt))
        single = not isinstance(prompt, list | tuple | range)
        count = 1 if single else len(prompt)  # type: ignore[arg-type]
        if count == 0:
            raise ValueError("no prompt: pass a string or a list with at least one")
        generators = seed if isinstance(seed, torch.Generator) else generators_of(seed, count)
        words = {self.family.prompt: self.prompts(prompt)}
        random = {"generator": generators[0] if single and isinstance(generators, list) else generators}
        call = {**self.family.call, **self.call, **words, **random}
        if "height" in self.takes:
            call |= {"height": height, "width": width}
        if steps is not None:
            call["num_inference_steps"] = steps
        if self.has_cfg:
            call[self.family.guidance_argument] = guidance_scale - self.family.scale_offset
        elif guidance_scale > 1:
            raise ValueError(
                f"{type(self.pipeline).__name__} takes no {self.family.guidance_argument}: it has no classifier-free "
                f"guidance, and a guidance_scale of {guidance_scale:g} would do nothing; leave it at 1"
            )
        if negative_prompt and not self.family.negative_prompt:
            raise ValueError(f"{type(self.pipeline).__name__} takes no negative_prompt: leave it out")
        if guidance_scale > 1 and self.family.negative_prompt:
            call["negative_prompt"] = (negative_prompt or "") if single else [negative_prompt or ""] * count
        self.check_call(kwargs)
        return {**call, **kwargs}

    def check_prompts(self, prompts: Sequence[Any]) -> None:
        """Raise TypeError for a prompt that is not a string; a model of classes takes class numbers too."""
        numbers = self.family.prompt != "prompt"
        for prompt in prompts:
            if not isinstance(prompt, str) and not (numbers and isinstance(prompt, Integral)):
                what = "a class number or the name of a class" if numbers else "a string"
                raise TypeError(f"prompt {prompt!r}: {what} is needed, or a list of these")

    def prompts(self, prompt: Any) -> Any:
        """Prompts as the pipeline takes them: words, or a list of class numbers.

        Raises:
            ValueError: no class of that number, or none of that name.
        """
        if self.family.prompt == "prompt":
            return prompt
        labels = getattr(self.pipeline, "labels", {})
        count = self.transformer.config[self.family.class_count]
        names = f"and {len(labels)} names, such as {next(iter(labels))!r}" if labels else "and it knows no names"
        numbers = []
        for one in as_list(prompt):
            number = labels.get(one) if isinstance(one, str) else one
            if number is None or not 0 <= number < count:
                raise ValueError(f"class {one!r} requested; there are 0 to {count - 1}, {names}")
            numbers.append(int(number))
        return numbers

    def check_call(self, kwargs: dict[str, Any]) -> None:
        """Raise ValueError for a value of an argument that this toolkit cannot work with."""
        for name, value in self.family.call.items():
            if name not in self.family.free_call and kwargs.get(name, value) != value:
                raise ValueError(
                    f"{name}={kwargs[name]!r} requested; family {self.family.name!r} needs {name}={value!r}"
                )


def generators_of(seed: int | list[int], count: int) -> list[torch.Generator]:
    """One generator for each of `count` prompts.

    Raises:
        TypeError: a seed that is not a whole number.
        ValueError: the number of seeds is not `count`; one that has more than 64 bits.
    """
    seeds = list(integers(seed, "seed"))
    seeds = seeds if is_several(seed) else seeds * count
    if len(seeds) != count:
        raise ValueError(
            f"{counted(len(seeds), 'seed')} for {counted(count, 'prompt')}: pass one seed, or one for each prompt"
        )
    for s in seeds:
        if not -(2**63) <= s < 2**64:
            raise ValueError(f"seed={s}; torch takes -2**63 to 2**64 - 1, so pass a smaller number such as 0 or 42")
    return [torch.Generator("cpu").manual_seed(s) for s in seeds]
