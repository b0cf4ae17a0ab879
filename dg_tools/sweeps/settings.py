"""The guidances that a sweep tries: Detail Guidance over its grid, and every baseline over as many settings."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from diffusers.guiders import BaseGuidance

from dg_tools.generation.sampling import check
from dg_tools.guidance.auto import default_profile
from dg_tools.guidance.baselines.registry import BASELINES, beside
from dg_tools.guidance.detail import DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.sweeps.config import SEARCHED, Config

logger = logging.getLogger("dg_tools")


@dataclass(frozen=True)
class Setting:
    """One guidance to try.

    Attributes:
        guidance: `cond` (none), `DG` (with CFG where s is more than 1), or a baseline's name.
        s: the usual CFG scale, 1 = off; `w`: the paper's weight, 0 = off.
        block, channels, window: of the disruption; None and empty where there is none.
        rho: the factor on the channels; None: they are zeroed.
    """

    guidance: str
    s: float = 1.0
    w: float = 0.0
    block: int | None = None
    channels: tuple[int, ...] = ()
    window: tuple[float, float] = (0.0, 1.0)
    rho: float | None = None

    def disruption(self) -> Disrupt:
        """The disruption of DG or of its control."""
        if self.rho is None:
            return Disrupt(self.channels, self.block)
        return Disrupt(self.channels, self.block, "scale", rho=self.rho)

    def guider(self) -> BaseGuidance | None:
        """The guider for `sampling.run`."""
        baseline = BASELINES.get(self.guidance)
        if baseline is not None and not baseline.takes_weight:
            return baseline.guider(self.s, blocks=self.block)
        if not self.w:
            return None
        if baseline is not None:
            return baseline.guider(self.s, self.w, blocks=self.block, window=self.window)
        off = self.disruption()
        if self.guidance == "control":
            off = off.controls(1)[0]
        start, stop = self.window
        return DetailGuidance(self.s, self.w, off, detail_guidance_start=start, detail_guidance_stop=stop)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; also the setting's columns in a table. `rho` is there only where the sweep has some."""
        values = {**asdict(self), "channels": list(self.channels), "window": list(self.window)}
        return {k: v for k, v in values.items() if k != "rho" or v is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Setting:
        """From `to_json`."""
        return cls(**{**values, "channels": tuple(values["channels"]), "window": tuple(values["window"])})

    def __str__(self) -> str:
        scaled = self.guidance in BASELINES and not BASELINES[self.guidance].takes_weight
        parts = [f"{self.guidance if scaled else 'CFG'} {self.s:g}"] if self.s > 1 else []
        if scaled and self.block is not None:
            parts = [f"{part} at block {self.block}" for part in parts]
        if self.w:
            where = "" if self.block is None else f" at block {self.block}"
            where += f", channels {list(self.channels)}" if self.channels else ""
            where += "" if self.rho is None else f" x {self.rho:g}"
            where += "" if self.window == (0.0, 1.0) else f" on [{self.window[0]:g}, {self.window[1]:g})"
            parts.append(f"{self.guidance} {self.w:g}{where}")
        return " + ".join(parts) or "cond"


def settings_of(config: Config, dit: DiT) -> list[Setting]:
    """Every setting of a sweep, `cond` first; each guidance has the same number of settings.

    Raises:
        ValueError: no channels given or known, a window without a step, CFG scales that are not as many as DG's.
        IndexError: blocks or channels that this model does not have.
    """
    blocks = list(range(len(dit.blocks))) if config.blocks == "all" else list(config.blocks)
    for block in blocks:
        dit.block(block)
    profile = {} if config.channels else default_profile(dit) or {}
    channels = config.channels or [profile.get("channels")]
    if channels == [None]:
        raise ValueError(f"channels are needed: {dit!r} has no profile that names them (dg.find_massive finds them)")
    doses = [profile.get("rho")] if config.rhos is None else config.rhos
    if any(isinstance(rho, list | tuple) for rho in doses):
        raise ValueError(f"the profile's dose is a schedule over sigma ({doses[0]}): name rhos, such as [0.5, 2.0]")
    rhos = [None if rho is None else float(rho) for rho in doses]
    grid = [
        Setting("DG", float(s), float(w), block, tuple(c), (float(a), float(b)), rho)
        for block, c, rho, s, w, (a, b) in itertools.product(
            blocks, channels, rhos, config.guidance_scales, config.detail_guidance_scales, config.windows
        )
    ]
    height, width = dit.size(config.height, config.width)
    steps = dit.default_steps if config.steps is None else config.steps
    names = config.baselines
    if names is None:
        one_pass, notes = beside(dit, 1.0, 1.0, steps)
        names = [*SEARCHED, *one_pass]
        for note in notes:
            logger.warning("this sweep is %s", note)
    settings = [Setting("cond"), *grid]
    for name in names:
        settings += settings_of_baseline(name, config, blocks, grid)
    for setting in settings:
        check(dit, [], setting.guider(), steps, height, width)
    return settings


def settings_of_baseline(name: str, config: Config, blocks: Sequence[int], grid: Sequence[Setting]) -> list[Setting]:
    """As many settings of a baseline as Detail Guidance has.

    If a baseline has no block or no channels, that part of the budget goes to more weights. A baseline's w multiplies
    its own c - degraded, whose size differs from DG's, so a wide range of w is fair to all.
    """
    if name == "control":
        return [replace(setting, guidance=name) for setting in grid]
    where: Sequence[int | None] = blocks if BASELINES[name].in_blocks else [None]
    if not BASELINES[name].takes_weight:
        scales = cfg_scales(config, len(grid), len(grid) // len(where))
        return [Setting(name, s, block=block) for block in where for s in scales]
    windows = config.windows if BASELINES[name].windowed else [(0.0, 1.0)]
    dg_weights = [float(w) for w in config.detail_guidance_scales]
    count = len(grid) // (len(where) * len(windows) * len(config.guidance_scales))
    weights = spread(dg_weights, count, min(dg_weights) / 2, max(dg_weights) * 2)
    return [
        Setting(name, float(s), w, block, (), (float(a), float(b)))
        for block, s, w, (a, b) in itertools.product(where, config.guidance_scales, weights, windows)
    ]


def cfg_scales(config: Config, settings: int, count: int) -> list[float]:
    """`count` scales for a baseline that takes only CFG's scale, evenly spread among those that were given.

    Args:
        config: of the sweep.
        settings: number of settings of Detail Guidance, which is the search budget of each guidance.
        count: scales to use; fewer than `settings` if the baseline tries several blocks, each with all of them.

    Raises:
        ValueError: another number of scales was given.
    """
    if config.cfg_scales is None:
        return spread([s for s in config.guidance_scales if s > 1], count, 1.0, config.cfg_most)
    given = sorted({float(s) for s in config.cfg_scales})
    if len(given) != settings:
        raise ValueError(
            f"cfg_scales holds {len(given)} scales, and Detail Guidance has {settings} settings: give every guidance "
            "as many, or leave cfg_scales out"
        )
    if count == settings:
        return [float(s) for s in config.cfg_scales]
    return [given[round(i * (settings - 1) / max(count - 1, 1))] for i in range(count)]


def spread(first: Sequence[float], count: int, least: float, most: float) -> list[float]:
    """`count` values: the first ones, then each in the middle (of the logarithm) of the widest gap left."""
    values = [float(s) for s in first][:count]
    while len(values) < count:
        ends = sorted({least, *values, most})
        low, high = max(itertools.pairwise(ends), key=lambda pair: pair[1] / pair[0])
        values.append(round((low * high) ** 0.5, 6))
    return sorted(values)
