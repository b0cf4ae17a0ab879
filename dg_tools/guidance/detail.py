"""Detail Guidance: guide away from the model whose massive activations are disrupted (arXiv 2510.11538).

    DG       D = c + w (c - d)
    DG+CFG   D = u + s (c - u) + w (c - d)

c, u: conditional and unconditional prediction; d: the same weights, conditional, with the massive channels disrupted at
one block. `guidance_scale` is the usual CFG scale s (1 = off), so the paper's lambda is s - 1; `detail_guidance_scale`
is the paper's w (0 = off); both are anchored on the conditional prediction. Linear, so it holds for a velocity as it
stands.

`DetailGuidance` is a diffusers guider: settings, formula and pass plan. `modular` has what a modular pipeline calls,
`classic` brings it to pipelines that take no guider, and `baselines` has the same formula with other degraded
predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dg_tools.guidance.auto import auto_profile
from dg_tools.guidance.base import Seen, without_experimental_notice
from dg_tools.guidance.from_profile import as_disrupt, settings_of
from dg_tools.guidance.modular import ModularGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.numbers import number


class DetailGuidance(ModularGuidance):
    """Detail Guidance as a diffusers guider, with or without classifier-free guidance.

    Args:
        guidance_scale: the usual CFG scale s; 1 is off (the paper's lambda is s - 1). Range: 1 and up, 1.5 to 8 in use.
            None: 1, and in `detail_guidance` whatever the caller's own call says.
        detail_guidance_scale: the paper's w; 0 skips the disrupted pass. The paper's own value is not published.
        disrupt: how d is disrupted: a `Disrupt`, its JSON, the name of a profile (a model folder, a JSON file, a
            repository id) that names a block, or "auto", which is detected and chosen once for each model by
            `dg_tools.guidance.auto` when the model is known. Needed unless w is 0.
        detail_guidance_start, detail_guidance_stop: window of the disrupted pass, as fractions of the steps: step i of
            n is inside where start * n <= i < stop * n, so step 0 can be reached.
        guidance_rescale: share of the result brought to the standard deviation of c (0 = off), as in diffusers' CFG.
        start, stop: window of all guidance, in the same way.
        enabled: False gives c.

    Raises:
        TypeError, ValueError: a scale, window or disruption that cannot work; before any forward.

    Attributes may be set later: they are saved, copied and used as they are, and checked when a run begins.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_disrupted"]  # noqa: RUF012  (diffusers reads it)
    short = "DG"  # in captions
    disrupts = True  # False: a subclass with another degraded prediction and a configuration of its own
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
        self.disrupt = disrupt
        self.guidance_scale = guidance_scale
        detail_guidance_scale = number(detail_guidance_scale, "detail_guidance_scale")
        windows = {"detail_guidance_start": detail_guidance_start, "detail_guidance_stop": detail_guidance_stop}
        for name, value in {**windows, "guidance_rescale": guidance_rescale, "start": start, "stop": stop}.items():
            number(value, name)
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
        self.detail_guidance_scale = float(detail_guidance_scale)
        self.detail_guidance_start = detail_guidance_start
        self.detail_guidance_stop = detail_guidance_stop
        self.guidance_rescale = guidance_rescale
        if not self.disrupts:
            return
        self.register_to_config(
            guidance_scale=guidance_scale,
            detail_guidance_scale=self.detail_guidance_scale,
            disrupt=self.stated("disrupt"),
            detail_guidance_start=detail_guidance_start,
            detail_guidance_stop=detail_guidance_stop,
            guidance_rescale=guidance_rescale,
            start=start,
            stop=stop,
            enabled=enabled,
        )

    @property
    def disrupt(self) -> Disrupt | None:
        """The disruption; None where there is none, or where `auto` will choose it."""
        return self._disrupt

    @disrupt.setter
    def disrupt(self, value: Any) -> None:
        self.auto = isinstance(value, str) and value == "auto"
        self._disrupt = None if self.auto else as_disrupt(value)
        if self._disrupt is not None and self._disrupt.donor is not None and self._disrupt.donor.file is None:
            raise ValueError(
                f"the donor {self._disrupt.donor!r} was not saved: a guider is written and copied as JSON, and the "
                "donor's values travel as a file, so call disrupt.donor.save('values.safetensors') first"
            )

    @property
    def guidance_scale(self) -> float:
        """The usual CFG scale s; 1 where none is set."""
        return self._guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float | None) -> None:
        scale = 1.0 if value is None else number(value, "guidance_scale")
        if scale < 1:
            raise ValueError(f"guidance_scale={scale}; the usual CFG scale s is at least 1 (1 = off)")
        self._guidance_scale = float(scale)
        self.scale_is_set = value is not None

    @property
    def transformers(self) -> Sequence[torch.nn.Module]:
        """Further transformers that a run calls, and counts."""
        return ()

    def stated(self, name: str) -> Any:
        """A setting as the configuration holds it."""
        if name == "disrupt":
            return self.disrupt.to_json() if self.disrupt else "auto" if self.auto else None
        if name == "guidance_scale" and not self.scale_is_set:
            return None
        return super().stated(name)

    @classmethod
    def from_profile(cls, profile: Any, **changes: Any) -> DetailGuidance:
        """The guidance of a profile that a sweep or `GuidanceExplorer` wrote: disruption, s, w and window.

        Args:
            profile: its JSON file, a model folder, or a mapping.
            **changes: instead of the profile's; needed for what it does not say, such as `detail_guidance_scale`.

        Raises:
            ValueError: no profile, or one without a block or w.
        """
        settings = {**settings_of(profile), **changes}
        if "detail_guidance_scale" not in settings:
            raise ValueError("this profile says no detail_guidance_scale (no sweep wrote it): pass one")
        return cls(**settings)

    def resolved(self, dit: DiT, **kwargs: Any) -> DetailGuidance:
        """This guidance for one model: itself, or with what `auto` chose; `kwargs` go to the pipeline's call.

        Raises:
            TypeError, ValueError: an attribute that was set to what cannot work.
        """
        if self.changed:
            self.new()  # checks them
        if not self.auto or not self.detail_guidance_scale:
            return self
        profile = auto_profile(dit, **kwargs)
        return self.new(disrupt=Disrupt(profile["channels"], profile["block"]).to_json())

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise before any forward for settings that do not fit this model, or a run of `steps` on it."""
        if self.disrupt is not None and steps is None:
            self.disrupt.check_model(dit)  # the run, and its size, are not known
        elif self.disrupt is not None and steps is not None:
            self.disrupt.check(dit, steps, height, width)
            self.check_window(steps)

    def check_scale(self, scale: float) -> None:
        """Raise ValueError for a CFG scale, the call's own, that this guidance cannot work with; any will do here."""

    def words(self, scale: float) -> list[str]:
        """What it adds up, in a few words each, at CFG scale `scale`."""
        parts = [f"CFG {scale:g}"] if scale > 1 else []
        return parts + ([f"{self.short} {self.detail_guidance_scale:g}"] if self.detail_guidance_scale else [])

    @property
    def nonlinear(self) -> bool:
        """Whether the result is not a plain sum, so that `forward` must see all predictions at once."""
        return self.guidance_rescale > 0

    # -- the plan: which passes does a step need? ---------------------------------------------------------------------

    def passes(self, step: int, steps: int) -> list[str]:
        """Names of the predictions that step `step` of `steps` needs; the conditional one always."""
        if self.auto and self.detail_guidance_scale:
            raise ValueError('disrupt="auto" needs a model: guider.resolved(dit), dg.generate or dg.detail_guidance')
        return self.plan(step, steps)

    def plan(self, step: int, steps: int) -> list[str]:
        """The same, where `auto` may still choose the disruption."""
        plan = ["pred_cond"]
        if self._enabled and self.inside(step, steps):
            if self.guidance_scale > 1:
                plan.append("pred_uncond")
            acts = not self.disrupts or self.auto
            if self.disrupt is not None:
                acts = self.disrupt.steps is None or step in self.disrupt.steps
            window = self.detail_guidance_start * steps <= step < self.detail_guidance_stop * steps
            if acts and window and self.detail_guidance_scale:
                plan.append("pred_disrupted")
        return plan

    def acts(self, step: int, steps: int) -> bool:
        """Whether step `step` of `steps` needs the degraded prediction."""
        return "pred_disrupted" in self.passes(step, steps)

    def inside(self, step: int, steps: int) -> bool:
        """Whether a step lies in the window of all guidance."""
        return self._start * steps <= step < self._stop * steps

    def check_window(self, steps: int) -> None:
        """Raise ValueError where no step of `steps` has the disrupted pass that the weight needs."""
        if self.detail_guidance_scale and not any("pred_disrupted" in self.passes(i, steps) for i in range(steps)):
            raise ValueError(
                f"no step of {steps} lies in the detail guidance window [{self.detail_guidance_start}, "
                f"{self.detail_guidance_stop}) and in the disruption's own steps: widen them, or take more steps"
            )

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
