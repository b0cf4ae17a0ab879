"""The hidden states that are kept whole: checked against the model, and their size against a cap, before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dg_tools.kinds import counted
from dg_tools.models.dit import DiT
from dg_tools.numbers import integers
from dg_tools.onestep import conditions

Stream = Literal["image", "text"]
CHUNK = 2**20  # values in one chunk of a store: 4 MiB


@dataclass(frozen=True)
class RawSelection:
    """Blocks, steps, tokens and channels of one stream whose hidden states are kept; None is all of them."""

    blocks: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    tokens: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    stream: Stream = "image"
    shape: tuple[int, int] = (0, 0)  # kept tokens and channels

    def includes(self, step: int, block: int, stream: str) -> bool:
        """Whether hidden states are kept at this step, block and stream."""
        return stream == self.stream and block in self.blocks and step in self.steps

    def part_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """The kept tokens and channels of (tokens, channels), as float32."""
        part = hidden if self.tokens is None else hidden[list(self.tokens)]
        return (part if self.channels is None else part[:, list(self.channels)]).detach().float()

    @property
    def dims(self) -> tuple[str, str, str, str]:
        """Names of the dimensions step, site, token and channel."""
        return ("raw_step", "raw_site", "raw_token", "channel" if self.channels is None else "raw_channel")

    def coords(self, dit: DiT) -> dict[str, Any]:
        """Labels of these dimensions."""
        labels: dict[str, Any] = {"raw_step": list(self.steps), "raw_site": [dit.sites[b] for b in self.blocks]}
        if self.tokens is not None:
            labels["raw_token"] = list(self.tokens)
        if self.channels is not None:
            labels["raw_channel"] = list(self.channels)
        return labels


def select_raw(
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
) -> RawSelection:
    """The hidden states that a capture keeps, checked.

    Args:
        available: steps of the run.
        size: height and width in pixels.
        runs: the runs in words, `2 prompts x 3 seeds`; count: their number, times the branches.
        cap: largest size in bytes.
        **kwargs: of the pipeline's call; they decide how many text tokens there are.

    Raises:
        TypeError: blocks, steps, tokens or channels that are not whole numbers.
        IndexError: blocks, steps, tokens or channels out of range.
        ValueError: an unknown stream, no tokens or channels at all, the same one twice, or a block without text.
        MemoryError: over the cap, with the size.
    """
    if stream not in ("image", "text"):
        raise ValueError(f"raw_stream={stream!r}; allowed: image, text")
    blocks = integers(blocks, "raw")
    for block in blocks:
        dit.block(block)
        if stream == "text" and not dit.block(block).has_text:
            raise ValueError(f"raw text of block {block} requested; this block returns no text stream")
    given = {"raw_steps": steps, "raw_tokens": tokens, "raw_channels": channels}
    options = {name: None if values is None else integers(values, name) for name, values in given.items()}
    steps, tokens, channels = options.values()
    if not blocks:
        named = [name for name, values in options.items() if values is not None]
        if named:
            raise ValueError(f"{' and '.join(named)} given without raw=: name the blocks to keep, raw=[...]")
        return RawSelection()
    rows, columns = dit.grid(*size)
    token_count = dit.frames(kwargs.get("num_frames")) * rows * columns
    if stream == "text":
        token_count = conditions(dit, [""], *size, **kwargs)["encoder_hidden_states"].shape[1]
    limits = {"raw": len(dit.blocks), "raw_steps": available, "raw_tokens": token_count, "raw_channels": dit.width}
    for name, values in {"raw": blocks, **options}.items():
        if values is None:
            continue
        if len(values) == 0 or len(set(values)) != len(values):
            raise ValueError(f"{name}={list(values)}: name at least one, and each once")
        if not all(0 <= v < limits[name] for v in values):
            raise IndexError(f"{name}={list(values)} requested; there are 0 to {limits[name] - 1}")
    selection = RawSelection(
        in_order(blocks),
        in_order(range(available) if steps is None else steps),
        None if tokens is None else in_order(tokens),
        None if channels is None else in_order(channels),
        stream,
        (token_count if tokens is None else len(tokens), dit.width if channels is None else len(channels)),
    )
    check_cap(selection, runs, count, cap)
    return selection


def check_cap(selection: RawSelection, runs: str, count: int, cap: int) -> None:
    """Raise MemoryError, with the size, where the hidden states of `count` runs take more than `cap` bytes."""
    steps, blocks, (tokens, channels) = len(selection.steps), len(selection.blocks), selection.shape
    total = count * steps * blocks * tokens * channels * 4
    if total > cap:
        raise MemoryError(
            f"raw hidden states would take {total / 2**20:,.0f} MiB ({runs} x {counted(steps, 'step')} x "
            f"{counted(blocks, 'block')} x {counted(tokens, 'token')} x {counted(channels, 'channel')} x 4 bytes); the "
            f"cap is {cap / 2**20:,.0f} MiB: ask for fewer, or raise cap="
        )


def in_order(values: Sequence[int]) -> tuple[int, ...]:
    """Sorted, as plain integers."""
    return tuple(sorted(int(v) for v in values))
