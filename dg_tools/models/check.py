"""Check on load that a transformer is what its family record says."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dg_tools.families import Family
from dg_tools.forward.refusals import REFUSALS
from dg_tools.models.block import part_of


def check_pipeline(pipeline: Any) -> None:
    """Raise ValueError for a pipeline without a transformer, with two, or with rows of its own."""
    if getattr(pipeline, "transformer", None) is None:
        parts = ", ".join(sorted(pipeline.components))
        raise ValueError(
            f"{type(pipeline).__name__} has no transformer (it has: {parts}); dg_tools works on diffusion "
            "transformers, not on U-Nets"
        )
    if getattr(pipeline, "transformer_2", None) is not None:
        raise REFUSALS["second transformer"].error(pipeline=type(pipeline).__name__)
    if "PAG" in type(pipeline).__name__:
        raise REFUSALS["pag"].error(pipeline=type(pipeline).__name__)


def check_record(family: Family, transformer: torch.nn.Module) -> None:
    """Raise ValueError where a transformer is not what its record says."""

    def wrong(message: str) -> ValueError:
        return ValueError(f"{type(transformer).__name__} does not match family record {family.name!r}: {message}")

    width = family.width(transformer)
    for record in family.lists:
        if not hasattr(transformer, record.path):
            raise wrong(f"there is no block list {record.path!r}")
    for name, record, block in family.blocks(transformer):
        for path in filter(None, (record.adaln, record.attn, record.mlp)):
            try:
                part = part_of(block, path)
            except (AttributeError, IndexError):
                part = None
            if part is None:
                raise wrong(f"block {name} has no {path!r}")
        chunks = record.chunks(block)
        if record.adaln is not None:
            size = part_of(block, record.adaln).out_features
            if size != width * len(chunks):
                raise wrong(f"block {name}: {size} AdaLN outputs are not {len(chunks)} chunks of {width}")
        elif record.given not in inspect.signature(type(block).forward).parameters:
            raise wrong(f"block {name} takes no {record.given!r}")
        if (table := record.table_of(block)) is not None and tuple(table.shape[-2:]) != (len(chunks), width):
            raise wrong(
                f"block {name}: its {record.table} is {tuple(table.shape)}, not {len(chunks)} chunks of {width}"
            )
