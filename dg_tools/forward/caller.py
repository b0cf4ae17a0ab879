"""Which pipeline call does a forward belong to? Found on the stack of this thread.

The stack is needed for three reasons. FLUX.1 keeps its true CFG scale only in a local variable of its `__call__`. A
second pipeline over the same transformer has its own scheduler. And a callback may call the transformer, which is not a
denoising step.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from dg_tools.families import Family


@dataclass(frozen=True)
class Caller:
    """A pipeline call that is running.

    Attributes:
        pipeline: whose `__call__` it is.
        variables: the current values of its local variables.
        aside: whether the forward comes from a callback of that call, and not from its loop over steps.
    """

    pipeline: Any
    variables: dict[str, Any]
    aside: bool

    def scale(self, family: Family) -> float:
        """The usual CFG scale s that this call works with now; 1 is off.

        A callback may change it (`pipe._guidance_scale`); FLUX.1 needs a negative prompt as well, and a distilled
        FLUX.2 is not guided.
        """
        scale = float(
            self.variables.get(family.guidance_argument, 1.0 - family.scale_offset)
        )  # FLUX.1 Fill and Control have no true CFG
        if family.guiders:
            return self._guider_scale()
        if family.live_scale:
            scale = float(getattr(self.pipeline, family.live_scale))
        scale += family.scale_offset
        own = getattr(self.pipeline, "do_classifier_free_guidance", scale > 1)
        own = self.variables.get("apply_cfg", own)  # Z-Image may end its guidance before the last step, as may Lumina2
        own = own and not self.variables.get("do_classifier_free_truncation")
        return scale if self.variables.get("do_true_cfg", own) else 1.0

    def _guider_scale(self) -> float:
        """The scale of the guider that the loop works with, at this step."""
        guider = self.variables.get("guider")
        if guider is None or not guider._enabled or guider.num_conditions == 1:
            return 1.0
        return float(guider.guidance_scale) + bool(getattr(guider, "use_original_formulation", False))


def caller_of(transformer: torch.nn.Module) -> Caller | None:
    """The innermost pipeline call on this thread's stack that owns the transformer; None outside of one."""
    inner: list[CodeType] = []
    for frame in frames():
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        if owner is not None and owns(owner, transformer):
            variables = frame.f_locals
            codes = callback_codes(variables.get("callback_on_step_end"))
            return Caller(owner, variables, any(code in codes for code in inner))
        inner.append(frame.f_code)
    return None


def any_pipeline() -> bool:
    """Whether a pipeline's call is on this thread's stack, with whatever transformer."""
    calls = (frame for frame in frames() if frame.f_code.co_name == "__call__")
    return any(hasattr(frame.f_locals.get("self"), "components") for frame in calls)


def frames() -> Iterator[FrameType]:
    """This thread's frames, innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def owns(owner: Any, transformer: torch.nn.Module) -> bool:
    """Whether an object is a pipeline with this transformer."""
    return getattr(owner, "transformer", None) is transformer and hasattr(type(owner), "components")


def callback_codes(callback: Any) -> set[CodeType]:
    """What runs when a callback is called: of a function, a method, a partial or an object."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    calls = [callback, getattr(callback, "__func__", None), vars(type(callback)).get("__call__")]
    return {call.__code__ for call in calls if hasattr(call, "__code__")}
