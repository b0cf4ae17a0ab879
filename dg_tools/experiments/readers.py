"""Who reads a channel? How strongly each block's query, key, value and MLP weights take it in, after AdaLN.

A block reads LayerNorm(x) (1 + scale) + shift. Channel c enters a linear layer with the norm of the layer's weights at
c, times |1 + scale_c|. Both are given relative to the median channel, so that 1 is read as any other channel and 0 is
not read at all. What a channel brings is this times its own value after LayerNorm, which is large where the channel is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

from dg_tools.experiments.block_hooks import on_modulation
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT

ATTENTION = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"))


def read_weights(block: Block, width: int) -> list[tuple[str, str, torch.Tensor]]:
    """(reader, AdaLN chunk, weights (outputs, channels)) of the linear layers that read the image stream first.

    The chunk is empty where the record names no scale for the reader.
    """
    record, module = block.record, block.module
    chunks = [name for name in record.chunks(module) if name is not None]
    found: list[tuple[str, str, torch.nn.Module | None]] = []
    for path in record.products or ((record.attn,) if record.attn else ()):
        dual = path == record.attn_dual
        scale = "scale_msa2" if dual else "scale_msa"
        attention = getattr(module, path, None)
        found += [(f"{name} 2" if dual else name, scale, getattr(attention, part, None)) for name, part in ATTENTION]
    if record.mlp_in:
        found.append(("MLP", "scale_mlp", getattr(module, record.mlp_in, None)))
    elif record.mlp is not None and record.attn is not None:
        inside = module.get_submodule(record.mlp).modules()
        linear = (m for m in inside if isinstance(m, torch.nn.Linear) and m.in_features == width)
        found.append(("MLP", "scale_mlp", next(linear, None)))
    readers = []
    for name, scale, layer in found:
        if isinstance(layer, torch.nn.Linear) and layer.in_features == width:
            chunk = next((c for c in (scale, "scale") if c in chunks), "")
            readers.append((name, chunk, layer.weight))
    return readers


class Readers:
    """Reads AdaLN's scales in the forwards inside `watching`, and says afterwards who reads which channel."""

    def __init__(self, dit: DiT) -> None:
        self.dit = dit
        self._sums: dict[tuple[int, str], torch.Tensor] = {}  # |1 + scale| by block and chunk, summed over rows
        self._rows: dict[tuple[int, str], int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Scales of every block of the forwards inside are added up."""
        with on_modulation(self.dit, range(len(self.dit.blocks)), self._see):
            yield

    def _see(self, block: Block, chunks: dict[str, torch.Tensor]) -> None:
        for name, value in chunks.items():
            if name.startswith("scale"):
                key = block.index, name
                self._sums[key] = self._sums.get(key, 0) + (1 + value.detach().float()).abs().sum(0)
                self._rows[key] = self._rows.get(key, 0) + len(value)

    @torch.no_grad()
    def table(self, channels: Sequence[int], others: Sequence[int]) -> pd.DataFrame:
        """One row for each block, reader and channel.

        Args:
            channels: the massive ones.
            others: channels to compare with.

        Returns:
            Columns: block, reader (q, k, v, those of a second attention, MLP), channel, weight (norm of the layer's
            weights at the channel, over the median channel's), scale (mean |1 + scale|), read (weight x scale, over the
            median channel's), others (the median `read` of `others`).
        """
        rows: list[dict[str, Any]] = []
        for block in self.dit.blocks:
            for reader, chunk, layer in read_weights(block, self.dit.width):
                weight = layer.detach().float().norm(dim=0).cpu().numpy()
                key = block.index, chunk
                ones = np.ones_like(weight)
                scale = (self._sums[key] / self._rows[key]).cpu().numpy() if key in self._sums else ones
                read = weight * scale / np.median(weight * scale)
                for channel in channels:
                    rows.append(
                        {
                            "block": block.index,
                            "reader": reader,
                            "channel": int(channel),
                            "weight": float(weight[channel] / np.median(weight)),
                            "scale": float(scale[channel]),
                            "read": float(read[channel]),
                            "others": float(np.median(read[list(others)])),
                        }
                    )
        return pd.DataFrame(rows)
