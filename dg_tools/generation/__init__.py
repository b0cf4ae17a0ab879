"""Pictures from a prompt: one run, several side by side, and the same ones again from their recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use

_HOME = {"Generation": "_generate", "Interrupted": "_generate", "generate": "_generate"}
_HOME |= {"Comparison": "_compare", "compare": "_compare"}

__all__ = ["Comparison", "Generation", "Interrupted", "compare", "generate"]

if TYPE_CHECKING:
    from dg_tools.generation._compare import Comparison, compare
    from dg_tools.generation._generate import Generation, Interrupted, generate

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
