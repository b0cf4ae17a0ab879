"""The transformer's forward under guidance in a classic pipeline: which passes a call makes, and what it returns.

The pipeline combines the transformer's outputs as u + s (c - u), and that is left alone. The transformer returns c' = c
+ (w / s) (c - d) in place of c, and the pipeline's own sum becomes u + s (c - u) + w (c - d).

`passes` computes d. Outside of the guider's window the unconditional pass is left out and c returned in its place: then
u + s (c - u) is c. A guidance that acts in CFG's own passes (`in_pass`) leaves the pipeline's sum as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from dg_tools.families import bind
from dg_tools.forward.call import Call
from dg_tools.forward.caller import Caller
from dg_tools.forward.clock import Clock
from dg_tools.guidance.base import Guidance, Seen
from dg_tools.guidance.baselines.combined import Combined
from dg_tools.guidance.baselines.one_pass import OnePass
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.guidance.passes import Passes, Prediction, Way
from dg_tools.kinds import kind_of
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import on_grid


class GuidedForward:
    """Replaces the transformer's forward while the context of `detail_guidance` is open.

    Args:
        dit: the model.
        guider, way, force: as in `detail_guidance`.
    """

    def __init__(self, dit: DiT, guider: Guidance, way: Way, force: bool) -> None:
        self.dit = dit
        self.guider = guider
        self.passes = Passes(dit, guider, way, force)
        self.clock = Clock(dit.pipeline, dit.family)
        self.scale = guider.guidance_scale
        self.cond: Prediction = None  # what a sequential call's conditional pass gave, for its other pass
        self.disrupted: Prediction = None
        self.steps = 0  # how many the run has
        self.run = self.passes.run
        self.clock.before_step.append(self.before_step)
        self.clock.after_step.append(self.run.advance)
        self.guided: Guidance = copy.copy(guider)  # with the caller's scale; some remember their past steps

    @property
    def unguided(self) -> Callable[..., Any]:
        """The transformer's forward without the guidance; a clean pass of an edit runs this one."""
        return self.passes.unguided

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = bind(self.dit.transformer, args, kwargs)
        call = self.clock.read(inputs)
        self.check()
        self.steps = call.steps or 0
        if call.step is None or call.branch == "other":
            return self.unguided(**inputs)
        self.run.begin(self.guider, self.clock.runs, self.steps)
        if self.rescaled:
            self.run.note(self.dit.family.rescaling)
        as_tuple = not inputs.get("return_dict", True)
        prediction = self.predict({**inputs, "return_dict": False}, call)
        return (prediction,) if as_tuple else Transformer2DModelOutput(sample=prediction)

    def before_step(self, step: int, steps: int) -> None:
        """Check that the step was guided as planned, even if no call of the transformer came here."""
        self.run.begin(self.guider, self.clock.runs, steps)
        self.run.check(step)

    def check(self) -> None:
        """Check that the guider agrees with the CFG scale of the call."""
        caller = self.clock.caller
        scale = None if caller is None else caller.scale(self.dit.family)
        if scale is not None and self.guider.scale_is_set and abs(scale - self.guider.guidance_scale) > 1e-6:
            raise ValueError(
                f"the pipeline is called with {self.dit.family.guidance_argument}={scale:g}, and the guider "
                f"has guidance_scale={self.guider.guidance_scale:g}: pass the same scale to both, or none to "
                "the guider"
            )
        self.scale = self.guider.guidance_scale if scale is None else scale
        self._check_guider(caller)
        for name in self.dit.family.own_call:
            if caller and (given := caller.variables.get(name)) != (needed := self.dit.family.call[name]):
                raise ValueError(
                    f"{name}={given!r} given; with a guidance, family {self.dit.family.name!r} needs {needed!r}"
                )
        self.passes.scale = self.scale
        self.guider.check_scale(self.scale)
        config = self.dit.transformer.config
        if getattr(config, "out_channels", None) == 2 * getattr(config, "in_channels", 0):
            half = "half of what this transformer returns is a variance, which is not guided: leave it out"
            if self.guider.guidance_rescale > 0:
                raise ValueError(
                    f"guidance_rescale={self.guider.guidance_rescale} matches the standard deviations of "
                    f"whole predictions, but {half}"
                )
            if isinstance(self.guider, DetailGuidance) and self.guider.match != "none":
                raise ValueError(f"match={self.guider.match!r} splits a whole prediction, but {half}")
        if self.rescaled:
            self.passes.warn_once(self.dit.family.rescaling)

    @property
    def rescaled(self) -> bool:
        """Whether the pipeline rescales what this guidance adds; a knob's prediction is rescaled as without it."""
        edit, family, caller = self.guider.own_edit, self.dit.family, self.clock.caller
        adds = self.guider.pushes and not isinstance(self.guider, OnePass) and (edit is None or edit.rows == "uncond")
        switched = caller is None or caller.variables.get(family.rescaling_switch, True)
        return bool(family.rescaling) and self.scale > 1 and adds and bool(switched)

    def _check_guider(self, caller: Caller | None) -> None:
        """Raise ValueError where the pipeline's own guider combines the two halves of CFG in another way."""
        if caller is None or not self.dit.family.guiders or self.scale == 1:
            return
        guider = caller.variables["guider"]
        if not isinstance(guider, ClassifierFreeGuidance) or guider.guidance_rescale:
            raise ValueError(
                f"this pipeline's guider is {kind_of(guider)}, which does not compute u + s (c - u): set "
                "pipe.guider = dg.CFG(s), or set pipe.guider to the guidance itself and leave this context "
                "out"
            )

    def combined(
        self, inputs: dict[str, Any], call: Call, cond: torch.Tensor, uncond: Prediction, disrupted: Prediction
    ) -> torch.Tensor:
        """The guider's own sum of all predictions of a step."""
        assert call.step is not None
        z = inputs["hidden_states"][call.cond if call.branch == "both" else slice(None)]
        self.guided.guidance_scale = self.scale
        self.guided.seen = Seen(z, call.sigma, call.step, self.steps, partial(on_grid, self.dit, inputs))
        guided = self.guided.forward(cond, uncond, disrupted).pred
        if isinstance(self.guider, Combined) and uncond is not None:
            self.run.add(call.step, cond, uncond, guided - cond, call.sigma)
        return guided

    def predict(self, inputs: dict[str, Any], call: Call) -> torch.Tensor:
        """The prediction that the pipeline gets in place of the transformer's."""
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
        if self.passes.alone:
            cond = self.unguided(**self.passes.rows_of(inputs, call.cond))[0]
        else:
            cond = self.unguided(**inputs)[0][call.cond]
        return torch.cat([cond, cond])

    # -- one call for each half, or no classifier-free guidance -------------------------------------------------------

    def conditional(self, inputs: dict[str, Any], call: Call, inside: bool) -> torch.Tensor:
        """c', or c if the unconditional call after it takes the whole change."""
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
        """u; outside of the window c; if deferred, u' such that u' + s (c - u') is the guider's sum."""
        if not inside and self.cond is not None:
            return self.cond
        uncond = self.passes.own(inputs, call)
        self.edited(call, uncond)
        if self.deferred and self.cond is not None:
            guided = self.combined(inputs, call, self.cond, uncond, self.disrupted)
            return (self.scale * self.cond - guided) / (self.scale - 1)
        return uncond

    @property
    def deferred(self) -> bool:
        """Whether the unconditional call takes the whole change, since c or all predictions are needed first."""
        if self.dit.family.rows != "sequential" or self.scale <= 1:
            return False
        rescaled = self.dit.family.rescaling and self.guider.weight
        return bool(self.guider.nonlinear or rescaled)

    # -- the disrupted prediction -------------------------------------------------------------------------------------

    def folded(self, cond: torch.Tensor, disrupted: torch.Tensor) -> torch.Tensor:
        """The prediction c + (w / s) (c - d)."""
        return cond + (self.guider.weight / self.scale) * (cond - self.guider.matched(cond, disrupted))

    def both(self, inputs: dict[str, Any], call: Call) -> tuple[torch.Tensor, Prediction]:
        """The prediction of all rows, and the disrupted one of the conditional rows if this step needs it."""
        assert call.step is not None
        prediction, disrupted = self.passes(inputs, call, "pred_disrupted" in self.guider.passes(call.step, self.steps))
        if disrupted is not None and self.guider.weight:
            cond = prediction[call.cond]
            self.run.add(call.step, cond, disrupted, self.guider.push(cond, disrupted), call.sigma)
        self.edited(call, prediction)
        return prediction, disrupted

    def edited(self, call: Call, prediction: torch.Tensor) -> None:
        """Tell the run of a pass in which the guidance's own edit was on."""
        edit = self.passes.own_edit(call)
        if edit is None:
            return
        assert call.step is not None
        cond = prediction[call.cond] if call.branch == "both" else self.cond
        if edit.rows == "uncond" and cond is not None:
            uncond = prediction[call.uncond]
            self.run.add(call.step, cond, uncond, (self.scale - 1) * (cond - uncond), call.sigma)
        else:
            self.run.acted(call.step, prediction)
