"""Stop a block from writing a channel: its AdaLN gates are set to zero there.

A block adds gate x branch to the residual stream: attention, the second attention where there is one, and the MLP; in
FLUX's single blocks one joint branch, whose gate serves image and text tokens alike. With every gate at zero in a
channel the block leaves the channel as it found it, and nothing else of the block's arithmetic is touched.
"""

from __future__ import annotations

import torch

from dg_tools.families import BlockList
from dg_tools.forward.call import Call
from dg_tools.interventions.modes import targets
from dg_tools.interventions.settings import EditSettings


def without_gates(
    edit: EditSettings, modulation: torch.Tensor, record: BlockList, block: torch.nn.Module, width: int, call: Call
) -> torch.Tensor | None:
    """A block's AdaLN chunks with the gates of the edit's channels at zero.

    Args:
        edit: an edit of mode `gate`.
        modulation: the output of the block's AdaLN linear, (rows, chunks x channels), or the block's input with the
            chunks. If the block adds a table to the input, the input is set to cancel the table.
        record, block: the names of the chunks, and the table.
        width: channels of the stream.
        call: the forward; if the edit does not act in it, the result is None.
    """
    rows = call.rows(edit.rows)
    if not edit.concerns(call) or modulation[rows].shape[0] == 0:
        return None
    return record.closed(block, modulation, width, rows, targets(edit, width))
