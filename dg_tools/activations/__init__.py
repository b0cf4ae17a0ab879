"""What does a DiT compute at every block, step and token? Captured while it runs, kept as labelled arrays.

`capture` follows sampling runs (`runs`), `capture_image` looks at noised pictures (`real`). Both read through nnsight,
in execution order, with the step taken from the timestep, into one `Recorder` (`record`), which reduces what passes by
(`reduce`). Memory therefore grows with steps x blocks x (channels + tokens); raw hidden states are kept only where
asked for (`raw`), after a size estimate and under a cap, in memory or in a store that grows with the run (`store`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dg_tools.activations.result import Activations
from dg_tools.activations.store import StoreStopped, open_activations

if TYPE_CHECKING:
    from dg_tools.activations.real import capture_image
    from dg_tools.activations.reduce import statistics
    from dg_tools.activations.runs import capture

__all__ = ["Activations", "StoreStopped", "capture", "capture_image", "open_activations", "statistics"]

_HOME = {"capture": "runs", "capture_image": "real", "statistics": "reduce"}  # on first use: they need diffusers


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"dg_tools.activations.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dg_tools.activations' has no attribute {name!r}")
