"""Call a pipeline: where it keeps the scale of classifier-free guidance, in its call or in a guider component.

HunyuanImage's call takes no scale: its `guider` component holds the scale and combines the predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dg_tools.families import Family
from dg_tools.forward.replaced import replaced

if TYPE_CHECKING:
    from diffusers.guiders import ClassifierFreeGuidance


def sample(pipeline: Any, family: Family, **call: Any) -> Any:
    """Call the pipeline with these arguments; a scale that it does not take goes into its guider meanwhile.

    The pipeline's own bar is hidden meanwhile: dg_tools shows one for all runs, or none with `progress=False`.
    """
    bar = {**getattr(pipeline, "_progress_bar_config", {}), "disable": True}
    with ExitStack() as stack:
        stack.enter_context(replaced(pipeline, "_progress_bar_config", bar))
        if family.guiders:
            guider = plain_guider(call.pop(family.guidance_argument, 1.0))
            for name in family.guiders:
                stack.enter_context(replaced(pipeline, name, guider))
        return pipeline(**call)


def plain_guider(scale: float) -> ClassifierFreeGuidance:
    """Diffusers' own guider for the usual CFG scale s; off at 1."""
    from diffusers.guiders import ClassifierFreeGuidance  # here: a stored capture is opened without diffusers

    with without_experimental_notice():
        return ClassifierFreeGuidance(scale, enabled=scale > 1)


@contextmanager
def without_experimental_notice() -> Iterator[None]:
    """Filter the notice that diffusers logs for every new guider, that guiders are experimental."""
    source = logging.getLogger("diffusers.guiders.guider_utils")

    def quiet(record: logging.LogRecord) -> bool:
        return "experimental feature" not in record.getMessage()

    source.addFilter(quiet)
    try:
        yield
    finally:
        source.removeFilter(quiet)
