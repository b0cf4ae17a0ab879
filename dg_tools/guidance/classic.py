"""How does Detail Guidance reach a pipeline that takes no guider (classic SD3, FLUX.1)? In the transformer's own call.

    with dg.detail_guidance(pipe, guider):
        pipe(prompt, guidance_scale=3.0)

The pipeline combines what the transformer returns, u + s (c - u), and nothing of that is touched. The transformer
returns c' = c + (w / s) (c - d) in the place of c, and the pipeline's own sum becomes u + s (c - u) + w (c - d).

The disrupted rows d come from a fork inside the same forward (`fork`), or, where something else acts on the blocks,
or the family's forward has no room for more rows (PixArt, Sana), from a rerun of the blocks after the disrupted one
(`partial`), or, where a family forbids both, from a second forward.
Outside of the guider's window the unconditional pass is left out and c returned in its place: then u + s (c - u) is c.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock, callers_scale
from dg_tools.forward.fork import each, foreign_hooks, forked
from dg_tools.forward.restart import BETWEEN_BLOCKS, starting_after, why_not
from dg_tools.guidance.base import Seen
from dg_tools.guidance.baselines.perturbed import Perturbed
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import attached
from dg_tools.models._load import load
from dg_tools.models.dit import DiT

logger = logging.getLogger("dg_tools")

Way = Literal["fork", "partial", "whole"]


@contextmanager
def detail_guidance(pipeline: Any, guider: DetailGuidance, *, way: Way = "fork", force: bool = False) -> Iterator[None]:
    """Detail Guidance in a pipeline that takes no guider: `with dg.detail_guidance(pipe, guider): pipe(...)`.

    Changes nothing in the call inside. Whether and how strongly it is guided by CFG is the call's own business; a
    guider whose `guidance_scale` is set must say the same. `guider.start` and `guider.stop` are the window of the
    call's CFG too: outside of it the unconditional pass is skipped. `enabled=False` leaves the call as it is.

    Args:
        pipeline: a classic pipeline, or a `DiT`.
        guider: the settings; one of `baselines` works in the same way.
        way: how the disrupted prediction is computed: `fork`, in the same forward, where nothing else acts on the
            blocks, else `partial`; `partial`, a rerun of the blocks after the disrupted one; `whole`, a second forward.
            What a family or the call forbids falls back to the next, and the log says so.
        force: compute it where w = 0 too, apart from the clean pass (for tests: the result is bit-equal to off).

    Raises:
        ValueError: before the first forward, where the guider's scale is not the call's, or its window holds no step.
        IndexError: a block, channel or token that there is not.
    """
    dit = load(pipeline)
    guider = guider.resolved(dit)
    guider.check(dit)
    if not guider._enabled:
        yield
        return
    fold = Fold(dit, guider, way, force)
    with dit.running():
        own = dit.transformer.__dict__.get("forward")  # nnsight and accelerate keep one there
        fold.forward = dit.transformer.forward
        dit.transformer.forward = fold
        try:
            yield
        finally:
            if own is None:
                del dit.transformer.forward
            else:
                dit.transformer.forward = own


class Fold:
    """Stands for the transformer's forward while the context is open."""

    def __init__(self, dit: DiT, guider: DetailGuidance, way: Way, force: bool) -> None:
        self.dit, self.guider, self.way, self.force = dit, guider, way, force
        self.clock = Clock(dit.pipeline, dit.family)
        self.forward: Any = None  # the transformer's own
        self.scale = guider.guidance_scale
        self.cond: torch.Tensor | None = None  # what a sequential call's conditional pass gave, for its other pass
        self.disrupted: torch.Tensor | None = None
        self.said: set[str] = set()
        self.guided: DetailGuidance = copy.copy(guider)  # with the caller's scale; some remember their past steps

    @property
    def guided_forward(self) -> Any:
        """The forward below the guidance: an edit's clean pass runs this one."""
        return self.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = bind(self.dit.transformer, args, kwargs)
        self.check()
        call = self.clock.read(inputs)
        if call.step is None or call.branch == "other":
            return self.forward(**inputs)
        as_tuple = not inputs.get("return_dict", True)
        prediction = self.predict({**inputs, "return_dict": False}, call)
        if as_tuple:
            return (prediction,)
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=prediction)

    def check(self) -> None:
        """Which scale does the caller use, and does the guider agree?"""
        scale = callers_scale(self.dit.pipeline, self.dit.family)
        if scale is not None and self.guider.scale_is_set and abs(scale - self.guider.guidance_scale) > 1e-6:
            raise ValueError(
                f"the pipeline is called with {self.dit.family.guidance_argument}={scale:g}, the guider says "
                f"guidance_scale={self.guider.guidance_scale:g}: say the same scale in both, or leave the guider's out"
            )
        self.scale = self.guider.guidance_scale if scale is None else scale
        self.guider.check_scale(self.scale)
        self.guider.check_window(self.steps)
        config = self.dit.transformer.config
        if self.guider.guidance_rescale > 0 and getattr(config, "out_channels", None) == 2 * config.in_channels:
            raise ValueError(
                f"guidance_rescale={self.guider.guidance_rescale} matches standard deviations, and half of what this "
                "transformer returns is a variance that is not guided: leave it out"
            )
        if self.dit.family.rescaling and self.scale > 1 and self.guider.detail_guidance_scale:
            self.say(self.dit.family.rescaling)

    @property
    def steps(self) -> int:
        return len(self.dit.pipeline.scheduler.timesteps)

    def combined(
        self, inputs: dict[str, Any], call: Call, cond: torch.Tensor, uncond: Any, disrupted: Any
    ) -> torch.Tensor:
        """The guider's own sum of all predictions of a step."""
        assert call.step is not None
        z = inputs["hidden_states"][call.cond if call.branch == "both" else slice(None)]
        self.guided.guidance_scale = self.scale
        self.guided.seen = Seen(z, call.sigma, call.step, self.steps)
        return self.guided.forward(cond, uncond, disrupted).pred

    def predict(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """What the pipeline is given in the place of the transformer's prediction."""
        assert call.step is not None
        inside = self.guider.inside(call.step, self.steps)
        if call.branch == "both":
            return self.batched(inputs, call) if inside else self.conditional_twice(inputs, call)
        if call.branch == "cond":
            return self.conditional(inputs, call, inside)
        return self.unconditional(inputs, call, inside)

    # -- classifier-free guidance in one batched call -----------------------------------------------------------------

    def batched(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """Rows [u, c'] such that u + s (c' - u) is the guided prediction."""
        prediction, disrupted = self.both(inputs, call)
        joint = self.guider.nonlinear
        if disrupted is None and not joint:
            return prediction
        cond, uncond = prediction[call.cond], prediction[call.uncond]
        if joint or disrupted is None:
            folded = uncond + (self.combined(inputs, call, cond, uncond, disrupted) - uncond) / self.scale
        else:
            folded = self.folded(cond, disrupted)
        replaced = prediction.clone()
        replaced[call.cond] = folded
        return replaced

    def conditional_twice(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """Rows [c, c]: outside of the window; the unconditional rows are not computed where nothing else acts."""
        if self.alone:
            cond = self.forward(**self.rows_of(inputs, call.cond))[0]
        else:
            cond = self.forward(**inputs)[0][call.cond]
        return torch.cat([cond, cond])

    # -- one call for each half, or no classifier-free guidance -------------------------------------------------------

    def conditional(self, inputs: dict[str, Any], call: Call, inside: bool) -> torch.Tensor:
        """c', or c where the other half, which comes after it, takes the whole change."""
        if not inside:
            self.cond, self.disrupted = self.forward(**inputs)[0], None
            return self.cond
        self.cond, self.disrupted = self.both(inputs, call)
        if self.deferred:
            return self.cond
        if self.guider.guidance_rescale > 0:
            return self.combined(inputs, call, self.cond, None, self.disrupted)
        return self.cond if self.disrupted is None else self.folded(self.cond, self.disrupted)

    def unconditional(self, inputs: dict[str, Any], call: Call, inside: bool) -> torch.Tensor:
        """u; outside of the window c instead; where deferred u' such that u' + s (c - u') is the wanted result."""
        if not inside and self.cond is not None:
            return self.cond
        uncond = self.forward(**inputs)[0]
        if self.deferred and self.cond is not None:
            wanted = self.combined(inputs, call, self.cond, uncond, self.disrupted)
            return (self.scale * self.cond - wanted) / (self.scale - 1)
        return uncond

    @property
    def deferred(self) -> bool:
        """Whether the unconditional call takes the whole change: what follows needs c, or all three predictions."""
        if self.dit.family.rows != "sequential" or self.scale <= 1:
            return False
        rescaled = self.dit.family.rescaling and self.guider.detail_guidance_scale
        return bool(self.guider.nonlinear or rescaled)

    # -- the disrupted prediction -------------------------------------------------------------------------------------

    def folded(self, cond: torch.Tensor, disrupted: torch.Tensor) -> torch.Tensor:
        """C + (w / s) (c - d)."""
        return cond + (self.guider.detail_guidance_scale / self.scale) * (cond - disrupted)

    @property
    def alone(self) -> bool:
        """Whether nothing else acts on the blocks, or reads them, and expects the pipeline's own rows."""
        return self.dit._run is None and not foreign_hooks(self.dit.transformer, self.dit.family)

    def both(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The prediction of all rows, and that of the conditional rows disrupted where this step wants it."""
        assert call.step is not None
        wanted = "pred_disrupted" in self.guider.passes(call.step, self.steps)
        if not wanted and not (self.force and self.guider.disrupt is not None):
            return self.forward(**inputs)[0], None
        if isinstance(self.guider, Perturbed):
            return self.perturbed(self.guider, inputs, call)
        way = "partial" if self.force and self.way == "fork" else self.way
        reason = self.why_whole(inputs)
        if way != "whole" and reason:
            self.say(f"the disrupted pass runs whole, because {reason}")
            way = "whole"
        if way == "fork" and self.dit.family.fork and self.alone:
            return self.fork(inputs, call)
        return self.whole(inputs, call) if way == "whole" else self.partial(inputs, call)

    def why_whole(self, inputs: dict[str, Any]) -> str | None:
        """What forbids to start the disrupted pass from a kept output, in words; None where nothing does."""
        # an edit's clean pass, inside a rerun, would start from an output that has other edits in it already
        hooks = self.dit.transformer._forward_pre_hooks.values()
        if any(getattr(getattr(hook, "__self__", None), "clean", False) for hook in hooks):
            return "an edit asks for LayerNorm statistics of a clean pass"
        disrupt = self.guider.disrupt
        return why_not(self.dit.family, inputs) or (disrupt.why_whole if disrupt is not None else None)

    def say(self, sentence: str) -> None:
        """Once a context."""
        if sentence not in self.said:
            self.said.add(sentence)
            logger.warning(sentence)

    def edit(self, call: Call) -> Any:
        """The disruption of a block's output, as the block returns it."""
        disrupt = self.guider.disrupt
        assert disrupt is not None
        record = self.dit.block(disrupt.block).record
        return lambda output: disrupt.must_edit(output, record, call.alone())

    def fork(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward for everything."""
        rows = inputs["hidden_states"].shape[0]
        block = self.guider.disrupt.block  # type: ignore[union-attr]
        with forked(self.dit.transformer, self.dit.family, block, rows, call.cond, self.edit(call)):
            grown = self.forward(**inputs)[0]
        return grown[:rows], grown[rows:]

    def partial(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The disrupted block's clean output is kept, and a second forward starts from it."""
        transformer, block = self.dit.transformer, self.guider.disrupt.block  # type: ignore[union-attr]
        prediction, kept = self.keeping(inputs, call, block)
        with starting_after(transformer, self.dit.family, block, kept, self.edit(call)):
            return prediction, self.again(self.rows_of(inputs, call.cond))

    def perturbed(self, guider: Perturbed, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """A second forward by the guider's own worse twin, which is the clean one up to its first perturbed block."""
        begin = guider.first
        around: AbstractContextManager[None] = nullcontext()
        if not begin or self.way == "whole" or self.why_whole(inputs):
            prediction = self.forward(**inputs)[0]
        else:
            prediction, kept = self.keeping(inputs, call, begin - 1)
            around = starting_after(self.dit.transformer, self.dit.family, begin - 1, kept, lambda output: output)
        rows, alone = self.rows_of(inputs, call.cond), call.alone()
        with around:
            return prediction, guider.worse(self.dit, rows, prediction[call.cond], alone, self.again)

    def keeping(self, inputs: dict[str, Any], call: Call, block: int) -> tuple[torch.Tensor, Any]:
        """The prediction of all rows, and what the block gave for the conditional ones."""
        kept: list[Any] = []

        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            kept.append(each(output, lambda x: x[call.cond]))

        # first of all hooks there: what the block gave before any edit, which acts in the second forward again
        handle = self.dit.block(block).module.register_forward_hook(keep, prepend=True)
        try:
            prediction = self.forward(**inputs)[0]
        finally:
            handle.remove()
        return prediction, kept[-1]

    def whole(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """Two forwards."""
        prediction = self.forward(**inputs)[0]
        disrupt = self.guider.disrupt
        with attached(self.dit.transformer, self.dit.family, [disrupt], call.alone()):  # type: ignore[list-item]
            return prediction, self.again(self.rows_of(inputs, call.cond))

    def again(self, inputs: dict[str, Any]) -> torch.Tensor:
        """A second forward as a call of its own: hooks on the transformer (edits' clocks, readers) see it."""
        mine = self.dit.transformer.forward
        self.dit.transformer.forward = self.forward
        try:
            return self.dit.transformer(**inputs)[0]
        finally:
            self.dit.transformer.forward = mine

    def rows_of(self, inputs: dict[str, Any], rows: slice) -> dict[str, Any]:
        """The transformer's inputs for some of its rows."""
        total = inputs["hidden_states"].shape[0]
        names = (*self.dit.family.row_inputs, *BETWEEN_BLOCKS)

        def part(value: Any) -> Any:
            if isinstance(value, list | tuple):  # a ControlNet's residuals, one for each block
                return type(value)(part(v) for v in value)
            given = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == total
            return value[rows] if given else value

        return {k: part(v) if k in names else v for k, v in inputs.items()}
