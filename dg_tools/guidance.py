"""Detail Guidance: guide away from the model whose massive activations are disrupted (arXiv 2510.11538).

    DG       D = c + w (c - d)
    DG+CFG   D = u + s (c - u) + w (c - d)

c, u: conditional and unconditional prediction; d: the same weights, conditional, with the massive channels disrupted at
one block. `guidance_scale` is the usual CFG scale s (1 = off), so the paper's lambda is s - 1; `detail_guidance_scale`
is the paper's w (0 = off); both are anchored on the conditional prediction. Linear, so it holds for a velocity as it
stands.

`DetailGuidance` is a diffusers guider (settings, formula, pass plan); `detail_guidance(pipe, guider)` brings it to
pipelines that take no guider, by folding w (c - d) into the conditional rows that the transformer returns: the
pipeline's own CFG then gives the formula.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.guiders import BaseGuidance, ClassifierFreeGuidance

from dg_tools.auto import auto_profile
from dg_tools.families import family_of
from dg_tools.interventions import Disrupt, attached, bind
from dg_tools.models import ZOO, DiT, load
from dg_tools.partial import starting_after, why_not
from dg_tools.profiles import PUBLISHED, read_profile
from dg_tools.steps import Call, Clock


@contextmanager
def without_experimental_notice() -> Iterator[None]:
    """Filter what diffusers says on every construction of a guider, that it is experimental."""
    source = logging.getLogger("diffusers.guiders.guider_utils")

    def quiet(record: logging.LogRecord) -> bool:
        return "experimental feature" not in record.getMessage()

    source.addFilter(quiet)
    try:
        yield
    finally:
        source.removeFilter(quiet)


class CFG(ClassifierFreeGuidance):
    """Classifier-free guidance, u + s (c - u): diffusers' own guider, which is right, under a short name.

    Args:
        guidance_scale: the usual scale s; 1 is off (the paper's lambda is s - 1).
        guidance_rescale, use_original_formulation, start, stop, enabled: as in `diffusers.ClassifierFreeGuidance`.
    """

    def __init__(
        self,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        use_original_formulation: bool = False,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        with without_experimental_notice():
            super().__init__(guidance_scale, guidance_rescale, use_original_formulation, start, stop, enabled)


def as_disrupt(given: Any) -> Disrupt | None:
    """A `Disrupt` from one, its JSON, or the name of a profile.

    Raises:
        ValueError: no such profile, or one without a block.
    """
    if not isinstance(given, str):
        return Disrupt.from_json(given) if isinstance(given, dict) else given
    profile = read_profile(ZOO / given if (ZOO / given).is_dir() else given)
    if profile is None:
        raise ValueError(f"no profile {given!r}: pass a model folder, a JSON file, or one of {[*PUBLISHED]}")
    if profile["block"] is None:
        raise ValueError(
            f"the profile of {given!r} names channels {profile['channels']} and no block, since none is published "
            f"({profile['source']}): pass Disrupt(channels, block), or 'auto'"
        )
    return Disrupt(profile["channels"], profile["block"])


class DetailGuidance(BaseGuidance):
    """Detail Guidance as a diffusers guider, with or without classifier-free guidance.

    Args:
        guidance_scale: the usual CFG scale s; 1 is off (the paper's lambda is s - 1). Range: 1 and up, 1.5 to 8 in use.
            None: 1, and in `detail_guidance` whatever the caller's own call says.
        detail_guidance_scale: the paper's w; 0 skips the disrupted pass. The paper's own value is not published.
        disrupt: what the worse twin lacks: a `Disrupt`, its JSON, the name of a profile (a model folder, a JSON file, a
            repository id) that names a block, or "auto", which is detected and chosen once for each model by
            `dg_tools.auto` when the model is known. Needed unless w is 0.
        detail_guidance_start, detail_guidance_stop: window of the disrupted pass, as fractions of the steps: step i of
            n is inside where start * n <= i < stop * n, so step 0 can be reached.
        guidance_rescale: share of the result brought to the standard deviation of c (0 = off), as in diffusers' CFG.
        start, stop: window of all guidance, in the same way.
        enabled: False gives c.

    Raises:
        ValueError: a scale, window or disruption that cannot work; before any forward.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_disrupted"]  # noqa: RUF012  (diffusers reads it)

    def __init__(
        self,
        guidance_scale: float | None = None,
        detail_guidance_scale: float = 0.0,
        disrupt: Disrupt | dict[str, Any] | str | None = None,
        detail_guidance_start: float = 0.0,
        detail_guidance_stop: float = 1.0,
        guidance_rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        with without_experimental_notice():
            super().__init__(start, stop, enabled)
        self.auto = disrupt == "auto"
        self.disrupt = None if disrupt == "auto" else as_disrupt(disrupt)
        if guidance_scale is not None and guidance_scale < 1:
            raise ValueError(f"guidance_scale={guidance_scale}; the usual CFG scale s is at least 1 (1 = off)")
        if detail_guidance_scale and self.disrupt is None and not self.auto:
            raise ValueError(
                "detail_guidance_scale is not 0, so disrupt= is needed: a Disrupt, a profile's name, or 'auto'"
            )
        if not 0 <= detail_guidance_start < detail_guidance_stop <= 1:
            raise ValueError(
                f"detail guidance window [{detail_guidance_start}, {detail_guidance_stop}) is empty or outside 0..1"
            )
        if not start < stop:
            raise ValueError(f"guidance window [{start}, {stop}) is empty")
        self.guidance_scale = 1.0 if guidance_scale is None else float(guidance_scale)
        self.scale_is_set = guidance_scale is not None
        self.detail_guidance_scale = float(detail_guidance_scale)
        self.detail_guidance_start, self.detail_guidance_stop = detail_guidance_start, detail_guidance_stop
        self.guidance_rescale = guidance_rescale
        self._disarm: Callable[[], None] | None = None
        self.register_to_config(
            guidance_scale=guidance_scale,
            detail_guidance_scale=self.detail_guidance_scale,
            disrupt=self.disrupt.to_json() if self.disrupt else "auto" if self.auto else None,
            detail_guidance_start=detail_guidance_start,
            detail_guidance_stop=detail_guidance_stop,
            guidance_rescale=guidance_rescale,
            start=start,
            stop=stop,
            enabled=enabled,
        )

    def resolved(self, dit: DiT, **kwargs: Any) -> DetailGuidance:
        """This guidance for one model: itself, or with what `auto` chose; `kwargs` go to the pipeline's call."""
        if not self.auto or not self.detail_guidance_scale:
            return self
        profile = auto_profile(dit, **kwargs)
        return self.new(disrupt=Disrupt(profile["channels"], profile["block"]).to_json())

    # -- the plan: which passes does a step need? ---------------------------------------------------------------------

    def passes(self, step: int, steps: int) -> list[str]:
        """Names of the predictions that step `step` of `steps` needs; the conditional one always."""

        def inside(start: float, stop: float) -> bool:
            return start * steps <= step < stop * steps

        if self.auto and self.detail_guidance_scale:
            raise ValueError('disrupt="auto" needs a model: guider.resolved(dit), dg.generate or dg.detail_guidance')
        plan = ["pred_cond"]
        if self._enabled and inside(self._start, self._stop):
            if self.guidance_scale > 1:
                plan.append("pred_uncond")
            asked = self.disrupt is not None and (self.disrupt.steps is None or step in self.disrupt.steps)
            if asked and self.detail_guidance_scale and inside(self.detail_guidance_start, self.detail_guidance_stop):
                plan.append("pred_disrupted")
        return plan

    def check_window(self, steps: int) -> None:
        """Raise ValueError where no step of `steps` would see the disrupted pass that was asked for."""
        if self.detail_guidance_scale and not any("pred_disrupted" in self.passes(i, steps) for i in range(steps)):
            raise ValueError(
                f"no step of {steps} lies in the detail guidance window [{self.detail_guidance_start}, "
                f"{self.detail_guidance_stop}) and in the disruption's own steps: widen them, or take more steps"
            )

    @property
    def _plan(self) -> list[str]:
        if self._step is None or self._num_inference_steps is None:
            return self.passes(0, 1)
        return self.passes(self._step, self._num_inference_steps)

    @property
    def num_conditions(self) -> int:
        """Passes of the current step."""
        return len(self._plan)

    @property
    def is_conditional(self) -> bool:
        """Whether the pass being prepared is conditional on the prompt; the disrupted one is."""
        return self._plan[max(self._count_prepared - 1, 0)] != "pred_uncond"

    def forward(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor | None = None,
        pred_disrupted: torch.Tensor | None = None,
    ) -> Any:
        """The formula, on predictions of one shape."""
        from diffusers.guiders.guider_utils import GuiderOutput, rescale_noise_cfg

        pred = self.combine(pred_cond, pred_uncond, pred_disrupted)
        if self.guidance_rescale > 0 and pred is not pred_cond:
            pred = rescale_noise_cfg(pred, pred_cond, self.guidance_rescale)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def combine(self, cond: torch.Tensor, uncond: torch.Tensor | None, disrupted: torch.Tensor | None) -> torch.Tensor:
        """U + s (c - u) + w (c - d), each term only where its prediction is given."""
        pred = cond if uncond is None else uncond + self.guidance_scale * (cond - uncond)
        return pred if disrupted is None else pred + self.detail_guidance_scale * (cond - disrupted)

    # -- modular pipelines ------------------------------------------------------------------------------------------

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        """One batch of inputs for each pass of the plan; unconditional inputs for `pred_uncond` only.

        Raises:
            ValueError: classifier-free guidance without unconditional inputs, which would guide nowhere at full price.
        """
        plan = self._plan
        if "pred_uncond" in plan and not any(isinstance(value, tuple) for value in data.values()):
            raise ValueError(
                f"guidance_scale={self.guidance_scale} asks for classifier-free guidance, but the pipeline has no "
                'unconditional inputs: pass negative_prompt=""'
            )
        return [self._prepare_batch(data, int(name == "pred_uncond"), name) for name in plan]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        """The same, from a modular pipeline's block state."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name == "pred_uncond"), name)
            for name in self._plan
        ]

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        """Arm the disruption for the pass that is named `pred_disrupted`, and for that one forward only.

        The forward itself takes everything off again, so that nothing is left where it raises: modular pipelines do
        not clean up after an exception.
        """
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)
        if self._count_prepared == 1 and self._step == 0 and self.disrupt is not None:
            self.check_window(self._num_inference_steps)
            family = family_of(denoiser)
            self.disrupt.check_blocks([name for name, _, _ in family.blocks(denoiser)])
        if self._plan[self._count_prepared - 1] != "pred_disrupted":
            return
        own, forward = denoiser.__dict__.get("forward"), denoiser.forward
        timestep = float(self._timestep)
        call = Call(self._step, timestep, timestep / 1000.0, "cond", slice(None), slice(0, 0))

        def disarm() -> None:
            if own is None:
                del denoiser.forward
            else:
                denoiser.forward = own

        def once(*args: Any, **kwargs: Any) -> Any:
            self.cleanup_models(denoiser)
            with attached(denoiser, family_of(denoiser), [self.disrupt], call):  # type: ignore[list-item]
                return forward(*args, **kwargs)

        self._disarm = disarm
        denoiser.forward = once

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """Take an armed disruption off, used or not."""
        if self._disarm is not None:
            self._disarm()
            self._disarm = None


@contextmanager
def detail_guidance(pipeline: Any, guider: DetailGuidance, *, force: bool = False) -> Iterator[None]:
    """Detail Guidance in a pipeline that takes no guider: `with dg.detail_guidance(pipe, guider): pipe(...)`.

    Changes nothing in the call inside. Whether and how strongly it is guided by CFG is the call's own business; a
    guider whose `guidance_scale` is set must say the same.

    Args:
        pipeline: a classic pipeline, or a `DiT`.
        guider: the settings.
        force: run the disrupted pass where w = 0 too (for tests: the result is bit-equal to off).

    Raises:
        ValueError: before the first forward, where the guider's scale is not the call's, or its window holds no step.
        IndexError: a block, channel or token that there is not.
    """
    dit = load(pipeline)
    guider = guider.resolved(dit)
    if guider.disrupt is not None:
        guider.disrupt.check(dit)
    fold = _Fold(dit, guider, force)
    with dit.running():
        handles = [
            dit.transformer.register_forward_pre_hook(fold.check),
            dit.transformer.register_forward_hook(fold, with_kwargs=True),
        ]
        if guider.disrupt is not None:  # first of all hooks there: what the block gave before any edit
            block = dit.block(guider.disrupt.block).module
            handles.append(block.register_forward_hook(fold.keep, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def callers_scale(dit: DiT) -> float | None:
    """The CFG scale of the pipeline call that is running, read from the call itself; None outside of one.

    FLUX keeps its true CFG scale nowhere but among the local variables of its `__call__`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals
        if frame.f_code.co_name == "__call__" and found.get("self") is dit.pipeline:
            scale = float(found[dit.family.guidance_argument])
            guided = found.get("do_true_cfg", scale > 1)  # FLUX needs a negative prompt as well
            return scale if guided else 1.0
        frame = frame.f_back
    return None


class _Fold:
    """A forward hook on the transformer: reruns the conditional rows disrupted and folds w (c - d) into them."""

    def __init__(self, dit: DiT, guider: DetailGuidance, force: bool) -> None:
        self.dit, self.guider, self.force = dit, guider, force
        self.clock = Clock(dit.pipeline, dit.family)
        self.scale = guider.guidance_scale
        self.busy = False
        self.kept: tuple = ()

    def keep(self, module: torch.nn.Module, inputs: Any, output: tuple) -> None:
        """The output of the block that is disrupted, from the undisrupted pass."""
        if not self.busy:
            self.kept = output

    def check(self, module: torch.nn.Module, inputs: Any) -> None:
        """Before each forward: which scale does the caller use, and does the guider agree?"""
        if self.busy:
            return
        scale = callers_scale(self.dit)
        if scale is not None and self.guider.scale_is_set and abs(scale - self.guider.guidance_scale) > 1e-6:
            raise ValueError(
                f"the pipeline is called with {self.dit.family.guidance_argument}={scale:g}, the guider says "
                f"guidance_scale={self.guider.guidance_scale:g}: say the same scale in both, or leave the guider's out"
            )
        self.scale = self.guider.guidance_scale if scale is None else scale
        self.guider.check_window(len(self.dit.pipeline.scheduler.timesteps))

    def __call__(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if self.busy:
            return None
        inputs = bind(module, args, kwargs)
        call = self.clock.read(inputs)
        if call.step is None or call.branch in ("uncond", "other"):
            return None
        plan = self.guider.passes(call.step, len(self.dit.pipeline.scheduler.timesteps))
        prediction = output[0]
        cond = prediction[call.cond]
        disrupted = None
        if "pred_disrupted" in plan or (self.force and self.guider.disrupt is not None):
            disrupted = self.rerun(module, inputs, call, prediction.shape[0])
        folded = cond
        if disrupted is not None:
            folded = cond + (self.guider.detail_guidance_scale / self.scale) * (cond - disrupted)
        if self.guider.guidance_rescale > 0 and call.branch == "both":
            folded = self.rescale(cond, prediction[call.uncond], disrupted)
        if folded is cond:
            return None
        replaced = prediction.clone()
        replaced[call.cond] = folded
        return (replaced, *output[1:]) if isinstance(output, tuple) else type(output)(sample=replaced)

    def rescale(self, cond: torch.Tensor, uncond: torch.Tensor, disrupted: torch.Tensor | None) -> torch.Tensor:
        """Conditional rows c' such that the pipeline's own u + s (c' - u) is the rescaled result."""
        wanted = self.guider.new(guidance_scale=self.scale).forward(cond, uncond, disrupted).pred
        return uncond + (wanted - uncond) / self.scale

    def rerun(self, module: torch.nn.Module, inputs: dict[str, Any], call: Call, rows: int) -> torch.Tensor:
        """The conditional rows once more, disrupted: from the disrupted block on, or whole where that cannot be."""
        alone = Call(call.step, call.timestep, call.sigma, "cond", slice(None), slice(0, 0))
        sliced = {
            k: v[call.cond]
            if k in self.dit.family.row_inputs and isinstance(v, torch.Tensor) and v.shape[0] == rows
            else v
            for k, v in inputs.items()
        }
        reason = why_not(self.dit.family, inputs)
        self.busy = True
        try:
            with self.whole(alone) if reason else self.partial(alone, call.cond):
                return module(**{**sliced, "return_dict": False})[0]
        finally:
            self.busy = False
            self.kept = ()

    def whole(self, call: Call) -> Any:
        """Every block runs again."""
        return attached(self.dit.transformer, self.dit.family, [self.guider.disrupt], call)  # type: ignore[list-item]

    def partial(self, call: Call, rows: slice) -> Any:
        """Only the blocks after the disrupted one run again."""
        disrupt = self.guider.disrupt
        assert disrupt is not None
        record = self.dit.block(disrupt.block).record

        def edit(output: tuple) -> tuple:
            edited = disrupt.edit(output, record, call)
            if edited is None:
                raise RuntimeError(f"this edit touched nothing: {disrupt.sentence()}; check its steps and rows")
            return edited

        output = tuple(None if x is None else x[rows] for x in self.kept)
        return starting_after(self.dit.transformer, self.dit.family, disrupt.block, output, edit)
