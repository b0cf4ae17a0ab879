"""Share long work among processes: each takes every n-th missing piece, and all wait between stages."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch

logger = logging.getLogger("dg_tools")


class Workers:
    """The processes of this run: one, or those that `accelerate launch` started.

    Args:
        work: what they do together. piece: what each of them does at a time.

    Attributes:
        rank: this process among `count`.
        device: where this process computes; None: this is the only process, and the model's own device is used.
    """

    def __init__(self, work: str = "sweep", piece: str = "cell") -> None:
        self.work = work
        self.piece = piece
        self.rank = 0
        self.count = 1
        self.device: torch.device | None = None
        self._state: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
            self.rank = self._state.process_index
            self.count = self._state.num_processes
            self.device = self._state.device
        elif "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
            logger.warning(
                "`accelerate launch --cpu` starts several processes under MPI only, so this is one; without MPI: "
                "`accelerate launch --multi_gpu --num_processes 2 -m dg_tools.cli %s ...`, on a CPU too",
                work,
            )

    def share(self, things: Sequence[Any]) -> list[Any]:
        """The part of these things that this process does."""
        return list(things[self.rank :: self.count])

    def meet(self, doing: str) -> None:
        """Wait for the others.

        Raises:
            ChildProcessError: one of them is gone.
        """
        if self._state is None:
            return
        try:
            self._state.wait_for_everyone()
        except RuntimeError as error:
            raise ChildProcessError(
                f"another process of this {self.work} stopped while {doing}: the {self.piece}s that are done are kept, "
                "and the missing ones are done on the next start"
            ) from error
