"""What a DiT computes at every block, step and token: captured while it runs, kept as labelled arrays.

`capture` follows sampling runs, `capture_image` reads noised pictures. Both read through plain hooks, in execution
order, with the step taken from the pipeline's own state. A `Recorder` reduces each hidden state to statistics
(`reduce`), so memory grows with steps x blocks x (channels + tokens). Raw hidden states are kept only where requested
(`raw`), after a size estimate and under a cap, in memory or in a store that grows with the run (`store`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use
from dg_tools.activations.result import Activations
from dg_tools.activations.store import StoreStopped, open_activations

if TYPE_CHECKING:
    from dg_tools.activations._capture import capture
    from dg_tools.activations._capture_image import capture_image
    from dg_tools.activations._features import features
    from dg_tools.activations.reduce import statistics

__all__ = ["Activations", "StoreStopped", "capture", "capture_image", "features", "open_activations", "statistics"]

_HOME = {"capture": "_capture", "capture_image": "_capture_image"}  # on first use: they need diffusers
_HOME |= {"features": "_features", "statistics": "reduce"}

__getattr__ = on_first_use(__name__, _HOME)
