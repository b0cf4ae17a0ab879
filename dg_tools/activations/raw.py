"""Which hidden states are kept whole, and how much room do they take? Said before the run, and capped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.models.dit import DiT
from dg_tools.onestep import conditions

Stream = Literal["image", "text"]
CHUNK = 2**20  # values in one chunk of a store: 4 MiB


@dataclass(frozen=True)
class Raw:
    """Blocks, steps, tokens and channels of one stream whose hidden states are kept; None is all of them."""

    blocks: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    tokens: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    stream: Stream = "image"
    shape: tuple[int, int] = (0, 0)  # kept tokens and channels

    def wants(self, step: int, block: int, stream: str) -> bool:
        """Whether this place is kept."""
        return stream == self.stream and block in self.blocks and step in self.steps

    def of(self, hidden: torch.Tensor) -> torch.Tensor:
        """The kept tokens and channels of (tokens, channels), as float32."""
        part = hidden if self.tokens is None else hidden[list(self.tokens)]
        return (part if self.channels is None else part[:, list(self.channels)]).detach().float()

    @property
    def dims(self) -> tuple[str, str, str, str]:
        """Names of the dimensions step, site, token and channel."""
        return ("raw_step", "raw_site", "raw_token", "channel" if self.channels is None else "raw_channel")

    def coords(self, dit: DiT) -> dict[str, Any]:
        """Labels of these dimensions."""
        made: dict[str, Any] = {"raw_step": list(self.steps), "raw_site": [dit.sites[b] for b in self.blocks]}
        if self.tokens is not None:
            made["raw_token"] = list(self.tokens)
        if self.channels is not None:
            made["raw_channel"] = list(self.channels)
        return made


def raw_of(
    dit: DiT,
    blocks: Sequence[int],
    steps: Sequence[int] | None,
    tokens: Sequence[int] | None,
    channels: Sequence[int] | None,
    stream: Stream,
    *,
    available: int,
    size: tuple[int, int],
    runs: str,
    count: int,
    cap: int,
    **kwargs: Any,
) -> Raw:
    """What is to be kept, checked.

    Args:
        available: steps of the run.
        size: height and width in pixels.
        runs: the runs in words, `2 prompts x 3 seeds`; `count` how many these are, branches among them.
        cap: most bytes.
        **kwargs: of the pipeline's call; they decide how many text tokens there are.

    Raises:
        IndexError: blocks, steps, tokens or channels that there are not.
        ValueError: an unknown stream, no tokens or channels at all, the same one twice, or a block without text.
        MemoryError: over the cap, with the size.
    """
    if stream not in ("image", "text"):
        raise ValueError(f"raw_stream={stream!r}; allowed: image, text")
    for block in blocks:
        dit.block(block)
        if stream == "text" and getattr(dit.block(block).module, "context_pre_only", False):
            raise ValueError(f"raw text of block {block} asked for; this block returns no text stream")
    if not blocks:
        given = {"raw_steps": steps, "raw_tokens": tokens, "raw_channels": channels}
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise ValueError(f"{' and '.join(named)} given without raw=: name the blocks to keep, raw=[...]")
        return Raw()
    there = dit.grid(*size)[0] * dit.grid(*size)[1]
    if stream == "text":
        there = conditions(dit, [""], *size, **kwargs)["encoder_hidden_states"].shape[1]
    kept = {"raw": blocks, "raw_steps": steps, "raw_tokens": tokens, "raw_channels": channels}
    limits = {"raw": len(dit.blocks), "raw_steps": available, "raw_tokens": there, "raw_channels": dit.width}
    for name, values in kept.items():
        if values is None:
            continue
        if len(values) == 0 or len(set(values)) != len(values):
            raise ValueError(f"{name}={list(values)}: name at least one, and each once")
        if not all(0 <= v < limits[name] for v in values):
            raise IndexError(f"{name}={list(values)} asked for; there are 0 to {limits[name] - 1}")
    at = picked(range(available) if steps is None else steps)
    shape = (there if tokens is None else len(tokens), dit.width if channels is None else len(channels))
    total = count * len(at) * len(blocks) * shape[0] * shape[1] * 4
    if total > cap:
        raise MemoryError(
            f"raw hidden states would take {total / 2**20:,.0f} MiB ({runs} x {len(at)} steps x {len(blocks)} blocks x "
            f"{shape[0]} tokens x {shape[1]} channels x 4 bytes); the cap is {cap / 2**20:,.0f} MiB: ask for fewer, or "
            "raise cap="
        )
    chosen = [None if values is None else picked(values) for values in (tokens, channels)]
    return Raw(picked(blocks), at, chosen[0], chosen[1], stream, shape)


def picked(values: Sequence[int]) -> tuple[int, ...]:
    """In order, as plain integers."""
    return tuple(sorted(int(v) for v in values))
