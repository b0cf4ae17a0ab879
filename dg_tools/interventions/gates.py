"""What if a block could not write a channel? Its AdaLN gates there are set to zero.

A block adds gate x branch to the residual stream: attention, the second attention where there is one, and the MLP; in
FLUX's single blocks one joint branch, whose gate serves image and text tokens alike. With every gate at zero in a
channel the block leaves the channel as it found it, and nothing else of the block's arithmetic is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from dg_tools.interventions.changes import targets

if TYPE_CHECKING:
    from dg_tools.interventions.disrupt import Disrupt
    from dg_tools.steps import Call


def without_gates(edit: Disrupt, modulation: torch.Tensor, chunks: Sequence[str], call: Call) -> torch.Tensor | None:
    """What a block's AdaLN linear gives (rows, chunks x channels), with the gates of the edit's channels at zero.

    Args:
        edit: of mode `gate`.
        modulation: the linear's output.
        chunks: the names of its chunks, from the family's record.
        call: which forward this is; None is returned where the edit is not concerned.
    """
    rows = call.rows(edit.rows)
    if not edit.concerns(call) or modulation[rows].shape[0] == 0:
        return None
    edited = modulation.clone()
    for name, part in zip(chunks, edited.chunk(len(chunks), dim=1), strict=True):  # views
        if name.startswith("gate"):
            part[rows, targets(edit, part.shape[1])] = 0
    return edited
