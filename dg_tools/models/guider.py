"""Where a pipeline keeps the scale of classifier-free guidance: in its call, or in a guider component.

HunyuanImage's call takes no scale: its `guider` has it, and the sum with it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from dg_tools.families import Family
from dg_tools.forward.replaced import replaced


def sample(pipeline: Any, family: Family, **call: Any) -> Any:
    """The pipeline's call with these arguments; a scale that it does not take goes into its guider for this call."""
    if not family.guiders:
        return pipeline(**call)
    from diffusers.guiders import ClassifierFreeGuidance  # here: a stored capture is opened without diffusers

    scale = call.pop(family.guidance_argument, 1.0)
    guider = ClassifierFreeGuidance(scale, enabled=scale > 1)
    with ExitStack() as stack:
        for name in family.guiders:
            stack.enter_context(replaced(pipeline, name, guider))
        return pipeline(**call)
