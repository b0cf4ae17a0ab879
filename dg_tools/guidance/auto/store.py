"""Choices of `auto` on disk, by the hash of the weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import platformdirs

from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.profiles import read_profile
from dg_tools.models.provenance import weights_hash

logger = logging.getLogger("dg_tools")


def cache_folder() -> Path:
    """The folder of the chosen profiles, and of journals."""
    return Path(platformdirs.user_cache_dir("dg_tools")) / "profiles"


def kept_at(dit: DiT) -> Path:
    """The file of the choice for these weights."""
    return cache_folder() / f"{weights_hash(dit)}.json"


def known_profile(dit: DiT) -> dict[str, Any] | None:
    """An existing choice for these weights, kept or shipped; None if `auto` has not chosen yet."""
    return stored_profile(dit, kept_at(dit)) or shipped_profile(dit)


def default_profile(dit: DiT) -> dict[str, Any] | None:
    """The profile that doses, commands and explorers use by default; None if there is none.

    It is the choice of `auto` for these weights if that names a block, else the model's own profile. A profile that was
    made for other weights is used with a warning.
    """
    known = stored_profile(dit, kept_at(dit))
    if known is not None and known["block"] is not None:
        return known
    profile, dtype = dit.profile or {}, str(dit.transformer.dtype).removeprefix("torch.")
    made_for = profile.get("weights")
    # the same weights have another hash in another dtype
    if made_for is not None and profile.get("dtype", dtype) == dtype and made_for != weights_hash(dit):
        logger.warning(
            "the profile of %r was made for other weights (%s; these are %s): run disrupt='auto', or dg.dose, on these",
            dit, made_for, weights_hash(dit),
        )  # fmt: skip
    return dit.profile


def stored_profile(dit: DiT, file: Path) -> dict[str, Any] | None:
    """The choice that was kept for this model; None if there is none, or if it was made by an earlier objective.

    A damaged file gives None too, with a warning.
    """
    if not file.is_file():
        return None
    try:
        profile: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        block = profile["block"]
        if block is not None:
            Disrupt(profile["channels"], block).check(dit)
        if "verdict" not in profile:
            logger.info(
                "%s was written by an earlier version of auto, with another objective: the choice is made again", file
            )
            return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("the choice kept in %s is damaged (%s): the choice is made again", file, reason)
        return None
    return profile


def shipped_profile(dit: DiT) -> dict[str, Any] | None:
    """The choice of `auto` in a model's folder, if it was made for these weights."""
    folder = Path(str(getattr(dit.pipeline, "name_or_path", "")))
    if not (folder / "profile.json").is_file():
        return None
    profile = read_profile(folder)
    chosen = profile is not None and "verdict" in profile and profile.get("weights") == weights_hash(dit)
    return profile if chosen else None
