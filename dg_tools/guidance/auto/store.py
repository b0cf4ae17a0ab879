"""Where a choice is kept, by the hash of the weights; and what is done of one that was interrupted."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import platformdirs
import torch

from dg_tools.interventions import Disrupt
from dg_tools.models.dit import DiT
from dg_tools.models.files import plain
from dg_tools.models.profiles import read_profile
from dg_tools.models.provenance import weights_hash
from dg_tools.paths import whole

logger = logging.getLogger("dg_tools")


def cache_folder() -> Path:
    """The folder of the chosen profiles."""
    return Path(platformdirs.user_cache_dir("dg_tools")) / "profiles"


def kept_at(dit: DiT) -> Path:
    """The file of the choice for these weights."""
    return cache_folder() / f"{weights_hash(dit)}.json"


def known_profile(dit: DiT) -> dict[str, Any] | None:
    """The choice for these weights that is there already, kept or shipped; None where `auto` has not chosen yet."""
    return stored_profile(dit, kept_at(dit)) or shipped_profile(dit)


def default_profile(dit: DiT) -> dict[str, Any] | None:
    """What a dose, a command or an explorer takes where nothing else is given; None: there is nothing.

    The choice of `auto` for these weights, where it named a block; else the model's own profile.
    """
    known = stored_profile(dit, kept_at(dit))
    return dit.profile if known is None or known["block"] is None else known


def stored_profile(dit: DiT, file: Path) -> dict[str, Any] | None:
    """The choice that was kept for this model; None where there is none, or one by an earlier objective.

    One that is damaged is None too, with a warning.
    """
    if not file.is_file():
        return None
    try:
        profile: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        block = profile["block"]
        if block is not None:
            Disrupt(profile["channels"], block).check(dit)
        if "verdict" not in profile:
            logger.info("%s: an earlier version of auto chose it, by another objective; it is chosen again", file)
            return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("the choice kept in %s is damaged (%s): it is made again", file, reason)
        return None
    return profile


def shipped_profile(dit: DiT) -> dict[str, Any] | None:
    """The choice of `auto` that came with a model's folder, where it is about these very weights."""
    folder = Path(str(getattr(dit.pipeline, "name_or_path", "")))
    if not (folder / "profile.json").is_file():
        return None
    profile = read_profile(folder)
    chosen = profile is not None and "verdict" in profile and profile.get("weights") == weights_hash(dit)
    return profile if chosen else None


class Journal:
    """What is done of a choice: numbers as JSON, latents as safetensors, in a folder beside the choices.

    Where nothing can be written, nothing is kept, and a warning says so.

    Args:
        folder: the journal's.
        settings: what the numbers depend on; a journal of other settings is begun anew.
        kept: False keeps nothing.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], kept: bool = True) -> None:
        self.folder = folder
        self.kept = kept
        self.values: dict[str, Any] = {"settings": plain(settings)}
        try:
            before = json.loads((folder / "journal.json").read_text(encoding="utf-8")) if kept else {}
        except (OSError, ValueError):
            before = {}
        if isinstance(before, dict) and before.get("settings") == self.values["settings"]:
            self.values = before

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = plain(value)
        self._write(lambda draft: draft.write_text(json.dumps(self.values), encoding="utf-8"), "journal.json")

    def latents(self, name: str) -> torch.Tensor | None:
        """Latents that were kept under a name, in a journal of these settings."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.folder / f"{name}.safetensors"
        if f"latents {name}" not in self or not file.is_file():
            return None
        try:
            return load_file(file)["latents"]
        except (OSError, SafetensorError, KeyError):
            return None

    def keep_latents(self, name: str, latents: torch.Tensor) -> None:
        """Keep latents under a name."""
        from safetensors.torch import save_file

        tensors = {"latents": latents.detach().cpu().contiguous()}
        self._write(lambda draft: save_file(tensors, draft), f"{name}.safetensors")
        self[f"latents {name}"] = True

    def _write(self, write: Any, name: str) -> None:
        if not self.kept:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole(self.folder / name) as draft:
                write(draft)
        except OSError as error:
            self.kept = False
            logger.warning("what is done of this choice cannot be kept in %s (%s)", self.folder, error)

    def close(self) -> None:
        """The choice is made: the journal is removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
