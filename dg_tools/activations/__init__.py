"""Captured activations: what a DiT computes at every block, step and token, as labelled arrays.

`capture` follows sampling runs, `capture_image` reads noised pictures. Both read through plain hooks, in execution
order, with the step taken from the pipeline's own state. A `Recorder` reduces each hidden state to statistics
(`reduce`), so memory grows with steps x blocks x (channels + tokens). Raw hidden states are kept only where requested
(`raw`), after a size estimate and under a cap, in memory or in a store that grows with the run (`store`).

`attention` reads, per head, how much attention each token receives. `find_tokens` names outlier tokens in a capture.
`principal_directions` measures how far the massive channels are the one direction that all tokens share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dg_tools._lazy import on_first_use
from dg_tools.activations.result import Activations
from dg_tools.activations.store import StoreStopped, open_activations

if TYPE_CHECKING:
    from dg_tools.activations._attention import attention
    from dg_tools.activations._capture import capture
    from dg_tools.activations._capture_image import capture_image
    from dg_tools.activations._features import features
    from dg_tools.activations._find_tokens import find_tokens
    from dg_tools.activations._principal_directions import principal_directions
    from dg_tools.activations.attention_result import Attention
    from dg_tools.activations.reduce import statistics

__all__ = [
    "Activations",
    "Attention",
    "StoreStopped",
    "attention",
    "capture",
    "capture_image",
    "features",
    "find_tokens",
    "open_activations",
    "principal_directions",
    "statistics",
]

_HOME = {"capture": "_capture", "capture_image": "_capture_image"}  # on first use: they need diffusers
_HOME |= {"features": "_features", "statistics": "reduce"}
_HOME |= {"attention": "_attention", "Attention": "attention_result", "find_tokens": "_find_tokens"}
_HOME |= {"principal_directions": "_principal_directions"}

__getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
