"""The detail knob: the model's own passes with its massive channels multiplied by a dose rho.

    D = c_rho   or   u_rho + s (c_rho - u_rho)

c_rho, u_rho: the predictions with the channels multiplied by rho at a block's output. Detail Guidance steers away from
such a model; the knob samples from it. It adds no cost. Whether rho below or above 1 gives more detail, and at which
dose the picture breaks, depends on the model: draw a few doses first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from dg_tools.guidance.auto import default_profile
from dg_tools.guidance.modular import ModularGuidance
from dg_tools.interventions import Disrupt
from dg_tools.interventions.description import value
from dg_tools.interventions.settings import Schedule, schedule
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import profile_words
from dg_tools.numbers import integers


class DetailKnob(ModularGuidance):
    """Multiply massive channels by a dose rho in every pass of the run, with or without CFG; a diffusers guider.

    Args:
        channels: the massive channels; None: those of the default profile (the choice of `auto` for these weights, else
            the model's own), which is printed.
        block: index into `dit.blocks`, or several; None: the block of the default profile.
        rho: the factor on the channels at the block's output: a number, or ((sigma, rho), ...), linear between the
            points. 0 to 3 in use. 1 is off: the run then equals the one without a knob, bit for bit.
        guidance_scale: the usual CFG scale s on top, 1 = off (the paper's lambda is s - 1); both its passes have the
            dose. None: 1, and in `dg.detail_guidance` the scale of the pipeline's call.
        guidance_rescale: share of CFG's result brought to the standard deviation of c, as in diffusers' CFG.
        start, stop: window of the dose, as fractions of the steps: step i of n is inside where start * n <= i <
            stop * n. Outside of it, and with `enabled=False`, the run is plain CFG.

    Raises:
        TypeError, ValueError: settings that cannot work; before any forward.

    Example:
        >>> knob = dg.DetailKnob([55], 6, rho=0.5, guidance_scale=3.0)
        >>> knob.words(3.0)
        ['CFG 3', 'knob 0.5']
        >>> dg.generate(dit, "red apple", steps=2, guidance=knob).forwards
        [4]
    """

    short = "knob"
    in_pass = True

    def __init__(
        self,
        channels: Sequence[int] | None = None,
        block: int | Sequence[int] | None = None,
        rho: Schedule = 1.0,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled, guidance_scale=guidance_scale, guidance_rescale=guidance_rescale)
        self.channels = channels
        self.block = block
        self.rho = rho
        # what is not known yet does not make the rest right
        Disrupt([0] if channels is None else channels, 0 if block is None else block, "scale", rho=self.rho)
        self.register_to_config(
            channels=self.stated("channels"),
            block=self.stated("block"),
            rho=self.stated("rho"),
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            start=start,
            stop=stop,
            enabled=enabled,
        )

    @property
    def rho(self) -> Schedule:
        """The dose."""
        return self._rho

    @rho.setter
    def rho(self, value: Any) -> None:
        self._rho = schedule(value, "rho")

    @property
    def disrupt(self) -> Disrupt | None:  # type: ignore[override]  # a property in place of an attribute
        """The scaling of the channels; None where channels or block are not known yet."""
        if self.channels is None or self.block is None:
            return None
        return Disrupt(self.channels, self.block, "scale", rho=self.rho)

    @property
    def own_edit(self) -> Disrupt | None:
        """The scaling of the channels, which acts in both of CFG's passes."""
        return self.disrupt

    @property
    def pushes(self) -> bool:
        """Whether the dose differs from 1 at any noise level."""
        return self.rho != 1 if isinstance(self.rho, int | float) else any(dose != 1 for _, dose in self.rho)

    def stated(self, name: str) -> Any:
        """A setting as the configuration holds it: plain JSON."""
        setting = super().stated(name)
        if name == "rho" and not isinstance(setting, int | float):
            return [list(point) for point in setting]
        if name not in ("channels", "block") or setting is None:
            return setting
        indices = list(integers(setting, name))
        return indices[0] if name == "block" and len(indices) == 1 else indices

    def edit_of(self, dit: DiT) -> Disrupt:
        """The scaling for one model: channels and block that were not given come from the default profile.

        Raises:
            ValueError: channels or block are neither given nor in the profile.
        """
        profile = None if self.channels is not None and self.block is not None else default_profile(dit)
        profile = profile or {"channels": None, "block": None}
        channels = profile["channels"] if self.channels is None else self.channels
        block = profile["block"] if self.block is None else self.block
        if not channels or block is None:
            raise ValueError(
                f"the profile of {dit!r} names no channels with a block: pass them, DetailKnob(channels, block, rho); "
                "dg.find_massive finds the channels"
            )
        return Disrupt(channels, block, "scale", rho=self.rho)

    def resolved(self, dit: DiT, **kwargs: Any) -> Self:
        """This knob for one model: itself, or with channels and block (see `edit_of`)."""
        super().resolved(dit)
        if not self.pushes or self.disrupt is not None:
            return self
        edit = self.edit_of(dit)
        print(f"knob: {edit}; of the profile: {profile_words(default_profile(dit) or {})}")
        return self.new(channels=list(edit.channels), block=list(edit.blocks))

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any forward, for settings that do not fit this model, or a run of `steps` on it."""
        if not self.pushes:
            return
        if steps is None:
            self.edit_of(dit).check_model(dit)  # the run, and its size, are not known
        else:
            self.edit_of(dit).check(dit, steps, height, width)
            self.check_window(steps)

    def passes(self, step: int, steps: int) -> list[str]:
        """As in `Guidance`; call it after channels and block are known."""
        if self.pushes and self.disrupt is None:
            raise ValueError(
                "channels and block are needed here: DetailKnob(channels, block, rho), or knob.resolved(dit), which "
                "reads them in the model's profile"
            )
        return super().passes(step, steps)

    def words(self, scale: float) -> list[str]:
        """`CFG 3`, `knob 0.5`."""
        dose = [f"{self.short} {value(self.rho)}"] if self._enabled and self.pushes else []
        return [*super().words(scale), *dose]

    @property
    def widened(self) -> str:
        """The name of the window to widen if it contains no step."""
        return f"window [{self._start}, {self._stop}) of the knob: widen it"
