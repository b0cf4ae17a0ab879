"""Forecast the cost of `auto`: forwards, pictures, seconds and memory.

The unit is one plain picture with classifier-free guidance, at the pipeline's default size and steps, decoded. `auto`
costs at most 20 of them on any model: 6 for the scan, 14 for the guided samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dg_tools.guidance.auto.scan import BLOCKS, RHOS, SIGMAS, massive_in, statistics_at
from dg_tools.guidance.auto.trial import share_after
from dg_tools.massive import RATIO, Massive
from dg_tools.models.dit import DiT
from dg_tools.models.pictures import decode, spatial
from dg_tools.onestep import first_call, velocity, without_state

SCANNED = 4  # pictures of the scan
SAMPLED = 3  # prompts of the guided samples, each also scanned, so that its plain picture is there
FINALISTS = 2
WEIGHTS = (0.5, 1.0)
SCAN_PICTURES, SAMPLE_PICTURES = 6.0, 14.0  # at most, in plain CFG pictures


@dataclass(frozen=True)
class Forecast:
    """The largest cost of a choice.

    Attributes:
        forwards: forwards of one row through the whole transformer (a partial forward counts in part).
        decodes: pictures that the VAE decodes.
        pictures: the total cost, in plain CFG pictures at the default size and steps.
        seconds: from one timed forward and one timed decode at the requested size.
        memory: bytes of the weights and of the kept block outputs.
        forward_seconds, decode_seconds: of one row.
        on_noise: the channels that are massive in one forward on noise.

    Example:
        >>> print(Forecast(900.0, 21, 16.4, 45.0, 2.5e9, 0.05, 0.02))
        at most 900 forwards and 21 decoded pictures (16.4 plain CFG pictures): about 45 s, 2.5 GB
    """

    forwards: float
    decodes: int
    pictures: float
    seconds: float
    memory: float
    forward_seconds: float
    decode_seconds: float
    on_noise: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return (
            f"at most {self.forwards:.0f} forwards and {self.decodes} decoded pictures ({self.pictures:.1f} plain CFG "
            f"pictures): about {self.seconds:.0f} s, {self.memory / 1e9:.2g} GB"
        )

    @property
    def warning(self) -> str:
        """What to know where no channel is massive on noise; empty where one is.

        It is not an answer: a channel may grow towards the picture, and massive channels are looked for on pictures.
        """
        if self.on_noise is None or self.on_noise:
            return ""
        return (
            f"this model may have no massive channel: in one forward on noise none has {RATIO:g} times the median "
            f"channel's mean |x| with one sign on all tokens. The answer needs {SCANNED} pictures; Ctrl-C stops."
        )


def picture_rows(dit: DiT) -> int:
    """Row-forwards of a plain CFG picture at the pipeline's default steps."""
    return 2 * dit.default_steps


def scan_room(dit: DiT, steps: int) -> float:
    """Row-forwards that one picture's trials in the scan may cost, beside drawing and reading it."""
    fixed = steps + 2 * len(SIGMAS)  # drawn; read for massive channels; c
    return SCAN_PICTURES * picture_rows(dit) / SCANNED - fixed


def sample_rows(dit: DiT, blocks: list[int], steps: int, gain_runs: int) -> float:
    """Row-forwards of the guided samples with their disruptions at these blocks (one per finalist)."""
    guided = sum(1 + share_after(dit, block) for block in blocks) * len(WEIGHTS)
    return SAMPLED * steps * (guided + gain_runs)


def tried_blocks(dit: DiT) -> list[int]:
    """The blocks of a scan where channels are massive at all of them."""
    count = len(dit.blocks)
    return [round(i * (count - 1) / max(1, BLOCKS - 1)) for i in range(min(BLOCKS, count))]


def at_most(dit: DiT, steps: int) -> tuple[float, float, int]:
    """The largest cost of a choice: row-forwards of the scan, of the guided samples, and decoded pictures."""
    tried = tried_blocks(dit)
    trials = len(SIGMAS) * len(RHOS) * sum(share_after(dit, b) for b in tried)
    scan = SCANNED * (steps + 2 * len(SIGMAS) + min(trials, max(0.0, scan_room(dit, steps))))
    samples = sample_rows(dit, tried[:1] * FINALISTS, steps, FINALISTS)
    return scan, samples, SAMPLED * (1 + FINALISTS * (len(WEIGHTS) + 1))


def timed(dit: DiT, function: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> float:
    """Seconds of a call after another one, which prepares: `prepare`, or the same."""
    seconds = 0.0
    for call in (prepare or function, function):
        if dit.device.type == "cuda":
            torch.cuda.synchronize(dit.device)
        began = time.perf_counter()
        call()
        if dit.device.type == "cuda":
            torch.cuda.synchronize(dit.device)
        seconds = time.perf_counter() - began
    return seconds


def forecast(dit: DiT, prompt: str, *, chunk: int = 2, **kwargs: Any) -> Forecast:
    """Forecast the largest cost of `auto`, from two timed forwards and two timed decodes of one row.

    Args:
        dit: the model.
        prompt: any.
        chunk: pictures at once.
        **kwargs: as in `auto_profile`.
    """
    steps = kwargs.get("steps") or dit.default_steps
    size = dit.size(kwargs.get("height"), kwargs.get("width"))
    call = {k: v for k, v in kwargs.items() if k not in ("steps", "height", "width")}
    first = first_call(dit, [prompt], **{"seed": 0, **call, "steps": 1, "height": size[0], "width": size[1]})
    z, inputs = spatial(dit, first["hidden_states"], *size), without_state(first)
    found: list[Massive] = []
    look = lambda: found.append(massive_in(dit, [statistics_at(dit, {1.0: z}, inputs)]))  # noqa: E731
    forward = timed(dit, lambda: velocity(dit, z, 0.5, inputs), prepare=look)
    with dit.running():
        decoding = timed(dit, lambda: decode(dit, z, output_type="pt"))
    scan, samples, decodes = at_most(dit, steps)
    unit = picture_rows(dit) * forward + decoding
    pictures = min((scan * forward) / unit, SCAN_PICTURES)
    pictures += min((samples * forward + decodes * decoding) / unit, SAMPLE_PICTURES)
    weights = sum(
        tensor.numel() * tensor.element_size()
        for part in dit.pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for tensor in part.parameters()
    )
    rows, columns = dit.grid(*size)
    kept = chunk * len(tried_blocks(dit)) * rows * columns * dit.width * dit.dtype.itemsize
    seconds = (scan + samples) * forward + decodes * decoding
    return Forecast(
        scan + samples, decodes, pictures, seconds, weights + kept, forward, decoding, tuple(found[0].channels)
    )
