"""Which guidances does a sweep try? Detail Guidance over its grid, and every baseline over as many settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffusers.guiders import BaseGuidance

from dg_tools.guidance import CFG, DetailGuidance
from dg_tools.interventions import Disrupt
from dg_tools.models import DiT
from dg_tools.sampling import check
from dg_tools.sweeps.config import Config


@dataclass(frozen=True)
class Setting:
    """One guidance to try.

    Attributes:
        guidance: `cond` (none), `DG` (with CFG where s is more than 1), or a baseline: `CFG`, `control`.
        s: the usual CFG scale, 1 = off; `w`: the paper's weight, 0 = off.
        block, channels, window: of the disruption; None and empty where there is none.
    """

    guidance: str
    s: float = 1.0
    w: float = 0.0
    block: int | None = None
    channels: tuple[int, ...] = ()
    window: tuple[float, float] = (0.0, 1.0)

    def guider(self) -> BaseGuidance | None:
        """What `sampling.run` takes."""
        if not self.w:
            return CFG(self.s) if self.s > 1 else None
        off = Disrupt(self.channels, self.block)
        if self.guidance == "control":
            off = off.controls(1)[0]
        start, stop = self.window
        return DetailGuidance(self.s, self.w, off, detail_guidance_start=start, detail_guidance_stop=stop)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; also the setting's columns in a table."""
        return {**asdict(self), "channels": list(self.channels), "window": list(self.window)}

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> Setting:
        """From `to_json`."""
        return cls(**{**made, "channels": tuple(made["channels"]), "window": tuple(made["window"])})

    def __str__(self) -> str:
        parts = [f"CFG {self.s:g}"] if self.s > 1 else []
        if self.w:
            named = {"DG": "DG", "control": "control"}[self.guidance]
            window = "" if self.window == (0.0, 1.0) else f" on [{self.window[0]:g}, {self.window[1]:g})"
            parts.append(f"{named} {self.w:g} at block {self.block}, channels {list(self.channels)}{window}")
        return " + ".join(parts) or "cond"


def settings_of(config: Config, dit: DiT) -> list[Setting]:
    """Every setting of a sweep, `cond` first; each guidance has as many.

    Raises:
        ValueError: no channels given or known, a window without a step, CFG scales that are not as many as DG's.
        IndexError: blocks or channels that this model does not have.
    """
    blocks = list(range(len(dit.blocks))) if config.blocks == "all" else list(config.blocks)
    for block in blocks:
        dit.block(block)
    channels = config.channels or [(dit.profile or {}).get("channels")]
    if channels == [None]:
        raise ValueError(f"channels are needed: {dit!r} has no profile that names them (dg.find_massive finds them)")
    grid = [
        Setting("DG", float(s), float(w), block, tuple(c), (float(a), float(b)))
        for block, c, s, w, (a, b) in itertools.product(
            blocks, channels, config.guidance_scales, config.detail_guidance_scales, config.windows
        )
    ]
    made = [Setting("cond"), *grid]
    if "CFG" in config.baselines:
        made += [Setting("CFG", s) for s in cfg_scales(config, len(grid))]
    if "control" in config.baselines:
        made += [Setting("control", g.s, g.w, g.block, g.channels, g.window) for g in grid]
    height, width = dit.size(config.height, config.width)
    steps = dit.default_steps if config.steps is None else config.steps
    for setting in made:
        check(dit, [], setting.guider(), steps, height, width)
    return made


def cfg_scales(config: Config, count: int) -> list[float]:
    """CFG's own scales, `count` of them: the same search budget as Detail Guidance.

    Raises:
        ValueError: scales were given and are not as many.
    """
    if config.cfg_scales is None:
        return spread([s for s in config.guidance_scales if s > 1], count, config.cfg_most)
    if len(set(config.cfg_scales)) != count:
        raise ValueError(
            f"cfg_scales holds {len(set(config.cfg_scales))} scales, and Detail Guidance has {count} settings: give "
            "every guidance as many, or leave cfg_scales out"
        )
    return [float(s) for s in config.cfg_scales]


def spread(given: Sequence[float], count: int, most: float) -> list[float]:
    """`count` scales above 1: the given ones, then each in the middle (of the logarithm) of the widest gap left."""
    scales = [float(s) for s in given][:count]
    while len(scales) < count:
        ends = sorted({1.0, *scales, most})
        low, high = max(itertools.pairwise(ends), key=lambda pair: pair[1] / pair[0])
        scales.append(round((low * high) ** 0.5, 6))
    return sorted(scales)
