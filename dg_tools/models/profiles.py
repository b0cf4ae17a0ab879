"""Which channels are known to be massive in a model, which block to disrupt, and who says so?

A profile is a JSON object: `channels`, `block` (None where nobody has published one), `source`, and for profiles that a
sweep wrote the `objective` by which the block was chosen. `guidance_scale` (s), `detail_guidance_scale` (w) and
`window` may be there too: what `dg_tools.sweeps` chose with these channels at this block. Published ones are matched by
repository id only: a channel number means nothing in other weights, even of the same shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dg_tools.models.files import plain
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
    """The profile of a model folder (its `profile.json`), of a JSON file, or of a repository id; None: there is none.

    Raises:
        ValueError: a file that holds no profile, with what it lacks.
    """
    path = Path(source)
    file = path / "profile.json" if path.is_dir() else path
    if not file.is_file():
        return PUBLISHED.get(str(source))
    try:
        profile = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no profile: it holds no JSON ({error})") from None
    if not isinstance(profile, dict):
        raise ValueError(f"{file} is no profile: it has no {', '.join(sorted(REQUIRED))}")
    if missing := REQUIRED - set(profile):
        raise ValueError(f"{file} is no profile: it has no {', '.join(sorted(missing))}")
    return profile


def write_profile(file: Path, profile: Mapping[str, Any]) -> Path:
    """Write a profile that `read_profile` reads; numbers that JSON does not know become null.

    The file is replaced at once: one that was there stays whole where the disk is full.

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
    """Raise ValueError where a profile cannot belong to a model with these blocks and this width."""
    block, channels = profile["block"], profile["channels"]
    if max(channels) >= width or (block is not None and not 0 <= block < len(sites)):
        raise ValueError(
            f"the profile names channels {channels} and block {block}; this model has channels 0 to {width - 1} and "
            f"blocks 0 to {len(sites) - 1}: it is another model's profile"
        )
