"""The largest amount of memory used at one time."""

from __future__ import annotations

import sys

import torch


def peak(device: torch.device) -> int:
    """Bytes: of the accelerator where the model is on one, else of the process; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
