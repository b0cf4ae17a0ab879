"""What does a DiT compute at every block, step and token? Captured while it runs, kept as labelled arrays.

`capture` follows sampling runs (`runs`), `capture_image` looks at noised pictures (`real`). Both read through nnsight,
in execution order, with the step taken from the timestep, into one `Recorder` (`record`), which reduces what passes by
(`reduce`). Memory therefore grows with steps x blocks x (channels + tokens); raw hidden states are kept only where
asked for (`raw`), after a size estimate and under a cap, in memory or in a store that grows with the run (`store`).
"""

from dg_tools.activations.real import capture_image
from dg_tools.activations.reduce import statistics
from dg_tools.activations.result import Activations
from dg_tools.activations.runs import capture
from dg_tools.activations.store import StoreStopped, open_activations

__all__ = ["Activations", "StoreStopped", "capture", "capture_image", "open_activations", "statistics"]
