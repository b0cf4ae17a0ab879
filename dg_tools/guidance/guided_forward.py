"""The transformer's forward under guidance in a classic pipeline: which passes a call makes, and what it returns.

The pipeline combines what the transformer returns, u + s (c - u), and nothing of that is touched. The transformer
returns c' = c + (w / s) (c - d) in the place of c, and the pipeline's own sum becomes u + s (c - u) + w (c - d).

The disrupted rows d come from a fork inside the same forward (`fork`), or, where something else acts on the blocks,
or the family's forward has no room for more rows (PixArt, Sana), from a rerun of the blocks after the disrupted one
(`partial`), or, where a family forbids both, from a second forward (`whole`).
Outside of the guider's window the unconditional pass is left out and c returned in its place: then u + s (c - u) is c.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from dg_tools.families import bind
from dg_tools.forward.active import active
from dg_tools.forward.call import Call
from dg_tools.forward.clock import Clock, callers_scale
from dg_tools.forward.fork import each, foreign_hooks, forked, nested_rows, own_processors
from dg_tools.forward.replaced import replaced
from dg_tools.forward.restart import BETWEEN_BLOCKS, starting_after, why_not
from dg_tools.guidance.base import Seen
from dg_tools.guidance.baselines.perturbed import Perturbed
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.guidance.report import Run
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT

logger = logging.getLogger("dg_tools")

Way = Literal["fork", "partial", "whole"]
Prediction = torch.Tensor | None


class GuidedForward:
    """Replaces the transformer's forward while the context of `detail_guidance` is open.

    Args:
        dit: the model.
        guider, way, force: as in `detail_guidance`.

    Attributes:
        unguided: the forward below the guidance; a clean pass of an edit runs this one.
    """

    def __init__(self, dit: DiT, guider: DetailGuidance, way: Way, force: bool) -> None:
        self.dit = dit
        self.guider = guider
        self.way = way
        self.force = force
        self.clock = Clock(dit.pipeline, dit.family)
        self.unguided: Callable[..., Any] = dit.transformer.forward
        self.scale = guider.guidance_scale
        self.cond: Prediction = None  # what a sequential call's conditional pass gave, for its other pass
        self.disrupted: Prediction = None
        self.warnings: set[str] = set()
        self.steps = 0  # how many the run has
        self.run = Run()
        self.clock.before_step.append(self.run.check)
        self.clock.after_step.append(self.run.advance)
        self.guided: DetailGuidance = copy.copy(guider)  # with the caller's scale; some remember their past steps

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = bind(self.dit.transformer, args, kwargs)
        self.check()
        call = self.clock.read(inputs)
        self.steps = call.steps or 0
        if call.step is None or call.branch == "other":
            return self.unguided(**inputs)
        self.run.begin(call, self.guider, self.clock.runs)
        as_tuple = not inputs.get("return_dict", True)
        prediction = self.predict({**inputs, "return_dict": False}, call)
        return (prediction,) if as_tuple else Transformer2DModelOutput(sample=prediction)

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
        config = self.dit.transformer.config
        if self.guider.guidance_rescale > 0 and getattr(config, "out_channels", None) == 2 * config.in_channels:
            raise ValueError(
                f"guidance_rescale={self.guider.guidance_rescale} matches standard deviations, and half of what this "
                "transformer returns is a variance that is not guided: leave it out"
            )
        if self.dit.family.rescaling and self.scale > 1 and self.guider.detail_guidance_scale:
            self.warn_once(self.dit.family.rescaling)

    def combined(
        self, inputs: dict[str, Any], call: Call, cond: torch.Tensor, uncond: Prediction, disrupted: Prediction
    ) -> torch.Tensor:
        """The guider's own sum of all predictions of a step."""
        assert call.step is not None
        z = inputs["hidden_states"][call.cond if call.branch == "both" else slice(None)]
        self.guided.guidance_scale = self.scale
        self.guided.seen = Seen(z, call.sigma, call.step, self.steps)
        return self.guided.forward(cond, uncond, disrupted).pred

    def predict(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """What the pipeline gets instead of the transformer's prediction."""
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
        rows = prediction.clone()
        rows[call.cond] = folded
        return rows

    def conditional_twice(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """Rows [c, c]: outside of the window; the unconditional rows are not computed where nothing else acts."""
        if self.alone:
            cond = self.unguided(**self.rows_of(inputs, call.cond))[0]
        else:
            cond = self.unguided(**inputs)[0][call.cond]
        return torch.cat([cond, cond])

    # -- one call for each half, or no classifier-free guidance -------------------------------------------------------

    def conditional(self, inputs: dict[str, Any], call: Call, inside: bool) -> torch.Tensor:
        """c', or c where the other half, which comes after it, takes the whole change."""
        if not inside:
            self.cond = self.unguided(**inputs)[0]
            self.disrupted = None
            return self.cond
        self.cond, self.disrupted = self.both(inputs, call)
        if self.deferred:
            return self.cond
        if self.guider.guidance_rescale > 0:
            return self.combined(inputs, call, self.cond, None, self.disrupted)
        return self.cond if self.disrupted is None else self.folded(self.cond, self.disrupted)

    def unconditional(self, inputs: dict[str, Any], call: Call, inside: bool) -> torch.Tensor:
        """u; outside of the window c instead; where deferred u' such that u' + s (c - u') is the guider's sum."""
        if not inside and self.cond is not None:
            return self.cond
        uncond = self.unguided(**inputs)[0]
        if self.deferred and self.cond is not None:
            guided = self.combined(inputs, call, self.cond, uncond, self.disrupted)
            return (self.scale * self.cond - guided) / (self.scale - 1)
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
        transformer, family = self.dit.transformer, self.dit.family
        free = not foreign_hooks(transformer, family) and not own_processors(transformer, family)
        return free and self.dit.tracer is None

    def both(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, Prediction]:
        """The prediction of all rows, and that of the conditional rows disrupted where this step needs it."""
        prediction, disrupted = self.passes(inputs, call)
        if disrupted is not None and self.guider.detail_guidance_scale:
            assert call.step is not None
            self.run.add(call.step, prediction[call.cond], disrupted)
        return prediction, disrupted

    def passes(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, Prediction]:
        """The forwards that a step needs."""
        assert call.step is not None
        needed = "pred_disrupted" in self.guider.passes(call.step, self.steps)
        if not needed and not (self.force and self.guider.disrupt is not None):
            return self.unguided(**inputs)[0], None
        if isinstance(self.guider, Perturbed):
            return self.perturbed(self.guider, inputs, call)
        way = "partial" if self.force and self.way == "fork" else self.way
        reason = self.why_whole(inputs)
        if way != "whole" and reason:
            self.warn_once(f"the disrupted pass runs whole, because {reason}")
            way = "whole"
        if way == "fork" and self.dit.family.fork and self.alone and not nested_rows(inputs):
            return self.fork(inputs, call)
        return self.whole(inputs, call) if way == "whole" else self.partial(inputs, call)

    def why_whole(self, inputs: dict[str, Any]) -> str | None:
        """Why the disrupted pass cannot start from a stored output, in words; None where it can."""
        # an edit's clean pass, inside a rerun, would start from an output that has other edits in it already
        hooks = self.dit.transformer._forward_pre_hooks.values()
        if any(getattr(getattr(hook, "__self__", None), "clean", False) for hook in hooks):
            return "an edit asks for LayerNorm statistics of a clean pass"
        disrupt = self.guider.disrupt
        return why_not(self.dit.family, inputs) or (disrupt.why_whole if disrupt is not None else None)

    def warn_once(self, sentence: str) -> None:
        """One warning per context."""
        if sentence not in self.warnings:
            self.warnings.add(sentence)
            logger.warning(sentence)

    @property
    def disrupt(self) -> Disrupt:
        """The disruption, where the step has one."""
        assert self.guider.disrupt is not None
        return self.guider.disrupt

    def edit(self, call: Call) -> Callable[[Any], Any]:
        """The disruption of a block's output, as the block returns it."""
        record = self.dit.block(self.disrupt.block).record
        return lambda output: self.disrupt.must_edit(output, record, call)

    def fork(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward for everything."""
        rows = inputs["hidden_states"].shape[0]
        with forked(
            self.dit.transformer, self.dit.family, self.disrupt.block, rows, call.cond, self.edit(call.alone())
        ):
            grown = self.unguided(**inputs)[0]
        return grown[:rows], grown[rows:]

    def partial(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The disrupted block's clean output is stored, and a second forward starts from it."""
        block, apart = self.disrupt.block, self.apart(inputs)
        prediction, stored = self.storing(inputs, call.cond if apart else slice(None), block)
        edit = self.edit(call.alone() if apart else call)
        with starting_after(self.dit.transformer, self.dit.family, block, stored, edit):
            return prediction, self.rerun(inputs, call, apart)

    def perturbed(self, guider: Perturbed, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The guider's own degraded prediction, by a second forward from its first perturbed block on."""
        begin = guider.first
        around: AbstractContextManager[None] = nullcontext()
        if not begin or self.way == "whole" or self.why_whole(inputs):
            prediction = self.unguided(**copied(inputs))[0]
        else:
            prediction, stored = self.storing(inputs, call.cond, begin - 1)
            around = starting_after(self.dit.transformer, self.dit.family, begin - 1, stored, lambda output: output)
        rows, alone = self.rows_of(inputs, call.cond), call.alone()
        with around:
            return prediction, guider.degraded(
                self.dit, rows, prediction[call.cond], alone, lambda inputs: self.again(inputs, alone)
            )

    def storing(self, inputs: dict[str, Any], rows: slice, block: int) -> tuple[torch.Tensor, Any]:
        """The prediction of all rows, and the block's output for some rows."""
        outputs: list[Any] = []

        def store(module: torch.nn.Module, args: Any, output: Any) -> None:
            outputs.append(each(output, lambda x: x[rows]))

        # the first hook there: it stores the output before any edit, and edits act in the second forward again
        handle = self.dit.block(block).module.register_forward_hook(store, prepend=True)
        try:
            prediction = self.unguided(**copied(inputs))[0]
        finally:
            handle.remove()
        return prediction, outputs[-1]

    def whole(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """Two forwards."""
        apart = self.apart(inputs)
        prediction = self.unguided(**copied(inputs))[0]
        edited = call.alone() if apart else call
        with attached(self.dit.transformer, self.dit.family, [self.disrupt], edited):
            return prediction, self.rerun(inputs, call, apart)

    def apart(self, inputs: dict[str, Any]) -> bool:
        """Whether the conditional rows may run alone: not where something of the user's own may tell rows apart."""
        transformer, family = self.dit.transformer, self.dit.family
        foreign = own_processors(transformer, family) or foreign_hooks(transformer, family, but_ours=True)
        return not foreign and not nested_rows(inputs)

    def rerun(self, inputs: dict[str, Any], call: Call, apart: bool) -> torch.Tensor:
        """The conditional rows of a second forward: alone, or among all rows."""
        if apart:
            return self.again(self.rows_of(inputs, call.cond), call.alone())
        return self.again(inputs, call)[call.cond]

    def again(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """A second forward of a call as a call of its own: hooks on the transformer (edits' clocks, readers) see it."""
        with active(self.dit.transformer).repeating(call), replaced(self.dit.transformer, "forward", self.unguided):
            return self.dit.transformer(**copied(inputs))[0]

    def rows_of(self, inputs: dict[str, Any], rows: slice) -> dict[str, Any]:
        """The transformer's inputs for some of its rows."""
        total = inputs["hidden_states"].shape[0]
        names = (*self.dit.family.row_inputs, *BETWEEN_BLOCKS)

        def part(value: Any) -> Any:
            if isinstance(value, list | tuple):  # a ControlNet's residuals, one for each block
                return type(value)(part(v) for v in value)
            has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == total
            return value[rows] if has_rows else value

        return {k: part(v) if k in names else v for k, v in inputs.items()}


def copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs for one of two forwards: some forwards take things out of nested dictionaries."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in inputs.items()}
