"""The transformer's inputs for some of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.restart import BETWEEN_BLOCKS


def rows_of(family: Family, inputs: Mapping[str, Any], rows: slice | list[int]) -> dict[str, Any]:
    """A forward's inputs for some of its rows.

    Args:
        family: says which inputs have rows.
        inputs: by name.
        rows: which rows; numbers may repeat if none of the family's inputs is a list.
    """
    total = inputs["hidden_states"].shape[0]
    names = (*family.row_inputs, *BETWEEN_BLOCKS)

    def part(value: Any) -> Any:
        if isinstance(value, list | tuple):  # a ControlNet's residuals, one for each block
            return type(value)(part(v) for v in value)
        has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == total
        return value[rows] if has_rows else value

    lists = family.row_lists
    return {k: v[rows] if k in lists else part(v) if k in names else v for k, v in inputs.items()}
