"""Detail Guidance in pipelines that take no guider (classic SD3, FLUX.1): it acts in the call of their transformer.

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
    """Guide a pipeline that takes no guider: `with dg.detail_guidance(pipe, guider): pipe(...)`.

    The pipeline keeps its own CFG scale; if the guider's `guidance_scale` is set, it must be the same. The window
    `guider.start` to `guider.stop` also limits the call's CFG: outside of it the unconditional pass is skipped.
    `enabled=False` leaves the call unguided.

    Args:
        pipeline: a classic pipeline, or a `DiT`.
        guider: a `DetailGuidance`, a `DetailKnob` or one of `dg.baselines`.
        way: how the disrupted prediction is computed: `fork`, in the same forward; `partial`, by a rerun of the blocks
            after the disrupted one; `whole`, by a second forward. If the family, the call, or something else that acts
            on the blocks forbids a way, the next one is used, and the log says so.
        force: compute the disrupted prediction at w = 0 too (for tests: the result is bit-equal to off).

    Yields:
        A `Run`: its `.report` on the last run inside, and `.reports` on all of them, say which planned steps were
        guided, and by how much.

    Raises:
        TypeError: a guider that is not a guidance.
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
    """Raise for a guider that is not a guidance, and for an unknown way."""
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
    """Register the guidance of this transformer; a second one inside is refused."""
    if dit.active.guidance is not None:
        raise REFUSALS["nested"].error(guidance=type(dit.active.guidance).__name__)
    dit.active.guidance = guider
    try:
        yield
    finally:
        dit.active.guidance = None
