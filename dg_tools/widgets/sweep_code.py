"""Code that makes one picture of a sweep again, in the library's own words."""

from __future__ import annotations

import json

from dg_tools.guidance.baselines.registry import BASELINES
from dg_tools.sweeps.plan import Plan
from dg_tools.sweeps.settings import Setting


def code(plan: Plan, setting: Setting, prompt: str, seed: int) -> str:
    """Lines that make one picture of a sweep; `dit` is the sweep's model."""
    line = f"made = dg.generate(dit, {prompt!r}, seed={seed}, {call_code(plan)}, guidance=guidance)"
    return "\n".join([*guidance_code(setting), line, "made.grid()"])


def call_code(plan: Plan) -> str:
    """The arguments that all pictures of a sweep share."""
    fixed = json.loads(plan.fixed)
    call = {k: fixed[k] for k in ("steps", "height", "width")} | fixed["call"]
    if fixed["negative_prompt"]:
        call["negative_prompt"] = fixed["negative_prompt"]
    return ", ".join(f"{k}={v!r}" for k, v in call.items())


def guidance_code(setting: Setting) -> list[str]:
    """Lines that end in `guidance = ...`, for the guider of `Setting.guider`."""
    name, s, w, window = setting.guidance, setting.s, setting.w, setting.window
    baseline = BASELINES.get(name)
    if baseline is not None and not baseline.takes_weight:
        where = f", blocks={setting.block}" if baseline.in_blocks else ""
        return [f"guidance = {'dg.CFG' if name == 'CFG' else f'dg.baselines.{name}'}({s!r}{where})"]
    if not w:
        return ["guidance = None"]
    if baseline is not None and baseline.strength:
        guider = baseline.guider(s, w, window=window)
        when = f", start={window[0]!r}, stop={window[1]!r}" if baseline.windowed and window != (0.0, 1.0) else ""
        strength = f"{baseline.strength}={getattr(guider, baseline.strength)!r}"
        return [f"guidance = dg.baselines.{name}({s!r}, {strength}{when})"]
    if baseline is not None:
        where = f"blocks={setting.block}, " if baseline.in_blocks else ""
        return [f"guidance = dg.baselines.{name}({s!r}, {w!r}, {where}window={window!r})"]
    dose = "" if setting.rho is None else f", mode='scale', rho={setting.rho!r}"
    off = f"off = dg.Disrupt({list(setting.channels)}, block={setting.block}{dose})"
    off += ".controls(1)[0]" if name == "control" else ""
    start, stop = window
    when = f", detail_guidance_start={start!r}, detail_guidance_stop={stop!r}" if (start, stop) != (0.0, 1.0) else ""
    return [off, f"guidance = dg.DetailGuidance({s!r}, {w!r}, off{when})"]
