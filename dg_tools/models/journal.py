"""A record of finished parts of long work, so that the same call goes on after an interruption."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from dg_tools.models.files import plain
from dg_tools.paths import whole

logger = logging.getLogger("dg_tools")


class Journal:
    """Finished parts in a folder: numbers as JSON, latents and pictures as safetensors.

    Where nothing can be written, nothing is kept, and a warning says so.

    Args:
        folder: the journal's.
        settings: what the numbers depend on, as plain JSON; if they differ from the journal's, the journal starts anew.
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
        """Latents or pictures that were kept under a name with these settings, or None."""
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
        """Keep latents or pictures under a name."""
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
            logger.warning("what is done cannot be kept in %s (%s)", self.folder, error)

    def interrupted(self) -> None:
        """Say what is kept, after an interruption."""
        if self.kept and len(self.values) > 1:
            logger.warning("interrupted: what is done is kept in %s, and the same call goes on from there", self.folder)

    def close(self) -> None:
        """Remove the journal, when all work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
