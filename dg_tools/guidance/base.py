"""The base of every guidance: a CFG scale, windows, a plan of passes for each step, and the sum of their predictions.

    D = c   or   u + s (c - u),   plus   w (c - d)

c, u: conditional and unconditional prediction; d: a degraded one, where the guidance has one. `CFG`, `DetailGuidance`,
and the baselines that perturb the model (`Perturbed`) or combine c and u in another way (`Combined`) are siblings:
each says what it adds to `Guidance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from diffusers.guiders import BaseGuidance
from diffusers.guiders.guider_utils import GuiderOutput, rescale_noise_cfg

from dg_tools.cards import card, window_bars
from dg_tools.guidance.settings import LiveConfig
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.guider import without_experimental_notice
from dg_tools.numbers import number

Field = Callable[[torch.Tensor], torch.Tensor]
# settings that a guider's card says in words, or draws
UNDRAWN = ("enabled", "disrupt", "start", "stop", "window", "detail_guidance_start", "detail_guidance_stop")


class Seen(NamedTuple):
    """The step being combined: z_t as the transformer takes it, its noise level, its index, and the number of steps.

    `on_grid(x, change)` gives `change` of predictions x as (N, C, h, w), in their own layout again.
    """

    z: torch.Tensor
    sigma: float
    step: int
    steps: int
    on_grid: Callable[[torch.Tensor, Field], torch.Tensor] = lambda x, change: change(x)


class Guidance(LiveConfig, BaseGuidance):
    """A guidance as a diffusers guider; on its own, classifier-free guidance with a window and a rescale.

    A subclass registers its settings under its own names.

    Args:
        start, stop: window of all guidance, as fractions of the steps: step i of n is inside where
            start * n <= i < stop * n.
        enabled: False gives c, the plain conditional prediction.
        guidance_scale: the usual CFG scale s; 1 is off (the paper's lambda is s - 1). None: 1, and in
            `dg.detail_guidance` the scale of the pipeline's call.
        weight: w of the degraded prediction; 0 skips its pass.
        window: of the degraded prediction, in the same way as `start` and `stop`.
        guidance_rescale: share of the result brought to the standard deviation of c (0 = off), as in diffusers' CFG.

    Raises:
        TypeError, ValueError: a scale or window that cannot work; before any forward.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_disrupted"]  # noqa: RUF012  (diffusers reads it)
    short = ""  # in captions
    window_name = "window"  # in errors: that of the degraded prediction
    in_pass = False  # whether it acts in CFG's own passes and adds none; then it leaves plain CFG where it does not act
    seen: Seen | None = None  # the step that is being combined, where `forward` asks

    def __init__(
        self,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        *,
        guidance_scale: float | None = None,
        weight: float = 0.0,
        window: Sequence[float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
    ) -> None:
        with without_experimental_notice():
            super().__init__(start, stop, enabled)
        self.guidance_scale = guidance_scale
        self.weight = float(number(weight, "weight"))
        self.window = window
        begin, end = self.window
        named = {"window[0]": begin, "window[1]": end, "guidance_rescale": guidance_rescale}
        for name, value in {**named, "start": start, "stop": stop}.items():
            number(value, name)
        if not 0 <= begin < end <= 1:
            raise ValueError(
                f"{self.window_name} [{begin}, {end}) is empty or outside 0..1: pass 0 <= start < stop <= 1"
            )
        if not 0 <= start < stop <= 1:
            raise ValueError(f"guidance window [{start}, {stop}) is empty or outside 0..1: pass 0 <= start < stop <= 1")
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={guidance_rescale}; a share from 0 (off) to 1 is needed")
        self.guidance_rescale = guidance_rescale

    def _repr_html_(self) -> str:
        words = " + ".join(self.words(self.guidance_scale)) or "no guidance: c alone"
        plain = {k: v for k, v in self.config.items() if not k.startswith("_") and k not in UNDRAWN}
        edit = getattr(self, "disrupt", None)  # of those that have one
        facts = {"edit": edit, **{k: v for k, v in plain.items() if v not in (None, False)}}
        windows = {"all guidance": (float(self.start), float(self.stop))}
        if self.weight:
            windows["the degraded pass"] = (float(self.window[0]), float(self.window[1]))
        return card(f"{type(self).__name__}: {words}", facts, window_bars(windows))

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
    def window(self) -> list[float]:
        """The window of the degraded prediction."""
        return list(self._window)

    @window.setter
    def window(self, value: Sequence[float]) -> None:
        self._window = window_of(value)

    @property
    def transformers(self) -> Sequence[torch.nn.Module]:
        """Further transformers that a run calls, and counts."""
        return ()

    def stated(self, name: str) -> Any:
        """A setting as the configuration holds it."""
        if name == "guidance_scale" and not self.scale_is_set:
            return None
        return super().stated(name)

    def resolved(self, dit: DiT, **kwargs: Any) -> Self:
        """This guidance for one model; `kwargs` go to the pipeline's call where the model must be tried.

        Raises:
            TypeError, ValueError: an attribute that was set to what cannot work.
        """
        if self.changed:
            self.new()  # checks them
        return self

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any forward, for settings that do not fit this model, or a run of `steps` on it."""
        if steps is not None:
            self.check_window(steps)

    def check_scale(self, scale: float) -> None:
        """Raise ValueError for a CFG scale of the call that this guidance cannot work with; here all are allowed."""

    def words(self, scale: float) -> list[str]:
        """The terms of its sum at CFG scale `scale`, in a few words each."""
        parts = [f"CFG {scale:g}"] if scale > 1 else []
        return parts + ([f"{self.short} {self.weight:g}"] if self.weight and self._enabled else [])

    @property
    def pushes(self) -> bool:
        """Whether it should change more than CFG does; a run in which it then changes nothing is an error."""
        return bool(self.weight)

    @property
    def own_edit(self) -> Disrupt | None:
        """The edit that acts in CFG's own passes, in its rows; None if there is none, or if it is not known yet."""
        return None

    @property
    def nonlinear(self) -> bool:
        """Whether the result is not a plain sum, so that `forward` must see all predictions at once."""
        return self.guidance_rescale > 0

    # -- the plan: which passes does a step need? ---------------------------------------------------------------------

    def passes(self, step: int, steps: int) -> list[str]:
        """Names of the predictions that step `step` of `steps` needs; the conditional one always."""
        return self.plan(step, steps)

    def plan(self, step: int, steps: int) -> list[str]:
        """As `passes`, also while it is still open how the degraded prediction is made."""
        plan = ["pred_cond"]
        if self.guidance_scale > 1 and (self.in_pass or (self._enabled and self.inside(step, steps))):
            plan.append("pred_uncond")
        if self.weight and self.in_window(step, steps):
            plan.append("pred_disrupted")
        return plan

    def in_window(self, step: int, steps: int) -> bool:
        """Whether a step lies in every window: of all guidance, and of the degraded prediction."""
        begin, end = self.window
        own = begin * steps <= step < end * steps and self.degrades(step)
        return own and self._enabled and self._start * steps <= step < self._stop * steps

    def degrades(self, step: int) -> bool:
        """Whether there is a degraded prediction in a step of the window."""
        return True

    def acts(self, step: int, steps: int) -> bool:
        """Whether the guidance changes more than CFG does in step `step` of `steps`."""
        if self.in_pass:
            return self.pushes and self.in_window(step, steps)
        return "pred_disrupted" in self.passes(step, steps)

    def inside(self, step: int, steps: int) -> bool:
        """Whether a step lies in the window of CFG, which is that of all guidance."""
        return self.in_pass or self._start * steps <= step < self._stop * steps

    def check_window(self, steps: int) -> None:
        """Raise ValueError where no step of `steps` has the degraded pass that the weight needs."""
        if self._enabled and self.pushes and not any(self.acts(i, steps) for i in range(steps)):
            raise ValueError(f"no step of {steps} lies in the {self.widened}, or take more steps")

    @property
    def widened(self) -> str:
        """The name of the window to widen if it contains no step."""
        begin, end = self.window
        return f"{self.window_name} [{begin}, {end}): widen it"

    @property
    def num_conditions(self) -> int:
        """Passes of the current step; of the first one where none is known."""
        if self._step is None or self._num_inference_steps is None:
            return len(self.plan(0, 1))
        return len(self.plan(self._step, self._num_inference_steps))

    # -- the formula --------------------------------------------------------------------------------------------------

    def forward(
        self,
        pred_cond: torch.Tensor,
        pred_uncond: torch.Tensor | None = None,
        pred_disrupted: torch.Tensor | None = None,
    ) -> Any:
        """The formula, on predictions of one shape."""
        pred = self.combine(pred_cond, pred_uncond, pred_disrupted)
        if self._enabled and self.guidance_rescale > 0 and pred is not pred_cond:
            pred = rescale_noise_cfg(pred, pred_cond, self.guidance_rescale)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)

    def combine(self, cond: torch.Tensor, uncond: torch.Tensor | None, disrupted: torch.Tensor | None) -> torch.Tensor:
        """The sum u + s (c - u) + w (c - d), each term only if its prediction is given."""
        pred = cond if uncond is None else uncond + self.guidance_scale * (cond - uncond)
        return pred if disrupted is None else pred + self.weight * (cond - self.matched(cond, disrupted))

    def matched(self, cond: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """The weak prediction d' that replaces d: d itself, unless a guidance overrides this."""
        return degraded

    def push(self, cond: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor | None:
        """The added term for a report, w (c - d') in float32; None if it is w (c - d)."""
        other = self.matched(cond, degraded)
        return None if other is degraded else self.weight * (cond.detach().float() - other.detach().float())


def window_of(window: Any) -> tuple[float, float]:
    """A window's start and stop.

    Raises:
        TypeError: something else.
    """
    try:
        start, stop = window
    except (TypeError, ValueError):
        raise TypeError(f"window={window!r}; two fractions are needed, (start, stop)") from None
    return start, stop
