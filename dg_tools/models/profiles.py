"""Profiles: which channels of a model to disrupt, at which block, with which dose, and on whose word.

A profile is a JSON object: `channels`, `block` (None where nobody has published one) and `source`. `mode` and `rho` are
the disruption's; a profile without them zeroes. `detail_guidance_scale` (w), `window`, `guidance_scale` (s) and
`objective` say what was chosen with it, `weights` is the hash of the weights that it was made for, and `measured`,
`scan` and `samples` are the numbers behind it. `dg_tools.guidance.auto`, `dg_tools.sweeps` and `GuidanceExplorer` write
them.
Published ones are matched by repository id only: a channel number means nothing in other weights, even of the same
shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dg_tools.kinds import kind_of
from dg_tools.models.files import ZOO, plain
from dg_tools.paths import whole

REQUIRED = {"channels", "block", "source"}
READER = "a published note by a reader of arXiv 2510.11538, not the paper itself"
PUBLISHED: dict[str, dict[str, Any]] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": {"channels": [810], "block": None, "source": READER},
    "stabilityai/stable-diffusion-3.5-medium": {
        "channels": [676],
        "block": None,
        "source": "the authors of arXiv 2510.11538, for SD3.5 without saying which size: check with find_massive",
    },
    "stabilityai/stable-diffusion-3.5-large": {
        "channels": [676],
        "block": None,
        "source": "the authors of arXiv 2510.11538, for SD3.5 without saying which size: check with find_massive",
    },
    "black-forest-labs/FLUX.1-dev": {
        "channels": [154, 1446],
        "block": None,
        "source": "the authors of arXiv 2510.11538; their FLUX is a de-distilled FLUX.1-dev",
    },
}


def read_profile(source: str | Path) -> dict[str, Any] | None:
    """The profile of an embedded model, a model folder (its `profile.json`), a JSON file or a repository id, or None.

    Raises:
        ValueError: a file that does not hold a profile; the message says what is missing.
    """
    path = ZOO / source if (ZOO / source).is_dir() else Path(source)
    file = path / "profile.json" if path.is_dir() else path
    if not file.is_file():
        return PUBLISHED.get(str(source))
    try:
        profile = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not a profile: it is not JSON ({error})") from None
    if not isinstance(profile, dict):
        raise ValueError(f"{file} is not a profile: it has no {', '.join(sorted(REQUIRED))}")
    if missing := REQUIRED - set(profile):
        raise ValueError(f"{file} is not a profile: it has no {', '.join(sorted(missing))}")
    return profile


def profile_of(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A profile and its name: a mapping as it is, else what `read_profile` finds.

    Raises:
        TypeError: anything else, such as None.
        ValueError: there is no profile of that name, or a mapping without channels or block.
    """
    if isinstance(source, Mapping):
        if missing := {"channels", "block"} - set(source):
            raise ValueError(f"this profile has no {', '.join(sorted(missing))}: a profile names channels and a block")
        return dict(source), str(source.get("model", "the given mapping"))
    if not isinstance(source, str | Path):
        raise TypeError(f"{kind_of(source)} is not a profile: pass dit.profile, a JSON file or a model folder")
    profile = read_profile(source)
    if profile is None:
        raise ValueError(
            f"no profile {str(source)!r}: pass a model folder, a JSON file, a mapping, or one of {', '.join(PUBLISHED)}"
        )
    return profile, str(source)


def profile_words(profile: Mapping[str, Any]) -> str:
    """Channels, dose, block, w and source in one sentence.

    Example:
        >>> profile_words({"channels": [55], "block": 3, "mode": "scale", "rho": 2.0, "source": "a test"})
        'channels 55 x 2 after block 3; from a test'
    """
    weight = profile.get("detail_guidance_scale")
    words = place_words(profile) + ("" if weight is None else f", w {weight:g}")
    return words + (f"; from {profile['source']}" if profile.get("source") else "")


def place_words(profile: Mapping[str, Any]) -> str:
    """Channels, dose and block alone."""
    mode, rho = profile.get("mode", "zero"), profile.get("rho", 0.0)
    words = f"channels {', '.join(map(str, profile['channels']))}"
    if profile["block"] is None:
        words += ", no block"
    else:
        dose = f"x {rho:g}" if isinstance(rho, int | float) else "x a schedule over sigma"
        how = dose if mode == "scale" else "zeroed" if mode == "zero" else f"edited ({mode})"
        words += f" {how} after block {profile['block']}"
    return words


def agreement(chosen: Mapping[str, Any] | None, known: Mapping[str, Any] | None) -> str:
    """Whether a choice has the channels, block and dose of the model's profile, in a sentence.

    Example:
        >>> one = {"channels": [55], "block": 3, "mode": "scale", "rho": 2.0}
        >>> agreement({**one, "block": 5}, one)
        "chosen: channels 55 x 2 after block 5; the model's profile: channels 55 x 2 after block 3: the blocks differ"
    """
    words = "chosen: " + ("no weak model" if chosen is None else place_words(chosen))
    if known is None:
        return f"{words}; this model has no profile to compare with"
    words += f"; the model's profile: {place_words(known)}"
    if chosen is None:
        return words
    if known["block"] is None:
        same = sorted(chosen["channels"]) == sorted(known["channels"])
        return f"{words}: the channels {'agree' if same else 'differ'}"
    parts = {
        "channels": sorted(chosen["channels"]) != sorted(known["channels"]),
        "blocks": chosen["block"] != known["block"],
        "doses": any(chosen.get(k, v) != known.get(k, v) for k, v in {"mode": "zero", "rho": 0.0}.items()),
    }
    differ = [f"the {name} differ" for name, differs in parts.items() if differs]
    return f"{words}: {' and '.join(differ) or 'they agree'}"


def write_profile(file: Path, profile: Mapping[str, Any]) -> Path:
    """Write a profile that `read_profile` reads; NaN and infinities become null.

    The file is replaced in one step, so an existing file stays whole if the disk is full.

    Raises:
        ValueError: a profile without channels, block or source.
    """
    if missing := REQUIRED - set(profile):
        raise ValueError(f"this profile has no {', '.join(sorted(missing))}: nothing is written to {file}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as draft:
        draft.write_text(json.dumps(plain(profile), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return file


def check_profile(profile: dict[str, Any], sites: list[str], width: int) -> None:
    """Raise ValueError if a profile cannot belong to a model with these blocks and this width."""
    block, channels = profile["block"], profile["channels"]
    if max(channels) >= width or (block is not None and not 0 <= block < len(sites)):
        raise ValueError(
            f"the profile names channels {channels} and block {block}; this model has channels 0 to {width - 1} and "
            f"blocks 0 to {len(sites) - 1}: it is another model's profile"
        )
