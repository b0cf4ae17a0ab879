"""Detail Guidance: steer away from a copy of the model whose massive activations are disrupted (arXiv 2510.11538).

    DG       D = c + w (c - d)
    DG+CFG   D = u + s (c - u) + w (c - d)
    DG in u  D = u_d + s (c - u_d) = c + (s - 1) (c - u_d)

With `match`, d is brought to c's gain first, or only a part of c - d guides.

c, u: conditional and unconditional prediction; d: the same weights, conditional, with the massive channels disrupted at
one block; u_d: the same, unconditional. The third line (`rows="uncond"`) costs what CFG costs: u_d replaces u.
`guidance_scale` is the usual CFG scale s (1 = off), so the paper's lambda is s - 1; `detail_guidance_scale` is the
paper's w (0 = off); both are anchored on the conditional prediction. The formula is linear, so it holds for velocities
too.

`DetailGuidance` is a diffusers guider that holds the settings and the disruption. `base` has the formula and the plan
of passes, `modular` the methods that a modular pipeline calls, `classic` the way into pipelines that take no guider,
and `baselines` the same formula with other degraded predictions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self, get_args

import torch

from dg_tools.guidance.auto import auto_profile
from dg_tools.guidance.from_profile import as_disrupt, settings_of
from dg_tools.guidance.matching import Match, check_match, matched
from dg_tools.guidance.modular import ModularGuidance
from dg_tools.guidance.settings import alias, item
from dg_tools.interventions import Disrupt
from dg_tools.interventions.description import value
from dg_tools.models.dit import DiT
from dg_tools.numbers import number

MATCHED = {"gain": "gain matched", "parallel": "its gain alone", "orthogonal": "without its gain"}  # in captions
Rows = Literal["cond", "uncond"]


class DetailGuidance(ModularGuidance):
    """Detail Guidance as a diffusers guider, with or without classifier-free guidance.

    Args:
        guidance_scale: the usual CFG scale s; 1 is off (the paper's lambda is s - 1). Range: 1 and up, 1.5 to 8 in use.
            None: 1, and in `dg.detail_guidance` the scale of the pipeline's call.
        detail_guidance_scale: the paper's w; 0 (also None) skips the disrupted pass. Below 0 it steers towards d. The
            paper's own value is not published.
        disrupt: how d is disrupted: a `Disrupt`, its JSON, the name of a profile (a model folder, a JSON file, a
            repository id) that names a block, or "auto": `dg_tools.guidance.auto` then chooses it, once for each model.
            Needed unless w is 0. The paper zeroes the channels; `Disrupt(channels, block, "scale", rho=1.5)` multiplies
            them by rho, a number or a schedule over sigma. Whether rho below or above 1 lacks detail depends on the
            model.
        detail_guidance_start, detail_guidance_stop: window of the disrupted pass, as fractions of the steps: step i of
            n is inside where start * n <= i < stop * n, so step 0 can be reached.
        guidance_rescale: share of the result brought to the standard deviation of c (0 = off), as in diffusers' CFG.
        start, stop: window of all guidance, in the same way.
        enabled: False gives c.
        match: which part of c - d guides. `none`: all of it. `gain`: d is divided by g = <c, d> / <c, c>, row by row,
            so that the difference is orthogonal to c and contains no gain; g of 0.1 or less is an error at that step.
            With `parallel`, only the part of c - d along c guides (the gain that DG contains); with `orthogonal`, only
            the rest. Both together add what `none` adds. See `dg_tools.guidance.matching`.
        rows: which rows are disrupted. `cond`: the conditional ones, in an extra pass d with the weight w. `uncond`:
            CFG's own unconditional pass, D = c + (s - 1) (c - u_d), at the cost of CFG. This needs s > 1, and takes no
            w (giving one is an error): the strength is the disruption's `rho`. Outside of its windows, and with
            `enabled=False`, the run is plain CFG.

    Raises:
        TypeError, ValueError: a scale, window or disruption that cannot work; before any forward.

    Example:
        >>> weak = dg.Disrupt([55], 4, "scale", rho=1.5)
        >>> made = dg.generate(dit, "red apple", steps=2, guidance=dg.DetailGuidance(3.0, 0.5, disrupt=weak))
        >>> made.forwards, len(made.guided[0].guided)
        ([6], 2)
        >>> dg.DetailGuidance(3.0, disrupt=weak, rows="uncond").words(3.0)
        ['CFG 3', 'DG uncond rho 1.5']

    Attributes may be set later: the new values are saved, copied and used, and checked when a run begins.
    """

    short = "DG"
    window_name = "detail guidance window"
    unsaid = {"match": "none", "rows": "cond"}  # noqa: RUF012
    detail_guidance_scale = alias("weight")
    detail_guidance_start = item("window", 0)
    detail_guidance_stop = item("window", 1)

    def __init__(
        self,
        guidance_scale: float | None = None,
        detail_guidance_scale: float | None = None,
        disrupt: Disrupt | dict[str, Any] | str | None = None,
        detail_guidance_start: float = 0.0,
        detail_guidance_stop: float = 1.0,
        guidance_rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        match: Match = "none",
        rows: Rows = "cond",
    ) -> None:
        weight = 0.0 if detail_guidance_scale is None else detail_guidance_scale
        own = {"scale": weight, "start": detail_guidance_start, "stop": detail_guidance_stop}
        for name, size in own.items():
            number(size, f"detail_guidance_{name}")
        super().__init__(
            start,
            stop,
            enabled,
            guidance_scale=guidance_scale,
            weight=weight,
            window=(detail_guidance_start, detail_guidance_stop),
            guidance_rescale=guidance_rescale,
        )
        self.match = match
        self.rows = rows
        self.disrupt = disrupt
        self._check_rows(detail_guidance_scale)
        if self.pushes and self.disrupt is None and not self.auto:
            why = "rows is 'uncond'" if self.in_pass else "detail_guidance_scale is not 0"
            raise ValueError(f"{why}, so disrupt= is needed: a Disrupt, a profile's name, or 'auto'")
        self.register_to_config(
            guidance_scale=guidance_scale,
            detail_guidance_scale=self.stated("detail_guidance_scale"),
            disrupt=self.stated("disrupt"),
            detail_guidance_start=detail_guidance_start,
            detail_guidance_stop=detail_guidance_stop,
            guidance_rescale=guidance_rescale,
            start=start,
            stop=stop,
            enabled=enabled,
            match=match,
            rows=rows,
        )

    def _check_rows(self, weight: float | None) -> None:
        """Raise ValueError for rows that do not go with the weight, the scale or the disruption's own rows."""
        if self.rows not in get_args(Rows):
            raise ValueError(f"rows={self.rows!r}; allowed: {', '.join(get_args(Rows))}")
        other = "cond" if self.in_pass else "uncond"
        if self.disrupt is not None and self.disrupt.rows == other:
            raise ValueError(
                f"rows={self.rows!r} contradicts the rows of the disruption ({self.disrupt.sentence()}): "
                "leave rows out of the disruption"
            )
        if self.in_pass and weight is not None:
            raise ValueError(
                f"rows='uncond' has no w, and detail_guidance_scale={weight:g} was given: leave it out, and set how "
                "strong it is in the disruption, Disrupt(channels, block, 'scale', rho=1.5)"
            )
        if self.in_pass and self.match != "none":
            raise ValueError(
                f"match={self.match!r} needs a disrupted conditional pass; leave it out with rows='uncond'"
            )
        if self.scale_is_set:
            self.check_scale(self.guidance_scale)

    @property
    def in_pass(self) -> bool:  # type: ignore[override]  # an attribute that follows from another
        """Whether CFG's own unconditional pass is the disrupted one."""
        return self.rows == "uncond"

    @property
    def pushes(self) -> bool:
        """Whether it should change more than CFG does."""
        return self.in_pass or bool(self.weight)

    @property
    def own_edit(self) -> Disrupt | None:
        """The disruption, if it acts in CFG's unconditional rows."""
        return replace(self.disrupt, rows="uncond") if self.in_pass and self.disrupt is not None else None

    def check_scale(self, scale: float) -> None:
        """Raise ValueError if the unconditional rows should be disrupted, but a scale of 1 has none."""
        if self.in_pass and self._enabled and not scale > 1:
            raise ValueError(
                f"rows='uncond' disrupts the unconditional pass, and at CFG scale {scale:g} there is none: take a "
                "scale above 1 (FLUX.1: true_cfg_scale with a negative prompt; its guidance_scale is a distilled one), "
                "or rows='cond'"
            )

    def words(self, scale: float) -> list[str]:
        """As in `Guidance`; `DG 0.5 (gain matched)`, `DG uncond rho 1.5`."""
        parts, edit = super().words(scale), self.disrupt
        if self.weight and self._enabled and self.match != "none":
            parts[-1] += f" ({MATCHED[self.match]})"
        if self.in_pass and self._enabled:
            dose = f" rho {value(edit.rho)}" if edit is not None and edit.mode == "scale" else ""
            parts.append(f"DG uncond{dose}")
        return parts

    @property
    def match(self) -> Match:
        """Which part of c - d guides."""
        return self._match

    @match.setter
    def match(self, value: str) -> None:
        self._match = check_match(value)

    def matched(self, cond: torch.Tensor, degraded: torch.Tensor) -> torch.Tensor:
        """The weak prediction d' that replaces d."""
        return matched(cond, degraded, self.match)

    @property
    def disrupt(self) -> Disrupt | None:
        """The disruption; None if there is none, or if `auto` will choose it."""
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

    def stated(self, name: str) -> Any:
        """A setting as the configuration holds it."""
        if name == "detail_guidance_scale" and self.in_pass and not self.weight:
            return None
        if name == "disrupt":
            return self.disrupt.to_json() if self.disrupt else "auto" if self.auto else None
        return super().stated(name)

    @classmethod
    def from_profile(cls, profile: Any, **changes: Any) -> DetailGuidance:
        """The guidance that a profile describes: its disruption, w, window, and s if it has one.

        Args:
            profile: `dit.profile`, a JSON file (of `auto`, a sweep or `GuidanceExplorer`), a model folder or its name.
            **changes: settings that replace the profile's; needed for those that it lacks, such as
                `detail_guidance_scale`.

        Raises:
            TypeError: anything else, such as the None of a model without a profile.
            ValueError: no profile, or one without a block or w.
        """
        settings = {**settings_of(profile), **changes}
        if settings.get("rows") == "uncond":
            settings["detail_guidance_scale"] = changes.get("detail_guidance_scale")
        if "detail_guidance_scale" not in settings:
            raise ValueError("this profile has no detail_guidance_scale (w): pass one")
        return cls(**settings)

    def resolved(self, dit: DiT, **kwargs: Any) -> Self:
        """This guidance for one model: itself, or with the choice of `auto`; `kwargs` go to the pipeline's call.

        Raises:
            TypeError, ValueError: an attribute that was set to what cannot work.
            RuntimeError: `auto` found no weak model that lacks detail, or no massive channel.
        """
        super().resolved(dit)
        if not self.auto or not self.pushes:
            return self
        profile = auto_profile(dit, **kwargs)
        if profile["block"] is None:
            raise RuntimeError(f'disrupt="auto": {profile["verdict"]}')
        return self.new(disrupt=Disrupt.from_profile(profile).to_json())

    def check(self, dit: DiT, steps: int | None = None, height: int | None = None, width: int | None = None) -> None:
        """Raise, before any forward, for settings that do not fit this model, or a run of `steps` on it."""
        if self.disrupt is not None and steps is None:
            self.disrupt.check_model(dit)  # the run, and its size, are not known
        elif self.disrupt is not None and steps is not None:
            self.disrupt.check(dit, steps, height, width)
            self.check_window(steps)

    def passes(self, step: int, steps: int) -> list[str]:
        """As in `Guidance`; call it after `auto` has chosen the disruption."""
        if self.auto and self.pushes:
            raise ValueError('disrupt="auto" needs a model: guider.resolved(dit), dg.generate or dg.detail_guidance')
        return super().passes(step, steps)

    def degrades(self, step: int) -> bool:
        """Whether the disruption acts in a step of the window: it may be limited to some steps."""
        if self.disrupt is None:
            return self.auto
        return self.disrupt.steps is None or step in self.disrupt.steps

    @property
    def widened(self) -> str:
        """The name of the window to widen if it contains no step."""
        start, stop = self.window
        return f"{self.window_name} [{start}, {stop}) and in the disruption's own steps: widen them"
