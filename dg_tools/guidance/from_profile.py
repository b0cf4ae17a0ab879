"""From a profile to Detail Guidance: the disruption that it names, and the settings that were chosen with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dg_tools.interventions import Disrupt
from dg_tools.kinds import kind_of
from dg_tools.models.profiles import profile_of

SCALES = ("guidance_scale", "detail_guidance_scale", "match")
WINDOW = ("detail_guidance_start", "detail_guidance_stop")


def as_disrupt(source: Any) -> Disrupt | None:
    """A `Disrupt` from a `Disrupt`, its JSON, the name of a profile, or a list with one of these.

    Raises:
        TypeError: anything else, or a list of several.
        ValueError: no such profile, or one without a block.
    """
    if isinstance(source, list | tuple):
        if len(source) != 1:
            raise TypeError(
                f"disrupt= is a list of {len(source)}; a guidance has one disruption: pass one Disrupt, "
                "Disrupt(channels, [block, ...]) for several blocks"
            )
        source = source[0]
    if source is None or isinstance(source, Disrupt):
        return source
    if isinstance(source, dict):
        return Disrupt.from_json(source)
    if not isinstance(source, str):
        raise TypeError(f"disrupt= is {kind_of(source)}; pass a Disrupt, its JSON, the name of a profile, or 'auto'")
    return Disrupt.from_profile(source)


def settings_of(source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """The settings of `DetailGuidance` in a profile: the disruption, and s, w and window if it has them.

    A sweep writes s and w, with the window as [start, stop], beside the channels. Older files of `GuidanceExplorer`
    have them under `guidance`, by the names of `DetailGuidance`; these are read too.

    Args:
        source: a JSON file, a model folder, or a mapping.

    Raises:
        TypeError: anything else. ValueError: no profile, one without a block, or a window that is not [start, stop].
    """
    profile, _ = profile_of(source)
    stated = {**profile.get("guidance", {}), **profile}
    settings = {name: stated[name] for name in (*SCALES, *WINDOW) if stated.get(name) is not None}
    window = stated.get("window")
    if window is not None:
        if not isinstance(window, list | tuple) or len(window) != 2:
            raise ValueError(f"this profile has window={window!r}; [start, stop], fractions of the steps, is needed")
        settings |= dict(zip(WINDOW, window, strict=True))
    return {**settings, "disrupt": Disrupt.from_profile(source)}
