"""An edit described in one sentence."""

from __future__ import annotations

from collections.abc import Iterable

from dg_tools.interventions.settings import EditSettings, Schedule
from dg_tools.kinds import counted

LISTED = 6  # indices that are written out


def listed(indices: Iterable[int], what: str) -> str:
    """Some indices written out, with their count where there are more than a few."""
    indices = list(indices)
    more = f", ... ({len(indices)} {what})" if len(indices) > LISTED else ""
    return ", ".join(map(str, indices[:LISTED])) + more


def value(number: Schedule) -> str:
    """A number, or a schedule over sigma."""
    if isinstance(number, int | float):
        return f"{number:g}"
    return "(" + ", ".join(f"{v:g} at sigma {s:g}" for s, v in number) + ")"


def sentence(edit: EditSettings) -> str:
    """The edit in words."""
    k, named = len(edit.channels), listed(edit.channels, "channels")
    others = f"{counted(k, 'channel')} other than {named}"
    which = others if edit.others else f"channels {named}"
    those = f"channel {named}" if k == 1 else "those"
    lost = "" if edit.rho == 0 else f", times |1 - rho|, rho {value(edit.rho)}"
    what = {
        "zero": f"zero {which}",
        "mean": f"set {which} to their mean over tokens",
        "dc": f"remove the token mean of {which}",
        "scale": f"scale {which} by {value(edit.rho)}",
        "steer": f"set {which} to {value(edit.rho)} times their largest value over tokens",
        "rescale": f"keep {which} and scale all others as LayerNorm would without them",
        "gate": f"zero the AdaLN gates of {which}",
        "transport": f"put values of {edit.donor!r} into {which}",
        "shift": f"shift {others} by the norm of {those}{lost}",
        "shift_direction": f"shift along a random direction by the norm of {named}{lost}",
        "random": f"zero {others}",
    }[edit.mode]
    blocks = f"block{'s' if len(edit.blocks) > 1 else ''} {listed(edit.blocks, 'blocks')}"
    where = f" {'in' if edit.mode == 'gate' else 'after'} {blocks}, {edit.stream} stream"
    tokens = "" if edit.tokens is None else f", tokens {listed(edit.tokens, 'tokens')}"
    tokens += {"all": "", "own": ", the picture's own tokens", "references": ", reference tokens"}[edit.pictures]
    steps = "" if edit.steps is None else f", steps {', '.join(map(str, edit.steps))}"
    rows = {"all": "", "cond": ", conditional rows", "uncond": ", unconditional rows"}[edit.rows]
    norms = "" if edit.norms == "own" else ", LayerNorm statistics of a clean pass"
    random = edit.others or edit.mode in ("shift", "shift_direction", "random")
    draw = f" (draw {edit.draw})" if edit.control or (random and edit.draw) else ""
    draw += f", strength {value(edit.strength)}" if edit.strength != 1 else ""
    return ("control: " if edit.control else "") + what + where + tokens + steps + rows + norms + draw
