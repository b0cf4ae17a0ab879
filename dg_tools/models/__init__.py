"""A model: loaded, checked, described and traced; its files, facts, profiles, provenance, latents and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use

_HOME = {"Block": "block", "DiT": "dit", "load": "_load", "quiet_loading": "_load"}  # on first use: no torch for facts

__all__ = ["Block", "DiT", "load", "quiet_loading"]

if TYPE_CHECKING:
    from dg_tools.models._load import load, quiet_loading
    from dg_tools.models.block import Block
    from dg_tools.models.dit import DiT

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
