"""Detail Guidance: guide away from the model whose massive activations are disrupted (arXiv 2510.11538).

    DG       D = c + w (c - d)
    DG+CFG   D = u + s (c - u) + w (c - d)

c, u: conditional and unconditional prediction; d: the same weights, conditional, with the massive channels disrupted at
one block. `guidance_scale` is the usual CFG scale s (1 = off), so the paper's lambda is s - 1; `detail_guidance_scale`
is the paper's w (0 = off); both are anchored on the conditional prediction. Linear, so it holds for a velocity as it
stands.

`DetailGuidance` is a diffusers guider: settings, formula, pass plan, and what a modular pipeline asks of it. `classic`
brings it to pipelines that take no guider. `baselines` has the same with other worse twins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.guiders import BaseGuidance

from dg_tools.families import bind, family_of
from dg_tools.forward.call import Call
from dg_tools.forward.restart import starting_after, why_not
from dg_tools.guidance.auto import auto_profile
from dg_tools.guidance.base import Seen, without_experimental_notice
from dg_tools.interventions import Disrupt, attached
from dg_tools.models.dit import DiT
from dg_tools.models.files import ZOO
from dg_tools.models.profiles import PUBLISHED, read_profile

logger = logging.getLogger("dg_tools")


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
    return disruption(profile, given)


def disruption(profile: dict[str, Any], name: str) -> Disrupt:
    """What a profile disrupts.

    Raises:
        ValueError: it names no block.
    """
    if profile["block"] is None:
        raise ValueError(
            f"the profile of {name!r} names channels {profile['channels']} and no block, since none is published "
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
            `dg_tools.guidance.auto` when the model is known. Needed unless w is 0.
        detail_guidance_start, detail_guidance_stop: window of the disrupted pass, as fractions of the steps: step i of
            n is inside where start * n <= i < stop * n, so step 0 can be reached.
        guidance_rescale: share of the result brought to the standard deviation of c (0 = off), as in diffusers' CFG.
        start, stop: window of all guidance, in the same way.
        enabled: False gives c.

    Raises:
        ValueError: a scale, window or disruption that cannot work; before any forward.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_disrupted"]  # noqa: RUF012  (diffusers reads it)
    short = "DG"  # in captions
    disrupts = True  # False: a subclass with another worse twin, and a configuration of its own
    transformers: Sequence[torch.nn.Module] = ()  # further ones that a run calls, and counts
    seen: Seen | None = None  # the step that is being combined, where `forward` asks

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
        if self.disrupt is not None and self.disrupt.donor is not None and self.disrupt.donor.file is None:
            raise ValueError(
                f"the donor {self.disrupt.donor!r} was not saved: a guider is written and copied as JSON, and the "
                "donor's values travel as a file, so call disrupt.donor.save('values.safetensors') first"
            )
        if guidance_scale is not None and guidance_scale < 1:
            raise ValueError(f"guidance_scale={guidance_scale}; the usual CFG scale s is at least 1 (1 = off)")
        if self.disrupts and detail_guidance_scale and self.disrupt is None and not self.auto:
            raise ValueError(
                "detail_guidance_scale is not 0, so disrupt= is needed: a Disrupt, a profile's name, or 'auto'"
            )
        if not 0 <= detail_guidance_start < detail_guidance_stop <= 1:
            raise ValueError(
                f"detail guidance window [{detail_guidance_start}, {detail_guidance_stop}) is empty or outside 0..1"
            )
        if not 0 <= start < stop <= 1:
            raise ValueError(f"guidance window [{start}, {stop}) is empty or outside 0..1")
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={guidance_rescale}; a share, 0 (off) to 1")
        self.guidance_scale = 1.0 if guidance_scale is None else float(guidance_scale)
        self.scale_is_set = guidance_scale is not None
        self.detail_guidance_scale = float(detail_guidance_scale)
        self.detail_guidance_start, self.detail_guidance_stop = detail_guidance_start, detail_guidance_stop
        self.guidance_rescale = guidance_rescale
        self._disarm: Callable[[], None] | None = None
        self._kept: Any = None  # the disrupted block's output in this step's conditional pass
        if not self.disrupts:
            return
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

    @classmethod
    def from_profile(cls, profile: Any, **changes: Any) -> DetailGuidance:
        """The guidance of a profile that a sweep wrote: disruption, s, w and window.

        Args:
            profile: its JSON file, a model folder, or a mapping.
            **changes: instead of the profile's; needed for what it does not say, such as `detail_guidance_scale`.

        Raises:
            ValueError: no profile, or one that says no block or no w.
        """
        found = dict(profile) if isinstance(profile, dict) else read_profile(profile)
        if found is None:
            raise ValueError(f"no profile {str(profile)!r}: pass a JSON file, a model folder, or a mapping")
        settings = {k: found[k] for k in ("guidance_scale", "detail_guidance_scale") if k in found}
        if "window" in found:
            settings |= dict(zip(("detail_guidance_start", "detail_guidance_stop"), found["window"], strict=True))
        settings |= {"disrupt": disruption(found, str(profile)), **changes}
        if "detail_guidance_scale" not in settings:
            raise ValueError("this profile says no detail_guidance_scale (no sweep wrote it): pass one")
        return cls(**settings)

    def resolved(self, dit: DiT, **kwargs: Any) -> DetailGuidance:
        """This guidance for one model: itself, or with what `auto` chose; `kwargs` go to the pipeline's call."""
        if not self.auto or not self.detail_guidance_scale:
            return self
        profile = auto_profile(dit, **kwargs)
        return self.new(disrupt=Disrupt(profile["channels"], profile["block"]).to_json())

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any forward for what this model, or a run of `steps` on it, cannot have."""
        if self.disrupt is not None:
            self.disrupt.check(dit, steps, height, width)
            if steps is not None:
                self.check_window(steps)

    def check_scale(self, scale: float) -> None:
        """Raise ValueError for a CFG scale, the call's own, that this guidance cannot work with; any will do here."""

    def words(self, scale: float) -> list[str]:
        """What it adds up, in a few words each, at CFG scale `scale`."""
        parts = [f"CFG {scale:g}"] if scale > 1 else []
        return parts + ([f"{self.short} {self.detail_guidance_scale:g}"] if self.detail_guidance_scale else [])

    @property
    def nonlinear(self) -> bool:
        """Whether the result is no plain sum, so that `forward` must see all predictions at once."""
        return self.guidance_rescale > 0

    # -- the plan: which passes does a step need? ---------------------------------------------------------------------

    def passes(self, step: int, steps: int) -> list[str]:
        """Names of the predictions that step `step` of `steps` needs; the conditional one always."""
        if self.auto and self.detail_guidance_scale:
            raise ValueError('disrupt="auto" needs a model: guider.resolved(dit), dg.generate or dg.detail_guidance')
        plan = ["pred_cond"]
        if self._enabled and self.inside(step, steps):
            if self.guidance_scale > 1:
                plan.append("pred_uncond")
            asked = not self.disrupts
            if self.disrupt is not None:
                asked = self.disrupt.steps is None or step in self.disrupt.steps
            window = self.detail_guidance_start * steps <= step < self.detail_guidance_stop * steps
            if asked and window and self.detail_guidance_scale:
                plan.append("pred_disrupted")
        return plan

    def inside(self, step: int, steps: int) -> bool:
        """Whether a step lies in the window of all guidance."""
        return self._start * steps <= step < self._stop * steps

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

        The conditional forward before it keeps the disrupted block's output, so that only the blocks after it run
        again. The forward itself takes everything off again, so that nothing is left where it raises: modular
        pipelines do not clean up after an exception.
        """
        if not self.disrupts:
            raise RuntimeError(
                f"{type(self).__name__} works in classic pipelines, through dg.generate or dg.detail_guidance; a "
                "modular pipeline takes dg.DetailGuidance and diffusers' own guiders"
            )
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)
        if self._count_prepared == 1 and self._step == 0 and self.disrupt is not None:
            self.check_window(self._num_inference_steps)
            family = family_of(denoiser)
            self.disrupt.check_blocks([name for name, _, _ in family.blocks(denoiser)])
        name = self._plan[self._count_prepared - 1]
        if name == "pred_uncond" or "pred_disrupted" not in self._plan:
            return
        assert self.disrupt is not None
        own, forward = denoiser.__dict__.get("forward"), denoiser.forward
        timestep = float(self._timestep)
        family = family_of(denoiser)
        if family.rescaling and self._count_prepared == 1 and self._step == 0:
            logger.warning(family.rescaling)

        def disarm() -> None:
            if own is None:
                del denoiser.forward
            else:
                denoiser.forward = own

        def once(*args: Any, **kwargs: Any) -> Any:
            self.cleanup_models(denoiser)
            inputs = bind(denoiser, args, kwargs)
            tokens = family.image_tokens(denoiser, inputs["hidden_states"])
            call = Call.at(timestep / 1000.0, step=self._step, image_tokens=tokens)
            whole = (why_not(family, inputs) or self.disrupt.why_whole) is not None  # type: ignore[union-attr]
            disrupted = name == "pred_disrupted"
            with self._disrupting(denoiser, call, whole, inputs) if disrupted else self._keeping(denoiser, whole):
                return forward(*args, **kwargs)

        self._disarm = disarm
        denoiser.forward = once

    @contextmanager
    def _keeping(self, denoiser: torch.nn.Module, whole: bool) -> Iterator[None]:
        """The conditional forward inside leaves the disrupted block's clean output for the disrupted one."""
        family = family_of(denoiser)
        block = [module for _, _, module in family.blocks(denoiser)][self.disrupt.block]  # type: ignore[union-attr]

        def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            self._kept = output

        handle = block.register_forward_hook(keep, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _disrupting(self, denoiser: torch.nn.Module, call: Call, whole: bool, inputs: dict[str, Any]) -> Iterator[None]:
        """A forward inside is disrupted; it starts from what was kept, or runs whole where that cannot be."""
        family, disrupt = family_of(denoiser), self.disrupt
        assert disrupt is not None
        kept, self._kept = self._kept, None
        if whole or kept is None:
            with attached(denoiser, family, [disrupt], call) as attachment:
                attachment.begin(inputs)  # the denoiser's own call, and its pre-hooks, are past
                yield
            return
        record = [record for _, record, _ in family.blocks(denoiser)][disrupt.block]
        with starting_after(
            denoiser, family, disrupt.block, kept, lambda output: disrupt.must_edit(output, record, call)
        ):
            yield

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        """Take an armed disruption off, used or not."""
        if self._disarm is not None:
            self._disarm()
            self._disarm = None
