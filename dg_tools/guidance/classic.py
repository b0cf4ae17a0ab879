"""How does Detail Guidance reach a pipeline that takes no guider (classic SD3, FLUX.1)? In the transformer's own call.

    with dg.detail_guidance(pipe, guider):
        pipe(prompt, guidance_scale=3.0)

Inside, `guided_forward` replaces the transformer's forward; the pipeline keeps its own CFG scale and its own sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from dg_tools.forward.refusals import REFUSALS, check_cache
from dg_tools.forward.replaced import replaced
from dg_tools.guidance.base import Guidance
from dg_tools.guidance.guided_forward import GuidedForward, Way
from dg_tools.guidance.run import Run
from dg_tools.kinds import kind_of
from dg_tools.models._load import load
from dg_tools.models.dit import DiT
from dg_tools.models.loaded import check_runs


@contextmanager
def detail_guidance(pipeline: Any, guider: Guidance, *, way: Way = "fork", force: bool = False) -> Iterator[Run]:
    """Detail Guidance in a pipeline that takes no guider: `with dg.detail_guidance(pipe, guider): pipe(...)`.

    The call inside is left as it is: the pipeline keeps its own CFG scale, and a guider whose `guidance_scale` is set
    must have the same. `guider.start` and `guider.stop` are the window of the call's CFG too: outside of it the
    unconditional pass is skipped. `enabled=False` leaves the call unguided.

    Args:
        pipeline: a classic pipeline, or a `DiT`.
        guider: the settings; one of `baselines` works in the same way.
        way: how the disrupted prediction is computed: `fork`, in the same forward, where nothing else acts on the
            blocks, else `partial`; `partial`, a rerun of the blocks after the disrupted one; `whole`, a second forward.
            Where a family or the call forbids a way, the next one is used, and the log says so.
        force: compute it where w = 0 too, apart from the clean pass (for tests: the result is bit-equal to off).

    Yields:
        What was done: `.report` of the last run inside, and `.reports` of all of them (steps guided of steps planned,
        and by how much).

    Raises:
        TypeError: something else than a guidance.
        ValueError: before the first forward, where the guider's scale is not the call's, its window holds no step, or
            something is refused (`dg_tools.forward.refusals`).
        IndexError: a block, channel or token that does not exist.
        RuntimeError: at a step that should have been guided and was not; at the last one, where the guidance changed
            nothing in any step, or a degraded prediction is not finite.

    Example:
        >>> guider = dg.DetailGuidance(detail_guidance_scale=0.5, disrupt=dg.Disrupt([55], 6))
        >>> with dg.detail_guidance(dit.pipeline, guider) as run:
        ...     out = dit.pipeline("red apple", num_inference_steps=2, guidance_scale=3.0, **dit.call)
        >>> out.images[0].size, len(run.report.guided)
        ((64, 64), 2)
    """
    check_request(guider, way)
    check_runs(pipeline, "dg.detail_guidance")
    dit = load(pipeline)
    if guider._enabled:
        check_cache(dit.transformer)
    guider = guider.resolved(dit)
    guider.check(dit)
    if not guider._enabled:
        yield Run()
        return
    with dit.running(), acting(dit, guider):
        guided = GuidedForward(dit, guider, way, force)
        with guided.clock, replaced(dit.transformer, "forward", guided):
            try:
                yield guided.run
            finally:
                guided.run.interrupt()


def check_request(guider: Any, way: str) -> None:
    """Raise for what is not a guidance, and for a way that does not exist."""
    if not isinstance(guider, BaseGuidance):
        raise TypeError(
            f"the guider is {kind_of(guider)}; pass dg.DetailGuidance(s, w, disrupt=...) or one of dg.baselines"
        )
    if isinstance(guider, ClassifierFreeGuidance) or not isinstance(guider, Guidance):
        raise TypeError(
            f"the guider is {kind_of(guider)}, and the pipeline does classifier-free guidance itself: pass "
            "guidance_scale to its call, or dg.generate(..., guidance=dg.CFG(s))"
        )
    if way not in get_args(Way):
        raise ValueError(f"way={way!r}; allowed: {', '.join(get_args(Way))}")


@contextmanager
def acting(dit: DiT, guider: Guidance) -> Iterator[None]:
    """The guidance is what guides this transformer; a second one inside is refused."""
    if dit.active.guidance is not None:
        raise REFUSALS["nested"].error(guidance=type(dit.active.guidance).__name__)
    dit.active.guidance = guider
    try:
        yield
    finally:
        dit.active.guidance = None
