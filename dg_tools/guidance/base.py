"""What the guiders share: diffusers' notice kept quiet, and the step that is being combined."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


@contextmanager
def without_experimental_notice() -> Iterator[None]:
    """Filter what diffusers says on every construction of a guider, that it is experimental."""
    source = logging.getLogger("diffusers.guiders.guider_utils")

    def quiet(record: logging.LogRecord) -> bool:
        return "experimental feature" not in record.getMessage()

    source.addFilter(quiet)
    try:
        yield
    finally:
        source.removeFilter(quiet)


class Seen(NamedTuple):
    """A step that is being combined: z_t as the transformer takes it, its noise level, its index, and how many."""

    z: torch.Tensor
    sigma: float
    step: int
    steps: int
