"""Whether the timestep sets a massive channel's size, and whether the size grows as the noise decreases.

The paper says so: the modulation follows the timestep embedding, not the text, and the magnitude rises from t = T to 0.
But the norm of z_t itself follows t, so a size has meaning only relative to the other channels: here it is always log2
of the mean |x| over tokens, minus that of the median channel. Its variance over noise level, prompt and seed shows what
it varies with; the swap test shows the cause. The blocks up to the one measured get the modulation of another timestep
with the prompt held, or of another prompt with the timestep held, at the same z_t and with all else the same. The
time-text embedding holds both, so one can be changed without the other. The primary outcome is how much more the first
changes the channel than the second; its bound is a factor of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dg_tools._as_list import as_list
from dg_tools.datasets.examples import prompt_of
from dg_tools.experiments.block_hooks import on_block_inputs, on_block_outputs, on_modulation
from dg_tools.experiments.channel_sets import check_controls, draws, largest_others
from dg_tools.experiments.modulation_swap import relative, swap_modulation
from dg_tools.experiments.result import CONTROLS, Result
from dg_tools.experiments.subject import choose
from dg_tools.experiments.timestep_outcomes import effects, gate_table, slope_table, swap_table, tidy, variance_table
from dg_tools.experiments.trajectories import Batch, evenly, runs_of, trajectories
from dg_tools.models.block import Block
from dg_tools.models.dit import DiT
from dg_tools.onestep import velocity


def timestep(
    dit: DiT,
    prompts: Sequence[Any],
    seeds: int | Sequence[int] = (0, 1),
    *,
    channels: Sequence[int] | None = None,
    block: int | None = None,
    steps: int = 20,
    measured: int = 5,
    swaps: int = 3,
    controls: int = CONTROLS,
    batch: int = 32,
    progress: bool = True,
    **kwargs: Any,
) -> Result:
    """Measure what sets the size of the massive channels: the timestep, the prompt or the noise.

    Args:
        dit: any DiT.
        prompts: strings, `Reference`s or pairs; a quarter of them is for detection where `channels` is None.
        seeds: of the noise.
        channels: massive channels; None: detected on other prompts than those measured.
        block: at whose output the size is measured, and up to which the modulation is swapped; None: the profile's.
        steps: of sampling. measured: at how many of them, evenly spread, the model is measured (at least two).
        swaps: other timesteps, and other prompts, whose modulation each run is given.
        controls: draws of as many other channels, among those nearest in energy.
        batch: runs in one forward.
        **kwargs: passed to the pipeline's call.

    Returns:
        `table`: prompt, seed, sigma, block, channel, size (mean |x| over tokens), median_channel, relative (log2 of
        their ratio). `tables`: variance (shares by timestep, prompt, seed and rest), gates (mean |gate| at the block),
        swaps (|change of relative|, by swap, reach and channels), slopes (log2 a unit of sigma, by block).

    Raises:
        ValueError, IndexError: too few prompts or noise levels, settings, channels or a block out of range.
    """
    keep = evenly(steps, measured)
    seeds = as_list(seeds)
    if len(keep) < 2:
        raise ValueError(f"measured={measured}; the effect of the timestep needs at least two noise levels")
    if swaps < 1:
        raise ValueError(f"swaps={swaps}; at least 1 is needed")
    if not dit.family.conditioning:
        raise ValueError(f"the swaps need blocks that receive their conditioning per row; {dit.family.name!r} has none")
    if channels is not None:
        check_controls(dit, channels, controls)
    subject = choose(dit, prompts, seeds, channels=channels, block=block, steps=steps, progress=progress, **kwargs)
    check_controls(dit, subject.channels, controls)
    names = [prompt_of(x) for x in subject.test]
    at = subject.block
    chosen = list(subject.channels)
    runs = trajectories(dit, names, seeds, steps=steps, keep=keep, batch=batch, progress=progress, **kwargs)
    parts = list(runs)
    sigmas = [sigma for _, sigma, _ in parts[0].steps]
    size = np.zeros((len(names), len(seeds), len(keep), len(dit.blocks), dit.width), np.float32)
    gates: dict[str, np.ndarray] = {}
    inputs = [measure(dit, part, len(seeds), at, size, gates) for part in parts]
    conditioning = [
        [{n: torch.cat([x[t][b][n] for x in inputs]) for n in inputs[0][t][b]} for b in range(at + 1)]
        for t in range(len(keep))
    ]
    change = swap_modulation(dit, parts, conditioning, size[:, :, :, at], at, swaps)
    pool = largest_others(size[:, :, :, at].mean((0, 1, 2)), chosen, max(4 * len(chosen), controls))
    sets = draws(pool, len(chosen), controls, seed=0)
    return Result(
        "timestep",
        "Is it the timestep that sets the size of the massive channels, and does it grow as the noise goes?",
        tidy(size, chosen, names, seeds, sigmas),
        effects(relative(size[:, :, :, at]), change, gates, chosen, sets, sigmas, names, at),
        subject.settings(steps=steps, measured=keep, seeds=list(seeds), swaps=swaps, **kwargs),
        {
            "variance": variance_table(relative(size[:, :, :, at]), chosen, sets),
            "gates": gate_table(gates),
            "swaps": swap_table(change, chosen, sets, names),
            "slopes": slope_table(size, chosen, sigmas),
        },
    )


@torch.no_grad()
def measure(
    dit: DiT, part: Batch, seeds: int, at: int, size: np.ndarray, gates: dict[str, np.ndarray]
) -> list[list[dict[str, torch.Tensor]]]:
    """One batch, clean: sizes at every block and |gates| at one into the arrays; returns each block's conditioning by
    step and block up to that one.
    """
    p, s = runs_of(part, seeds)
    conditioning: list[list[dict[str, torch.Tensor]]] = []

    def see(block: Block, image: torch.Tensor, text: torch.Tensor | None) -> None:
        size[p, s, now, block.index] = image.float().abs().mean(1).cpu().numpy()

    def see_gates(block: Block, chunks: dict[str, torch.Tensor]) -> None:
        for name, value in chunks.items():
            if name.startswith("gate"):
                gates.setdefault(name, np.zeros((*size.shape[:3], size.shape[-1]), np.float32))
                gates[name][p, s, now] = value.float().abs().cpu().numpy()

    def keep(block: Block, inputs: dict[str, Any]) -> None:
        conditioning[-1].append({n: inputs[n].clone() for n in dit.family.conditioning if inputs.get(n) is not None})

    for now, (_, sigma, latents) in enumerate(part.steps):  # noqa: B007  (read by `see` and `see_gates`)
        conditioning.append([])
        with dit.running(), on_block_outputs(dit, see), on_modulation(dit, [at], see_gates):
            with on_block_inputs(dit, range(at + 1), keep):
                velocity(dit, latents, sigma, part.inputs)
    return conditioning
