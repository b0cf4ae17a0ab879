"""Does a capture hold what plain hooks find?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dg_tools.activations import capture
from dg_tools.families.block_list import Stream
from dg_tools.verification.plain import Plain
from dg_tools.verification.result import Measured

ALLOWED = 1e-4  # both reduce the same hidden states in float32
STATISTICS = {  # by channel, over tokens; and by token
    "mean": lambda hidden: hidden.mean(0),
    "abs_mean": lambda hidden: hidden.abs().mean(0),
    "abs_max": lambda hidden: hidden.abs().amax(0),
    "token_norm": lambda hidden: hidden.norm(dim=1),
}
STREAMS: tuple[Stream, ...] = ("image", "text")
Found = dict[tuple[str, Stream, int, int], np.ndarray]  # statistic, stream, step, block


def by_hooks(plain: Plain) -> Found:
    """The same statistics by plain hooks on the blocks."""
    found: Found = {}
    calls = 0

    def read(index: int, output: Any, tokens: int) -> None:
        nonlocal calls
        calls += index == 0
        for stream in STREAMS:
            hidden = plain.dit.blocks[index].record.get(output, stream, tokens)
            if hidden is not None:
                for name, reduced in STATISTICS.items():
                    found[name, stream, calls - 1, index] = reduced(hidden[0].detach().float()).cpu().numpy()

    with plain.watched(read), torch.no_grad():
        plain.latents()
    return found


def check_capture(plain: Plain, expected: Found) -> Measured:
    """Every statistic of every block, step and stream of a capture of the plain call."""
    acts = capture(plain.dit, [plain.prompt], seeds=0, steps=plain.steps, progress=False, **plain.call)
    worst = (0.0, "")
    for (name, stream, step, block), value in expected.items():
        ours = acts.data[name].isel(prompt=0, seed=0, branch=0, step=step, site=block).sel(stream=stream).values
        ours = ours[: len(value)]  # tokens are padded to the longer stream
        difference = float(np.abs(ours - value).max() / max(float(np.abs(value).max()), 1e-30))
        place = f"{name} of the {stream} stream at block {block}, step {step}"
        worst = max(worst, (difference if np.isfinite(difference) else float("inf"), place))
    words = f"dg.capture records the same {len(expected)} statistics of hidden states as plain PyTorch hooks."
    place = f" ({worst[1]})" if worst[0] else ""
    return Measured(worst[0], ALLOWED, words, f"largest relative difference{place}")


def largest_channels(found: Found, block: int, count: int = 2) -> list[int]:
    """The channels with the largest mean |x| of the image stream after a block, in the first step."""
    return sorted(int(channel) for channel in np.argsort(found["abs_mean", "image", 0, block])[-count:])
